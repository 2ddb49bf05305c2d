"""Finite networks with a layer norm before every activation: what `LayerNorm` of an MLP or of a `Convolutional` says.

Residual networks with layer norms are in `experiments.residual_networks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from experiments.families import ConvolutionalNetwork, convolutional_network
from experiments.networks import Network, Params, network
from theory.architecture import MLP, Convolutional, LayerNorm, Parametrisation


def normalise(z: Float[Array, "*shape width"]) -> Float[Array, "*shape width"]:
    """(z − mean z)/√(variance of z) over the last axis, without learned scales or shifts; a variance of 0 gives 0.

    The variance is the mean square (divided by the width, not by one less), as in Ba, Kiros & Hinton 2016, eq. (3).
    Values and derivatives are finite everywhere.
    """
    # Less the first entry, equal entries are exactly 0; less the mean they could be rounding errors, blown up to 1.
    moved = z - z[..., :1]
    centred = moved - jnp.mean(moved, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    alive = variance > 0
    return jnp.where(alive, centred * jax.lax.rsqrt(jnp.where(alive, variance, 1.0)), 0.0)


@dataclass(frozen=True)
class NormalisedNetwork(Network):
    """A `Network` with h_l = φ(normalise(z_l)); build one with `normalised_network`."""

    def preactivations(self, params: Params, x: ArrayLike) -> list[Float[Array, "n _"]]:
        """z_1, …, z_L before their layer norms for inputs x (n, d), each (n, fan_out); the last one is the output."""
        h = jnp.asarray(x, params[0]["weight"].dtype)
        if h.ndim != 2 or h.shape[1] != self.inputs:
            raise ValueError(f"x must have shape (n, {self.inputs}), got {h.shape}; reshape it to rows of inputs")
        z = []
        for layer, (weight, bias) in zip(params, self.scales(), strict=True):
            if z:
                h = self.activation(normalise(z[-1]))
            out = weight.multiplier * jnp.matmul(h, layer["weight"], precision=jax.lax.Precision.HIGHEST)
            z.append(out + bias.multiplier * layer["bias"] if self.bias else out)
        return z


@dataclass(frozen=True)
class NormalisedConvolutionalNetwork(ConvolutionalNetwork):
    """A `ConvolutionalNetwork` that normalises over the channels at each position before φ."""

    def preactivations(self, params: Params, x: ArrayLike) -> list[Float[Array, "n ..."]]:
        """z_1, …, z_L before their layer norms, each (n, *space, channels), and the output (n, outputs)."""
        h = jnp.asarray(x, params[0]["weight"].dtype)
        if h.shape[1:] != (*self.space, self.inputs):
            raise ValueError(f"x must have shape (n, {', '.join(map(str, (*self.space, self.inputs)))}), got {h.shape}")
        z = []
        for i in range(len(self.widths)):
            z.append(self.affine(params, i, self._convolve(h, params[i]["weight"])))
            h = self.activation(normalise(z[-1]))
        h = h.reshape(len(h), -1) if self.readout == "flatten" else h.mean(axis=range(1, h.ndim - 1))
        product = jnp.matmul(h, params[-1]["weight"], precision=jax.lax.Precision.HIGHEST)
        return [*z, self.affine(params, len(self.widths), product)]


def normalised_network(
    architecture: LayerNorm,
    *,
    width: int | Sequence[int],
    inputs: int | None = None,
    space: Sequence[int] | None = None,
    channels: int = 1,
    outputs: int = 1,
    parametrisation: str | Parametrisation = "ntk",
) -> NormalisedNetwork | NormalisedConvolutionalNetwork:
    """A finite network of a layer-normalised MLP or `Convolutional`; it has biases where σ_b² > 0.

    A layer norm has no parameters, so that each weight keeps the role that it has without: all parametrisations serve.

    Args:
        architecture: the variances must be numbers, not traced.
        width: neurons (channels) of every layer, at least 2, or one number for each: one neuron is its own mean.
        inputs: dimension of x, for an MLP.
        space, channels: of the images, for a `Convolutional`.
        outputs: dimension of f(x).
        parametrisation: a name or an object.

    Raises:
        ValueError: a width is below 2, the inputs' sizes are those of another family, or as `network` and
            `convolutional_network` say.
    """
    plain = architecture.architecture
    check_width(width)
    if isinstance(plain, MLP):
        if inputs is None or space is not None:
            raise ValueError(f"inputs must be given (and space not) for an MLP, got inputs={inputs!r}, space={space!r}")
        dense = network(plain, width=width, inputs=inputs, outputs=outputs, parametrisation=parametrisation)
        return NormalisedNetwork(*values(dense))
    if isinstance(plain, Convolutional):
        if space is None or inputs is not None:
            raise ValueError(
                f"space must be given (and inputs not) for a Convolutional, got space={space!r}, inputs={inputs!r}; "
                "channels are those of the images"
            )
        convolutional = convolutional_network(
            plain, width=width, space=space, channels=channels, outputs=outputs, parametrisation=parametrisation
        )
        return NormalisedConvolutionalNetwork(*values(convolutional))
    raise ValueError(
        f"architecture must be LayerNorm of an MLP or Convolutional, got LayerNorm of {type(plain).__name__}; "
        "for Residual use residual_network"
    )


def check_width(width: int | Sequence[int]) -> None:
    """Refuse layers of one neuron, whose layer norm is 0 for all inputs."""
    if min([width] if isinstance(width, int) else width, default=2) < 2:
        raise ValueError(f"width must be at least 2 under a layer norm, which maps one neuron to 0, got {width}")


def values(net: Network) -> list:
    """The fields of a network, in order, to build one of a subclass from."""
    return [getattr(net, field.name) for field in fields(net)]
