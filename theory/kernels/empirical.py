"""The tangent kernel of a finite network at given parameters."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from theory.arrays import ArrayLike, one_or_two


def empirical_ntk(
    apply: Callable[..., Array],
    params: PyTree,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    full: bool = False,
    memory: int | float = 1e9,
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """Θ(x, x') = Σ_θ ∂f(x)/∂θ ∂f(x')/∂θ of a finite network, by contraction of Jacobians.

    Args:
        apply: f, as apply(params, x) for rows x (n, d), giving (n,) or (n, k). Each output row may depend on
            its own input row only. Hashable and the same object at each call, or every call compiles anew.
        params: any pytree of floating-point arrays.
        x1: inputs (n1, d).
        x2: inputs (n2, d); by default x1 again.
        full: give all k×k blocks, in place of the mean over the k outputs of the diagonal ones.
        memory: bytes that the Jacobians may take; fewer cost time, for they are taken again block by block.

    Returns:
        (n1, n2), or (n1, n2, k, k) where `full`, in the dtype of the outputs. Products of Jacobians are taken at
        the highest precision; those inside `apply` are its own affair.

    Raises:
        ValueError: an input is no matrix, has entries that are not finite, the features do not match,
            `apply` gives neither (n,) nor (n, k), or `memory` is not positive.

    Source: Jacot et al. 2018, Section 4; contraction as in Novak et al. 2022, Section 3.1.
    """
    if not memory > 0:
        raise ValueError(f"memory must be positive, a number of bytes, got {memory}")
    first, second = one_or_two(x1, x2)
    outputs = jax.eval_shape(apply, params, first)
    if outputs.ndim not in (1, 2) or outputs.shape[0] != first.shape[0]:
        raise ValueError(
            f"apply must give (n,) or (n, k) for inputs (n, d); for {first.shape} it gives {outputs.shape}"
        )
    blocks = _block_sizes(params, outputs, memory)
    return _empirical_ntk(apply, full, blocks, params, first, first if second is None else second)


def _block_sizes(params: PyTree, outputs: jax.ShapeDtypeStruct, memory: int | float) -> tuple[int, int]:
    """How many examples' Jacobians to hold at once: three quarters of the memory for x1, the rest for x2.

    The Jacobians of x2 are taken again for each block of x1, so that x1 has the larger share.
    """
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params)) * (outputs.shape[1] if outputs.ndim == 2 else 1)
    examples = memory / (numbers * outputs.dtype.itemsize)
    return max(1, int(0.75 * examples)), max(1, int(0.25 * examples))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _empirical_ntk(
    apply: Callable[..., Array],
    full: bool,
    blocks: tuple[int, int],
    params: PyTree,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"],
) -> Array:
    def output(p: PyTree, x: Float[Array, " d"]) -> Float[Array, " k"]:
        return jnp.atleast_1d(apply(p, x[None])[0])

    jacobians = jax.vmap(jax.jacrev(output), in_axes=(None, 0))

    def contract(jacobian1: Any, jacobian2: Any) -> Array:
        def leaf(j1: Array, j2: Array) -> Array:
            j1, j2 = (j.reshape(*j.shape[:2], -1) for j in (j1, j2))
            pattern = "akp,blp->abkl" if full else "akp,bkp->ab"
            product = jnp.einsum(pattern, j1, j2, precision=jax.lax.Precision.HIGHEST)
            return product if full else product / j1.shape[1]

        return functools.reduce(operator.add, jax.tree.leaves(jax.tree.map(leaf, jacobian1, jacobian2)))

    def columns(jacobian1: Any) -> Array:
        return _in_blocks(lambda x: jnp.swapaxes(contract(jacobian1, jacobians(params, x)), 0, 1), x2, blocks[1])

    return _in_blocks(lambda x: jnp.swapaxes(columns(jacobians(params, x)), 0, 1), x1, blocks[0])


def _in_blocks(function: Callable[[Array], Array], x: Float[Array, "n d"], size: int) -> Array:
    """function(x), which acts on rows and gives rows, on at most `size` rows at a time."""
    n = x.shape[0]
    if n <= size:
        return function(x)
    # Equal blocks: the last one is filled up with the first row, whose results are dropped.
    count = -(-n // size)
    size = -(-n // count)
    padded = jnp.concatenate([x, jnp.broadcast_to(x[:1], (count * size - n, x.shape[1]))])
    result = jax.lax.map(function, padded.reshape(count, size, -1))
    return result.reshape(count * size, *result.shape[2:])[:n]
