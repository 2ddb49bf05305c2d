"""A kernel matrix's large eigenvalues from a few of its columns, and the preconditioner made of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.linalg import cholesky, solve_triangular

# Relative to the pivots' mean: what rounding in single precision leaves uncertain in a block of nearly equal columns.
JITTER = 1e-6


class Factor(NamedTuple):
    """K ≈ F Fᵀ, with K − F Fᵀ positive semi-definite up to rounding.

    Attributes:
        factor: F, float32.
        pivots: the columns of K that it is made of.
        rest: the diagonal of K − F Fᵀ.
    """

    factor: Float[np.ndarray, "n r"]
    pivots: Int[np.ndarray, " r"]
    rest: Float[np.ndarray, " n"]


class Preconditioner(NamedTuple):
    """P = F Fᵀ + μI, in the form P⁻¹v = (v − F M⁻¹ Fᵀ v)/μ with M = FᵀF + μI.

    Attributes:
        factor: F in float32, in blocks of rows: it is widened a block at a time.
        lower: the Cholesky factor of M.
        scale: μ.
    """

    factor: Float[Array, "b t r"]
    lower: Float[Array, "r r"]
    scale: Float[Array, ""]


def partial_cholesky(
    columns: Callable[[Int[np.ndarray, " b"]], np.ndarray],
    diagonal: Float[np.ndarray, " n"],
    rank: int,
    rng: np.random.Generator,
    *,
    block: int = 100,
) -> Factor:
    """Partial Cholesky decomposition with pivots drawn in proportion to the diagonal that is left.

    Args:
        columns: indices → these columns of K, (n, b) in float32; always asked for `block` of them, the last ones of
            which may repeat.
        diagonal: of K.
        rank: number of columns; fewer come back where nothing of K is left.
        rng: draws the pivots.
        block: pivots drawn at once.

    Raises:
        ValueError: the rank is below 1 or above n.

    Source: Chen, Epperly, Tropp & Webber 2022, in its block form.
    """
    n = len(diagonal)
    if not 1 <= rank <= n:
        raise ValueError(f"rank must lie between 1 and the number of rows {n}, got {rank}")
    factor = np.zeros((n, rank), np.float32)
    rest = np.array(diagonal, np.float64)
    floor = JITTER * rest.sum()
    pivots: list[int] = []
    while len(pivots) < rank and rest.sum() > floor:
        done, size = len(pivots), min(block, rank - len(pivots), int(np.count_nonzero(rest)))
        chosen = rng.choice(n, size, replace=False, p=rest / rest.sum())
        asked = np.concatenate([chosen, np.repeat(chosen[:1], block - size)])
        column = columns(asked)[:, :size] - factor[:, :done] @ factor[chosen, :done].T
        core = column[chosen].astype(np.float64)
        core = 0.5 * (core + core.T)
        lower = cholesky(core + JITTER * np.trace(core) / size * np.eye(size), lower=True)
        new = solve_triangular(lower, column.T.astype(np.float64), lower=True, overwrite_b=True).T
        factor[:, done : done + size] = new
        rest = np.maximum(rest - np.sum(new**2, axis=1), 0.0)
        # A pivot is never drawn again.
        rest[chosen] = 0.0
        pivots.extend(int(i) for i in chosen)
    return Factor(factor[:, : len(pivots)], np.array(pivots), rest)


def preconditioner(factor: Factor, ridge: float, rows: int) -> Preconditioner:
    """P for K + λI, with μ = λ + the mean of the diagonal that the factor leaves.

    Any μ > 0 makes P positive definite; this one puts the captured eigenvalues near 1, amid the others.

    Args:
        factor: of K.
        ridge: λ.
        rows: rows in a block; they must divide n.

    Raises:
        ValueError: λ and the rest are 0, or the rows do not divide n.
    """
    n, rank = factor.factor.shape
    scale = ridge + float(np.mean(factor.rest))
    if n % rows or not scale > 0:
        raise ValueError(f"rows must divide n = {n}, and ridge + mean rest must be positive: got {rows} and {scale:g}")
    blocks = jnp.asarray(factor.factor.reshape(n // rows, rows, rank))

    def add(total: Array, part: Array) -> tuple[Array, None]:
        wide = part.astype(jnp.float64)
        return total + _product(wide.T, wide), None

    with jax.enable_x64(True):
        # Float64: M holds numbers from μ to the largest eigenvalue, 10⁷ apart.
        gram = jax.lax.scan(add, scale * jnp.eye(rank), blocks)[0]
        return Preconditioner(blocks, jnp.linalg.cholesky(gram), jnp.asarray(scale))


def precondition(of: Preconditioner, v: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """P⁻¹v, in float64."""
    parts = v.reshape(*of.factor.shape[:2], -1)

    def gather(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _product(pair[0].astype(v.dtype).T, pair[1]), None

    inner = jax.lax.scan(gather, jnp.zeros((of.factor.shape[2], v.shape[1]), v.dtype), (of.factor, parts))[0]
    weights = jax.scipy.linalg.cho_solve((of.lower, True), inner)
    spread = jax.lax.map(lambda part: _product(part.astype(v.dtype), weights), of.factor)
    return (v - spread.reshape(v.shape)) / of.scale


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
