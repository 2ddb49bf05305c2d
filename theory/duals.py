"""Dual activations in closed form: E[φ(u)φ(v)] and E[φ'(u)φ'(v)].

(u, v) is centred Gaussian with Var u = a, Var v = b, Cov(u, v) = c and r = 1 − ρ² = (ab − c²)/(ab). The last
is an argument of its own because its digits are lost once it has to be found from the others. φ' is the
derivative almost everywhere, what automatic differentiation gives: for sign it is 0. Every form is stable
at |ρ| → 1, has finite derivatives there, and takes a = 0 or b = 0.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, Float

from theory.activations import PiecewiseLinear, Polynomial, gelu
from theory.arctangent import arctangent
from theory.determinant import Angles, angles, safe_inverse, safe_sqrt

Form = Callable[[Array, Array, Array, Array], Array]
Moment = Callable[[Array], Array]


class ClosedForm(NamedTuple):
    """The dual of an activation and that of its derivative; and at u = v where that is simpler."""

    dual: Form
    dual_derivative: Form
    second_moment: Moment | None = None
    derivative_second_moment: Moment | None = None


def sine_minus_chord(psi: Float[Array, "*shape"], sine: Array, cosine: Array) -> Float[Array, "*shape"]:
    """g(ψ) = sin ψ − ψ cos ψ for ψ in [0, π], by its series where the two terms would cancel."""
    square = psi * psi
    series = jnp.zeros_like(psi)
    for k in range(8, 0, -1):
        series = square * ((-1) ** (k + 1) * 2 * k / math.factorial(2 * k + 1) + series)
    return jnp.where(psi < 0.8, psi * series, sine - psi * cosine)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _piecewise_dual(slopes: PiecewiseLinear, a: Array, b: Array, c: Array, r: Array) -> Array:
    """√(ab) [(α² + β²) g(π − θ) − 2αβ g(θ)]/2π with g(ψ) = sin ψ − ψ cos ψ and slopes α (left), β (right).

    ReLU is the arc-cosine kernel of order 1 over 2. Source: Cho & Saul 2009, eq. (6), extended to two slopes.
    """
    same = slopes.negative**2 + slopes.positive**2
    opposite = 2.0 * slopes.negative * slopes.positive
    angle: Angles = angles(a, b, c, r)
    sine = safe_sqrt(r)
    total = same * sine_minus_chord(angle.supplement, sine, -angle.cosine)
    if opposite != 0:
        total = total - opposite * sine_minus_chord(angle.theta, sine, angle.cosine)
    return safe_sqrt(a) * safe_sqrt(b) / (2.0 * math.pi) * total


@_piecewise_dual.defjvp
def _piecewise_dual_jvp(slopes, primals, tangents):
    """dk = k̇ dc + ½(k − c k̇)(da/a + db/b), by ∂k/∂c = k̇ and homogeneity: finite at |ρ| = 1."""
    a, b, c, r = primals
    da, db, dc, _ = tangents  # r is a function of the other three: its share is in their derivatives
    value = _piecewise_dual(slopes, a, b, c, r)
    slope = _piecewise_dual_derivative(slopes, a, b, c, r)
    relative = da * safe_inverse(a) + db * safe_inverse(b)
    return value, slope * dc + 0.5 * (value - c * slope) * relative


def _piecewise_dual_derivative(slopes: PiecewiseLinear, a: Array, b: Array, c: Array, r: Array) -> Array:
    """[(α² + β²)(π − θ) + 2αβ θ]/2π; at zero variance the value at ρ = 1.

    Source: the arc-cosine kernel of order 0, Cho & Saul 2009, eq. (5), extended to two slopes.
    """
    same = slopes.negative**2 + slopes.positive**2
    opposite = 2.0 * slopes.negative * slopes.positive
    if slopes.negative == slopes.positive:
        return jnp.full_like(c, slopes.positive**2)
    angle = angles(a, b, c, r)
    return (same * angle.supplement + opposite * angle.theta) / (2.0 * math.pi)


def _piecewise_moment(slopes: PiecewiseLinear, variance: Array) -> Array:
    """(α² + β²) q/2."""
    return 0.5 * (slopes.negative**2 + slopes.positive**2) * variance


def _piecewise_derivative_moment(slopes: PiecewiseLinear, variance: Array) -> Array:
    """(α² + β²)/2."""
    return jnp.full_like(variance, 0.5 * (slopes.negative**2 + slopes.positive**2))


def _linear_dual(slopes: PiecewiseLinear, a: Array, b: Array, c: Array, r: Array) -> Array:
    return slopes.positive**2 * c


def _polynomial_dual(polynomial: Polynomial, a: Array, b: Array, c: Array, r: Array) -> Array:
    """Σ_j j! g_j(a) g_j(b) c^j with g_j(a) = Σ_i p_{j+2i} (j + 2i)!/(2^i i! j!) a^i.

    g_j are the coefficients of φ in the Hermite polynomials of variance a, orthogonal with E[…] = j! c^j.
    """

    def coefficient(j: int, variance: Array) -> Array:
        total = jnp.zeros_like(variance)
        for i in reversed(range((len(polynomial.coefficients) - 1 - j) // 2 + 1)):
            factor = math.factorial(j + 2 * i) / (2**i * math.factorial(i) * math.factorial(j))
            total = total * variance + factor * polynomial.coefficients[j + 2 * i]
        return total

    total = jnp.zeros_like(c)
    for j in reversed(range(len(polynomial.coefficients))):
        total = total * c + float(math.factorial(j)) * coefficient(j, a) * coefficient(j, b)
    return total


def _erf_dual(a: Array, b: Array, c: Array, r: Array) -> Array:
    """(2/π) asin(2c/√((1 + 2a)(1 + 2b))). Source: Williams 1997, eq. (11)."""
    # asin t = arctan2(t, √(1 − t²)) stays accurate where t → 1, that is for large variances at ρ → 1.
    return (2.0 / math.pi) * arctangent(2.0 * c, jnp.sqrt(_erf_determinant(a, b, r)))


def _erf_dual_derivative(a: Array, b: Array, c: Array, r: Array) -> Array:
    """(4/π)/√((1 + 2a)(1 + 2b) − 4c²)."""
    return (4.0 / math.pi) * jax.lax.rsqrt(_erf_determinant(a, b, r))


def _erf_determinant(a: Array, b: Array, r: Array) -> Array:
    return 1.0 + 2.0 * (a + b) + 4.0 * a * b * r


def _gelu_parts(a: Array, b: Array, c: Array, r: Array) -> tuple[Array, Array, Array, Array]:
    """(ab − c², Q = (1 + a)(1 + b) − c², E = 1/(2π√Q), S = E[Φ(u)Φ(v)] = ¼ + asin(c/√((1+a)(1+b)))/2π)."""
    q = a * b * r
    total = 1.0 + a + b + q
    root = jnp.sqrt(total)
    return q, total, 1.0 / (2.0 * math.pi * root), 0.25 + arctangent(c, root) / (2.0 * math.pi)


def _gelu_dual(a: Array, b: Array, c: Array, r: Array) -> Array:
    """E [ab − c² + c²(1/(1+a) + 1/(1+b))] + cS, with E, S as in `_gelu_parts`: Stein's lemma, twice."""
    q, _, density, orthant = _gelu_parts(a, b, c, r)
    return density * (q + c * c * (1.0 / (1.0 + a) + 1.0 / (1.0 + b))) + c * orthant


def _gelu_dual_derivative(a: Array, b: Array, c: Array, r: Array) -> Array:
    """∂/∂c of the dual: S + cE [2r + (c²r − 1 − a − b)/Q] with r = 1/(1+a) + 1/(1+b)."""
    _, total, density, orthant = _gelu_parts(a, b, c, r)
    r = 1.0 / (1.0 + a) + 1.0 / (1.0 + b)
    return orthant + c * density * (2.0 * r + (c * c * r - 1.0 - a - b) / total)


def _sine_dual(a: Array, b: Array, c: Array, r: Array) -> Array:
    """e^(−(a+b)/2) sinh c, without overflow (|c| ≤ (a + b)/2)."""
    middle = 0.5 * (a + b)
    positive = jnp.where(c >= 0, c, 0.0)
    negative = jnp.where(c >= 0, 0.0, c)
    return 0.5 * jnp.where(
        c >= 0,
        -jnp.exp(positive - middle) * jnp.expm1(-2.0 * positive),
        jnp.exp(-negative - middle) * jnp.expm1(2.0 * negative),
    )


def _cosine_dual(a: Array, b: Array, c: Array, r: Array) -> Array:
    """e^(−(a+b)/2) cosh c."""
    middle = 0.5 * (a + b)
    return 0.5 * (jnp.exp(c - middle) + jnp.exp(-c - middle))


def _sign_dual(a: Array, b: Array, c: Array, r: Array) -> Array:
    """(2/π) asin ρ = 1 − 2θ/π, and 0 at zero variance."""
    return jnp.where((a > 0) & (b > 0), 1.0 - 2.0 * angles(a, b, c, r).theta / math.pi, 0.0)


def _zero(a: Array, b: Array, c: Array, r: Array) -> Array:
    return jnp.zeros_like(c)


def _exponential_dual(a: Array, b: Array, c: Array, r: Array) -> Array:
    """e^((a+b)/2 + c)."""
    return jnp.exp(0.5 * (a + b) + c)


CLOSED_FORMS = {
    erf: ClosedForm(_erf_dual, _erf_dual_derivative),
    gelu: ClosedForm(_gelu_dual, _gelu_dual_derivative),
    jnp.sin: ClosedForm(_sine_dual, _cosine_dual),
    jnp.cos: ClosedForm(_cosine_dual, _sine_dual),
    jnp.sign: ClosedForm(_sign_dual, _zero),
    jnp.exp: ClosedForm(_exponential_dual, _exponential_dual),
}


def closed_form(function: Callable[[Array], Array]) -> ClosedForm | None:
    """The closed form of an elementwise function, or None."""
    if isinstance(function, PiecewiseLinear):
        dual = _linear_dual if function.negative == function.positive else _piecewise_dual
        forms = dual, _piecewise_dual_derivative, _piecewise_moment, _piecewise_derivative_moment
        return ClosedForm(*(partial(form, function) for form in forms))
    if isinstance(function, Polynomial):
        return ClosedForm(partial(_polynomial_dual, function), partial(_polynomial_dual, function.differentiated()))
    return CLOSED_FORMS.get(function)
