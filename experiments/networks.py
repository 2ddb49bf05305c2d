"""Finite networks: plain `init` and `apply` functions on pytrees of arrays.

A network is built from the same `theory.architecture.MLP` that the theory's kernels are computed from, so that
a prediction and its measurement share the architecture and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from theory.architecture import MLP, Activation, LayerScale, Parametrisation, Role, parametrisation

# For each weight matrix, first layer first, {"weight": (fan_in, fan_out), "bias": (fan_out,)}.
Params = list[dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """A fully connected network of finite width; hashable, so that it can be a static argument of `jax.jit`.

    Layer l of L = depth + 1 computes, with h_0 = x and h_l = φ(z_l),

        z_l = a_l h_{l−1} W_l + c_l b_l,    W_l ~ N(0, s_l²),    b_l ~ N(0, r_l²),

    and the output is f(x) = z_L. The parametrisation gives multipliers and deviations: in the NTK one
    a_l = σ_w/√fan_in, c_l = σ_b and s_l = r_l = 1.

    Build one with `network`, which checks its arguments.

    Attributes:
        widths: number of neurons in each hidden layer.
        inputs, outputs: dimensions of x and of f(x).
        activation: elementwise φ.
        weight_variance, bias_variance: σ_w² and σ_b².
        parametrisation: how scales are split between multipliers and parameters.
        bias: whether there are bias parameters.
    """

    widths: tuple[int, ...]
    inputs: int
    outputs: int
    activation: Activation
    weight_variance: float
    bias_variance: float
    parametrisation: Parametrisation
    bias: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Dimensions of x, of every hidden layer, and of f(x)."""
        return (self.inputs, *self.widths, self.outputs)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum((self.sizes[i] + self.bias) * self.sizes[i + 1] for i in range(len(self.sizes) - 1))

    def init(self, key: Key[Array, ""], dtype: DTypeLike = jnp.float32) -> Params:
        """Random parameters.

        Args:
            key: a typed key of `jax.random.key`.
            dtype: of the parameters, and so of the whole computation: `apply` casts its inputs to it.

        Returns:
            for each weight matrix, first layer first, {"weight": (fan_in, fan_out), "bias": (fan_out,)}, the
            latter only if the network has biases.
        """
        # One draw for all parameters: a draw for each array costs XLA seconds of compilation in a deep network.
        return self.assemble(jax.random.normal(key, (self.parameters,), dtype))

    def assemble(self, normals: Array | np.ndarray) -> Params:
        """Parameters from standard normals (…, parameters), with the same leading axes; NumPy's stay NumPy's."""
        params, offset = [], 0
        for i, (weight, bias) in enumerate(self.scales()):
            fan_in, fan_out = self.sizes[i : i + 2]
            end = offset + fan_in * fan_out
            entries = normals[..., offset:end].reshape(*normals.shape[:-1], fan_in, fan_out)
            layer = {"weight": _scaled(entries, weight.init_std)}
            if self.bias:
                layer["bias"] = _scaled(normals[..., end : end + fan_out], bias.init_std)
                end += fan_out
            params.append(layer)
            offset = end
        return params

    def apply(self, params: Params, x: ArrayLike) -> Float[Array, "n k"]:
        """Outputs f(x), one row for each of the inputs x (n, d)."""
        return self.preactivations(params, x)[-1]

    def preactivations(self, params: Params, x: ArrayLike) -> list[Float[Array, "n _"]]:
        """z_1, …, z_L for inputs x (n, d), each (n, fan_out); the last one is the output."""
        h = jnp.asarray(x, params[0]["weight"].dtype)
        if h.ndim != 2 or h.shape[1] != self.inputs:
            raise ValueError(f"x must have shape (n, {self.inputs}), got {h.shape}; reshape it to rows of inputs")
        z = []
        for i, (weight, bias) in enumerate(self.scales()):
            if i > 0:
                h = self.activation(z[-1])
            # Full precision: a GPU would otherwise round the factors to 10 bits, far above the 1/n effects measured.
            out = weight.multiplier * jnp.matmul(h, params[i]["weight"], precision=jax.lax.Precision.HIGHEST)
            z.append(out + bias.multiplier * params[i]["bias"] if self.bias else out)
        return z

    def learning_rates(self, learning_rate: float) -> Params:
        """The parametrisation's learning rate for each array of parameters, from the global one.

        Give the result to a method of `experiments.training` as its `learning_rate`. In the NTK and standard
        parametrisations all are equal, and the number itself does as well.
        """
        rates = []
        for weight, bias in self.scales():
            layer = {"weight": learning_rate * weight.learning_rate}
            if self.bias:
                layer["bias"] = learning_rate * bias.learning_rate
            rates.append(layer)
        return rates

    def scales(self) -> list[tuple[LayerScale, LayerScale]]:
        """Scales of the weights and of the biases, layer by layer."""
        scales = []
        last = len(self.sizes) - 2
        for i in range(last + 1):
            fan_in, fan_out = self.sizes[i : i + 2]
            role: Role = "output" if i == last else "input" if i == 0 else "hidden"
            scales.append(
                (
                    self.parametrisation.layer(role, fan_in, fan_out, self.weight_variance),
                    self.parametrisation.bias(role, fan_out, self.bias_variance),
                )
            )
        return scales


def _scaled(normals: Any, std: float) -> Any:
    # In the NTK parametrisation std is 1, and a large ensemble is spared a copy.
    return normals if std == 1 else normals * normals.dtype.type(std)


def network(
    architecture: MLP,
    *,
    width: int | Sequence[int],
    inputs: int,
    outputs: int = 1,
    parametrisation: str | Parametrisation = "ntk",
    bias: bool | None = None,
) -> Network:
    """A finite network of the architecture.

    Args:
        architecture: depth, activation and variances; the variances must be numbers, not traced.
        width: number of neurons of every hidden layer, or one number for each.
        inputs: dimension of x.
        outputs: dimension of f(x).
        parametrisation: a name ("ntk", "standard", "mean-field", "mup") or an object.
        bias: whether there are bias parameters. By default where σ_b² > 0; with σ_b² = 0 and the standard or
            μP parametrisation they start at zero and are trained.

    Raises:
        ValueError: a size is not positive, the number of widths is not the depth, a variance is traced, or
            biases are asked for where their multiplier σ_b is zero.
    """
    scheme = _find_parametrisation(parametrisation)
    widths = (width,) * architecture.depth if isinstance(width, int) else tuple(int(n) for n in width)
    if len(widths) != architecture.depth:
        raise ValueError(f"width must be one number or {architecture.depth} (the depth), got {len(widths)} numbers")
    for name, sizes in (("width", widths), ("inputs", (inputs,)), ("outputs", (outputs,))):
        if any(size < 1 for size in sizes):
            raise ValueError(f"{name} must be at least 1, got {min(sizes)}")
    try:
        weight_variance, bias_variance = float(architecture.weight_variance), float(architecture.bias_variance)  # pyright: ignore[reportArgumentType] # an array of one element, or an error
    except (TypeError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(
            "architecture must have plain numbers as variances: a finite network is a static argument of jit, "
            "so build it outside of jit and vmap"
        ) from error
    if bias is None:
        bias = bias_variance > 0
    if bias and bias_variance == 0 and not scheme.scaled_parameters:
        raise ValueError(
            f"bias=True with bias_variance=0 would multiply every bias by zero in the '{scheme.name}' "
            "parametrisation; give a positive bias_variance, or parametrisation='standard'"
        )
    return Network(widths, inputs, outputs, architecture.activation, weight_variance, bias_variance, scheme, bool(bias))


# Numbers drawn by one call of the program below, whatever the width.
DRAW = 2**16


def init_members(network: Network, key: Key[Array, ""], members: int, dtype: DTypeLike = jnp.float32) -> Params:
    """Random parameters of an ensemble, with a leading axis of members.

    One compiled program serves all networks: in a sweep over widths `jax.vmap(network.init)` is compiled for each.

    Args:
        network: of one member.
        key: a typed key; equal keys give other parameters than `Network.init` does.
        members: how many.
        dtype: of the parameters.
    """
    count = members * network.parameters
    parts = [np.asarray(_normals(jax.random.fold_in(key, i), jnp.dtype(dtype))) for i in range(-(-count // DRAW))]
    normals = np.concatenate(parts)[:count].reshape(members, network.parameters)
    return jax.device_put(network.assemble(normals))


@partial(jax.jit, static_argnums=1)
def _normals(key: Key[Array, ""], dtype: np.dtype) -> Float[Array, " draw"]:
    return jax.random.normal(key, (DRAW,), dtype)


# Inside `network` the argument `parametrisation` hides the function of that name.
_find_parametrisation = parametrisation
