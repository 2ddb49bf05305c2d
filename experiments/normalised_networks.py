"""Finite networks with a layer norm before every activation: what `LayerNorm` of an MLP or of a `Convolutional` says.

Residual networks with layer norms are in `experiments.residual_networks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.families import convolutional_network
from experiments.networks import Network, network
from theory.architecture import MLP, Activation, Convolutional, LayerNorm, Parametrisation


def normalise(z: Float[Array, "*shape width"]) -> Float[Array, "*shape width"]:
    """(z − mean z)/√(variance of z) over the last axis, without learned scales or shifts; a variance of 0 gives 0.

    The variance is the mean square (divided by the width, not by one less), as in Ba, Kiros & Hinton 2016.
    Values and derivatives are finite everywhere.
    """
    # Less the first entry, equal entries are exactly 0; less the mean they could be rounding errors, blown up to 1.
    moved = z - z[..., :1]
    centred = moved - jnp.mean(moved, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    alive = variance > 0
    return jnp.where(alive, centred * jax.lax.rsqrt(jnp.where(alive, variance, 1.0)), 0.0)


@dataclass(frozen=True)
class _AfterNorm:
    """z ↦ φ(normalise(z)), in the place of φ: hashable, and equal for equal activations."""

    activation: Activation

    def __call__(self, z: Array) -> Array:
        return self.activation(normalise(z))


def after_norm(activation: Activation) -> Activation:
    """φ behind a layer norm over the last axis, that of neurons or channels: not elementwise, for finite networks."""
    return Activation(f"{activation.name} after a layer norm", _AfterNorm(activation))


def normalised_network(
    architecture: LayerNorm,
    *,
    width: int | Sequence[int],
    inputs: int | None = None,
    space: Sequence[int] | None = None,
    channels: int = 1,
    outputs: int = 1,
    parametrisation: str | Parametrisation = "ntk",
) -> Network:
    """A finite network of a layer-normalised MLP or `Convolutional`; it has biases where σ_b² > 0.

    It is a `Network` or `ConvolutionalNetwork` whose activation has the norm before it, and whose preactivations are
    those before the norm. A layer norm has no parameters, so that each weight keeps the role that it has without: all
    parametrisations serve.

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
        return replace(dense, activation=after_norm(dense.activation))
    if isinstance(plain, Convolutional):
        if space is None or inputs is not None:
            raise ValueError(
                f"space must be given (and inputs not) for a Convolutional, got space={space!r}, inputs={inputs!r}; "
                "channels are those of the images"
            )
        convolutional = convolutional_network(
            plain, width=width, space=space, channels=channels, outputs=outputs, parametrisation=parametrisation
        )
        return replace(convolutional, activation=after_norm(convolutional.activation))
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
