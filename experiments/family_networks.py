"""A finite network of any architecture, by its type: the counterpart of `theory.kernels.families`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from experiments.attention_networks import AttentionNetwork, attention_network
from experiments.families import ConvolutionalNetwork, convolutional_network
from experiments.networks import Network, Params, network
from experiments.normalised_networks import normalised_network
from experiments.residual_networks import residual_network
from theory.architecture import (
    MLP,
    PARAMETRISATIONS,
    Attention,
    Convolutional,
    LayerNorm,
    LayerScale,
    Parametrisation,
    Residual,
    Role,
    StandardBiases,
)

Architecture = MLP | Convolutional | Residual | LayerNorm | Attention | StandardBiases


class _NTKStandardBiases(Parametrisation):
    """Weights of the NTK parametrisation, biases b ~ N(0, σ_b²) that are added and learned as they are."""

    def bias(self, role: Role | str, fan_out: int, bias_variance: float = 1.0) -> LayerScale:
        return PARAMETRISATIONS["standard"].bias(role, fan_out, bias_variance)


_NTK = PARAMETRISATIONS["ntk"]
_STANDARD_BIASES = _NTKStandardBiases("ntk, standard biases", _NTK.input, _NTK.hidden, _NTK.output, False)


def family_network(
    architecture: Architecture,
    *,
    width: int,
    shape: int | Sequence[int],
    outputs: int = 1,
    heads: int | None = None,
    parametrisation: str | Parametrisation = "ntk",
) -> Network:
    """A finite network of the architecture, for inputs x of shape (n, *shape): `shape=x.shape[1:]`.

    The networks share one interface, that of `experiments.networks.Network`: init, assemble, apply, preactivations,
    parameters, scales and learning_rates.

    Args:
        architecture: of any family; its numbers must not be traced.
        width: neurons, channels or features of every layer.
        shape: of one input. d or (d,) for an MLP or a `Residual`, (*space, channels) for a `Convolutional`,
            (positions, channels) for `Attention`.
        outputs: dimension of f(x).
        heads: of an `Attention` network, and of no other.
        parametrisation: a name or an object; for `Attention` 'ntk' or 'standard', for `StandardBiases` 'ntk': weights
            follow it, while biases have their own size and the learning rate itself, and are there at σ_b² = 0 too.

    Raises:
        ValueError: the architecture is of no family, `shape` has the wrong number of axes, or `heads` is missing or
            out of place; or as the family's own function says.
    """
    if isinstance(architecture, StandardBiases):
        if parametrisation not in ("ntk", _NTK):
            raise ValueError(
                f"parametrisation must be 'ntk' for StandardBiases, got {parametrisation!r}: its weights are the "
                "kernel's; take its architecture for networks of another parametrisation"
            )
        inner = architecture.architecture
        net = family_network(inner, width=width, shape=shape, outputs=outputs, heads=heads)
        return replace(net, parametrisation=_STANDARD_BIASES, bias=True)
    plain = architecture.architecture if isinstance(architecture, LayerNorm) else architecture
    if not isinstance(plain, MLP | Convolutional | Residual | Attention):
        raise ValueError(
            "architecture must be MLP, Convolutional, Residual, LayerNorm, Attention, or StandardBiases of one of "
            f"them, got {type(plain).__name__}"
        )
    sizes = tuple(np.atleast_1d(np.asarray(shape)).tolist())
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
        raise ValueError(f"shape must be whole numbers, those of x.shape[1:], got {shape!r}")
    if isinstance(width, float | np.floating):
        raise ValueError(f"width must be an integer of at least 1, got {width!r}")
    width = int(width) if isinstance(width, np.integer) else width
    axes = len(plain.filter) + 1 if isinstance(plain, Convolutional) else 2 if isinstance(plain, Attention) else 1
    if len(sizes) != axes:
        raise ValueError(f"shape must be that of one input, with {axes} axes for {type(plain).__name__}, got {sizes}")
    if isinstance(architecture, Attention):
        if heads is None:
            raise ValueError("heads must be given for Attention, got None; the limit has infinitely many, try 8")
        return attention_network(
            architecture,
            width=width,
            heads=heads,
            positions=sizes[0],
            channels=sizes[1],
            outputs=outputs,
            parametrisation=parametrisation,
        )
    if heads is not None:
        raise ValueError(f"heads must be left out for {type(plain).__name__}, which has no attention, got {heads}")
    if isinstance(plain, Residual):
        return residual_network(
            architecture,  # pyright: ignore[reportArgumentType] # Residual, or LayerNorm of it
            width=width,
            inputs=sizes[0],
            outputs=outputs,
            parametrisation=parametrisation,
        )
    if isinstance(architecture, LayerNorm):
        if isinstance(plain, MLP):
            return normalised_network(
                architecture, width=width, inputs=sizes[0], outputs=outputs, parametrisation=parametrisation
            )
        return normalised_network(
            architecture,
            width=width,
            space=sizes[:-1],
            channels=sizes[-1],
            outputs=outputs,
            parametrisation=parametrisation,
        )
    if isinstance(architecture, MLP):
        return network(architecture, width=width, inputs=sizes[0], outputs=outputs, parametrisation=parametrisation)
    return convolutional_network(
        architecture,  # pyright: ignore[reportArgumentType] # the only type that is left
        width=width,
        space=sizes[:-1],
        channels=sizes[-1],
        outputs=outputs,
        parametrisation=parametrisation,
    )


@dataclass(frozen=True)
class OnRows:
    """f on inputs that are flattened to rows, as `empirical_ntk` takes them; equal for equal networks.

    `empirical_ntk(OnRows(net), params, x.reshape(len(x), -1))` is the tangent kernel of images or sequences x.
    """

    network: Network

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        net = self.network
        if isinstance(net, ConvolutionalNetwork):
            return *net.space, net.inputs
        return (net.positions, net.inputs) if isinstance(net, AttentionNetwork) else (net.inputs,)

    def __call__(self, params: Params, rows: ArrayLike) -> Float[Array, "n k"]:
        """f(x) for x (n, *shape) given as rows (n, product of shape)."""
        rows = jnp.asarray(rows)
        return self.network.apply(params, rows.reshape(len(rows), *self.shape))
