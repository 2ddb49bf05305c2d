"""Finite networks of the families beside the MLP, with the `init` and `apply` of `experiments.networks`.

They are trained, recorded and drawn in ensembles by the same functions: `SquaredError(net)`, `init_members(net, …)`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from experiments.networks import Network, Params
from theory.architecture import Convolutional, LayerScale, Parametrisation, Role, parametrisation

# Channels below which a convolution is a product with patches.
FEW = 8


@dataclass(frozen=True)
class FamilyNetwork(Network):
    """What the families share: weights of any shape (…, fan_out), with the product of the other sizes as fan_in."""

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the weights, layer by layer."""
        raise NotImplementedError

    def biased(self) -> list[bool]:
        """Whether each layer has a bias."""
        return [self.bias] * len(self.shapes())

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(prod(shape) + biased * shape[-1] for shape, biased in zip(self.shapes(), self.biased(), strict=True))

    def assemble(self, normals: Array | np.ndarray) -> Params:
        """Parameters from standard normals (…, parameters), with the same leading axes; NumPy's stay NumPy's."""
        params, offset, leading = [], 0, normals.shape[:-1]
        for shape, biased, (weight, bias) in zip(self.shapes(), self.biased(), self.scales(), strict=True):
            layer: dict[str, Any] = {}
            for name, size, scale in [("weight", shape, weight), ("bias", shape[-1:], bias)][: 1 + biased]:
                entries = normals[..., offset : offset + prod(size)].reshape(*leading, *size)
                layer[name] = entries if scale.init_std == 1 else entries * normals.dtype.type(scale.init_std)
                offset += prod(size)
            params.append(layer)
        return params

    def learning_rates(self, learning_rate: float) -> Params:
        """The parametrisation's learning rate for each array of parameters, from the global one."""
        rates = []
        for biased, (weight, bias) in zip(self.biased(), self.scales(), strict=True):
            layer = {"weight": learning_rate * weight.learning_rate}
            rates.append({**layer, "bias": learning_rate * bias.learning_rate} if biased else layer)
        return rates

    def scales(self) -> list[tuple[LayerScale, LayerScale]]:
        """Scales of the weights and of the biases, layer by layer."""
        shapes = self.shapes()
        found = []
        for i, shape in enumerate(shapes):
            role: Role = "output" if i == len(shapes) - 1 else "input" if i == 0 else "hidden"
            weight = self.parametrisation.layer(role, prod(shape[:-1]), shape[-1], self.weight_variance)
            found.append((weight, self.parametrisation.bias(role, shape[-1], self.bias_variance)))
        return found

    def affine(self, params: Params, layer: int, product: Array) -> Array:
        """a_l times the product with the weights, plus the bias."""
        weight, bias = self.scales()[layer]
        out = weight.multiplier * product
        return out + bias.multiplier * params[layer]["bias"] if self.bias else out


@dataclass(frozen=True)
class ConvolutionalNetwork(FamilyNetwork):
    """A `Convolutional` network of finite width; build one with `convolutional_network`.

    Attributes:
        widths: channels of each convolutional layer.
        inputs: channels of the images.
        space: sizes of the images' axes of space.
        filter, padding, readout: those of `Convolutional`.
    """

    space: tuple[int, ...]
    filter: tuple[int, ...]
    padding: str
    readout: str

    def shapes(self) -> list[tuple[int, ...]]:
        """(*filter, channels in, channels out) of each convolution; (S·channels, outputs) or (channels, outputs)."""
        channels = (self.inputs, *self.widths)
        lost = len(self.widths) if self.padding == "valid" else 0
        positions = prod(size - lost * (k - 1) for size, k in zip(self.space, self.filter, strict=True))
        convolutions = [(*self.filter, *channels[i : i + 2]) for i in range(len(self.widths))]
        return [*convolutions, (channels[-1] * (positions if self.readout == "flatten" else 1), self.outputs)]

    def preactivations(self, params: Params, x: ArrayLike) -> list[Float[Array, "n ..."]]:
        """z_1, …, z_L, each (n, *space, channels), and the output (n, outputs), for images x (n, *space, c)."""
        h = jnp.asarray(x, params[0]["weight"].dtype)
        if h.shape[1:] != (*self.space, self.inputs):
            raise ValueError(f"x must have shape (n, {', '.join(map(str, (*self.space, self.inputs)))}), got {h.shape}")
        z = []
        for i in range(len(self.widths)):
            z.append(self.affine(params, i, self._convolve(h, params[i]["weight"])))
            h = self.activation(z[-1])
        h = h.reshape(len(h), -1) if self.readout == "flatten" else h.mean(axis=range(1, h.ndim - 1))
        product = jnp.matmul(h, params[-1]["weight"], precision=jax.lax.Precision.HIGHEST)
        return [*z, self.affine(params, len(self.widths), product)]

    def _convolve(self, h: Array, weight: Array) -> Array:
        if self.padding != "valid":
            around = [(0, 0), *(((k - 1) // 2, k // 2) for k in self.filter), (0, 0)]
            h = jnp.pad(h, around, mode="wrap" if self.padding == "circular" else "constant")
        # The gradient of a wide filter on few channels is slow as a convolution, and fast as a product with patches.
        if h.shape[-1] < FEW:
            kept = [size - k + 1 for size, k in zip(h.shape[1:-1], self.filter, strict=True)]
            starts = itertools.product(*(range(k) for k in self.filter))
            patches = [
                h[(slice(None), *(slice(i, i + size) for i, size in zip(start, kept, strict=True)))] for start in starts
            ]
            rows = jnp.stack(patches, axis=-2).reshape(len(h), *kept, -1)
            return jnp.matmul(rows, weight.reshape(-1, weight.shape[-1]), precision=jax.lax.Precision.HIGHEST)
        numbers = ("NWC", "WIO", "NWC") if len(self.filter) == 1 else ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            h,
            weight,
            (1,) * len(self.filter),
            "VALID",
            dimension_numbers=numbers,
            precision=jax.lax.Precision.HIGHEST,
        )


def convolutional_network(
    architecture: Convolutional,
    *,
    width: int | Sequence[int],
    space: Sequence[int],
    channels: int = 1,
    outputs: int = 1,
    parametrisation: str | Parametrisation = "ntk",
) -> ConvolutionalNetwork:
    """A finite convolutional network of the architecture; it has biases where σ_b² > 0.

    Args:
        architecture: the variances must be numbers, not traced.
        width: channels of every convolutional layer, or one number for each.
        space: sizes of the images' axes of space.
        channels: of the images.
        outputs: dimension of f(x).
        parametrisation: a name or an object.

    Raises:
        ValueError: a size is not positive, an image is too small for the filter, or the numbers of sizes do not match.
    """
    widths = _widths(width, architecture.depth)
    sizes = tuple(int(size) for size in space)
    if len(sizes) != len(architecture.filter):
        raise ValueError(f"space must have {len(architecture.filter)} sizes, as many as the filter, got {len(sizes)}")
    for size, k in zip(sizes, architecture.filter, strict=True):
        least = architecture.depth * (k - 1) + 1 if architecture.padding == "valid" else k
        if size < least:
            raise ValueError(f"space must be at least {least} for filters of size {k} and this depth, got {size}")
    _check_sizes(channels=(channels,), width=widths, outputs=(outputs,))
    variances = _numbers(architecture)
    return ConvolutionalNetwork(
        widths,
        channels,
        outputs,
        architecture.activation,
        *variances,
        _find_parametrisation(parametrisation),
        variances[1] > 0,
        sizes,
        architecture.filter,
        architecture.padding,
        architecture.readout,
    )


# Inside the functions above the argument `parametrisation` hides the function of that name.
_find_parametrisation = parametrisation


def _widths(width: int | Sequence[int], layers: int) -> tuple[int, ...]:
    widths = (width,) * layers if isinstance(width, int) else tuple(int(n) for n in width)
    if len(widths) != layers:
        raise ValueError(f"width must be one number or {layers} (the depth), got {len(widths)} numbers")
    return widths


def _check_sizes(**sizes: Sequence[int]) -> None:
    for name, values in sizes.items():
        if any(size < 1 for size in values):
            raise ValueError(f"{name} must be at least 1, got {min(values)}")


def _numbers(architecture: Any) -> tuple[float, float]:
    try:
        return float(architecture.weight_variance), float(architecture.bias_variance)
    except (TypeError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(
            "architecture must have plain numbers as variances: a finite network is a static argument of jit"
        ) from error
