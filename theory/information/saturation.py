"""What bins see of one saturating unit: the entropy of T = bin(φ(wX)) with X ~ N(0, 1), in closed form.

X is real and T without bins is as informative as X at every w. Through bins a unit first gains information with w, as
its activity spreads over more of them. A unit that saturates at both ends then loses it again: nearly all activity
ends in the two outermost bins, and one bit, ln 2 nats, remains. A unit that does not saturate loses nothing.

Plain NumPy: a few numbers, evaluated far from any gradient, are not worth compiling.

Source: Saxe et al. 2018, section 2 and figure 2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import entr, logit, ndtr

from theory.architecture import Activation
from theory.architecture import activation as resolve
from theory.arrays import ArrayLike

# The upper end of {u : φ(u) < b} for each non-decreasing φ; −∞ where φ never falls below b, ∞ where it always does.
_INVERSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": lambda b: np.arctanh(np.clip(b, -1, 1)),
    "sigmoid": lambda b: logit(np.clip(b, 0, 1)),
    "relu": lambda b: np.where(b > 0, b, -np.inf),
    "linear": lambda b: b,
}


def equal_bins(bins: int, low: float, high: float) -> Float[np.ndarray, " edges"]:
    """Edges of equal bins on [low, high], `[bins + 1]`.

    Raises:
        ValueError: there is no bin, or the range is empty.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if not low < high:
        raise ValueError(f"low must be below high, got low={low} and high={high}")
    return np.linspace(low, high, bins + 1)


def bin_probabilities(
    weight: ArrayLike, edges: ArrayLike, *, activation: str | Activation = "tanh"
) -> Float[np.ndarray, "*batch bins"]:
    """Probability of each bin of φ(wX), X ~ N(0, 1).

        p_i = Φ(φ⁻¹(b_{i+1})/w) − Φ(φ⁻¹(b_i)/w)

    with Φ the standard normal distribution function. Activity beyond the outermost edges counts as in the outermost
    bins, so the p_i add up to 1; bins are closed on the left.

    Args:
        weight: w ≠ 0, of any shape (w and −w give one law, X being symmetric).
        edges: b_0 < b_1 < …, `[bins + 1]`.
        activation: "tanh", "sigmoid", "relu" or "linear".

    Returns:
        p, `[..., bins]`.

    Raises:
        ValueError: the activation has no inverse here, edges do not increase, or a weight is 0 (with an edge at
            φ(0) the limit w → 0 is not the value there, which is one bin with certainty).
    """
    name = resolve(activation).name
    if name not in _INVERSES:
        raise ValueError(f"activation must be one of {', '.join(_INVERSES)}, got '{name}': its inverse is needed")
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2:
        raise ValueError(f"edges must be a vector of at least 2 numbers, got shape {edges.shape}")
    if not np.all(np.diff(edges) > 0):
        raise ValueError("edges must increase: sort them and drop repetitions")
    weight = np.abs(np.asarray(weight, dtype=np.float64))
    if np.any(weight == 0):
        raise ValueError("weight must not be 0: T is then constant, and its entropy 0")
    # An edge where φ saturates has its preimage at infinity, and that is meant.
    with np.errstate(divide="ignore"):
        inner = _INVERSES[name](edges[1:-1])
    ends = np.concatenate([[-np.inf], inner, [np.inf]]) / weight[..., None]
    lower, upper = ends[..., :-1], ends[..., 1:]
    # Right of the centre Φ is close to 1 and a difference of two values loses its digits; the mirror image does not.
    return np.where(lower > 0, ndtr(-lower) - ndtr(-upper), ndtr(upper) - ndtr(lower))


def binned_entropy(
    weight: ArrayLike, edges: ArrayLike, *, activation: str | Activation = "tanh"
) -> Float[np.ndarray, "*batch"]:
    """I(X;T) = H(T) = −Σ p_i ln p_i in nats of one unit T = bin(φ(wX)), X ~ N(0, 1).

    For tanh with bins on [−1, 1] it tends to ln 2 as w → ∞, and as w → 0 to 0 for an odd number of bins (all activity
    in the middle one) and to ln 2 for an even number (an edge lies at 0). For bins of width Δ without end it grows
    like ½ ln(2πe w²) − ln Δ if φ is linear, and like ln 2 + ¼ ln(πe w²/2) − ½ ln Δ if φ is the ReLU.

    Args:
        weight, edges, activation: as for `bin_probabilities`.

    Returns:
        Entropy, of the shape of `weight`.

    Raises:
        ValueError: as for `bin_probabilities`.

    Source: Saxe et al. 2018, section 2 (figure 2C for tanh, 2D for ReLU). The limits are derived here.
    """
    return np.asarray(entr(bin_probabilities(weight, edges, activation=activation)).sum(axis=-1))
