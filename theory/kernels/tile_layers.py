"""The layers of one tile of a kernel in single precision, for inputs at wide angles (see `theory.kernels.tiles`).

For kinked activations layers pass on 1 − ρ, from which polynomials give what is needed, without a trigonometric
function; nor is there a root that would keep the compiler from making one loop of several layers.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from theory.activations import PiecewiseLinear, activation
from theory.architecture import MLP
from theory.arctangent import horner, inverse_root, square_root
from theory.determinant import safe_inverse
from theory.gaussian import dual_at, dual_derivative_at

# Layers that are one loop over the entries of a tile.
UNROLL = 12

# arcsin(x)/x and (sin ψ − ψ cos ψ)/(2w)^(3/2), with x² = w/2 and w = 1 − cos ψ, as polynomials in w on [0, 1]:
# minimax, of errors 2e-8 and 7e-9, constant term first.
_ARC = (
    0.999999989,
    0.0833347734,
    0.0187202861,
    0.00581010618,
    0.00104571181,
    0.00236061731,
    -0.00140759714,
    0.000856827994,
)
_SEGMENT = (
    0.333333337,
    0.0166662928,
    0.00268443093,
    0.00058629218,
    0.000262429238,
    -6.22962329e-05,
    8.28981466e-05,
)
# (arcsin z − z)/z³ as a polynomial in z² on [0, 0.7], whose error in arcsin z is 9e-9, and the largest |z| there.
_ARCSINE = (
    0.166656047,
    0.0755317681,
    0.0347151306,
    0.12559105,
    -0.510794794,
    1.86502871,
    -4.01455474,
    5.41512701,
    -4.09307087,
    1.37967622,
)
_MODERATE = math.sqrt(0.7)


class Points(NamedTuple):
    """Inputs with what does not depend on their partner.

    `unit`: x/|x|. `start`: σ_w|x|/√d. `roots`: √K(x, x) before the first hidden layer and after each, layers first.
    """

    unit: Float[Array, "n d"]
    start: Float[Array, " n"]
    roots: Float[Array, "layers n"]

    def tile(self, start: Int[Array, ""], side: int) -> "Points":
        """The points from `start` on."""
        parts = zip(self, (0, 0, 1), strict=True)
        return Points(*(jax.lax.dynamic_slice_in_dim(part, start, side, axis) for part, axis in parts))


def kinked_layers(
    architecture: MLP, left: Points, right: Points, cosine: Float[Array, "m n"], tangent: bool, standard: bool
) -> Float[Array, "m n"]:
    """Piecewise linear activations, by 1 − ρ and 1 + ρ from layer to layer.

    With slopes α, β, g = σ_w²(α² + β²)/2 and η = (β − α)²/(α² + β²), a layer makes of cos θ = ρ

        J(ρ) = ρ + (η/π)(sin θ − θ cos θ),    a' = ga + σ_b²,    √(a'b') ρ' = g√(ab) J + σ_b².

    With u = √(ga/a') and v = σ_b/√a', where u² + v² = 1, that is ρ' = u₁u₂ J + v₁v₂, and

        1 − ρ' = u₁u₂(1 − J) + ½[(u₁ − u₂)² + (v₁ − v₂)²]

    is a sum of positive terms, all digits of which last as angles close with depth. 1 + ρ needs none: J ≥ ρ, so that
    it stays above 1 − `NEAR`. The tangent kernel is carried as Θ/√(ab).
    """
    slopes = architecture.activation.function
    assert isinstance(slopes, PiecewiseLinear)
    squares = slopes.negative**2 + slopes.positive**2
    difference = (slopes.positive - slopes.negative) ** 2
    eta = difference / squares if squares else 0.0
    weight = jnp.sqrt(jnp.asarray(architecture.weight_variance, jnp.float32))
    bias = jnp.sqrt(jnp.asarray(architecture.bias_variance, jnp.float32))

    def dense(fraction1: Array, fraction2: Array, root1: Array, root2: Array, minus: Array) -> Array:
        u1, u2 = fraction1[:, None], fraction2[None]
        v1, v2 = (bias * safe_inverse(root1))[:, None], (bias * safe_inverse(root2))[None]
        return u1 * u2 * minus + 0.5 * ((u1 - u2) ** 2 + (v1 - v2) ** 2)

    def counted(minus: Array, root1: Array, root2: Array) -> Array:
        """What a dense layer's own weights and biases contribute."""
        if not standard:
            return 1.0 - minus
        return (1.0 - minus) + (1.0 - bias * bias) * (safe_inverse(root1)[:, None] * safe_inverse(root2)[None])

    def layer(carry: tuple[Array, Array], roots: tuple[Array, Array, Array, Array]):
        minus, theta = carry
        root1, root2, next1, next2 = roots
        acute = minus < 1.0
        versine = jnp.where(acute, minus, 2.0 - minus)
        double = 2.0 * versine
        chord = square_root(double)
        psi = chord * horner(_ARC, versine)  # the acute one of θ and π − θ
        bend = (eta / math.pi) * (chord * double) * horner(_SEGMENT, versine)
        minus = jnp.where(acute, versine - bend, (2.0 - eta) + (eta - 1.0) * versine - bend)
        kept1, kept2 = weight * root1 * safe_inverse(next1), weight * root2 * safe_inverse(next2)
        half = math.sqrt(0.5 * squares)
        minus = dense(half * kept1, half * kept2, next1, next2, minus)
        if tangent:
            # E[φ'φ'] = [(α² + β²)(π − θ) + 2αβ θ]/2π.
            turned = difference / (2.0 * math.pi) * psi
            slope = jnp.where(acute, 0.5 * squares - turned, slopes.negative * slopes.positive + turned)
            theta = counted(minus, next1, next2) + slope * theta * (kept1[:, None] * kept2[None])
        return (minus, theta), None

    # The first dense layer: J = ρ and g = σ_w², with the inputs' own lengths in place of √a.
    first1, first2 = (p.start * safe_inverse(p.roots[0]) for p in (left, right))
    minus = dense(first1, first2, left.roots[0], right.roots[0], 1.0 - cosine)
    steps = left.roots[:-1], right.roots[:-1], left.roots[1:], right.roots[1:]
    start = minus, counted(minus, left.roots[0], right.roots[0])
    (minus, theta), _ = jax.lax.scan(layer, start, steps, unroll=min(max(architecture.depth, 1), UNROLL))
    return (theta if tangent else 1.0 - minus) * (left.roots[-1][:, None] * right.roots[-1][None])


def smooth_layers(
    architecture: MLP, left: Points, right: Points, cosine: Float[Array, "m n"], tangent: bool, standard: bool
) -> Float[Array, "m n"]:
    """Any other activation with a dual in closed form, by its covariances.

    erf and GELU take the arcsine of z = sc/√((1 + sa)(1 + sb)), where s is 2 and 1. It never exceeds the largest
    sa/(1 + sa) of a tile; where that is moderate, a polynomial in z² does without two roots and without 1 − ρ².
    """
    weight = jnp.asarray(architecture.weight_variance, jnp.float32)
    bias = jnp.asarray(architecture.bias_variance, jnp.float32)
    learned = 1.0 - bias if standard else jnp.zeros_like(bias)
    function = architecture.activation

    def run(layer: Callable[..., tuple[Array, Array]], left: Points, right: Points, cosine: Array) -> Array:
        def whole(carry: tuple[Array, Array], roots: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            covariance, theta = carry
            dual, slope = layer(covariance, *roots)
            after = weight * dual + bias
            return (after, after + learned + weight * slope * theta if tangent else theta), None

        start = left.start[:, None] * right.start[None] * cosine + bias
        (covariance, theta), _ = jax.lax.scan(
            whole,
            (start, start + learned),
            (left.roots[:-1], right.roots[:-1]),
            unroll=min(max(architecture.depth, 1), UNROLL),
        )
        return theta if tangent else covariance

    def one_minus_square(c: Array, root1: Array, root2: Array) -> Array:
        rho = c * (safe_inverse(root1)[:, None] * safe_inverse(root2)[None])
        return jnp.maximum((1.0 - rho) * (1.0 + rho), 0.0)

    def general(c: Array, root1: Array, root2: Array) -> tuple[Array, Array]:
        a, b = (jnp.broadcast_to(part, c.shape) for part in ((root1 * root1)[:, None], (root2 * root2)[None]))
        r = one_minus_square(c, root1, root2)
        return dual_at(function, a, b, c, r), dual_derivative_at(function, a, b, c, r)

    if function.function not in PAIRED:
        return run(general, left, right, cosine)
    scale, duals = PAIRED[function.function]

    def far(c: Array, root1: Array, root2: Array) -> tuple[Array, Array]:
        a, b = (root1 * root1)[:, None], (root2 * root2)[None]
        return duals(a, b, c, a * b * one_minus_square(c, root1, root2), _arcsine)

    def moderate(c: Array, root1: Array, root2: Array) -> tuple[Array, Array]:
        # No digits are lost in (1 + sa)(1 + sb) − s²c², where z² ≤ 0.7.
        a, b = (root1 * root1)[:, None], (root2 * root2)[None]
        return duals(a, b, c, a * b - c * c, _moderate_arcsine)

    largest = scale * jnp.maximum(jnp.max(left.roots[:-1]), jnp.max(right.roots[:-1])) ** 2
    branches = (functools.partial(run, layer) for layer in (moderate, far))
    return jax.lax.cond(largest < _MODERATE * (1.0 + largest), *branches, left, right, cosine)


# How `_arcsine` and `_moderate_arcsine` are called: c, i, j and ij − c².
_Arcsine = Callable[[Array, Array, Array, Array], Array]


def _erf(
    a: Float[Array, "m 1"],
    b: Float[Array, "1 n"],
    c: Float[Array, "m n"],
    minor: Float[Array, "m n"],
    arcsine: _Arcsine,
):
    """E[φ(u)φ(v)] = (2/π) arcsin 2c/√((1+2a)(1+2b)) and E[φ'(u)φ'(v)] = 4/(π√D), D = (1+2a)(1+2b) − 4c².

    minor = ab − c².
    """
    i, j = 1.0 + 2.0 * a, 1.0 + 2.0 * b
    determinant = 1.0 + 2.0 * (a + b) + 4.0 * minor
    return (2.0 / math.pi) * arcsine(2.0 * c, i, j, determinant), (4.0 / math.pi) * inverse_root(determinant)


def _gelu(
    a: Float[Array, "m 1"],
    b: Float[Array, "1 n"],
    c: Float[Array, "m n"],
    minor: Float[Array, "m n"],
    arcsine: _Arcsine,
):
    """The same two for GELU, as `theory.duals` has them, with D = (1+a)(1+b) − c² and minor = ab − c²."""
    i, j = 1.0 + a, 1.0 + b
    determinant = 1.0 + a + b + minor
    y = inverse_root(determinant)
    density = (0.5 / math.pi) * y
    orthant = 0.25 + (0.5 / math.pi) * arcsine(c, i, j, determinant)
    s = 1.0 / i + 1.0 / j
    dual = density * (minor + c * c * s) + c * orthant
    return dual, orthant + c * density * (2.0 * s + (c * c * s - 1.0 - a - b) * (y * y))


def _arcsine(
    c: Float[Array, "m n"], i: Float[Array, "m 1"], j: Float[Array, "1 n"], determinant: Float[Array, "m n"]
) -> Float[Array, "m n"]:
    """ψ = arcsin z, z = c/√(ij), where ij − c² = determinant; from the sine of ψ or of (π/2 − ψ)/2, the smaller one."""
    inverse = jax.lax.rsqrt(i) * jax.lax.rsqrt(j)
    z = jnp.abs(c) * inverse
    y = inverse_root(1.0 + z)
    versine = determinant * (inverse * inverse) * (y * y)  # (1 − z²)/(1 + z)
    low = z < math.sqrt(0.5)
    angle = jnp.where(low, z, square_root(2.0 * versine)) * horner(_ARC, jnp.where(low, 2.0 * z * z, versine))
    angle = jnp.where(low, angle, 0.5 * math.pi - angle)
    return jnp.where(c < 0, -angle, angle)


def _moderate_arcsine(
    c: Float[Array, "m n"], i: Float[Array, "m 1"], j: Float[Array, "1 n"], determinant: Float[Array, "m n"]
) -> Float[Array, "m n"]:
    """arcsin z, z = c/√(ij), where |z| ≤ `_MODERATE`."""
    z = c * (jax.lax.rsqrt(i) * jax.lax.rsqrt(j))
    square = z * z
    return z + z * square * horner(_ARCSINE, square)


# Activations with both duals at once, of pairs that are not near, from operations that the compiler makes one loop of;
# and s.
PAIRED = {activation("erf").function: (2.0, _erf), activation("gelu").function: (1.0, _gelu)}
