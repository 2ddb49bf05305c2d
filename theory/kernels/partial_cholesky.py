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
        factor: F in float32, in blocks of rows: it is widened a block at a time. No compiled function takes all of
            them, for a loop in it would copy them.
        lower: the Cholesky factor of M.
        scale: μ.
    """

    factor: tuple[Float[Array, "t r"], ...]
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
    blocks = tuple(jnp.asarray(factor.factor[i : i + rows]) for i in range(0, n, rows))
    with jax.enable_x64(True):
        # Float64: M holds numbers from μ to the largest eigenvalue, 10⁷ apart.
        gram = scale * jnp.eye(rank)
        for block in blocks:
            gram = gram + _gram(block)
        return Preconditioner(blocks, jnp.linalg.cholesky(gram), jnp.asarray(scale))


def precondition(of: Preconditioner, v: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """P⁻¹v, in float64."""
    rows = of.factor[0].shape[0]
    inner = jnp.zeros((of.lower.shape[0], v.shape[1]), v.dtype)
    for i, block in enumerate(of.factor):
        inner = inner + _gather(block, v[i * rows : (i + 1) * rows])
    weights = _solve(of.lower, inner)
    spread = jnp.concatenate([_spread(block, weights) for block in of.factor])
    return (v - spread) / of.scale


@jax.jit
def _gram(block: Float[Array, "t r"]) -> Float[Array, "r r"]:
    wide = block.astype(jnp.float64)
    return _product(wide.T, wide)


@jax.jit
def _solve(lower: Float[Array, "r r"], right: Float[Array, "r k"]) -> Float[Array, "r k"]:
    return jax.scipy.linalg.cho_solve((lower, True), right)


@jax.jit
def _gather(block: Float[Array, "t r"], v: Float[Array, "t k"]) -> Float[Array, "r k"]:
    """Fᵀv. In parts that stay in the cache while they are widened: as fast again as all at once."""

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _product(pair[1].T, pair[0].astype(v.dtype)), None

    start = jnp.zeros((v.shape[1], block.shape[1]), v.dtype)
    return jax.lax.scan(add, start, (_parts(block), _parts(v)))[0].T


@jax.jit
def _spread(block: Float[Array, "t r"], weights: Float[Array, "r k"]) -> Float[Array, "t k"]:
    """F w, in the same parts."""
    found = jax.lax.map(lambda part: _product(part.astype(weights.dtype), weights), _parts(block))
    return found.reshape(block.shape[0], -1)


def _parts(rows: Float[Array, "t m"]) -> Float[Array, "p s m"]:
    parts = 8 if rows.shape[0] % 8 == 0 else 1
    return rows.reshape(parts, -1, rows.shape[1])


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
