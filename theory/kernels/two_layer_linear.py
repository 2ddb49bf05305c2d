r"""Exact training dynamics of a two-layer linear network with one example, at every width.

In the NTK parametrisation, with width n, input dimension d and no biases,

    f = √(σ_w²/n) Σ_i v_i h_i,    h_i = √(σ_w²/d) w_i·x,    Θ = |∇f|² = (σ_w²/n) (|h|² + (σ_w²|x|²/d) |v|²).

Only the projections of the w_i on x move. With κ² = σ_w⁴ |x|²/d, u = h √(d/(σ_w²|x|²)), a = v + u and b = v − u,

    f = κ (|a|² − |b|²) / (4√n),    Θ = κ² (|a|² + |b|²) / (2n),

and a step of gradient descent on ½ (f − y)² with learning rate η multiplies a by 1 − c and b by 1 + c, where
c = ηκ (f − y)/√n. Two numbers, f and Θ, therefore determine the whole training. All that they need to know of the
network is the coupling

    K = 4κ²/n = 4 σ_w⁴ |x|²/(d n).

At σ_w = 1 and |x|² = d this is 4/n, the convention of the literature. Since f = κ v·u/√n, |f| ≤ Θ/√K always.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from theory.arrays import ArrayLike


class Motion(NamedTuple):
    """Output f and tangent kernel Θ of the one example, arrays of one shape."""

    output: Float[np.ndarray, "..."]
    kernel: Float[np.ndarray, "..."]


def coupling(width: ArrayLike, *, weight_variance: float = 1.0, square: float = 1.0) -> Float[np.ndarray, "..."]:
    """K = 4 σ_w⁴ (|x|²/d) / n, the strength with which training moves the kernel.

    Args:
        width: n ≥ 1.
        weight_variance: σ_w² > 0.
        square: |x|²/d > 0, the mean square of the input's entries.

    Returns:
        K, in units of kernel²/output².

    Raises:
        ValueError: an argument is not positive.
    """
    for name, value in (("width", width), ("weight_variance", weight_variance), ("square", square)):
        if not np.all(np.asarray(value) > 0):
            raise ValueError(f"{name} must be positive, got {value}; K = 4 σ_w⁴ (|x|²/d)/n has no meaning else")
    return np.asarray(4 * weight_variance**2 * square / np.asarray(width, dtype=np.float64))


def invariant(output: ArrayLike, kernel: ArrayLike, coupling: ArrayLike) -> Float[np.ndarray, "..."]:
    """I = Θ² − K f² = κ⁴ |a|²|b|²/n², which gradient flow on ½ (f − y)² conserves, whatever y.

    A step of gradient descent multiplies it by (1 − c²)², c² = K η² (f − y)²/4.

    Args:
        output, kernel, coupling: f, Θ and K, broadcast against each other.

    Raises:
        ValueError: |f| exceeds Θ/√K, which no network's output does.

    Source: derived here; the conserved v vᵀ − u uᵀ behind it is in Saxe et al. 2014 and Du et al. 2018, Theorem 2.2.
    """
    f, theta, k = _checked(output, kernel, coupling)
    # As a product: the two terms are nearly equal where one of a and b is small.
    return np.asarray((theta - np.sqrt(k) * f) * (theta + np.sqrt(k) * f))


def flow(output: ArrayLike, kernel: ArrayLike, *, target: ArrayLike, time: ArrayLike, coupling: ArrayLike) -> Motion:
    """f(t) and Θ(t) under gradient flow, dθ/dt = −∇ ½ (f − y)², in closed form.

    With I = Θ² − K f² and f = √(I/K) sinh q, Θ = √I cosh q, the equations df/dt = −Θ (f − y) and
    dΘ/dt = −K f (f − y) become dq/dt = −√I (sinh q − sinh q*), sinh q* = y √(K/I), and hence

        (T − T*)/(1 + T T*) = e^{−Θ* t} (T_0 − T*)/(1 + T_0 T*),    T = tanh(q/2),    Θ* = √(I + K y²):

    the rate of the decay is that of the kernel at the end, Θ*, from the beginning. K = 0 is the infinite network,
    f = y + (f_0 − y) e^{−Θ t} with constant Θ.

    Args:
        output, kernel: f and Θ at the start.
        target: y.
        time: t ≥ 0, in units of 1/kernel.
        coupling: K ≥ 0.

    Returns:
        f(t) and Θ(t), all arguments broadcast against each other.

    Raises:
        ValueError: |f| is not below Θ/√K (where it equals it, a or b vanishes and the network stays on a line), or a
            time is negative.

    Source: derived here; cf. Saxe et al. 2014 for the case of balanced layers.
    """
    f, theta, k, y, t = np.broadcast_arrays(*_checked(output, kernel, coupling), *_floats(target, time))
    if np.any(t < 0):
        raise ValueError(f"time must not be negative, got {t.min()}")
    root = np.sqrt(invariant(f, theta, k))
    if np.any(root == 0):
        raise ValueError("output must be below kernel/√coupling in size: at equality the closed form is 0/0")
    final = np.hypot(root, np.sqrt(k) * y)
    # tanh(q/2) = sinh q/(1 + cosh q), divided by √K so that K = 0 is no exception.
    start, end = f / (root + theta), y / (root + final)
    decay = np.exp(-final * t) * (start - end) / (1 + k * start * end)
    half = (end + decay) / (1 - k * end * decay)
    # sinh q = 2T/(1 − T²), cosh q = (1 + T²)/(1 − T²).
    left = 1 - k * half**2
    return Motion(np.asarray(2 * root * half / left), np.asarray(root * (2 - left) / left))


def descent_step(
    output: ArrayLike, kernel: ArrayLike, *, target: ArrayLike, learning_rate: ArrayLike, coupling: ArrayLike
) -> Motion:
    """f and Θ after one step of gradient descent on ½ (f − y)²: an exact map of the plane,

        f' = f − η Θ (f − y) + c² f,    Θ' = Θ − η K f (f − y) + c² Θ,    c² = η² K (f − y)²/4.

    At y = 0, K = 4/n it is f' = (1 − ηΘ + η²f²/n) f and Θ' = Θ + (ηf²/n)(ηΘ − 4).

    Args:
        output, kernel: f and Θ before the step.
        target: y.
        learning_rate: η.
        coupling: K ≥ 0.

    Returns:
        f' and Θ', all arguments broadcast against each other; values that overflow become infinite or NaN.

    Source: Lewkowycz et al. 2020, section 2, for y = 0; with a target derived here.
    """
    f, theta, y, eta, k = _floats(output, kernel, target, learning_rate, coupling)
    with np.errstate(over="ignore", invalid="ignore"):
        residual = f - y
        square = k * (eta * residual) ** 2 / 4
        return Motion(
            np.asarray(f - eta * theta * residual + square * f),
            np.asarray(theta - eta * k * f * residual + square * theta),
        )


class Edges(NamedTuple):
    """Values of ηΘ_0 where the behaviour of gradient descent on ½ f² changes.

    Attributes:
        growth: above it the loss grows, below it falls at every step.
        divergence: above it the loss grows without limit, below it falls to zero in the end.
    """

    growth: Float[np.ndarray, "..."]
    divergence: Float[np.ndarray, "..."]


def edges(squared_step: ArrayLike) -> Edges:
    """The edges of the three phases at y = 0, at finite width: 2 + c_0² and 4, with c_0² = η² K f_0²/4 ≤ 1.

    In terms of ℓ = ηΘ ≥ 2|c| and c = η √K f/2 a step is c' = (1 − ℓ + c²) c and ℓ' − 4 = (ℓ − 4)(1 + c²). So:

    - the sign of ℓ − 4 never changes, and the upper edge has no correction at any width. Below it the product of
      all 1 + c² is at most 4/(4 − ℓ_0), so that c → 0, and the last ℓ is at most 2, else c would grow. Above it ℓ
      grows as long as c does not vanish, and c cannot stay small under a factor of size ℓ − 1 > 3.
    - |c'| > |c| for ℓ > 2 + c², and |c'| < |c| for ℓ < min(2 + c², 4). For c² ≤ 1 the step from there leads to
      ℓ' ≤ 2 − c² (1 − c²) ≤ 2, where ℓ and |c| only fall.

    "Above" and "below" leave out the starts, of probability zero, from which some step leads to f = 0 exactly, and
    those on an edge. On the upper one, ℓ = 4 for ever, c = 2 cos φ goes to 2 cos 3φ: a chaotic orbit that never ends.

    Args:
        squared_step: c_0², between 0 and 1; it is of order 1/n.

    Returns:
        Both edges of ηΘ_0, in the shape of the argument.

    Raises:
        ValueError: c_0² is negative or above 1, where the loss may fall in the first step and grow in a later one.

    Source: Lewkowycz et al. 2020, section 2, for 2 and 4 up to 1/n; exact at finite n as derived here.
    """
    (square,) = _floats(squared_step)
    if not np.all((square >= 0) & (square <= 1)):
        raise ValueError(f"squared_step must lie between 0 and 1, got {squared_step}; lower the learning rate")
    return Edges(np.asarray(2 + square), np.full_like(square, 4.0))


def _floats(*values: ArrayLike) -> tuple[Float[np.ndarray, "..."], ...]:
    return tuple(np.asarray(value, dtype=np.float64) for value in values)


def _checked(output: ArrayLike, kernel: ArrayLike, coupling: ArrayLike) -> tuple[Float[np.ndarray, "..."], ...]:
    """f, Θ and K as arrays of one shape, or an error that says what is wrong."""
    f, theta, k = np.broadcast_arrays(*_floats(output, kernel, coupling))
    if np.any(k < 0):
        raise ValueError(f"coupling must not be negative, got {k.min()}; it is 4 σ_w⁴ |x|²/(d n)")
    if not np.all(np.sqrt(k) * np.abs(f) <= theta):
        raise ValueError("kernel must be at least √coupling · |output|, as every network's is; check the convention")
    return f, theta, k
