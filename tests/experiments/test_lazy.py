"""Scaled training and its expansion: against the exact map of a two-layer linear network, and by changing α's sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lazy import Combination, lazy_expansion, scaled_descent
from experiments.networks import network
from theory.architecture import MLP
from theory.kernels.two_layer_linear import coupling, descent_step

FACTORS = {"single": (1.0, 0.0), "doubled": (0.5**0.5, -(0.5**0.5))}
STEPS, TARGET = 40, 1.5


def linear_network(key, width=6):
    """Model, start (twice the same), input with |x|² = d, output and kernel at the start."""
    net = network(MLP(1, "linear", 1.0), width=width, inputs=2)
    params, x = net.init(key, jnp.float64), jnp.ones((1, 2))
    f, gradient = jax.value_and_grad(lambda p: net.apply(p, x)[0, 0])(params)
    kernel = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient))
    return Combination(net), jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), params), x, float(f), kernel


def erf_network(key):
    """Model, start (twice the same), three inputs and targets of the first two."""
    net = network(MLP(1, "erf", 1.0, 0.1), width=5, inputs=3, outputs=2)
    start = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), net.init(key, jnp.float64))
    x = np.array([[1.0, -0.5, 1.2], [-1.1, 0.9, 0.3], [0.2, 1.4, -0.8]])
    return Combination(net), start, x, np.array([[1.0, -0.5], [0.3, 2.0]])


@pytest.mark.parametrize(("model", "alpha"), [("single", 1.0), ("single", 20.0), ("doubled", 3.0)])
def test_a_linear_network_follows_its_exact_map(model, alpha, getkey):
    """The scaled model is the network itself, trained at rate η with target f_0 + y/α; doubled, it is twice as wide."""
    f, start, x, first, kernel = linear_network(getkey())
    rate, inputs = 0.3 / kernel, (np.array(FACTORS[model]), x)
    found = scaled_descent(f, STEPS, start, inputs, np.array([[TARGET]]), rate, alpha, f(start, inputs))[:, 0, 0]
    k, output = (coupling(6), first) if model == "single" else (coupling(12), 0.0)
    now, expected = (output, kernel), []
    for _ in range(STEPS + 1):
        expected.append(alpha * (now[0] - output))
        now = descent_step(*now, target=output + TARGET / alpha, learning_rate=rate, coupling=k)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("model", ["single", "doubled"])
def test_terms_of_a_linear_network_follow_from_its_exact_map(model, getkey):
    """Its map of output and kernel, expanded by hand to second order in 1/α."""
    f, start, x, output, kernel = linear_network(getkey())
    rate, inputs = 0.3 / kernel, (np.array(FACTORS[model]), x)
    terms = lazy_expansion(f, STEPS, start, inputs, np.array([[TARGET]]), rate).terms[:, :, 0, 0]
    k = float(coupling(6))
    if model == "doubled":
        output, k = 0.0, float(coupling(12))
    (f0, f1, f2), (theta1, theta2), q = (0.0, 0.0, 0.0), (0.0, 0.0), rate**2 * k / 4
    for step in range(STEPS + 1):
        np.testing.assert_allclose(terms[:, step], [f0, f1, f2], rtol=1e-11, atol=1e-14)
        r = f0 - TARGET
        f0, f1, f2, theta1, theta2 = (
            f0 - rate * kernel * r,
            f1 - rate * (kernel * f1 + theta1 * r) + q * r**2 * output,
            f2 - rate * (kernel * f2 + theta1 * f1 + theta2 * r) + q * (2 * r * f1 * output + r**2 * f0),
            theta1 - rate * k * output * r,
            theta2 - rate * k * (output * f1 + f0 * r) + q * r**2 * kernel,
        )


def test_first_term_of_the_flow_has_a_closed_form(getkey):
    """K f_0 y² e^{−s}(s − 1 + e^{−s})/Θ² with s = Θt, from dΘ/dt = −K f (f − y)."""
    f, start, x, output, kernel = linear_network(getkey())
    rate = 1e-3 / kernel
    terms = lazy_expansion(f, 3000, start, (np.array(FACTORS["single"]), x), np.array([[TARGET]]), rate).terms
    s = 1e-3 * np.arange(3001)
    expected = coupling(6) * output * TARGET**2 / kernel**2 * np.exp(-s) * (s - 1 + np.exp(-s))
    # Euler's method at a step of 1e-3 of the time scale.
    np.testing.assert_allclose(terms[1, :, 0, 0], expected, atol=3e-3 * np.abs(expected).max())


@pytest.mark.parametrize("model", ["single", "doubled"])
def test_terms_are_the_odd_and_even_parts_in_alpha(model, getkey):
    f, start, x, y = erf_network(getkey())
    inputs, alpha = (np.array(FACTORS[model]), x), 200.0
    expansion = lazy_expansion(f, 12, start, inputs, y, 0.2)
    above, below = (scaled_descent(f, 12, start, inputs, y, 0.2, a, f(start, inputs)) for a in (alpha, -alpha))
    first, second = alpha * (above - below) / 2, alpha**2 * ((above + below) / 2 - expansion.terms[0])
    # The next odd or even order, two powers of 1/α further, and rounding: 1e-16 α² and 1e-16 α³.
    np.testing.assert_allclose(expansion.terms[1], first, atol=1e-3 * float(np.abs(expansion.terms).max()))
    np.testing.assert_allclose(expansion.terms[2], second, atol=1e-3 * float(np.abs(expansion.terms).max()))
    if model == "doubled":
        np.testing.assert_allclose(expansion.terms[1], 0, atol=1e-14)
        np.testing.assert_allclose(above, below, atol=1e-12)
    else:
        assert np.abs(expansion.terms[1]).max() > 0.01


def test_curvature_is_the_second_derivative_along_the_linearised_path(getkey):
    f, start, x, y = erf_network(getkey())
    inputs, rate = (np.array(FACTORS["single"]), x), 0.2

    def at(theta):
        return f(theta, inputs)

    @jax.jit
    def second_difference():
        shift = jax.tree.map(jnp.zeros_like, start)
        for _ in range(2):
            linear, pull_back = jax.jvp(at, (start,), (shift,))[1], jax.vjp(at, start)[1]
            slope = jnp.zeros_like(linear).at[:2].set(linear[:2] - y)
            shift = jax.tree.map(lambda u, g: u - rate * g, shift, pull_back(slope)[0])
        ends = [at(jax.tree.map(lambda p, u, h=h: p + h * u, start, shift)) for h in (1e-4, -1e-4)]
        return (ends[0] + ends[1] - 2 * at(start)) / (2 * 1e-8)

    found = lazy_expansion(f, 12, start, inputs, y, rate).curvature[2]
    # Second differences: h² and 1e-16/h².
    np.testing.assert_allclose(found, second_difference(), atol=1e-6)
