"""The determinant ab − c² and the angle of two Gaussian variables, to full accuracy when they almost agree.

At correlation ρ = 1 − ε the determinant is about 2ε ab: computed as it stands it keeps no digit once ε is
near the rounding error, and arccos(ρ) fails alike. Here the products are exact before they are subtracted.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.arctangent import arctangent

# Masks that keep the upper half of the significand, so that a product of two halves is exact.
_UPPER_HALF = {"float64": (jnp.uint64, 0xFFFF_FFFF_F800_0000), "float32": (jnp.uint32, 0xFFFF_F000)}


def safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """√x for x > 0, and 0 with derivative 0 elsewhere."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _split(x: Array) -> tuple[Array, Array]:
    """x = high + low, each of half the digits.

    Bits are masked because the usual splitting by a large factor breaks when the compiler fuses
    multiplications and additions.
    """
    integer, mask = _UPPER_HALF[x.dtype.name]
    bits = jax.lax.bitcast_convert_type(x, integer)
    high = jax.lax.bitcast_convert_type(bits & jnp.asarray(mask, integer), x.dtype)
    return high, x - high


@jax.custom_jvp
def determinant(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"], c: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """max(ab − c², 0), with a relative error of 1e-12 still at ρ = 1 − 1e-12 in double precision."""
    if a.dtype.name not in _UPPER_HALF:
        return jnp.maximum(a * b - c * c, 0.0)
    (a1, a2), (b1, b2), (c1, c2) = _split(a), _split(b), _split(c)
    # Each bracket holds exact products of one order of magnitude: the cancellation loses nothing.
    leading = a1 * b1 - c1 * c1
    middle = (a1 * b2 - c1 * c2) + (a2 * b1 - c1 * c2)
    return jnp.maximum(leading + (middle + (a2 * b2 - c2 * c2)), 0.0)


@determinant.defjvp
def _determinant_jvp(primals, tangents):
    a, b, c = primals
    da, db, dc = tangents
    return determinant(a, b, c), b * da + a * db - 2.0 * c * dc


def _halving(x: Array) -> Array:
    """2^(−e/2) for x of exponent e, rounded to a power of two, with no derivative."""
    integer, _ = _UPPER_HALF[x.dtype.name]
    bits, bias = jnp.finfo(x.dtype).nmant, jnp.finfo(x.dtype).maxexp - 1
    exponent = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), integer) >> bits
    # (bias − (exponent − bias)/2) as an exponent field, without a negative number on the way.
    field = (3 * bias - exponent) // 2
    return jax.lax.bitcast_convert_type(field << bits, x.dtype)


def _balance(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Powers of two by which to multiply a, b and c, so that a and b come near 1 and ρ stays.

    The products are exact, and ab neither overflows nor underflows: in single precision a hundred layers
    away from criticality would leave no angle otherwise.
    """
    if a.dtype.name not in _UPPER_HALF:
        return jnp.ones_like(a), jnp.ones_like(a), jnp.ones_like(a)
    half_a, half_b = _halving(a), _halving(b)
    return half_a * half_a, half_b * half_b, half_a * half_b


def sine_squared(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"], c: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """1 − ρ² = (ab − c²)/(ab); 0 when a variance is 0."""
    by_a, by_b, by_c = _balance(a, b)
    return determinant(by_a * a, by_b * b, by_c * c) * safe_inverse(by_a * a * (by_b * b))


class Angles(NamedTuple):
    """cos θ, the angle θ between the variables, and π − θ, both with all their digits at either end."""

    cosine: Float[Array, "*shape"]
    theta: Float[Array, "*shape"]
    supplement: Float[Array, "*shape"]


def angles(
    a: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    c: Float[Array, "*shape"],
    sine2: Float[Array, "*shape"],
) -> Angles:
    """θ = atan2(√(1 − ρ²), ρ); 0 when a variance is 0.

    At ρ = ±1, where dθ/dρ is infinite, the derivative is set to 0: along a diagonal ρ does not move.
    """
    scale = safe_sqrt(a) * safe_sqrt(b)
    cosine = jnp.where(scale > 0, jnp.clip(c * safe_inverse(scale), -1.0, 1.0), 1.0)
    acute = arctangent(safe_sqrt(sine2), jnp.abs(cosine))
    obtuse = math.pi - acute
    return Angles(cosine, jnp.where(cosine > 0, acute, obtuse), jnp.where(cosine > 0, obtuse, acute))


def safe_inverse(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1/x for x > 0 and 0 elsewhere, with finite derivatives."""
    positive = x > 0
    return jnp.where(positive, 1.0 / jnp.where(positive, x, 1.0), 0.0)
