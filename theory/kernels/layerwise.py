"""The tangent kernel of a finite fully connected network, layer by layer, without its Jacobian.

The gradient by a weight matrix is an outer product, of the activations h that enter it and the sensitivities
δ = ∂f/∂z of what leaves it. So the product of two gradients is a product of two inner products,

    Θ_ab(x, x') = Σ_l (m_l² h_{l−1}·h'_{l−1} + c_l²) δ_la·δ'_lb,

with multipliers m_l of the weights and c_l of the biases: n inputs cost n² times a width, where contracting Jacobians
costs n² times the number of parameters.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.activations import Activation
from theory.activations import activation as find_activation
from theory.arrays import ArrayLike, one_or_two


class Dense(NamedTuple):
    """One dense layer: z = weight_multiplier · h W + bias_multiplier · b.

    `weight`: W (fan_in, fan_out). `bias`: b (fan_out,), or None where there is none.
    """

    weight: Float[Array, "fan_in fan_out"]
    bias: Float[Array, " fan_out"] | None
    weight_multiplier: ArrayLike = 1.0
    bias_multiplier: ArrayLike = 1.0


def layerwise_ntk(
    activation: str | Activation,
    layers: Sequence[Dense],
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    full: bool = False,
) -> Float[Array, "n1 n2"] | Float[Array, "n1 n2 k k"]:
    """Θ(x, x') of the network z_l = m_l φ(z_{l−1}) W_l + c_l b_l with outputs z_L, over all its weights and biases.

    What `empirical_ntk` gives for the same network, at a cost of n1·n2·k·width a layer beside one pass forward and one
    back for each output.

    Args:
        activation: φ, by name or as an `Activation`.
        layers: first layer first; at least one.
        x1: inputs (n1, d).
        x2: inputs (n2, d); by default x1 again.
        full: give all k×k blocks, in place of the mean over the k outputs of the diagonal ones.

    Returns:
        (n1, n2), or (n1, n2, k, k) where `full`.

    Raises:
        ValueError: there is no layer, the shapes of the layers do not follow one another, or the inputs do not match.

    Source: the recursion behind Jacot et al. 2018, Theorem 1; structured derivatives in Novak et al. 2022.
    """
    first, second = one_or_two(x1, x2)
    _check(layers, first.shape[1])
    return _layerwise_ntk(find_activation(activation), tuple(layers), first, second, full)


def _check(layers: Sequence[Dense], features: int) -> None:
    if not layers:
        raise ValueError("layers must have at least one layer, got none")
    for i, layer in enumerate(layers):
        shape = layer.weight.shape
        if len(shape) != 2 or shape[0] != features:
            raise ValueError(f"layers[{i}].weight must have shape ({features}, fan_out), got {shape}")
        if layer.bias is not None and layer.bias.shape != shape[1:]:
            raise ValueError(f"layers[{i}].bias must have shape ({shape[1]},), got {layer.bias.shape}")
        features = shape[1]


@partial(jax.jit, static_argnums=(0, 4))
def _layerwise_ntk(
    activation: Activation,
    layers: tuple[Dense, ...],
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"] | None,
    full: bool,
) -> Array:
    one = _pass(activation, layers, x1)
    two = one if x2 is None else _pass(activation, layers, x2)
    k = layers[-1].weight.shape[1]
    total = jnp.zeros((), x1.dtype)
    hidden = zip(layers[:-1], one.below[:-1], two.below[:-1], one.slopes, two.slopes, strict=True)
    for layer, h1, h2, delta1, delta2 in hidden:
        inner, n1, n2 = _inner(layer, h1, h2), h1.shape[0], h2.shape[0]
        if full:
            outer = _product(delta1.reshape(n1 * k, -1), delta2.reshape(n2 * k, -1).T).reshape(n1, k, n2, k)
            total = total + inner[:, :, None, None] * jnp.swapaxes(outer, 1, 2)
        else:
            total = total + inner * (_product(delta1.reshape(n1, -1), delta2.reshape(n2, -1).T) / k)
    # The last layer's δ is the identity for every input.
    inner = _inner(layers[-1], one.below[-1], two.below[-1])
    return total + (inner[:, :, None, None] * jnp.eye(k, dtype=inner.dtype) if full else inner)


def _inner(layer: Dense, h1: Float[Array, "n1 m"], h2: Float[Array, "n2 m"]) -> Float[Array, "n1 n2"]:
    """m² h·h' + c²: what all units of the layer have in common."""
    inner = jnp.asarray(layer.weight_multiplier, h1.dtype) ** 2 * _product(h1, h2.T)
    return inner if layer.bias is None else inner + jnp.asarray(layer.bias_multiplier, h1.dtype) ** 2


class _Passes(NamedTuple):
    """What enters each layer, (n, fan_in), and ∂f_a/∂z_l of each but the last, (n, k, fan_out)."""

    below: list[Array]
    slopes: list[Array]


def _pass(activation: Activation, layers: tuple[Dense, ...], x: Float[Array, "n d"]) -> _Passes:
    below, slopes = [x], []
    for layer in layers[:-1]:
        z = jnp.asarray(layer.weight_multiplier, x.dtype) * _product(below[-1], layer.weight)
        if layer.bias is not None:
            z = z + jnp.asarray(layer.bias_multiplier, x.dtype) * layer.bias
        below.append(activation(z))
        slopes.append(activation.derivative(z))
    sensitivities: list[Array] = []
    delta = None
    for layer, slope in zip(reversed(layers[1:]), reversed(slopes), strict=True):
        # Transposed weights: (fan_out, fan_in).
        back = jnp.asarray(layer.weight_multiplier, x.dtype) * layer.weight.T
        carried = back[None] if delta is None else _product(delta, back)
        delta = carried * slope[:, None, :]
        sensitivities.append(delta)
    return _Passes(below, sensitivities[::-1])


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
