"""What `layerwise_convolutional_ntk` is given, checked, and how it is best computed.

For each layer the cheaper of two ways is chosen, and blocks of images that bound the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from jaxtyping import Array, Float

from theory.activations import Activation
from theory.arrays import ArrayLike, as_float, check_finite
from theory.kernels.layerwise import Dense

# An addition or product entry by entry takes as long as about this many multiplications in a product of matrices, for
# it waits for memory (as measured on a CPU, in single precision).
SLOW = 15


class Convolution(NamedTuple):
    """One convolution of stride 1: z(α) = weight_multiplier · Σ_β h(α+β) W(β) + bias_multiplier · b.

    `weight`: W (*filter, c_in, c_out), with one or two axes in the filter. `bias`: b (c_out,), or None.
    """

    weight: Float[Array, "*filter c_in c_out"]
    bias: Float[Array, " c_out"] | None
    weight_multiplier: ArrayLike = 1.0
    bias_multiplier: ArrayLike = 1.0


class Plan(NamedTuple):
    """What is known before compilation: `methods`, one a layer, and how many images of x1 and of x2 at once."""

    activation: Activation
    padding: str
    readout: str
    full: bool
    methods: tuple[str, ...]
    blocks: tuple[int, int]


def images(name: str, value: ArrayLike, layer: Convolution) -> Float[Array, "n *space c"]:
    """The images as an array with as many axes as the first layer's weights.

    Raises:
        ValueError: they have not, or have entries that are not finite.
    """
    array = as_float(value)
    if layer.weight.ndim not in (3, 4):
        raise ValueError(f"convolutions[0].weight must have shape (*filter, c_in, c_out), got {layer.weight.shape}")
    if array.ndim != layer.weight.ndim:
        raise ValueError(f"{name} must have {layer.weight.ndim} axes, (examples, *space, channels), got {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"{name} must have at least one image, position and channel, got shape {array.shape}")
    check_finite(name, array)
    return array


def check(
    convolutions: Sequence[Convolution], last: Dense, shape: tuple[int, ...], padding: str, readout: str
) -> list[tuple[int, ...]]:
    """Sizes in space of what enters each layer, and the readout, for images of that shape.

    Raises:
        ValueError: the shapes of the layers do not follow one another.
    """
    space, channels = shape[:-1], shape[-1]
    sizes = [space]
    for i, layer in enumerate(convolutions):
        name, weight = f"convolutions[{i}]", layer.weight.shape
        if len(weight) != len(space) + 2 or weight[-2] != channels:
            raise ValueError(f"{name}.weight must have {len(space)} axes and ({channels}, c_out), got {weight}")
        if any(size < k for size, k in zip(space, weight, strict=False)):
            raise ValueError(f"{name}.weight must have a filter no larger than its input {space}, got {weight[:-2]}")
        if layer.bias is not None and layer.bias.shape != weight[-1:]:
            raise ValueError(f"{name}.bias must have shape ({weight[-1]},), got {layer.bias.shape}")
        if padding == "valid":
            space = tuple(size - k + 1 for size, k in zip(space, weight, strict=False))
        channels = weight[-1]
        sizes.append(space)
    features = channels * (prod(space) if readout == "flatten" else 1)
    if len(last.weight.shape) != 2 or last.weight.shape[0] != features:
        raise ValueError(f"last.weight must have shape ({features}, k), got {last.weight.shape}")
    if last.bias is not None and last.bias.shape != last.weight.shape[1:]:
        raise ValueError(f"last.bias must have shape ({last.weight.shape[1]},), got {last.bias.shape}")
    return sizes


def cheaper(
    weight: tuple[int, ...], sizes: Sequence[tuple[int, ...]], counts: tuple[int, int], k: int, full: bool
) -> str:
    """The way with fewer multiplications in one layer: 'positions' or 'gradients'.

    Args:
        weight: shape of the layer's weights.
        sizes: of space, before and after the layer.
        counts: numbers of images, n1 and n2.
        k: outputs.
        full: whether all k×k blocks are wanted.
    """
    taps, (c_in, c_out) = weight[:-2], weight[-2:]
    (entering, leaving), (n1, n2) = (prod(size) for size in sizes), counts
    gradients = prod(taps) * c_in * c_out * (k * leaving * (n1 + n2) + n1 * n2 * k ** (2 if full else 1))
    pair = entering**2 * c_in + leaving**2 * k * c_out + SLOW * leaving**2 * (sum(taps) + 2)
    return "positions" if n1 * n2 * (pair + leaving * k**2 * c_out * full) < gradients else "gradients"


def block_sizes(
    convolutions: Sequence[Convolution],
    sizes: Sequence[tuple[int, ...]],
    k: int,
    full: bool,
    methods: tuple[str, ...],
    numbers: float,
    counts: tuple[int, int],
) -> tuple[int, int]:
    """How many images of x1 and of x2 at once, so that half of `numbers` holds them and half their pairs."""
    image, pair = 0, 1
    for i, (layer, way) in enumerate(zip(convolutions, methods, strict=True)):
        c_in, c_out = layer.weight.shape[-2:]
        leaving = prod(sizes[i + 1])
        around = prod(size + taps for size, taps in zip(sizes[i], layer.weight.shape, strict=False))
        image += 2 * (around * c_in + k * leaving * c_out) + (k * c_in * c_out if way == "gradients" else 0)
        if way == "positions":
            pair = max(pair, 4 * around**2 + (k * leaving * c_out if full else 0))
    # As in `empirical_ntk` x1 has the larger share: the passes through x2 are taken again for each block of x1.
    rows = min(counts[0], max(1, int(0.375 * numbers / image)))
    columns = min(counts[1], max(1, int(0.125 * numbers / image)))
    excess = rows * columns * pair / (0.5 * numbers)
    if excess > 1:
        rows = max(1, int(rows / excess**0.5))
        columns = max(1, min(columns, int(0.5 * numbers / (rows * pair))))
    return rows, columns
