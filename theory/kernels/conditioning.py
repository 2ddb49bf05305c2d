r"""How well a deep network's kernels are conditioned: the ratio of their extreme eigenvalues, by depth and by phase.

For m inputs of equal lengths and angles a kernel has p on its diagonal and t beside it, with eigenvalues
p + (m − 1)t (once) and p − t (m − 1 times). With χ₁ the slope of the correlation map at c = 1, the NTK of a network
with l hidden layers has in the long run

    ordered (χ₁ < 1):   p → q*/(1 − χ₁),  p − t ~ l χ₁^l,        so that κ ~ χ₁^(−l)/l grows: nothing can be learnt;
    chaotic (χ₁ > 1):   p ~ χ₁^l,  t → const,                    so that κ → 1: nothing carries over;
    critical (χ₁ = 1):  p ~ l q,  t/p → ¼ (kink) or ⅓ (smooth),  so that κ → (m + 3)/3 or (m + 2)/2.

Source: Xiao et al. 2020, section 3; rederived in the tests from the recursions at large depth.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.architecture import MLP, PiecewiseLinear
from theory.arrays import ArrayLike
from theory.kernels.infinite import ByDepth, kernels_by_depth
from theory.mean_field import fixed_point

# Of t/p in the critical phase.
KINKED, SMOOTH = 1 / 4, 1 / 3


def condition_numbers(architecture: MLP, x: ArrayLike) -> ByDepth:
    """λ_max/λ_min of NNGP and NTK on the inputs, for networks with 0, 1, …, `architecture.depth` hidden layers.

    Args:
        architecture: of the deepest network.
        x: inputs (n, d) in double precision, for a condition number near 1/ε of the dtype is rounding.

    Returns:
        Two arrays of shape (depth + 1,); inf where the smallest eigenvalue is not positive.
    """
    return ByDepth(*(_ratio(kernels) for kernels in kernels_by_depth(architecture, x)))


def _ratio(kernels: Float[Array, "depths n n"]) -> Float[Array, " depths"]:
    values = jnp.linalg.eigvalsh(kernels)
    return jnp.where(values[:, 0] > 0, values[:, -1] / values[:, 0], jnp.inf)


def exchangeable_condition_number(diagonal: ArrayLike, beside: ArrayLike, points: int) -> Float[np.ndarray, "..."]:
    """κ = (p + (m − 1)t)/(p − t) of a kernel on m points with p on the diagonal and 0 ≤ t < p beside it.

    Raises:
        ValueError: `points` is below 2, or some t does not lie in [0, p).
    """
    p, t = np.asarray(diagonal, dtype=np.float64), np.asarray(beside, dtype=np.float64)
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}: one point has no condition number but 1")
    if np.any(t < 0) or np.any(t >= p):
        raise ValueError("beside must lie between 0 and diagonal: for negative t the order of the eigenvalues is other")
    return np.asarray((p + (points - 1) * t) / (p - t))


def deep_limit(architecture: MLP, points: int) -> float:
    """Limit of the NTK's condition number with depth, for m inputs of one length.

    Args:
        architecture: activation and variances; its depth plays no role.
        points: m ≥ 2.

    Returns:
        inf in the ordered phase, 1 in the chaotic one, (m + 3)/3 or (m + 2)/2 at criticality, which are approached
        as ln(l)/l.

    Raises:
        ValueError: `points` is below 2, or the lengths have no fixed point.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}: one point has no condition number but 1")
    # Closer to 1 than this a network of any depth in use is critical.
    slope = fixed_point(architecture).chi_1 - 1.0
    if abs(slope) > 1e-3:
        return math.inf if slope < 0 else 1.0
    share = KINKED if isinstance(architecture.activation.function, PiecewiseLinear) else SMOOTH
    return float(exchangeable_condition_number(1.0, share, points))
