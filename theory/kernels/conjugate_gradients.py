"""Preconditioned conjugate gradients for (K + λI) X = Y with several right-hand sides, one step at a time.

The product with the matrix is the caller's: a step takes its result as an array, so that it may come from tiles that
never were in memory at once, from other processes, or in lower precision. All outputs share the products.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from theory.arrays import ArrayLike
from theory.kernels.partial_cholesky import Preconditioner, precondition


class Search(NamedTuple):
    """State between two steps.

    Attributes:
        solution: X.
        residual: Y − (K + λI)X, by recurrence.
        direction: what the matrix has to be multiplied with next.
        power: r·P⁻¹r for each output.
        steps: number of steps taken.
    """

    solution: Float[Array, "n k"]
    residual: Float[Array, "n k"]
    direction: Float[Array, "n k"]
    power: Float[Array, " k"]
    steps: Int[Array, ""]


def start(solution: Float[Array, "n k"], residual: Float[Array, "n k"], preconditioner: Preconditioner) -> Search:
    """A search from a solution with its residual; the first direction is P⁻¹r."""
    direction = precondition(preconditioner, residual)
    return Search(solution, residual, direction, jnp.sum(residual * direction, axis=0), jnp.zeros((), int))


def step(search: Search, image: Float[Array, "n k"], preconditioner: Preconditioner) -> Search:
    """One step of every output along its own direction.

    Args:
        search: the state.
        image: (K + λI) times `search.direction`.
        preconditioner: the same in all steps.

    Source: Hestenes & Stiefel 1952; Saad 2003, algorithm 9.1.
    """
    solution, residual = _move(search, image)
    return _turn(search, solution, residual, precondition(preconditioner, residual))


@jax.jit
def _move(search: Search, image: Float[Array, "n k"]) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
    length = _ratio(search.power, jnp.sum(search.direction * image, axis=0))
    return search.solution + length * search.direction, search.residual - length * image


@jax.jit
def _turn(
    search: Search, solution: Float[Array, "n k"], residual: Float[Array, "n k"], slope: Float[Array, "n k"]
) -> Search:
    power = jnp.sum(residual * slope, axis=0)
    direction = slope + _ratio(power, search.power) * search.direction
    return Search(solution, residual, direction, power, search.steps + 1)


def prediction_error_bound(residual_norm: ArrayLike, ridge: float, variance: ArrayLike) -> Float[Array, "m k"]:
    """How far an unfinished solution's prediction can be from the exact one, for m inputs x* and k outputs:

        |k*ᵀ(K + λI)⁻¹ r| ≤ √K(x*, x*) |r| / √λ,

    because k*ᵀ(K + λI)⁻¹k* ≤ K(x*, x*): the variance left at x* after the data is not negative; and no eigenvalue of
    K + λI is below λ.

    Args:
        residual_norm: |r| of each output, (k,), of the true residual.
        ridge: λ > 0.
        variance: K(x*, x*), of shape (m,) or a number.

    Raises:
        ValueError: the ridge is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be positive for the bound, got {ridge}")
    return jnp.sqrt(jnp.atleast_1d(jnp.asarray(variance)))[:, None] * jnp.asarray(residual_norm) / jnp.sqrt(ridge)


def _ratio(numerator: Array, denominator: Array) -> Array:
    # An output that is solved exactly has no direction left.
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1.0), 0.0)
