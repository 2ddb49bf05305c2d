"""Mehler's series for dual activations, against mpmath, the double integral, and its own error bound."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from theory.activations import Activation, activation
from theory.architecture import MLP, Convolutional
from theory.gaussian import dual, dual_derivative
from theory.hermite_series import TERMS, _coefficients, _duals, duals
from theory.kernels import nngp, ntk

NAMES = ("tanh", "sigmoid", "softplus", "swish")


def covariances(rng, variance, n=24, features=9):
    x = rng.normal(size=(n, features))
    x[1], x[2] = x[0], -x[0]
    kernel = jnp.asarray(variance / features * (x @ x.T))
    variances = jnp.diag(kernel)
    return variances[:, None], variances[None], kernel


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_double_integral(name, rng):
    """Where both are good to rounding, duplicates and antipodes included."""
    a, b, c = covariances(rng, 1.0)
    series = jax.jit(lambda a, b, c: _duals(activation(name), a, b, c, None))(a, b, c)
    for value, reference in zip(series, (dual, dual_derivative), strict=True):
        np.testing.assert_allclose(value, reference(name, a, b, c), rtol=1e-12, atol=1e-14)


def test_agrees_with_mpmath():
    """The trapezoidal rule of step 0.2 errs by e^(−43) on this tanh, and 9.5 standard deviations leave out 1e-20."""
    a, b, c = 1.3, 0.4, 0.5
    nodes = [mp.mpf(i) / 5 for i in range(-47, 48)]
    weights = [mp.exp(-z * z / 2) / (5 * mp.sqrt(2 * mp.pi)) for z in nodes]
    slope, rest = mp.mpf(c) / mp.sqrt(a), mp.sqrt(b - mp.mpf(c) ** 2 / a)
    for column, phi in enumerate((mp.tanh, lambda z: 1 - mp.tanh(z) ** 2)):
        expected = mp.fsum(
            w1 * phi(mp.sqrt(a) * z1) * w2 * phi(slope * z1 + rest * z2)
            for z1, w1 in zip(nodes, weights, strict=True)
            for z2, w2 in zip(nodes, weights, strict=True)
        )
        covariance = jnp.full((16, 16), c)
        value = _duals(activation("tanh"), jnp.full((16, 1), a), jnp.full((1, 16), b), covariance, None)[column]
        np.testing.assert_allclose(value, float(mp.re(expected)), rtol=1e-13)


def test_leaves_out_what_it_says():
    """The coefficients' squares and the rest make up E φ²; fewer terms leave more, and never less than the error."""
    variances = jnp.asarray([0.0, 0.5, 3.0])
    tanh = activation("tanh")
    exact = dual(tanh, variances, variances, variances)
    rests = []
    for terms in (16, 128, TERMS):
        found, _, rest = _coefficients(tanh, variances, terms)
        missing = exact - jnp.sum(found**2, axis=0)
        np.testing.assert_allclose(rest, jnp.max(missing[1:] / exact[1:]), rtol=1e-6, atol=1e-14)
        rests.append(float(rest))
    assert rests[0] > 1e-3 > 1e-8 > rests[1] > 1e-9 > 1e-14 > rests[2]


@pytest.mark.parametrize("variance", [20.0, 1.0])
def test_quadrature_steps_in_where_the_series_is_short(variance, rng):
    """A large variance, and a kink: the results are those of the double integral to the last bit."""
    kinked = Activation("kinked", lambda x: jnp.maximum(x, 0.3))
    a, b, c = covariances(rng, variance, n=9)
    act = kinked if variance == 1.0 else activation("tanh")
    for value, reference in zip(_duals(act, a, b, c, None), (dual, dual_derivative), strict=True):
        np.testing.assert_array_equal(value, reference(act, a, b, c))


def test_kernels_take_the_series_whatever_the_number_of_pairs(rng):
    """A few inputs go by the double integral, many by the series; images too; gradients as well."""
    x = rng.normal(size=(20, 12))
    mlp = MLP(3, "tanh", 1.5, 0.2)
    for kernel in (nngp, ntk):
        np.testing.assert_allclose(kernel(mlp, x)[:2, :2], kernel(mlp, x[:2]), rtol=1e-12)
    images = rng.normal(size=(20, 4, 4, 2))
    net = Convolutional(1, "tanh", 1.5, 0.2)
    np.testing.assert_allclose(ntk(net, images)[:2, :2], ntk(net, images[:2]), rtol=1e-12)

    def total(weight_variance, inputs):
        return jnp.sum(ntk(MLP(1, "tanh", weight_variance, 0.2), inputs)[:2, :2])

    many, few = (jax.grad(total, argnums=(0, 1))(1.5, inputs) for inputs in (x, x[:2]))
    np.testing.assert_allclose(many[0], few[0], rtol=1e-11)
    np.testing.assert_allclose(many[1][:2], few[1], rtol=1e-10, atol=1e-13)


def test_closed_forms_come_first(rng):
    a, b, c = covariances(rng, 1.0)
    for value, reference in zip(duals(activation("erf"), a, b, c, None), (dual, dual_derivative), strict=True):
        np.testing.assert_array_equal(value, reference("erf", a, b, c))
