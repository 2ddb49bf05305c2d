"""Steps that the kernels of several families share: the inputs, a normalisation, an activation, weights and biases.

A step maps variances a = K(x, x), b = K(x', x') of any shapes that broadcast to that of the covariance K(x, x'), the
tangent kernel Θ(x, x'), and for an activation with a kink or a jump the exact sin² of the angle of the two variables.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.activations import Activation, PiecewiseLinear
from theory.determinant import safe_inverse, safe_sqrt
from theory.gaussian import second_moment
from theory.hermite_series import duals
from theory.kernels.angles import after_layer
from theory.kernels.sums import Gaps, beyond_rounding, gaps, sine_of_sum
from theory.kernels.zero_variance import slope_with_zeros

IDENTITY = PiecewiseLinear(1.0, 1.0)


class Layer(NamedTuple):
    """Variances, covariance, tangent kernel, and sin² of the angle (None for smooth activations)."""

    first: Float[Array, "*#shape"]
    second: Float[Array, "*#shape"]
    covariance: Float[Array, "*shape"]
    tangent: Float[Array, "*shape"]
    sine2: Float[Array, "*shape"] | None


def inputs(x1: Float[Array, "m *space c"], x2: Float[Array, "n *space c"], *, with_angles: bool) -> Layer:
    """x·x'/c between all inputs at like positions, (m, n, *space); nothing is learned below them."""
    channels = x1.shape[-1]
    a, b = jnp.mean(x1**2, axis=-1)[:, None], jnp.mean(x2**2, axis=-1)[None]
    covariance = jnp.einsum("i...c,j...c->ij...", x1, x2, precision=jax.lax.Precision.HIGHEST) / channels
    tangent = jnp.zeros_like(covariance)
    if not with_angles:
        return Layer(a, b, covariance, tangent, None)
    slope = covariance * safe_inverse(a)
    # Sums of products and of squares round differently: of equal inputs nothing is to be left.
    rounding = 4.0 * math.sqrt(channels) * jnp.finfo(slope.dtype).eps
    slope = jnp.where(jnp.abs(jnp.abs(slope) - 1.0) < rounding, jnp.sign(slope), slope)

    # What is left of x' after its projection on x: a difference of channels, not of their squares.
    def add(i: Array, total: Array) -> Array:
        u, v = (jax.lax.dynamic_index_in_dim(x, i, -1, keepdims=False) for x in (x1, x2))
        return total + (v[None] - slope * u[:, None]) ** 2

    rest = jax.lax.fori_loop(0, channels, add, tangent) / channels
    sine2 = jnp.where(a > 0, jnp.minimum(rest * safe_inverse(b), 1.0), 0.0)
    return Layer(a, b, covariance, tangent, beyond_rounding(sine2))


def beside(bias: Array, *, standard: bool) -> Array:
    """What a bias adds to Θ beside its share σ_b² in K: 1 − σ_b² in standard parametrisation, 0 in that of the NTK."""
    return 1.0 - bias if standard else jnp.zeros_like(bias)


def one_input(layer: Layer, own: Array | None) -> Layer:
    """The layer with its exact diagonal where `own` says that both inputs are one and the same."""
    if own is None:
        return layer
    diagonal = jnp.where(own, jnp.broadcast_to(layer.first, layer.covariance.shape), layer.covariance)
    sine2 = None if layer.sine2 is None else jnp.where(own, 0.0, layer.sine2)
    return layer._replace(covariance=diagonal, sine2=sine2)


def normalised(layer: Layer) -> Layer:
    """After a layer norm over infinitely many features: K/√(ab), Θ/√(ab); angles stay. Variances of 0 stay 0."""
    scale = safe_inverse(safe_sqrt(layer.first)) * safe_inverse(safe_sqrt(layer.second))
    first, second = (unit_variance(v) for v in (layer.first, layer.second))
    return Layer(first, second, layer.covariance * scale, layer.tangent * scale, layer.sine2)


def unit_variance(variance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The variance after a layer norm."""
    return jnp.where(variance > 0, 1.0, 0.0).astype(variance.dtype)


def activate(activation: Activation, layer: Layer) -> Layer:
    """E φ(u)φ(v) and E φ'(u)φ'(v) Θ."""
    shape = layer.covariance.shape
    a, b = (jnp.broadcast_to(v, shape) for v in (layer.first, layer.second))
    c, r = layer.covariance, layer.sine2
    covariance, slope = duals(activation, layer.first, layer.second, c, r)
    tangent = slope_with_zeros(activation, layer.first, layer.second, slope) * layer.tangent
    sine2 = None
    if r is not None:
        sine2 = after_layer(activation.function, a, b, c, r, jnp.ones((), c.dtype), jnp.zeros((), c.dtype))
    return Layer(
        second_moment(activation, layer.first), second_moment(activation, layer.second), covariance, tangent, sine2
    )


def affine(layer: Layer, weight: Array, bias: Array, extra: Array) -> Layer:
    """σ_w² K + σ_b² and σ_w² (K + Θ) + σ_b² + extra."""
    covariance = weight * layer.covariance + bias
    sine2 = layer.sine2
    if sine2 is not None:
        a, b = (jnp.broadcast_to(v, covariance.shape) for v in (layer.first, layer.second))
        sine2 = after_layer(IDENTITY, a, b, layer.covariance, sine2, weight, bias)
    first, second = (weight * v + bias for v in (layer.first, layer.second))
    tangent = weight * layer.tangent + covariance + extra
    return Layer(first, second, covariance, tangent, sine2)


def added(one: Layer, other: Layer) -> Layer:
    """The sum of two independent branches."""
    first, second = one.first + other.first, one.second + other.second
    sine2 = None
    if one.sine2 is not None and other.sine2 is not None:
        parts = [(safe_sqrt(p.first), safe_sqrt(p.second)) for p in (one, other)]
        pairs = zip(
            gaps(one.first, one.second, one.covariance, one.sine2),
            gaps(other.first, other.second, other.covariance, other.sine2),
            strict=True,
        )
        gap = Gaps(*(x + y for x, y in pairs))
        slope = gap.product * safe_inverse(first)
        rest = sum(((q - slope * p) ** 2 for p, q in parts), jnp.zeros_like(one.covariance))
        sine2 = sine_of_sum(first, second, gap, rest)
    return Layer(first, second, one.covariance + other.covariance, one.tangent + other.tangent, sine2)
