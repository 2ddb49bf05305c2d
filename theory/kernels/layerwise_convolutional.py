"""The tangent kernel of a finite convolutional network, layer by layer, without its Jacobian.

The gradient by a filter's tap β is a sum of outer products over positions, Σ_α h(α+β) δ(α)ᵀ, of the activations h that
enter the layer and the sensitivities δ = ∂f/∂z of what leaves it. So a layer contributes

    m² Σ_{α,α'} (δ_a(α)·δ'_b(α')) Σ_β h(α+β)·h'(α'+β) + c² (Σ_α δ_a(α))·(Σ_α' δ'_b(α')),

with multipliers m of the weights and c of the biases. It is summed up in one of two ways, whichever costs less for the
layer: over pairs of positions, as it stands, n²S² (c_in + k c_out) for n inputs, S positions and k outputs; or as the
product of the gradients of one tap after the other, n²k q c_in c_out for q taps. Few positions or many channels speak
for the first. No gradient of a whole network is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.activations import Activation
from theory.activations import activation as find_activation
from theory.architecture import PADDINGS, READOUTS
from theory.arrays import ArrayLike
from theory.kernels.layerwise import Dense
from theory.kernels.layerwise_plan import Convolution, Plan, block_sizes, cheaper, check, images

METHODS = ("auto", "positions", "gradients")


def layerwise_convolutional_ntk(
    activation: str | Activation,
    convolutions: Sequence[Convolution],
    last: Dense,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    padding: str,
    readout: str,
    full: bool = False,
    memory: int | float = 1e9,
    method: str = "auto",
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """Θ(x, x') of the network z_l(α) = m_l Σ_β φ(z_{l−1}(α+β)) W_l(β) + c_l b_l, over all its weights and biases.

    What `empirical_ntk` gives for the same network. Paddings and readouts are those of `Convolutional`: the last layer
    acts on φ(z_L), flattened with the channels last or meant over the positions.

    Args:
        activation: φ, by name or as an `Activation`.
        convolutions: first layer first; at least one.
        last: the readout's weights (positions·channels, k) or (channels, k).
        x1: images (n1, *space, c).
        x2: images (n2, *space, c); by default x1 again, then the result is symmetric.
        padding: 'circular', 'same' or 'valid'.
        readout: 'flatten' or 'pool'.
        full: give all k×k blocks, in place of the mean over the k outputs of the diagonal ones.
        memory: bytes that intermediate results may take, for one pair of images at least; fewer cost time.
        method: 'positions' or 'gradients' for all layers, or 'auto': for each the one that needs fewer operations.

    Returns:
        (n1, n2), or (n1, n2, k, k) where `full`.

    Raises:
        ValueError: there is no layer, the shapes of the layers or inputs do not follow one another, an input is not
            finite, or an option has no such value.

    Source: structured derivatives of Novak et al. 2022, for the sums over positions.
    """
    for name, value, choices in (("padding", padding, PADDINGS), ("readout", readout, READOUTS)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not memory > 0:
        raise ValueError(f"memory must be positive, a number of bytes, got {memory}")
    if not convolutions:
        raise ValueError("convolutions must have at least one layer, got none; for dense layers use layerwise_ntk")
    first = images("x1", x1, convolutions[0])
    second = None if x2 is None else images("x2", x2, convolutions[0])
    if second is not None and second.shape[1:] != first.shape[1:]:
        raise ValueError(f"x1 and x2 must be images of one shape, got {first.shape[1:]} and {second.shape[1:]}")
    dtype = jnp.result_type(first, last.weight, *([] if second is None else [second]))
    sizes = check(convolutions, last, first.shape[1:], padding, readout)
    counts, k = (len(first), len(first if second is None else second)), last.weight.shape[1]
    methods = tuple(
        method if method != "auto" else cheaper(conv.weight.shape, sizes[i : i + 2], counts, k, full)
        for i, conv in enumerate(convolutions)
    )
    blocks = block_sizes(convolutions, sizes, k, full, methods, memory / dtype.itemsize, counts)
    plan = Plan(find_activation(activation), padding, readout, full, methods, blocks)
    second = None if second is None else second.astype(dtype)
    return _kernel(plan, tuple(convolutions), last, first.astype(dtype), second)


@partial(jax.jit, static_argnums=0)
def _kernel(
    plan: Plan,
    convolutions: tuple[Convolution, ...],
    last: Dense,
    x1: Float[Array, "n1 *space c"],
    x2: Float[Array, "n2 *space c"] | None,
) -> Array:
    second = x1 if x2 is None else x2

    def rows(some: Array) -> Array:
        one = _pass(plan, convolutions, last, some)

        def columns(others: Array) -> Array:
            # One set of images that fits as a whole passes once.
            same = x2 is None and len(others) == len(some) == len(x1)
            two = one if same else _pass(plan, convolutions, last, others)
            return jnp.swapaxes(_contract(plan, convolutions, last, one, two), 0, 1)

        return jnp.swapaxes(_in_blocks(columns, second, plan.blocks[1]), 0, 1)

    found = _in_blocks(rows, x1, plan.blocks[0])
    if x2 is not None:
        return found
    return 0.5 * (found + (jnp.transpose(found, (1, 0, 3, 2)) if plan.full else found.T))


def _in_blocks(function: Callable[[Array], Array], x: Float[Array, "n ..."], size: int) -> Array:
    """function(x), which acts on images and gives rows, on at most `size` images at a time."""
    n = len(x)
    if n <= size:
        return function(x)
    # Equal blocks: the last one is filled up with the first image, whose results are dropped.
    count = -(-n // size)
    size = -(-n // count)
    padded = jnp.concatenate([x, jnp.broadcast_to(x[:1], (count * size - n, *x.shape[1:]))])
    found = jax.lax.map(function, padded.reshape(count, size, *x.shape[1:]))
    return found.reshape(count * size, *found.shape[2:])[:n]


class _Passes(NamedTuple):
    """What enters each convolution, (n, *space, c_in), and the readout, and ∂f_a/∂z_l, (k, n, *space, c_out)."""

    below: list[Array]
    top: Array
    slopes: list[Array]


def _pass(plan: Plan, convolutions: tuple[Convolution, ...], last: Dense, x: Float[Array, "n *space c"]) -> _Passes:
    def run(shifts: list[Array]) -> tuple[Array, tuple[list[Array], Array]]:
        """The outputs where z_l is z_l plus a shift: their derivatives by the shifts are the sensitivities."""
        h, below = x, []
        for layer, shift in zip(convolutions, shifts, strict=True):
            below.append(h)
            z = jnp.asarray(layer.weight_multiplier, x.dtype) * _convolve(plan.padding, h, layer.weight) + shift
            if layer.bias is not None:
                z = z + jnp.asarray(layer.bias_multiplier, x.dtype) * layer.bias
            h = plan.activation(z)
        top = h.reshape(len(h), -1) if plan.readout == "flatten" else h.mean(axis=tuple(range(1, h.ndim - 1)))
        outputs = jnp.matmul(top, last.weight, precision=jax.lax.Precision.HIGHEST)
        return jnp.asarray(last.weight_multiplier, x.dtype) * outputs, (below, top)

    shifts, shape = [], x.shape
    for layer in convolutions:
        lost = layer.weight.shape if plan.padding == "valid" else (1,) * x.ndim
        space = (size - k + 1 for size, k in zip(shape[1:-1], lost, strict=False))
        shape = (len(x), *space, layer.weight.shape[-1])
        shifts.append(jnp.zeros(shape, x.dtype))
    outputs, pull, (below, top) = jax.vjp(run, shifts, has_aux=True)
    units = jnp.eye(outputs.shape[1], dtype=outputs.dtype)
    (slopes,) = jax.vmap(lambda unit: pull(jnp.broadcast_to(unit, outputs.shape)))(units)
    return _Passes(below, top, slopes)


def _around(padding: str, k: int) -> tuple[int, int]:
    """Positions that padding adds on the left and right."""
    return (0, 0) if padding == "valid" else ((k - 1) // 2, k // 2)


def _padded(padding: str, h: Array, widths: Sequence[tuple[int, int]]) -> Array:
    return jnp.pad(h, widths, mode="wrap" if padding == "circular" else "constant")


def _convolve(padding: str, h: Array, weight: Array) -> Array:
    filter_ = weight.shape[:-2]
    h = _padded(padding, h, [(0, 0), *(_around(padding, k) for k in filter_), (0, 0)])
    numbers = ("NWC", "WIO", "NWC") if len(filter_) == 1 else ("NHWC", "HWIO", "NHWC")
    weight, strides = weight.astype(h.dtype), (1,) * len(filter_)
    return jax.lax.conv_general_dilated(
        h, weight, strides, "VALID", dimension_numbers=numbers, precision=jax.lax.Precision.HIGHEST
    )


def _contract(plan: Plan, convolutions: tuple[Convolution, ...], last: Dense, one: _Passes, two: _Passes) -> Array:
    """The sum of all layers' contributions, (n1, n2) or (n1, n2, k, k)."""
    inner = jnp.asarray(last.weight_multiplier, one.top.dtype) ** 2 * _einsum("ni,mi->nm", one.top, two.top)
    inner = inner if last.bias is None else inner + jnp.asarray(last.bias_multiplier, inner.dtype) ** 2
    k = last.weight.shape[1]
    total = inner[:, :, None, None] * jnp.eye(k, dtype=inner.dtype) if plan.full else inner
    sides = zip(convolutions, plan.methods, one.below, two.below, one.slopes, two.slopes, strict=True)
    for layer, method, h1, h2, slope1, slope2 in sides:
        part = _by_positions if method == "positions" else _by_gradients
        # δ with all positions on one axis, (k, n, S, c_out).
        delta1, delta2 = (slope.reshape(*slope.shape[:2], -1, slope.shape[-1]) for slope in (slope1, slope2))
        found = part(plan, layer, h1, h2, delta1, delta2)
        total = total + (found if plan.full else found / k)
    return total


def _by_positions(plan: Plan, layer: Convolution, h1: Array, h2: Array, delta1: Array, delta2: Array) -> Array:
    """Pairs of positions (n1, α, n2, α'); summed over outputs unless `full`."""
    axes, (n1, n2) = h1.ndim - 2, (len(h1), len(h2))
    overlap = jnp.tensordot(h1, h2, (-1, -1), precision=jax.lax.Precision.HIGHEST)
    # Along the diagonal the sum over a filter is one axis after the other.
    for axis, k in enumerate(layer.weight.shape[:-2]):
        places = (1 + axis, 2 + axes + axis)
        widths = [_around(plan.padding, k) if i in places else (0, 0) for i in range(overlap.ndim)]
        overlap = _padded(plan.padding, overlap, widths)
        kept = overlap.shape[1 + axis] - k + 1
        cuts = [[slice(b, b + kept) if i in places else slice(None) for i in range(overlap.ndim)] for b in range(k)]
        overlap = sum((overlap[tuple(cut)] for cut in cuts[1:]), overlap[tuple(cuts[0])])
    positions = delta1.shape[2]
    both = jnp.asarray(layer.weight_multiplier, h1.dtype) ** 2 * overlap.reshape(n1, positions, n2, positions)
    if layer.bias is not None:
        both = both + jnp.asarray(layer.bias_multiplier, h1.dtype) ** 2
    if not plan.full:
        # On a CPU sums along an axis take seven times as long as products with a vector of ones.
        ones = jnp.ones((positions,), both.dtype)
        return _einsum("nsmt,t->nsm", both * _einsum("knso,kmto->nsmt", delta1, delta2), ones).sum(axis=1)
    return _einsum("knso,nsmlo->nmkl", delta1, _einsum("nsmt,lmto->nsmlo", both, delta2))


def _by_gradients(plan: Plan, layer: Convolution, h1: Array, h2: Array, delta1: Array, delta2: Array) -> Array:
    """The gradients by one tap at a time, (k, n, c_in, c_out), and their products."""
    filter_ = layer.weight.shape[:-2]
    pattern = "knio,lmio->nmkl" if plan.full else "knio,kmio->nm"
    widths = [(0, 0), *(_around(plan.padding, k) for k in filter_), (0, 0)]
    padded = [_padded(plan.padding, h, widths) for h in (h1, h2)]
    kept = tuple(size - k + 1 for size, k in zip(padded[0].shape[1:-1], filter_, strict=True))

    def gradient(h: Array, delta: Array, tap: Array) -> Array:
        start = (0, *tap, 0)
        seen = jax.lax.dynamic_slice(h, start, (len(h), *kept, h.shape[-1])).reshape(len(h), -1, h.shape[-1])
        return _einsum("nsi,knso->knio", seen, delta)

    def add(total: Array, tap: Array) -> tuple[Array, None]:
        gradients = (gradient(h, delta, tap) for h, delta in zip(padded, (delta1, delta2), strict=True))
        return total + _einsum(pattern, *gradients), None

    biases = _einsum(pattern, *(delta.sum(axis=2, keepdims=True) for delta in (delta1, delta2)))
    taps = np.stack(np.meshgrid(*(np.arange(k) for k in filter_), indexing="ij"), axis=-1).reshape(-1, len(filter_))
    total = jax.lax.scan(add, jnp.zeros_like(biases), jnp.asarray(taps))[0]
    total = jnp.asarray(layer.weight_multiplier, h1.dtype) ** 2 * total
    return total if layer.bias is None else total + jnp.asarray(layer.bias_multiplier, h1.dtype) ** 2 * biases


def _einsum(pattern: str, *arrays: Array) -> Array:
    return jnp.einsum(pattern, *arrays, precision=jax.lax.Precision.HIGHEST)
