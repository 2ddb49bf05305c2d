"""Gaussian expectations and their derivatives: three routes, and automatic differentiation of the dual activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import gaussian
from theory.activations import ACTIVATIONS, Activation, activation, leaky_relu
from theory.kernels.pair_moments import is_smooth, pair_moments

PAIR = np.array([[1.3, 0.6], [0.6, 0.8]])
KINKED = Activation("own-leaky", lambda z: jnp.where(z > 0, z, 0.2 * z))


def agree(one, other, tolerance):
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


def test_who_is_smooth():
    smooth = {name for name in ACTIVATIONS if is_smooth(activation(name), 1.3)}
    assert smooth == set(ACTIVATIONS) - {"relu", "leaky-relu", "abs", "sign"}
    # Two kinks that would cancel in a test around zero, a kink of the second derivative, and a wrong derivative.
    clipped = Activation("clip", lambda z: jnp.clip(z, -1, 1))
    elu = Activation("elu", lambda z: jnp.where(z > 0, z, jnp.expm1(jnp.minimum(z, 0.0))))
    wrong = Activation("wrong", jnp.tanh, jnp.tanh)
    assert not any(is_smooth(one, 1.0) for one in (clipped, elu, wrong))


@pytest.mark.parametrize("covariance", [PAIR, PAIR[:1, :1]], ids=["two inputs", "one input"])
def test_three_routes_to_the_same_numbers(covariance):
    agree(pair_moments(KINKED, covariance, False), pair_moments(leaky_relu(0.2), covariance, False), 1e-12)
    for name in ("erf", "gelu", "softplus"):
        phi = activation(name)
        agree(pair_moments(phi, covariance, False), pair_moments(phi, covariance, True), 1e-11)


@pytest.mark.parametrize("name", ["gelu", "abs"])
def test_derivatives_are_those_of_the_dual_activations(name):
    phi = activation(name)
    entries = jnp.array([PAIR[0, 0], PAIR[0, 1], PAIR[1, 1]])
    found = pair_moments(phi, PAIR, is_smooth(phi, 1.0))
    for dual, value, first, second in (
        (gaussian.dual, found.v, found.v1, found.v2),
        (gaussian.dual_derivative, found.t, found.t1, found.t2),
    ):

        def of_entries(g, dual=dual):
            return dual(phi, g[0], g[2], g[1])

        # Compiled as one: operation by operation it takes half a minute.
        by_jax = jax.jit(lambda g, f=of_entries: (f(g), jax.grad(f)(g), jax.hessian(f)(g)))(entries)
        agree((value, first, second), by_jax, 1e-9)


def test_parallel_inputs_of_a_smooth_activation():
    """φ(z) φ(−2z) and its derivatives are one-dimensional integrals."""
    phi = activation("tanh")
    found = pair_moments(phi, np.array([[0.5, -1.0], [-1.0, 2.0]]), True)
    z = np.linspace(-9, 9, 2001) * np.sqrt(0.5)
    w = np.exp(-(z**2)) / np.sum(np.exp(-(z**2)))
    f, slope, bow = (
        (lambda z: np.tanh(z)),
        (lambda z: 1 / np.cosh(z) ** 2),
        (lambda z: -2 * np.tanh(z) / np.cosh(z) ** 2),
    )
    np.testing.assert_allclose(found.v, w @ (f(z) * f(-2 * z)), rtol=1e-10)
    np.testing.assert_allclose(found.v1[1], w @ (slope(z) * slope(-2 * z)), rtol=1e-10)
    np.testing.assert_allclose(found.v1[0], 0.5 * w @ (bow(z) * f(-2 * z)), rtol=1e-10)
    np.testing.assert_allclose(found.v2[1, 1], w @ (bow(z) * bow(-2 * z)), rtol=1e-10)
