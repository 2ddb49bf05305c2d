"""The maps of length and correlation against Gauss–Hermite sums, closed forms and limits."""

from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.architecture import MLP
from theory.mean_field import correlation_slope, length_map, pair_map, propagate


def hermite_pair(function, q1, q2, c, nodes=200):
    """E[f(u) f(v)] by a product Gauss–Hermite rule: neither the trapezoidal rule nor a closed form."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    u, v = np.sqrt(q1) * x[:, None], np.sqrt(q2) * (c * x[:, None] + np.sqrt(1 - c * c) * x)
    return np.sum(w[:, None] * w * function(u) * function(v))


def arc_cosine(q1, q2, c):
    """E[relu(u) relu(v)], Cho & Saul 2009."""
    theta = np.arccos(c)
    return np.sqrt(q1 * q2) * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)


@pytest.mark.parametrize("q", [0.1, 1.0, 4.0])
def test_length_map_of_tanh_matches_mpmath(q):
    with mpmath.workdps(20):
        density = lambda z: mpmath.npdf(z) * mpmath.tanh(mpmath.sqrt(q) * z) ** 2  # noqa: E731
        moment: Any = mpmath.quad(density, [-12, -3, 0, 3, 12])
    np.testing.assert_allclose(length_map(MLP(1, "tanh", 1.7, 0.3), q), 1.7 * float(moment) + 0.3, rtol=1e-12)


@pytest.mark.parametrize(("q1", "q2", "c"), [(0.5, 2.0, -0.7), (1.0, 1.0, 0.0), (1.5, 0.4, 0.9)])
def test_pair_map_of_tanh_matches_gauss_hermite(q1, q2, c):
    a, b, correlation = pair_map(MLP(1, "tanh", 1.7, 0.3), q1, q2, c)
    expected = (1.7 * hermite_pair(np.tanh, q1, q2, c) + 0.3) / np.sqrt(float(a) * float(b))
    # The accuracy of Gauss–Hermite, which the poles of tanh limit.
    np.testing.assert_allclose(correlation, expected, rtol=1e-8)
    np.testing.assert_allclose(a, 1.7 * hermite_pair(np.tanh, q1, q1, 1.0) + 0.3, rtol=1e-8)


@pytest.mark.parametrize("c", [-0.999999, -0.3, 0.5, 0.999999])
def test_pair_map_of_relu_is_the_arc_cosine_kernel(c):
    a, b, correlation = pair_map(MLP(1, "relu", 2.0, 0.0), 0.7, 1.9, c)
    np.testing.assert_allclose([float(a), float(b)], [0.7, 1.9], rtol=1e-14)
    np.testing.assert_allclose(correlation, 2 * arc_cosine(0.7, 1.9, c) / np.sqrt(0.7 * 1.9), rtol=1e-9, atol=1e-12)


def test_slope_is_the_derivative_of_the_correlation_map():
    """At a fixed point of the length, where the map of c has σ_w²/q* in front of the dual's slope q*."""
    architecture, q, step = MLP(1, "relu", 1.5, 0.25), 1.0, 1e-5
    np.testing.assert_allclose(length_map(architecture, q), q, rtol=1e-14)
    high, low = (float(pair_map(architecture, q, q, 0.4 + s)[2]) for s in (step, -step))
    np.testing.assert_allclose(correlation_slope(architecture, q, 0.4), (high - low) / (2 * step), rtol=1e-8)


def test_propagation_repeats_the_maps_from_the_inputs_on():
    architecture = MLP(3, "tanh", 1.4, 0.2)
    track = propagate(architecture, 0.8, 1.7, -0.35)
    q1, q2 = 1.4 * 0.8 + 0.2, 1.4 * 1.7 + 0.2
    c = (1.4 * -0.35 * np.sqrt(0.8 * 1.7) + 0.2) / np.sqrt(q1 * q2)
    for layer in range(4):
        # Gauss–Hermite with 200 nodes is good to a few 1e-9 for tanh at these lengths.
        np.testing.assert_allclose([t[layer] for t in track], [q1, q2, c], rtol=1e-8)
        covariance = 1.4 * hermite_pair(np.tanh, q1, q2, c) + 0.2
        q1, q2 = (1.4 * hermite_pair(np.tanh, q, q, 1.0) + 0.2 for q in (q1, q2))
        c = covariance / np.sqrt(q1 * q2)


def test_a_deep_critical_relu_network_forgets_angles_as_a_power():
    """l²(1 − c) → 9π²/2, with a logarithmically slow correction."""
    track = propagate(MLP(20_000, "relu"), 1.0, 1.0, 0.0)
    layers = np.array([2_000, 20_000])
    scaled = layers**2 * (1 - np.asarray(track.correlation)[layers - 1])
    gaps = np.abs(scaled / (4.5 * np.pi**2) - 1)
    assert gaps[1] < 0.01
    # ln(l)/l falls 7.7-fold between the two depths.
    assert 4 < gaps[0] / gaps[1] < 12


def test_variances_can_be_differentiated_and_mapped():
    def last(weight_variance):
        return propagate(MLP(3, "tanh", weight_variance, 0.1), 1.0, 1.0, 0.5).length1[-1]

    values = jax.vmap(last)(jnp.array([1.0, 1.001, 1.002]))
    np.testing.assert_allclose(jax.grad(last)(1.001), (values[2] - values[0]) / 0.002, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    q=st.floats(0.01, 10),
    c=st.floats(-1, 1),
    weight_variance=st.floats(0.1, 4),
    bias_variance=st.floats(0, 1),
)
def test_correlations_stay_correlations_and_one_stays_one(q, c, weight_variance, bias_variance):
    architecture = MLP(1, "tanh", weight_variance, bias_variance)
    assert -1 <= float(pair_map(architecture, q, q, c)[2]) <= 1
    np.testing.assert_allclose(pair_map(architecture, q, q, 1.0)[2], 1.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 0.5), "length1"),
        ((1.0, -1.0, 0.5), "length2"),
        ((1.0, np.inf, 0.5), "length2"),
        ((1.0, 1.0, 1.5), "correlation"),
        ((1.0, np.ones(2), 0.5), r"shape \(2,\)"),
    ],
)
def test_propagation_refuses_what_no_pair_of_inputs_has(arguments, message):
    with pytest.raises(ValueError, match=message):
        propagate(MLP(2, "relu"), *arguments)
