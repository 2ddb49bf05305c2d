"""The tangent kernel of a finite network at given parameters."""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from theory.arrays import ArrayLike, as_float, one_or_two, row_pair, rows


def empirical_ntk(
    apply: Callable[..., Array],
    params: PyTree,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    full: bool = False,
    memory: int | float = 1e9,
    method: str = "auto",
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """Θ(x, x') = Σ_θ ∂f(x)/∂θ ∂f(x')/∂θ of any finite network, exactly.

    Either Jacobians are contracted, at a cost of n1·n2·k·P for P parameters and k outputs (k²·P where `full`), or each
    column is a product of Θ with a unit vector (`empirical_ntk_product`), at n1·n2·k passes through the network. The
    second is cheaper for all k×k blocks of a dense network with several outputs. For fully connected networks
    `layerwise_ntk` is far cheaper than both.

    Args:
        apply: f, as apply(params, x) for rows x (n, d), giving (n,) or (n, k). Each output row may depend on
            its own input row only. Hashable and the same object at each call, or every call compiles anew.
        params: any pytree of floating-point arrays.
        x1: inputs (n1, d).
        x2: inputs (n2, d); by default x1 again.
        full: give all k×k blocks, in place of the mean over the k outputs of the diagonal ones.
        memory: bytes that the Jacobians may take; fewer cost time, for they are taken again block by block.
        method: "jacobians", "products", or "auto": the one that needs fewer floating-point operations, where a pass
            costs what the compiler counts.

    Returns:
        (n1, n2), or (n1, n2, k, k) where `full`, in the dtype of the outputs. Products of Jacobians are taken at
        the highest precision; those inside `apply` are its own affair.

    Raises:
        ValueError: an input is no matrix, has entries that are not finite, the features do not match,
            `apply` gives neither (n,) nor (n, k), `memory` is not positive, or there is no such method.

    Source: Jacot et al. 2018, Section 4; contraction as in Novak et al. 2022, Section 3.1.
    """
    if not memory > 0:
        raise ValueError(f"memory must be positive, a number of bytes, got {memory}")
    if method not in ("auto", "jacobians", "products"):
        raise ValueError(f"method must be 'auto', 'jacobians' or 'products', got {method!r}")
    first, second = one_or_two(x1, x2)
    outputs = _outputs(apply, params, first)
    second = first if second is None else second
    if method == "auto":
        method = "products" if full and _products_are_cheaper(apply, params, first, outputs) else "jacobians"
    blocks = _block_sizes(params, outputs, memory)
    if method == "products":
        return _by_products(apply, full, blocks, params, first, second)
    return _empirical_ntk(apply, full, blocks, params, first, second)


def empirical_ntk_product(
    apply: Callable[..., Array], params: PyTree, x1: ArrayLike, x2: ArrayLike, vectors: ArrayLike
) -> Float[Array, "n1 *k"]:
    """Σ_j Θ(x1_i, x2_j) v_j, with all k×k blocks of Θ, by one pass back and one forward: Θ itself is never formed.

    Args:
        apply, params, x1, x2: those of `empirical_ntk`.
        vectors: v (n2,) or (n2, k), as the outputs are.

    Returns:
        The product, of the shape of the outputs at x1.

    Raises:
        ValueError: the inputs do not match, or `vectors` has not the shape of the outputs at x2.

    Source: NTK–vector products of Novak et al. 2022, Section 3.2.
    """
    first, second = row_pair(x1, x2)
    outputs, v = _outputs(apply, params, second), as_float(vectors)
    if v.shape != outputs.shape:
        raise ValueError(f"vectors must have the shape {outputs.shape} of the outputs at x2, got {v.shape}")
    return _product(apply, params, first, second, v.astype(outputs.dtype))


def empirical_ntk_diagonal(
    apply: Callable[..., Array], params: PyTree, x: ArrayLike, *, full: bool = False, memory: int | float = 1e9
) -> Float[Array, " n"] | Float[Array, "n k k"]:
    """Θ(x_i, x_i) of each input, without the rest of the matrix; its sum is the trace.

    Arguments, conventions and errors are those of `empirical_ntk`.

    Returns:
        (n,), the mean over the outputs, or (n, k, k) where `full`.
    """
    if not memory > 0:
        raise ValueError(f"memory must be positive, a number of bytes, got {memory}")
    inputs = rows("x", x)
    outputs = _outputs(apply, params, inputs)
    return _diagonal(apply, full, sum(_block_sizes(params, outputs, memory)), params, inputs)


def empirical_ntk_blocks(
    apply: Callable[..., Array],
    params: PyTree,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    rows_in_block: int,
    full: bool = False,
    memory: int | float = 1e9,
) -> Iterator[tuple[slice, slice, Array]]:
    """The tangent kernel block by block, for sets of inputs whose kernel does not fit in memory.

    Args:
        apply, params, x1, x2, full, memory: those of `empirical_ntk`.
        rows_in_block: inputs on either side of a block, at least 1; the last blocks may be smaller.

    Yields:
        (rows, columns, block) with Θ[rows, columns] = block. With `x2` left out, only blocks on and above the
        diagonal: the others are their transposes (and with `full` those of their k×k blocks too).

    Raises:
        ValueError: at once, as `empirical_ntk` does, or `rows_in_block` is not positive.
    """
    if rows_in_block < 1:
        raise ValueError(f"rows_in_block must be at least 1, got {rows_in_block}")
    first, second = one_or_two(x1, x2)
    _outputs(apply, params, first)
    starts1 = range(0, first.shape[0], rows_in_block)
    starts2 = starts1 if second is None else range(0, second.shape[0], rows_in_block)

    def blocks() -> Iterator[tuple[slice, slice, Array]]:
        for i in starts1:
            for j in starts2:
                if second is None and j < i:
                    continue
                one, two = slice(i, i + rows_in_block), slice(j, j + rows_in_block)
                other = (first if second is None else second)[two]
                yield one, two, empirical_ntk(apply, params, first[one], other, full=full, memory=memory)

    return blocks()


def _outputs(apply: Callable[..., Array], params: PyTree, x: Float[Array, "n d"]) -> jax.ShapeDtypeStruct:
    outputs = jax.eval_shape(apply, params, x)
    if outputs.ndim not in (1, 2) or outputs.shape[0] != x.shape[0]:
        raise ValueError(f"apply must give (n,) or (n, k) for inputs (n, d); for {x.shape} it gives {outputs.shape}")
    return outputs


def _products_are_cheaper(
    apply: Callable[..., Array], params: PyTree, x: Float[Array, "n d"], outputs: jax.ShapeDtypeStruct
) -> bool:
    """Contracting costs 2k²P a pair of inputs; a product costs a pass forward with tangents, twice a pass, k times."""
    k = outputs.shape[1] if outputs.ndim == 2 else 1
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params)
    lowered = jax.jit(apply).lower(shapes, jax.ShapeDtypeStruct((1, x.shape[1]), x.dtype))
    passes = (lowered.cost_analysis() or {}).get("flops", 0.0)
    return passes > 0 and 2.0 * k * passes < 2.0 * k**2 * _numbers(params)


def _numbers(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@functools.partial(jax.jit, static_argnums=0)
def _product(
    apply: Callable[..., Array],
    params: PyTree,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"],
    vectors: Float[Array, "n2 *k"],
) -> Float[Array, "n1 *k"]:
    _, pull = jax.vjp(lambda p: apply(p, x2), params)
    return jax.jvp(lambda p: apply(p, x1), (params,), pull(vectors))[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _by_products(
    apply: Callable[..., Array],
    full: bool,
    blocks: tuple[int, int],
    params: PyTree,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"],
) -> Array:
    shape = jax.eval_shape(apply, params, x2)
    k, dtype = math.prod(shape.shape[1:]), shape.dtype

    def outputs(p: PyTree, x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        return apply(p, x).reshape(x.shape[0], k)

    def column(x: Float[Array, " d"]) -> Float[Array, "k n1 k"]:
        _, pull = jax.vjp(lambda p: outputs(p, x[None])[0], params)
        return jax.vmap(lambda unit: jax.jvp(lambda p: outputs(p, x1), (params,), pull(unit))[1])(
            jnp.eye(k, dtype=dtype)
        )

    found = _in_blocks(jax.vmap(column), x2, blocks[1])
    return jnp.transpose(found, (2, 0, 3, 1)) if full else jnp.trace(found, axis1=1, axis2=3).T / k


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _diagonal(apply: Callable[..., Array], full: bool, size: int, params: PyTree, x: Float[Array, "n d"]) -> Array:
    def one(x: Float[Array, " d"]) -> Array:
        jacobian = jax.jacrev(lambda p: jnp.atleast_1d(apply(p, x[None])[0]))(params)
        parts = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(jacobian)]
        if full:
            return _sum(jnp.matmul(part, part.T, precision=jax.lax.Precision.HIGHEST) for part in parts)
        return _sum(jnp.sum(part * part) for part in parts) / parts[0].shape[0]

    return _in_blocks(jax.vmap(one), x, size)


def _sum(parts: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, parts)


def _block_sizes(params: PyTree, outputs: jax.ShapeDtypeStruct, memory: int | float) -> tuple[int, int]:
    """How many examples' Jacobians to hold at once: three quarters of the memory for x1, the rest for x2.

    The Jacobians of x2 are taken again for each block of x1, so that x1 has the larger share.
    """
    numbers = _numbers(params) * (outputs.shape[1] if outputs.ndim == 2 else 1)
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

        return _sum(jax.tree.leaves(jax.tree.map(leaf, jacobian1, jacobian2)))

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
