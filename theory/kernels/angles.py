"""Angles between inputs and between their images in the layers, exact to their last digits.

An angle of 1e-6 is lost in 1 − ρ = 5e-13 once ρ has been rounded, and a kinked activation sees the angle
itself: its tangent kernel keeps half the digits only. The jump of sign even makes θ of θ²: half the digits are
lost in each layer. So r = sin² θ = 1 − ρ² is carried beside ρ, from the inputs (`gram`) through every layer of a
piecewise linear activation or of sign (`after_layer`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.activations import Activation, PiecewiseLinear
from theory.determinant import angles, determinant, safe_inverse, safe_sqrt
from theory.duals import sine_minus_chord


def needs_angles(activation: Activation) -> bool:
    """Whether φ sees the angle itself: piecewise linear with two slopes, or sign."""
    function = activation.function
    if isinstance(function, PiecewiseLinear):
        return function.negative != function.positive
    return function is jnp.sign


class Gram(NamedTuple):
    """Of the rows of two matrices: squared norms over d, inner products over d, and sin² of the angles."""

    first: Float[Array, " n1"]
    second: Float[Array, " n2"]
    inner: Float[Array, "n1 n2"]
    sine2: Float[Array, "n1 n2"]


class _Slices(NamedTuple):
    """x = power · (upper + rest), row by row; `prints` tell rests apart."""

    upper: Float[Array, "n d"]
    rest: Float[Array, "n d"]
    power: Float[Array, " n"]
    prints: Float[Array, " n"]


def _slices(x: Float[Array, "n d"]) -> _Slices:
    """Cut each row so that a sum over d of products of upper parts is exact in any order of summation."""
    _, exponent = jnp.frexp(jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=1)))
    power = jnp.ldexp(jnp.ones_like(x[:, 0]), exponent)
    scaled = x / power[:, None]
    digits = (jnp.finfo(x.dtype).nmant + 1 - (x.shape[1] - 1).bit_length()) // 2
    unit = 2.0 ** -max(digits, 1)
    upper = jax.lax.stop_gradient(jnp.round(scaled / unit) * unit)
    rest = scaled - upper
    # Equal rests have equal prints, opposite ones opposite prints.
    weights = jnp.cos(jnp.arange(1.0, x.shape[1] + 1.0, dtype=x.dtype))
    return _Slices(upper, rest, power, jax.lax.stop_gradient(jnp.sum(rest * weights, axis=1)))


def gram(x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"] | None) -> Gram:
    """Inner products and angles between the rows of x1 and of x2, or of x1 with itself.

    Each inner product comes as an exact number and a small one, which hold half as many digits again
    together. Source: the error-free splitting of Ozaki et al. 2012, with two slices.
    """
    s1 = _slices(x1)
    s2 = s1 if x2 is None else _slices(x2)

    def product(left: Array, right: Array) -> Array:
        return jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)

    def own(s: _Slices) -> tuple[Array, Array]:
        return jnp.sum(s.upper**2, axis=1), jnp.sum(s.rest * (2.0 * s.upper + s.rest), axis=1)

    exact = product(s1.upper, s2.upper)
    rests = product(s1.rest, s2.rest)
    small = product(s1.upper, s2.rest) + product(s1.rest, s2.upper) + rests
    (exact1, small1), (exact2, small2) = own(s1), own(s2)
    e1, m1, e2, m2 = jnp.broadcast_arrays(exact1[:, None], small1[:, None], exact2[None], small2[None])
    # |x|²|x'|² − (x·x')², order by order in the small parts: nothing large is left to cancel.
    area = determinant(e1, e2, exact) + (e1 * m2 + m1 * e2 - 2.0 * exact * small) + (m1 * m2 - small * small)
    # Where the upper parts are equal or opposite (by Schwarz's equality) x' = ±(x + δ), with δ from the rests alone,
    # and the area is |x|²|δ|² − (x·δ)². Where the rests are as well there is none, not even from rounding, out of which
    # the jump of sign would make angles.
    side = jnp.sign(exact)
    parallel = (jnp.abs(exact) == e1) & (e1 == e2)
    rest1, rest2 = jnp.sum(s1.rest**2, axis=1)[:, None], jnp.sum(s2.rest**2, axis=1)[None]
    apart = (e1 + m1) * (rest1 + rest2 - 2.0 * side * rests) - (side * small - m1) ** 2
    apart = jnp.where(s1.prints[:, None] == side * s2.prints[None], 0.0, apart)
    sine2 = jnp.where(parallel, apart, area) * safe_inverse((e1 + m1) * (e2 + m2))
    d = x1.shape[1]
    return Gram(
        (exact1 + small1) * s1.power**2 / d,
        (exact2 + small2) * s2.power**2 / d,
        (exact + small) * s1.power[:, None] * s2.power[None] / d,
        jnp.where(sine2 > 0, jnp.minimum(sine2, 1.0), 0.0),
    )


def after_layer(
    function: Callable[[Array], Array],
    a: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    c: Float[Array, "*shape"],
    sine2: Float[Array, "*shape"],
    weight_variance: Array,
    bias_variance: Array,
) -> Float[Array, "*shape"]:
    """sin² θ' of the angle after φ and a dense layer, from variances a, b, covariance c and sin² θ before it.

    With E φ(u)φ(v) = √(αβ) J, where α = E φ(u)² and β = E φ(v)², the variances become a' = σ_w²α + σ_b² and
    b' = σ_w²β + σ_b², the covariance σ_w²√(αβ) J + σ_b², and

        a'b' sin² θ' = σ_w⁴αβ(1 − J)(1 + J) + σ_w²σ_b² [(√α − √β)² + 2√(αβ)(1 − J)],

    a sum of positive terms.
    """
    if function is jnp.sign:
        moment_a, moment_b, minus, plus = _after_sign(a, b, c, sine2)
    else:
        assert isinstance(function, PiecewiseLinear)
        moment_a, moment_b, minus, plus = _after_slopes(function, a, b, c, sine2)
    inverse_a, inverse_b = (safe_inverse(weight_variance * q + bias_variance) for q in (moment_a, moment_b))
    root_a, root_b = safe_sqrt(moment_a), safe_sqrt(moment_b)
    spread = (root_a - root_b) ** 2 + 2.0 * root_a * root_b * minus
    # Each variance is divided by its successor first: their product may leave the dtype.
    turned = (weight_variance * moment_a * inverse_a) * (weight_variance * moment_b * inverse_b) * minus * plus
    return turned + (bias_variance * inverse_a) * (weight_variance * spread * inverse_b)


def _after_sign(a: Array, b: Array, c: Array, sine2: Array) -> tuple[Array, Array, Array, Array]:
    """E φ(u)², E φ(v)², 1 − J and 1 + J, where J = 1 − 2θ/π."""
    angle = angles(a, b, c, sine2)
    moment_a, moment_b = (jnp.where(q > 0, 1.0, 0.0).astype(c.dtype) for q in (a, b))
    return moment_a, moment_b, 2.0 / math.pi * angle.theta, 2.0 / math.pi * angle.supplement


def _after_slopes(
    slopes: PiecewiseLinear, a: Array, b: Array, c: Array, sine2: Array
) -> tuple[Array, Array, Array, Array]:
    """E φ(u)² = a (α² + β²)/2, E φ(v)², 1 − J and 1 + J of the slopes α and β.

    J = cos θ + (η/π)(sin θ − θ cos θ) with η = (β − α)²/(α² + β²); η = 0 leaves the angle.
    """
    squares = slopes.negative**2 + slopes.positive**2
    eta = (slopes.positive - slopes.negative) ** 2 / squares
    angle = angles(a, b, c, sine2)
    cosine = angle.cosine
    sharp, sine = jnp.abs(cosine), safe_sqrt(sine2)
    # In terms of the acute angle, so that 1 − J and 1 + J keep their digits at either end.
    versine = sine2 / (1.0 + sharp)
    bend = jnp.zeros_like(versine)
    if eta != 0:  # the dense layer of the inputs has no bend, and the angle itself need not be taken
        acute = jnp.minimum(angle.theta, angle.supplement)
        bend = eta / math.pi * sine_minus_chord(acute, sine, sharp)
    fall = versine - bend
    rise = (eta - 1.0) * versine - bend
    minus = jnp.where(cosine > 0, fall, (2.0 - eta) + rise)
    plus = jnp.where(cosine > 0, 2.0 - fall, eta - rise)
    return 0.5 * squares * a, 0.5 * squares * b, minus, plus
