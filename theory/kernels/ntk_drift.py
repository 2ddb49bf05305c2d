r"""How far training moves the tangent kernel of a two-layer network of smooth units: the whole law to order 1/n.

Bias-free networks of width n in the NTK parametrisation, trained by gradient flow on ½ Σ_γ (f_γ − y_γ)², one output:

    f_α = (σ_w/√n) Σ_i a_i φ(h_iα),    h_iα = σ_w w_i·x_α/√d,    K_αβ = σ_w² x_α·x_β/d.

All units follow the same vector fields, D_γ with D_γ h_α = a φ'(h_γ) K_αγ and D_γ a = φ(h_γ), driven by
ds_γ = −(σ_w/√n) r_γ dt with the residuals r = f − y. So Θ_αβ = (σ_w²/n) Σ_i F_αβ, where

    F_αβ = D_β (a φ(h_α)) = φ(h_α) φ(h_β) + a² K_αβ φ'(h_α) φ'(h_β),

and expansion in s, which is of order n^-½, gives the first two terms of the neural tangent hierarchy:

    n ΔΘ_αβ = σ_w² [ Σ_γ G_αβγ √n s_γ + Σ_γδ M_αβδγ n ∫∫_{t' < t} ds_δ(t') ds_γ(t) ] + O(n^-½),

with G = n^-½ Σ_i D_γ F_αβ, odd in a and so a Gaussian of mean zero, and M = E D_δ D_γ F_αβ. To this order
r(t) = exp(−Θ_∞ t) (f_0 − y). Hence n ΔΘ is a quadratic form in variables that are jointly Gaussian as n → ∞: f_0, of
covariance σ_w² E uu with u_α = a φ(h_α), and G, which is correlated with f_0. Its mean and its variance follow. What is
left out is odd in a at the next order, so that means have an expansion in 1/n.

The expectations over a are moments of a Gaussian, those over h quadratures; second derivatives along the fields are
complex steps, exact to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Float
from scipy.special import erf

from theory.arrays import ArrayLike

Function = Callable[[np.ndarray], np.ndarray]

# φ, φ' and φ'', for complex arguments too.
UNITS: dict[str, tuple[Function, Function, Function]] = {
    "erf": (
        erf,
        lambda z: 2 / np.sqrt(np.pi) * np.exp(-z * z),
        lambda z: -4 / np.sqrt(np.pi) * z * np.exp(-z * z),
    ),
    "tanh": (np.tanh, lambda z: np.cosh(z) ** -2, lambda z: -2 * np.tanh(z) * np.cosh(z) ** -2),
    "sin": (np.sin, np.cos, lambda z: -np.sin(z)),
    "linear": (lambda z: z, np.ones_like, np.zeros_like),
}

# Nodes of the quadrature in each dimension: equal spacing h over ±9 deviations integrates a Gaussian times an entire
# function whose Fourier transform ends below 2π/h = 35 to rounding; erf at σ_w² = 2 needs about half of that.
REACH, SPACING = 9.0, 0.18
# Directions along which inputs vary less than this are not there; the grid allows for so many others.
FLAT, DIMENSIONS = 1e-12, 2
# Of the complex steps, whose error is of the order of its square.
STEP = 1e-20


@dataclass(frozen=True)
class Drift:
    """The law of n ΔΘ as n → ∞, for each pair of the m examples.

    Attributes:
        limit: Θ_∞.
        mean: lim E n ΔΘ_αβ.
        square: lim E (n ΔΘ_αβ)².
    """

    limit: Float[np.ndarray, "m m"]
    mean: Float[np.ndarray, "m m"]
    square: Float[np.ndarray, "m m"]

    @property
    def relative(self) -> float:
        """lim n √(E |ΔΘ|²)/|Θ_∞|, with Euclidean norms over the entries: the typical relative change."""
        return float(np.sqrt(self.square.sum() / np.sum(self.limit**2)))


def two_layer_drift(
    activation: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    weight_variance: float = 1.0,
    time: float = np.inf,
    fluctuations: bool = True,
    curvature: bool = True,
    correlated: bool = True,
) -> Drift:
    """Mean and mean square of n (Θ(t) − Θ(0)) over random networks, to leading order in 1/n.

    Args:
        activation: "erf", "tanh", "sin" or "linear".
        x: inputs (m, d), spanning at most two dimensions.
        y: targets (m,).
        weight_variance: σ_w² > 0.
        time: t ≥ 0; infinite for the end of the training.
        fluctuations, curvature, correlated: without the first, G = 0; without the second, M = 0; without the third,
            G is independent of f_0. All three belong to the law: these are there to be compared with it.

    Returns:
        The law's moments, in units of y² (times n).

    Raises:
        ValueError: an unknown activation, shapes that do not fit, inputs of more than two dimensions, a variance
            that is not positive, a negative time, or a singular limiting kernel.

    Source: derived here. The hierarchy is that of Huang & Yau 2020 and, by Feynman diagrams, Dyer & Gur-Ari 2020,
        who conjecture that ΔΘ = O(1/n).
    """
    if activation not in UNITS:
        raise ValueError(f"activation must be one of {', '.join(UNITS)}, got {activation!r}")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"x must be (m, d) and y (m,), got {x.shape} and {y.shape}; of one output use y[:, 0]")
    if not weight_variance > 0:
        raise ValueError(f"weight_variance must be positive, got {weight_variance}")
    if not time >= 0:
        raise ValueError(f"time must not be negative, got {time}")
    m, sigma = len(y), np.sqrt(weight_variance)
    unit = _expectations(activation, weight_variance * (x @ x.T) / x.shape[1])
    # The covariance of f_0 and G, f_0 first.
    cross = sigma * unit.cross * (correlated and fluctuations)
    covariance = np.block([[weight_variance * unit.outputs, cross], [cross.T, unit.own * fluctuations]])
    mean = np.concatenate([-y, np.zeros(m**3)])
    limit = weight_variance * unit.kernel
    rates, v = np.linalg.eigh(limit)
    if not rates[0] > 1e-10 * rates[-1]:
        raise ValueError(f"the limiting kernel is singular, with eigenvalues {rates}; give inputs that are independent")
    once, twice = _iterated(rates, time)
    response = (v * once) @ v.T
    moments = []
    for a, b in product(range(m), repeat=2):
        form = np.zeros((m + m**3, m + m**3))
        # The field that acts first (δ) goes with the earlier time, the second axis of `twice`.
        quadratic = v @ ((v.T @ unit.second[a, b].T @ v) * twice) @ v.T
        form[:m, :m] = 0.5 * weight_variance**2 * (quadratic + quadratic.T) * curvature
        g = m + (a * m + b) * m + np.arange(m)
        form[:m, g] = -0.5 * weight_variance * sigma * response
        form[g, :m] = form[:m, g].T
        spread = form @ covariance
        first = np.trace(spread) + mean @ form @ mean
        variance = 2 * np.trace(spread @ spread) + 4 * mean @ spread @ form @ mean
        moments.append((first, variance + first**2))
    first, second = np.array(moments).T.reshape(2, m, m)
    return Drift(limit, first, second)


def _iterated(rates: Float[np.ndarray, " m"], time: float) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m"]]:
    """∫_0^T e^{−λ_i t} dt, and ∫_0^T dt e^{−λ_i t} ∫_0^t dt' e^{−λ_j t'}."""
    once = -np.expm1(-rates * time) / rates
    both = rates[:, None] + rates
    return once, (once[:, None] + np.expm1(-both * time) / both) / rates


@dataclass(frozen=True)
class _Unit:
    """Expectations over one unit: E F, E uu, E D_δ D_γ F_αβ (α, β, δ, γ), and the covariances of u and D_γ F_αβ."""

    kernel: Float[np.ndarray, "m m"]
    outputs: Float[np.ndarray, "m m"]
    second: Float[np.ndarray, "m m m m"]
    cross: Float[np.ndarray, "m m3"]
    own: Float[np.ndarray, "m3 m3"]


@lru_cache(maxsize=32)
def _cached(activation: str, size: int, entries: tuple[float, ...]) -> _Unit:
    k = np.reshape(entries, (size, size))
    phi, slope, bend = UNITS[activation]

    def parts(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E and H in D_γ F_αβ = a E_αβγ + a³ H_αβγ, nodes last."""
        p, s, c = phi(h), slope(h), bend(h)
        moved = k[..., None] * s
        dp, ds = s[:, None] * moved, c[:, None] * moved
        inner = np.einsum("agz,bz->abgz", dp, p)
        outer = k[:, :, None, None] * np.einsum("agz,bz->abgz", ds, s)
        even = inner + np.swapaxes(inner, 0, 1) + 2 * np.einsum("ab,az,bz,gz->abgz", k, s, s, p)
        return even, outer + np.swapaxes(outer, 0, 1)

    h, weights = _nodes(k)
    p, s = phi(h), slope(h)
    once, cube = parts(h)
    second = np.empty((size,) * 4)
    for d in range(size):
        # Along D_δ, whose part in h is a φ'(h_δ) K_·δ.
        complex_ = parts(h + 1j * STEP * k[:, d, None] * s[d])
        donce, dcube = (np.imag(part) / STEP for part in complex_)
        # E a² = 1, E a⁴ = 3, E a⁶ = 15 here and below.
        second[:, :, d] = (p[d] * (once + 3 * cube) + donce + 3 * dcube) @ weights
    once, cube = once.reshape(size**3, -1), cube.reshape(size**3, -1)
    mixed = (once * weights) @ cube.T
    return _Unit(
        (p * weights) @ p.T + k * ((s * weights) @ s.T),
        (p * weights) @ p.T,
        second,
        (p * weights) @ (once + 3 * cube).T,
        (once * weights) @ once.T + 3 * (mixed + mixed.T) + 15 * (cube * weights) @ cube.T,
    )


def _expectations(activation: str, k: Float[np.ndarray, "m m"]) -> _Unit:
    return _cached(activation, len(k), tuple(float(entry) for entry in k.ravel()))


def _nodes(k: Float[np.ndarray, "m m"]) -> tuple[Float[np.ndarray, "m node"], Float[np.ndarray, " node"]]:
    """Nodes and weights of N(0, K), in the directions in which it is not flat."""
    variances, axes = np.linalg.eigh(k)
    kept = variances > FLAT * variances[-1]
    if not 1 <= kept.sum() <= DIMENSIONS:
        raise ValueError(f"x must span one to {DIMENSIONS} dimensions, got {kept.sum()}")
    grid = np.arange(-REACH, REACH + 0.5 * SPACING, SPACING)
    density = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi) * SPACING
    points = np.stack(np.meshgrid(*[grid] * int(kept.sum()), indexing="ij")).reshape(int(kept.sum()), -1)
    weights = np.prod(np.stack(np.meshgrid(*[density] * int(kept.sum()), indexing="ij")), axis=0).ravel()
    seen = weights > 1e-20
    return (axes[:, kept] * np.sqrt(variances[kept])) @ points[:, seen], weights[seen]
