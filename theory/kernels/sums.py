"""Covariances of sums of independent parts (the pixels of a patch, the branches of a residual block), angles included.

Each part is a pair of centred Gaussian variables with variances a, b, covariance c and, where an activation has a kink,
r = sin² θ = 1 − ρ². The sums A = Σ a, B = Σ b, C = Σ c do not tell R = 1 − C²/(AB) to all its digits when the angle
is small. From those of the parts, with p = √a and q = √b,

    √(AB) − C = [√(AB) − Σ pq] + Σ (pq − c),    √(AB) + C = [√(AB) − Σ pq] + Σ (pq + c),
    AB − (Σ pq)² = A Σ (q − tp)²,    t = Σ pq / A,

every term is positive and has its digits: pq − c = pq r/(1 + ρ). R is the product of the first two over AB.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.determinant import safe_inverse, safe_sqrt


class Gaps(NamedTuple):
    """Σ pq, Σ (pq − c) and Σ (pq + c), each a sum of positive terms."""

    product: Float[Array, "*shape"]
    below: Float[Array, "*shape"]
    above: Float[Array, "*shape"]


def gaps(
    a: Float[Array, "*#shape"], b: Float[Array, "*#shape"], c: Float[Array, "*#shape"], sine2: Float[Array, "*#shape"]
) -> Gaps:
    """pq, pq − c and pq + c of one part, with p = √a, q = √b."""
    product = safe_sqrt(a) * safe_sqrt(b)
    cosine = jnp.where(product > 0, jnp.clip(c * safe_inverse(product), -1.0, 1.0), 1.0)
    far = product * (1.0 + jnp.abs(cosine))
    near = product * sine2 / (1.0 + jnp.abs(cosine))
    positive = cosine > 0
    return Gaps(product, jnp.where(positive, near, far), jnp.where(positive, far, near))


def sine_of_sum(
    a: Float[Array, "*#shape"], b: Float[Array, "*#shape"], gap: Gaps, residual: Float[Array, "*#shape"]
) -> Float[Array, "*#shape"]:
    """R from the sums A and B, the summed gaps, and Σ (q − tp)² with t = Σ pq/A; 0 where a variance is 0.

    The variances may differ in scale by any factor, but A B must not leave the dtype.
    """
    root = safe_sqrt(a) * safe_sqrt(b)
    spread = a * residual * safe_inverse(root + gap.product)
    inverse = safe_inverse(root)
    return beyond_rounding(jnp.minimum((spread + gap.below) * inverse * ((spread + gap.above) * inverse), 1.0))


def beyond_rounding(sine2: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """sin² of an angle, 0 below 8 epsilons: of equal variables rounding is left, of which sign would make an angle."""
    return jnp.where(sine2 < (8.0 * jnp.finfo(sine2.dtype).eps) ** 2, 0.0, sine2)
