"""Finite fully connected networks with skip connections, with layer norms or without: what `Residual` says."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from experiments.networks import Network, Params, network
from experiments.normalised_networks import after_norm, check_width, values
from theory.architecture import MLP, LayerNorm, Parametrisation, Residual


@dataclass(frozen=True)
class ResidualNetwork(Network):
    """A `Residual` network of finite width; build one with `residual_network`.

    With the multipliers a_l, c_l of `Network` and L = len(widths) − 1 blocks,

        z_1 = a_1 x W_1 + c_1 b_1,    z_{l+1} = z_l + α (a_{l+1} φ(z_l) W_{l+1} + c_{l+1} b_{l+1}),
        f = a φ(z_{L+1}) W + c b.

    Attributes:
        widths: L + 1 times the same number.
        branch_scale: α.
        activation: φ, behind a layer norm where the architecture has one; the skip connection carries z itself.
    """

    branch_scale: float

    def preactivations(self, params: Params, x: ArrayLike) -> list[Float[Array, "n _"]]:
        """z_1, …, z_{L+1} on the skip connection, each (n, width), and the output (n, outputs), for inputs x (n, d)."""
        h = jnp.asarray(x, params[0]["weight"].dtype)
        if h.ndim != 2 or h.shape[1] != self.inputs:
            raise ValueError(f"x must have shape (n, {self.inputs}), got {h.shape}; reshape it to rows of inputs")
        scales = self.scales()

        def dense(layer: int, h: Array) -> Array:
            weight, bias = scales[layer]
            out = weight.multiplier * jnp.matmul(h, params[layer]["weight"], precision=jax.lax.Precision.HIGHEST)
            return out + bias.multiplier * params[layer]["bias"] if self.bias else out

        z = [dense(0, h)]
        for layer in range(1, len(self.widths)):
            z.append(z[-1] + self.branch_scale * dense(layer, self.activation(z[-1])))
        return [*z, dense(-1, self.activation(z[-1]))]


def residual_network(
    architecture: Residual | LayerNorm,
    *,
    width: int,
    inputs: int,
    outputs: int = 1,
    parametrisation: str | Parametrisation = "ntk",
) -> ResidualNetwork:
    """A finite network of the architecture; it has biases where σ_b² > 0.

    The first layer has the role of the input, the branches are hidden, the readout is the output: all parametrisations
    serve, with α as a factor beside theirs.

    Args:
        architecture: `Residual`, or `LayerNorm` of it; its numbers must not be traced.
        width: number of neurons of every layer.
        inputs: dimension of x.
        outputs: dimension of f(x).
        parametrisation: a name or an object.

    Raises:
        ValueError: the architecture is another one, `width` is not one number, or as `network` says.
    """
    plain = architecture.architecture if isinstance(architecture, LayerNorm) else architecture
    if not isinstance(plain, Residual):
        raise ValueError(f"architecture must be Residual or LayerNorm of it, got {type(plain).__name__}")
    if isinstance(width, bool) or not isinstance(width, int | np.integer):
        raise ValueError(f"width must be one integer, got {width!r}: a skip connection adds layers of one width")
    activation = plain.activation
    if isinstance(architecture, LayerNorm):
        check_width(int(width))
        activation = after_norm(activation)
    # The same weights and checks as those of an MLP with one hidden layer for each z_l.
    shape = MLP(plain.depth + 1, activation, plain.weight_variance, plain.bias_variance)
    dense = network(shape, width=int(width), inputs=inputs, outputs=outputs, parametrisation=parametrisation)
    return ResidualNetwork(*values(dense), branch_scale=number("branch_scale", plain.branch_scale))


def number(name: str, value: ArrayLike) -> float:
    """The value as a plain number.

    Raises:
        ValueError: it is traced, or an array of several.
    """
    try:
        return float(value)  # pyright: ignore[reportArgumentType] # an array of one element, or an error
    except (TypeError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(f"{name} must be a plain number: a finite network is a static argument of jit") from error
