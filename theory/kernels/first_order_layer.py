r"""One layer of the expansion of `theory.kernels.first_order`: the Gaussian expectations it needs, and what they do.

Pairs p = (a, b), a ≤ b, of inputs index the entries of symmetric matrices, in the order of `gaussian_tensors.pairs`.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from theory.activations import Activation, PiecewiseLinear
from theory.kernels.four_points import FourPoints, four_points
from theory.kernels.gaussian_tensors import pairs, polar_rule
from theory.kernels.pair_moments import in_double, is_smooth, pair_moments
from theory.kernels.trust import PrecisionWarning

# 1 − ρ² of two inputs below which an activation with kinks is warned of, and refused: the fourth derivatives in closed
# form and by Hermite tensors leave about six digits at the first, and three at the second.
PARALLEL = {"closed": (1e-6, 1e-7), "hermite": (1e-3, 1e-4)}
# Relative difference of one integral by two rules that is more than a smooth function would leave.
UNRESOLVED = 1e-7


class State(NamedTuple):
    """G, R, P and Q of one layer: limits, and coefficients of 1/n.

    `g`, `r`: limits of E G and E R, by pairs. `dg`, `dr`: shifts of E G and E R. `gg`, `gr`, `rr`: covariances of G
    and R. `p` [a, b, c, d]: E P^ab_cd. `q` [a, b, c, d]: E Q_ab,cd.
    """

    g: Float[np.ndarray, " pair"]
    r: Float[np.ndarray, " pair"]
    dg: Float[np.ndarray, " pair"]
    dr: Float[np.ndarray, " pair"]
    gg: Float[np.ndarray, "pair pair"]
    gr: Float[np.ndarray, "pair pair"]
    rr: Float[np.ndarray, "pair pair"]
    p: Float[np.ndarray, "n n n n"]
    q: Float[np.ndarray, "n n n n"]


class Moments(NamedTuple):
    """Expectations at z ~ N(0, G), without factors σ_w; p and g, h run over pairs, e over inputs.

    `v`, `v1`, `v2`: E φφ [p] and its derivatives in G, [p, g] and [p, g, h]; `t`, `t1`, `t2`: the same of E φ'φ'.
    `bend` [p, e, e']: E ∂_e ∂_e' (φ'φ'). `tilt` [a, c, e]: E ∂_e (φ_a φ'_c). `four`: fourth moments.
    """

    v: Float[np.ndarray, " p"]
    v1: Float[np.ndarray, "p g"]
    v2: Float[np.ndarray, "p g g"]
    t: Float[np.ndarray, " p"]
    t1: Float[np.ndarray, "p g"]
    t2: Float[np.ndarray, "p g g"]
    bend: Float[np.ndarray, "p n n"]
    tilt: Float[np.ndarray, "n n n"]
    four: FourPoints


def matrix(entries: Float[np.ndarray, " pair"], inputs: int) -> Float[np.ndarray, "n n"]:
    """The symmetric matrix with these entries."""
    full = np.zeros((inputs, inputs))
    for (a, b), value in zip(pairs(inputs), entries, strict=True):
        full[a, b] = full[b, a] = value
    return full


def start(covariance: Float[np.ndarray, "n n"]) -> State:
    """The first layer, whose tangent kernel is its covariance, at every width."""
    n = len(covariance)
    g = np.array([covariance[pair] for pair in pairs(n)])
    zero, square, four = np.zeros(len(g)), np.zeros((len(g), len(g))), np.zeros((n,) * 4)
    return State(g, g, zero, zero, square, square, square, four, four)


def advance(state: State, moments: Moments, weight_variance: float, bias_variance: float) -> State:
    """From one layer to the next; equations in `theory.kernels.first_order`."""
    s, m = weight_variance, moments
    n = len(m.tilt)
    entries = pairs(n)
    left, right = (np.array(side) for side in zip(*entries, strict=True))
    # What a layer does to the means and covariances that it is given …
    t, v1 = s * m.t, s * m.v1
    gradient = s * (m.v1 + state.r[:, None] * m.t1)
    curvature = s * (m.v2 + state.r[:, None, None] * m.t2)
    dg = v1 @ state.dg + 0.5 * s * np.einsum("pgh,gh->p", m.v2, state.gg)
    dr = gradient @ state.dg + t * state.dr + 0.5 * np.einsum("pgh,gh->p", curvature, state.gg)
    dr += s * np.einsum("pg,gp->p", m.t1, state.gr) + s * np.einsum("pef,efp->p", m.bend, state.p[:, :, left, right])
    across = gradient @ state.gr * t
    gg = v1 @ state.gg @ v1.T
    gr = v1 @ (state.gg @ gradient.T + state.gr * t)
    rr = gradient @ state.gg @ gradient.T + across + across.T + t[:, None] * state.rr * t
    # … and the fluctuations of its own units.
    quadruples = (left[:, None], right[:, None], left, right)
    values = s**2 * (m.four.values[quadruples] - np.outer(m.v, m.v))
    mixed = s**2 * (m.four.mixed[quadruples] - np.outer(m.v, m.t)) * state.r
    slopes = s**2 * (m.four.slopes[quadruples] - np.outer(m.t, m.t)) * np.outer(state.r, state.r)
    r = matrix(state.r, n)
    same = np.einsum("abcd,cd->abcd", m.four.mixed, r)
    p = s**2 * (same + np.einsum("ace,bdf,efcd->abcd", m.tilt, m.tilt, state.p))
    slope = matrix(m.t, n)
    same = np.einsum("abcd,ab,cd->abcd", m.four.slopes, r, r)
    q = s**2 * (same + np.einsum("ac,bd,abcd->abcd", slope, slope, state.q))
    gg, gr, rr = gg + values, gr + values + mixed, rr + values + mixed + mixed.T + slopes
    g = s * m.v + bias_variance
    return State(g, g + t * state.r, dg, dr, gg, gr, rr, p, q)


def layer_moments(
    activation: Activation, g: Float[np.ndarray, " pair"], inputs: int, names: Sequence[int] | None = None
) -> Moments:
    """All that `advance` needs of φ at pre-activations of covariance G; `names` are the inputs' in messages.

    Warns:
        PrecisionWarning: φ has kinks elsewhere than at zero, or kinks and inputs that are nearly parallel.

    Raises:
        ValueError: pre-activations of variance zero, or parallel inputs where φ is not smooth.
    """
    covariance, entries = matrix(g, inputs), pairs(inputs)
    smooth = _check(activation, covariance, range(inputs) if names is None else names)
    where = {entry: i for i, entry in enumerate(entries)}
    p = len(entries)
    v, t, tilt, bend = np.zeros(p), np.zeros(p), np.zeros((inputs,) * 3), np.zeros((p, inputs, inputs))
    v1, t1, v2, t2 = (np.zeros((p,) * order) for order in (2, 2, 3, 3))
    for i, (a, b) in enumerate(entries):
        points = sorted({a, b})
        m = pair_moments(activation, covariance[np.ix_(points, points)], smooth)
        # Entries of G that this pair depends on.
        own = np.array([where[points[c], points[d]] for c, d in pairs(len(points))])
        v[i], v1[i, own], v2[i, own[:, None], own] = m.v, m.v1, m.v2
        t[i], t1[i, own], t2[i, own[:, None], own] = m.t, m.t1, m.t2
        bend[i, np.array(points)[:, None], points] = m.bend
        tilt[a, b, points], tilt[b, a, points] = m.tilt
    return Moments(v, v1, v2, t, t1, t2, bend, tilt, four_points(activation, covariance))


def _check(activation: Activation, covariance: Float[np.ndarray, "n n"], names: Sequence[int]) -> bool:
    """Whether φ is smooth; warnings and errors are those of `layer_moments`."""
    variances = np.diag(covariance)
    if not (variances > 0).all():
        raise ValueError(f"input {names[int(np.argmin(variances))]} has pre-activations of variance zero; leave it out")
    piecewise = isinstance(activation.function, PiecewiseLinear)
    if not piecewise:
        if is_smooth(activation, float(np.max(variances))):
            return True
        _check_kinks(activation, float(np.max(variances)))
    cosine = covariance / np.sqrt(np.outer(variances, variances))
    sine2 = np.where(np.eye(len(cosine)) == 1, 1.0, 1 - cosine**2)
    a, b = (int(i) for i in np.unravel_index(np.argmin(sine2), sine2.shape))
    which = f"inputs {names[a]} and {names[b]}"
    narrow, singular = PARALLEL["closed" if piecewise else "hermite"]
    if sine2[a, b] < singular:
        raise ValueError(
            f"{which} are parallel in a layer, with 1 − ρ² = {max(sine2[a, b], 0.0):.1e}; activation "
            f"{activation.name!r} is not smooth and needs {singular:g}: give one of them only (equal ones may repeat)"
        )
    if sine2[a, b] < narrow:
        message = f"{which} are nearly parallel in a layer: 1 − ρ² = {sine2[a, b]:.1e} leaves few digits"
        warnings.warn(message, PrecisionWarning, stacklevel=4)
    return False


def _check_kinks(activation: Activation, variance: float) -> None:
    integrals = []
    for scale in (1.0, 0.83):
        # Another Gaussian as proposal moves the nodes; a function without kinks between them does not mind.
        nodes, weights = polar_rule(np.array([[variance / scale**2]]))
        weights = weights / scale * np.exp(0.5 * (scale**2 - 1) * nodes[:, 0] ** 2 / variance)
        integrals.append([np.sum(weights * values[:, 0] ** 2) for values in in_double(activation)(nodes)])
    if not np.allclose(*integrals, rtol=UNRESOLVED, atol=0.0):
        message = (
            f"the quadrature does not resolve activation {activation.name!r}: kinks or jumps elsewhere than at zero "
            "leave two to four digits, and so may fast growth"
        )
        warnings.warn(message, PrecisionWarning, stacklevel=5)
