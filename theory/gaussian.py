"""Expectations over Gaussian pre-activations, and dual activations.

(u, v) is centred Gaussian with variances a, b and covariance c. Closed forms (`theory.duals`) serve linear,
ReLU, leaky ReLU, absolute value, erf, GELU, sin, cos, sign, exp and polynomials; quadrature
(`theory.quadrature`) serves every other elementwise function.

Absolute accuracy of the quadrature in double precision, for an activation and slopes of size 1:

    function                  single integral                       double integral
    tanh, sigmoid             1e-14 to q = 50, 2e-10 at 100         1e-12 to q = 5, 1e-9 at 10, 3e-6 at 30
    kink at 0 (elsewhere)     4e-5 √q (1e-4 √q)                     5e-4 √(ab) (2e-3 √(ab))
    jump at 0 (elsewhere)     rounding (7e-3)                       6e-3 (4e-2)

A double integral costs 2·10⁴ evaluations. Functions that grow faster than e^(|z|/2) in standard deviations
lose digits in the tails.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory import quadrature
from theory.activations import Activation
from theory.activations import activation as find_activation
from theory.arrays import ArrayLike, as_float
from theory.determinant import sine_squared
from theory.duals import closed_form


def _broadcast(*values: ArrayLike) -> list[Array]:
    arrays = [as_float(value) for value in values]
    dtype = jnp.result_type(*arrays)
    return jnp.broadcast_arrays(*(array.astype(dtype) for array in arrays))


def expectation(function: Callable[[Array], Array], variance: ArrayLike) -> Float[Array, "..."]:
    """E[g(√q z)] for z ~ N(0, 1), by quadrature (accuracy in the module's docstring).

    Not compiled here, so that a fresh lambda costs nothing: call it inside your own compiled function.

    Args:
        function: elementwise g made of `jax.numpy` operations, or an `Activation`.
        variance: q ≥ 0, of any shape.

    Returns:
        The expectations, of the shape of `variance`. Differentiable in q (at q = 0 the derivative is 0).
    """
    return quadrature.single(function, as_float(variance))


def second_moment(activation: str | Activation, variance: ArrayLike) -> Float[Array, "..."]:
    """E[φ(√q z)²], of the shape of the variance q ≥ 0."""
    return _second_moment(find_activation(activation), as_float(variance))


def derivative_second_moment(activation: str | Activation, variance: ArrayLike) -> Float[Array, "..."]:
    """E[φ'(√q z)²], of the shape of the variance q ≥ 0.

    φ' is the derivative almost everywhere (0 for sign). At q = 0 piecewise linear functions take their value
    at q > 0, which does not depend on q.
    """
    return _derivative_second_moment(find_activation(activation), as_float(variance))


def dual(
    activation: str | Activation, variance1: ArrayLike, variance2: ArrayLike, covariance: ArrayLike
) -> Float[Array, "..."]:
    """E[φ(u)φ(v)] for centred Gaussian (u, v).

    Args:
        activation: φ, by name or as an `Activation`.
        variance1, variance2: a, b ≥ 0, of shapes that broadcast.
        covariance: c with c² ≤ ab; beyond it by rounding it counts as ρ = ±1.

    Returns:
        Expectations of the common shape, in the inputs' dtype. Derivatives are finite at |ρ| = 1.
    """
    a, b, c = _broadcast(variance1, variance2, covariance)
    return dual_at(find_activation(activation), a, b, c, None)


def dual_derivative(
    activation: str | Activation, variance1: ArrayLike, variance2: ArrayLike, covariance: ArrayLike
) -> Float[Array, "..."]:
    """E[φ'(u)φ'(v)] = ∂/∂c E[φ(u)φ(v)] for centred Gaussian (u, v); arguments as in `dual`.

    φ' is the derivative almost everywhere, so that the equation fails for the jump of sign (0 here, as
    gradient descent sees it).
    """
    a, b, c = _broadcast(variance1, variance2, covariance)
    return dual_derivative_at(find_activation(activation), a, b, c, None)


@partial(jax.jit, static_argnums=0)
def _second_moment(activation: Activation, variance: Array) -> Array:
    form = closed_form(activation.function)
    if form is not None and form.second_moment is not None:
        return form.second_moment(variance)
    if form is not None:
        return form.dual(variance, variance, variance, jnp.zeros_like(variance))
    return quadrature.single(lambda z: activation(z) ** 2, variance)


@partial(jax.jit, static_argnums=0)
def _derivative_second_moment(activation: Activation, variance: Array) -> Array:
    form = closed_form(activation.function)
    if form is not None and form.derivative_second_moment is not None:
        return form.derivative_second_moment(variance)
    if form is not None:
        return form.dual_derivative(variance, variance, variance, jnp.zeros_like(variance))
    return quadrature.single(lambda z: activation.derivative(z) ** 2, variance)


@partial(jax.jit, static_argnums=0)
def dual_at(activation: Activation, a: Array, b: Array, c: Array, r: Array | None) -> Array:
    """`dual` of arrays of one shape and dtype, with r = 1 − ρ² where it is known better than a, b, c tell."""
    r = sine_squared(a, b, c) if r is None else r
    form = closed_form(activation.function)
    if form is not None:
        return form.dual(a, b, c, r)
    return quadrature.pair(activation, activation, a, b, c, r)


@partial(jax.jit, static_argnums=0)
def dual_derivative_at(activation: Activation, a: Array, b: Array, c: Array, r: Array | None) -> Array:
    """`dual_derivative`, with r as in `dual_at`."""
    r = sine_squared(a, b, c) if r is None else r
    form = closed_form(activation.function)
    if form is not None:
        return form.dual_derivative(a, b, c, r)
    derivative = activation.derivative
    return quadrature.pair(derivative, derivative, a, b, c, r)
