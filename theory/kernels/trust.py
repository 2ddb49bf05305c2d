"""How far a prediction can be trusted, given the rounding of the kernel that it solves with."""

import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.architecture import MLP
from theory.arrays import ArrayLike, is_traced, rows
from theory.kernels.infinite import ntk

# Relative errors above this are warned of: a digit and a half is all that a figure shows.
TOLERATED = 0.01


class PrecisionWarning(UserWarning):
    """The dtype of the inputs cannot resolve the kernel that a prediction solves with."""


class Trust(NamedTuple):
    """What the solve with the tangent kernel can be trusted for.

    `condition`: λ_max over the smallest eigenvalue that the dtype resolves. `lost`: number of directions below
    n·ε·λ_max, which predictions leave out. `error`: estimated relative error of a prediction; infinite where a lost
    direction would have been learned. `residual`: largest entry of Θ Θ⁻¹ − 1 on the other directions, as computed.
    """

    condition: float
    lost: int
    error: float
    residual: float


def trust(architecture: MLP, x_train: ArrayLike, *, time: float = math.inf) -> Trust:
    """Condition, expected error and residual of the solve behind `predict` and `response` at time t.

    A prediction depends on Θ through g(λ) = (1 − e^(−λt))/λ for each eigenvalue. The rounding of Θ moves eigenvalues by
    ε λ_max, and g relatively by at most ε λ_max min(t, 1/λ): early in training even a singular kernel does no harm.

    Args:
        architecture: depth, activation and variances.
        x_train: inputs (n, d), whose dtype is that of the solve.
        time: of gradient flow on ½ Σ (f − y)²; `theory.kernels.time_of` gives it for steps of gradient descent.

    Raises:
        ValueError: an input is no finite matrix, or the time is negative or NaN.
    """
    if not time >= 0:
        raise ValueError(f"time must be at least 0 and not NaN, got {time!r}")
    train = rows("x_train", x_train)
    eigenvalues, residual = _solved(ntk(architecture, train))
    values = np.asarray(eigenvalues, np.float64)
    floor = len(values) * float(jnp.finfo(train.dtype).eps) * values[-1]
    kept = values[values > floor]
    condition = float(values[-1] / kept[0]) if kept.size else math.inf
    return Trust(condition, int(len(values) - kept.size), expected_error(eigenvalues, time), float(residual))


@jax.jit
def _solved(theta: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    eigenvalues, vectors = jnp.linalg.eigh(theta)
    kept = eigenvalues > len(eigenvalues) * jnp.finfo(theta.dtype).eps * eigenvalues[-1]
    inverse = (vectors * jnp.where(kept, 1 / jnp.where(kept, eigenvalues, 1.0), 0.0)) @ vectors.T
    projector = (vectors * kept) @ vectors.T
    product = jnp.matmul(theta, inverse, precision=jax.lax.Precision.HIGHEST)
    return eigenvalues, jnp.max(jnp.abs(product - projector))


def expected_error(eigenvalues: Float[Array, " n"], time: float, shift: float = 0.0) -> float:
    """ε (λ_max + σ²) min(t, 1/(λ_min + σ²)), with λ_min the smallest resolved eigenvalue, or 0 where single precision
    leaves directions out: double precision leaves out what is zero by itself, such as the difference of equal inputs.

    Args:
        eigenvalues: of the kernel, in increasing order.
        time: of gradient flow.
        shift: σ², a multiple of the unit matrix that is added to the kernel.
    """
    values = np.asarray(eigenvalues, np.float64) + shift
    epsilon = float(jnp.finfo(eigenvalues.dtype).eps)
    kept = values[values > len(values) * epsilon * values[-1]]
    if kept.size == 0:
        return 0.0
    blind = kept.size < values.size and epsilon > 1e-10
    slowest = math.inf if blind else 1.0 / float(kept[0])
    return epsilon * float(values[-1]) * min(time, slowest)


def warn_if_unresolved(eigenvalues: Float[Array, " n"], time: float, shift: float = 0.0) -> None:
    """Warn where the expected error is above 1 %; traced values pass.

    Args: those of `expected_error`.
    """
    if any(is_traced(value) for value in (eigenvalues, time, shift)):
        return
    error = expected_error(eigenvalues, float(time), float(shift))
    if error > TOLERATED:
        size = "of any size" if math.isinf(error) else f"of some {error:.0%}"
        single = eigenvalues.dtype.itemsize < 8
        advice = (
            "give the inputs in float64 (JAX needs jax_enable_x64)" if single else "add noise or drop near-equal inputs"
        )
        warnings.warn(
            f"{eigenvalues.dtype} does not resolve this kernel: expect relative errors {size} in what its smallest "
            f"eigenvalues determine; {advice}, or look at an earlier time; theory.kernels.trust tells more",
            PrecisionWarning,
            stacklevel=3,
        )
