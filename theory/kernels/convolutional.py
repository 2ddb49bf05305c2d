r"""Kernels of infinitely wide convolutional networks: the covariance at initialisation (NNGP) and the tangent kernel.

For images x, x' and positions α, α' the covariance K(α, α') of z(α), z'(α') and its tangent Θ(α, α') follow

    K_1 = σ_w² A[x(α)·x'(α')/c] + σ_b² = Θ_1,
    K_{l+1} = σ_w² A[E φ(u)φ(v)] + σ_b²,    Θ_{l+1} = K_{l+1} + σ_w² A[E φ'(u)φ'(v) Θ_l],    (u, v) ~ N(0, K_l),

where A[K](α, α') = (1/q) Σ_β K(α+β, α'+β) over the q positions β of the filter. The readout takes the mean of
E φ(u)φ(v) and of E φ'(u)φ'(v) Θ_L in place of A: over α = α' (flatten) or over all pairs (pool). A keeps the offset
δ = α' − α. So one offset is computed at a time, in memory n1·n2·S for S positions; flatten needs δ = 0 only, and
pooling sums over all S offsets, taken modulo the image's size.

Source: Novak et al. 2019, section 2; Arora et al. 2019, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.architecture import Convolutional, LayerNorm
from theory.arrays import ArrayLike, as_float, check_finite
from theory.determinant import safe_inverse, safe_sqrt
from theory.gaussian import second_moment
from theory.kernels.angles import after_layer, needs_angles
from theory.kernels.layers import (
    IDENTITY,
    Layer,
    activate,
    beside,
    inputs,
    normalised,
    one_input,
    unit_variance,
)
from theory.kernels.pair import KernelPair
from theory.kernels.sums import Gaps, gaps, sine_of_sum

# Bytes for one block of pairs of images, and the arrays of a block's size that live at once (as measured).
MEMORY, LIVE = 5e8, 16


def convolutional_kernels(
    architecture: Convolutional | LayerNorm,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    memory: int | float = MEMORY,
    standard: bool = False,
) -> KernelPair:
    """NNGP and NTK between the images x1 and x2.

    Args:
        architecture: a convolutional network, with layer norms over the channels before every φ or without; the
            variances may be traced.
        x1: images (n1, *space, c), with as many axes of space as the filter has.
        x2: images (n2, *space, c); by default x1 again, then the diagonal is exact and the result symmetric.
        memory: bytes that the pairs computed at once may take; one image of x1 against all of x2 is the least.
        standard: whether a bias counts 1 in the NTK, in place of σ_b².

    Raises:
        ValueError: an input has the wrong shape or entries that are not finite, an image is smaller than the filter
            or too small for the depth, or `memory` is not positive.
    """
    if not memory > 0:
        raise ValueError(f"memory must be positive, a number of bytes, got {memory}")
    norm = isinstance(architecture, LayerNorm)
    plain = architecture.architecture if isinstance(architecture, LayerNorm) else architecture
    if not isinstance(plain, Convolutional):
        raise ValueError(f"architecture must be a convolutional network, got {type(plain).__name__}")
    first = _images("x1", x1, plain)
    second = first if x2 is None else _images("x2", x2, plain)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"x1 and x2 must be images of one shape, got {first.shape[1:]} and {second.shape[1:]}")
    dtype = jnp.result_type(first, second)
    first, second = first.astype(dtype), second.astype(dtype)
    row = LIVE * dtype.itemsize * len(second) * int(np.prod(first.shape[1:-1]))
    return _kernels(plain, norm, max(1, int(memory / row)), x2 is None, standard, first, second)


def _images(name: str, value: ArrayLike, architecture: Convolutional) -> Float[Array, "n *space c"]:
    array, axes = as_float(value), len(architecture.filter)
    if array.ndim != axes + 2:
        shape = "(examples, width, channels)" if axes == 1 else "(examples, height, width, channels)"
        hint = f"{name}[..., None] adds a channel" if array.ndim == axes + 1 else "filter says how many axes there are"
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}; {hint}")
    if 0 in array.shape[1:]:
        raise ValueError(f"{name} must have at least one position and one channel, got shape {array.shape}")
    for size, k in zip(array.shape[1:-1], architecture.filter, strict=True):
        least = architecture.depth * (k - 1) + 1 if architecture.padding == "valid" else k
        if size < least:
            raise ValueError(
                f"{name} must have at least {least} positions for filters of size {k}, {architecture.depth} layers and "
                f"'{architecture.padding}' padding, got {size}"
            )
    check_finite(name, array)
    return array


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _kernels(
    architecture: Convolutional,
    norm: bool,
    block: int,
    same: bool,
    standard: bool,
    x1: Float[Array, "n1 *space c"],
    x2: Float[Array, "n2 *space c"],
) -> KernelPair:
    variances1, variances2 = (_variances(architecture, norm, x) for x in (x1, x2))
    number = jnp.arange(len(x1))

    def rows(chunk: tuple[Array, Array, Array]) -> KernelPair:
        x, variances, who = chunk
        mine = (who[:, None] == jnp.arange(len(x2))) if same else None
        return _rows(architecture, norm, standard, x, x2, jnp.moveaxis(variances, 0, 1), variances2, mine)

    chunks = _in_blocks((x1, jnp.moveaxis(variances1, 1, 0), number), block)
    found = jax.lax.map(rows, chunks)
    whole = KernelPair(*(part.reshape(-1, len(x2))[: len(x1)] for part in found))
    return KernelPair(*(0.5 * (part + part.T) for part in whole)) if same else whole


def _in_blocks(arrays: tuple[Array, ...], size: int) -> tuple[Array, ...]:
    """Equal blocks of rows; the last one is filled up with the first row, whose results are dropped."""
    n = len(arrays[0])
    count = -(-n // min(size, n))
    size = -(-n // count)

    def cut(x: Array) -> Array:
        padded = jnp.concatenate([x, jnp.broadcast_to(x[:1], (count * size - n, *x.shape[1:]))])
        return padded.reshape(count, size, *x.shape[1:])

    return tuple(cut(x) for x in arrays)


def _rows(
    architecture: Convolutional,
    norm: bool,
    standard: bool,
    x1: Float[Array, "m *space c"],
    x2: Float[Array, "n *space c"],
    variances1: Float[Array, "layers m *space"],
    variances2: Float[Array, "layers n *space"],
    mine: Array | None,
) -> KernelPair:
    """Kernels of a block of x1 with all of x2; `mine` says which pairs are one and the same image."""
    space = x1.shape[1:-1]
    weight, bias = (jnp.asarray(v, x1.dtype) for v in (architecture.weight_variance, architecture.bias_variance))
    extra = beside(bias, standard=standard)
    lost = architecture.depth if architecture.padding == "valid" else 0
    last = tuple(size - lost * (k - 1) for size, k in zip(space, architecture.filter, strict=True))

    def at_offset(offset: Array) -> KernelPair:
        """Sums over the positions α of what the readout takes the mean of, between α and α + δ."""
        shift = -offset
        axes = tuple(range(-len(space), 0))
        moved = jnp.roll(variances2, shift, axes)
        images = jnp.roll(x2, shift, tuple(axis - 1 for axis in axes))
        own = None if mine is None else jnp.expand_dims(mine & (offset == 0).all(), axes)
        both = inputs(x1, images, with_angles=needs_angles(architecture.activation))
        layer = _convolve(architecture, offset, extra, both)

        def after_activation(layer: Layer, a: Array, b: Array) -> Layer:
            # Variances come from a recursion of their own, which knows nothing of offsets.
            exact = one_input(layer._replace(first=a, second=b), own)
            return activate(architecture.activation, normalised(exact) if norm else exact)

        def step(layer: Layer, between: tuple[Array, Array]) -> tuple[Layer, None]:
            return _convolve(architecture, offset, extra, after_activation(layer, *between)), None

        a, b = variances1[:, :, None], moved[:, None]
        layer = jax.lax.scan(step, layer, (a[:-1], b[:-1]))[0]
        top = after_activation(layer, a[-1], b[-1])
        alive = _alive(space, last, offset)
        return KernelPair(*(jnp.sum(jnp.where(alive, part, 0.0), axis=axes) for part in (top.covariance, top.tangent)))

    positions = int(np.prod(last))
    if architecture.readout == "flatten":
        total, count = at_offset(jnp.zeros(len(space), int)), positions
    else:
        grid = jnp.stack(jnp.meshgrid(*(jnp.arange(size) for size in space), indexing="ij"), axis=-1)
        zero = jnp.zeros((len(x1), len(x2)), x1.dtype)

        def add(total: KernelPair, offset: Array) -> tuple[KernelPair, None]:
            return KernelPair(*(t + part for t, part in zip(total, at_offset(offset), strict=True))), None

        total, count = jax.lax.scan(add, KernelPair(zero, zero), grid.reshape(-1, len(space)))[0], positions**2
    covariance = weight / count * total.nngp + bias
    return KernelPair(covariance, covariance + extra + weight / count * total.ntk)


def _alive(space: tuple[int, ...], last: tuple[int, ...], offset: Array) -> Array:
    """Whether α and α + δ both lie in the last layer."""
    axes = []
    for i, (size, kept) in enumerate(zip(space, last, strict=True)):
        position = jnp.arange(size)
        inside = (position < kept) & ((position + offset[i]) % size < kept)
        axes.append(inside.reshape([-1 if j == i else 1 for j in range(len(space))]))
    alive = axes[0]
    for inside in axes[1:]:
        alive = alive & inside
    return alive


def _variances(
    architecture: Convolutional, norm: bool, x: Float[Array, "n *space c"]
) -> Float[Array, "layers n *space"]:
    """K(x, x)(α, α) of z_1, …, z_L."""
    space = x.shape[1:-1]
    zero = jnp.zeros(len(space), int)
    weight, bias = (jnp.asarray(v, x.dtype) for v in (architecture.weight_variance, architecture.bias_variance))

    def patches(square: Array) -> Array:
        for axis in range(len(space)):
            (square,) = _sum(architecture, space, axis, zero, lambda first, _, q: (first * q,), square)
        return weight / np.prod(architecture.filter) * square + bias

    def step(variance: Array, _: None) -> tuple[Array, Array]:
        before = unit_variance(variance) if norm else variance
        return patches(second_moment(architecture.activation, before)), variance

    first = patches(jnp.mean(x**2, axis=-1))
    last, before = jax.lax.scan(step, first, None, length=architecture.depth - 1)
    return jnp.concatenate([before, last[None]])


def _convolve(architecture: Convolutional, offset: Array, extra: Array, layer: Layer) -> Layer:
    """The next convolution: means over patches, one axis of space after the other, then weights and biases."""
    space = layer.covariance.shape[2:]
    weight, bias = (
        jnp.asarray(v, layer.covariance.dtype) for v in (architecture.weight_variance, architecture.bias_variance)
    )
    a, b, covariance, tangent, sine2 = layer
    total = partial(_sum, architecture, space)
    for axis in range(len(space)):
        if sine2 is None:
            covariance, tangent = total(axis, offset, _both, covariance, tangent)
            continue
        parts = (safe_sqrt(a), safe_sqrt(b), covariance, tangent, *gaps(a, b, covariance, sine2))
        a, b, covariance, tangent, *sums = total(axis, offset, _moments, *parts)
        slope = sums[0] * safe_inverse(a)
        (rest,) = total(axis, offset, partial(_residual, slope), *parts[:2])
        sine2 = sine_of_sum(a, b, Gaps(*sums), rest)
    positions = float(np.prod(architecture.filter))
    after = weight / positions * covariance + bias
    if sine2 is not None:
        means = [jnp.broadcast_to(v / positions, covariance.shape) for v in (a, b, covariance)]
        sine2 = after_layer(IDENTITY, means[0], means[1], means[2], sine2, weight, bias)
    # The variances are only placeholders: the caller has them exactly.
    return Layer(layer.first, layer.second, after, after + extra + weight / positions * tangent, sine2)


def _both(first: Array, second: Array, *values: Array) -> tuple[Array, ...]:
    return tuple(first * second * value for value in values)


def _moments(first: Array, second: Array, p: Array, q: Array, *values: Array) -> tuple[Array, ...]:
    return first * p**2, second * q**2, *_both(first, second, *values)


def _residual(slope: Array, first: Array, second: Array, p: Array, q: Array) -> tuple[Array]:
    return ((second * q - slope * (first * p)) ** 2,)


def _sum(
    architecture: Convolutional,
    space: tuple[int, ...],
    axis: int,
    offset: Array,
    term: Callable[..., tuple[Array, ...]],
    *arrays: Array,
) -> tuple[Array, ...]:
    """Σ_β term(m, m', arrays at α + β) over the filter's reach along one axis.

    m and m' are 1 where α + β and α' + β lie on the image, else 0. For 'valid' padding they are left at 1: what sums
    over the edge is never read. A loop over β, because filters as wide as the image are wanted too.
    """
    size, k = space[axis], architecture.filter[axis]
    reach = jnp.arange(k) - (0 if architecture.padding == "valid" else (k - 1) // 2)
    position = jnp.arange(size)
    masks = jnp.ones((2, k, size), arrays[0].dtype)
    if architecture.padding == "same":
        places = jnp.stack([position, (position + offset[axis]) % size])[:, None] + reach[:, None]
        masks = ((places >= 0) & (places < size)).astype(arrays[0].dtype)
    masks = masks.reshape(2, k, size, *(1 for _ in space[axis + 1 :]))

    def add(i: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        moved = (jnp.roll(array, -reach[i], axis - len(space)) for array in arrays)
        return tuple(s + t for s, t in zip(sums, term(masks[0, i], masks[1, i], *moved), strict=True))

    # Term by term in a loop, also the first: to compile each term twice would take longer than any small image.
    shapes = jax.eval_shape(term, masks[0, 0], masks[1, 0], *arrays)
    return jax.lax.fori_loop(0, k, add, tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes))
