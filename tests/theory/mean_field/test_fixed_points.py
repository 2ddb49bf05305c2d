"""Fixed points, depth scales and the edge of chaos against iteration, closed forms and mpmath."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.architecture import MLP
from theory.mean_field import (
    critical_weight_variance,
    fixed_point,
    length_fixed_point,
    length_map,
    propagate,
)


@pytest.mark.parametrize(("weight_variance", "bias_variance"), [(1.3, 0.05), (2.0, 0.05), (5.0, 0.2)])
def test_deep_networks_arrive_at_the_fixed_point_of_tanh(weight_variance, bias_variance):
    architecture = MLP(3000, "tanh", weight_variance, bias_variance)
    rest = fixed_point(architecture)
    for length, cosine in ((0.1, -0.9), (3.0, 0.8)):
        track = propagate(architecture, length, length, cosine)
        np.testing.assert_allclose(track.length1[-1], rest.length, rtol=1e-10)
        np.testing.assert_allclose(track.correlation[-1], rest.correlation, rtol=1e-9)


@pytest.mark.parametrize(("weight_variance", "phase"), [(1.3, "ordered"), (5.0, "chaotic")])
def test_depth_scales_are_those_of_the_decay(weight_variance, phase):
    architecture = MLP(200, "tanh", weight_variance, 0.2)
    rest = fixed_point(architecture)
    track = propagate(architecture, 0.3, 0.3, -0.2)
    assert rest.phase == ("ordered" if weight_variance < 2.28 else "chaotic") == phase
    gap = np.abs(np.asarray(track.correlation) - rest.correlation)
    start = int(np.argmax(gap < 1e-4))
    np.testing.assert_allclose(np.log(gap[start] / gap[start + 5]) / 5, 1 / rest.correlation_scale, rtol=1e-3)
    gap = np.abs(np.asarray(track.length1) - rest.length)
    start = int(np.argmax(gap < 1e-4))
    np.testing.assert_allclose(np.log(gap[start] / gap[start + 3]) / 3, 1 / rest.length_scale, rtol=1e-3)


def test_the_two_depth_scales_of_the_literature():
    """χ₁ + σ_w² E[φφ''] and σ_w² E[φ'(u)φ'(v)], integrated by mpmath with derivatives written out."""
    rest = fixed_point(MLP(1, "tanh", 5.0, 0.2))
    with mpmath.workdps(15):
        root = math.sqrt(rest.length)

        def expect(function) -> float:
            value: Any = mpmath.quad(lambda z: mpmath.npdf(z) * function(root * z), [-10, -3, 0, 3, 10])
            return float(value)

        chi_1 = 5 * expect(lambda u: mpmath.sech(u) ** 4)
        curvature = 5 * expect(lambda u: -2 * mpmath.tanh(u) ** 2 * mpmath.sech(u) ** 2)
    x, w = np.polynomial.hermite_e.hermegauss(150)
    w = w / w.sum()
    c, s = rest.correlation, math.sqrt(1 - rest.correlation**2)
    u, v = root * x[:, None], root * (c * x[:, None] + s * x)
    chi_c = 5 * np.sum(w[:, None] * w / (np.cosh(u) * np.cosh(v)) ** 2)
    np.testing.assert_allclose(rest.chi_1, chi_1, rtol=1e-10)
    np.testing.assert_allclose(rest.length_scale, -1 / math.log(chi_1 + curvature), rtol=1e-9)
    np.testing.assert_allclose(rest.correlation_scale, -1 / math.log(chi_c), rtol=1e-6)
    # The folklore of one scale from χ₁ is far off on this side of the edge of chaos.
    assert rest.correlation_scale > 1.5 / abs(math.log(rest.chi_1))


@settings(max_examples=20, deadline=None)
@given(weight_variance=st.floats(0.1, 1.95), bias_variance=st.floats(0.01, 2))
def test_relu_below_two_is_ordered_with_a_known_length(weight_variance, bias_variance):
    rest = fixed_point(MLP(1, "relu", weight_variance, bias_variance))
    np.testing.assert_allclose(rest.length, bias_variance / (1 - weight_variance / 2), rtol=1e-9)
    np.testing.assert_allclose([rest.chi_1, rest.length_slope], weight_variance / 2, rtol=1e-12)
    assert rest.correlation == 1.0


def test_critical_relu_keeps_any_length_and_has_no_depth_scale():
    rest = fixed_point(MLP(1, "relu", 2.0, 0.0), start=3.7)
    assert (rest.length, rest.correlation, rest.phase) == (3.7, 1.0, "critical")
    assert rest.correlation_scale == rest.length_scale == math.inf


def test_an_odd_activation_without_biases_decorrelates_in_the_chaotic_phase():
    rest = fixed_point(MLP(1, "tanh", 3.0, 0.0))
    assert rest.correlation == 0.0
    assert length_fixed_point(MLP(1, "tanh", 0.9, 0.0)) == 0.0


@pytest.mark.parametrize(("weight_variance", "bias_variance"), [(2.0, 0.1), (2.5, 0.0), (2.5, 0.3)])
def test_growing_lengths_are_named(weight_variance, bias_variance):
    with pytest.raises(ValueError, match="grows without limit"):
        fixed_point(MLP(1, "relu", weight_variance, bias_variance))


def test_unstable_and_vanishing_lengths_are_named():
    # A quadratic activation has Q(q) = 3 σ_w² q² + σ_b²: at σ_b = 0 and σ_w² = 1 it leaves q* = 1/3.
    with pytest.raises(ValueError, match="unstable"):
        fixed_point(MLP(1, "square", 1.0, 0.0), start=1 / 3)
    with pytest.raises(ValueError, match="dies out"):
        fixed_point(MLP(1, "tanh", 0.9, 0.0))
    with pytest.raises(ValueError, match="start is a length"):
        fixed_point(MLP(1, "tanh"), start=0.0)


@pytest.mark.parametrize(("activation", "bias_variance"), [("tanh", 0.05), ("tanh", 0.2), ("erf", 0.1), ("gelu", 0.3)])
def test_on_the_edge_of_chaos_chi_1_is_one(activation, bias_variance):
    critical = critical_weight_variance(activation, bias_variance)
    architecture = MLP(1, activation, critical, bias_variance)
    rest = fixed_point(architecture)
    np.testing.assert_allclose(rest.chi_1, 1.0, rtol=1e-8)
    np.testing.assert_allclose(length_map(architecture, rest.length), rest.length, rtol=1e-9)
    below, above = (fixed_point(MLP(1, activation, factor * critical, bias_variance)) for factor in (0.99, 1.01))
    assert (below.phase, above.phase) == ("ordered", "chaotic")


@pytest.mark.parametrize(
    ("activation", "expected"), [("relu", 2.0), ("tanh", 1.0), ("erf", math.pi / 4), ("sin", 1.0), ("linear", 1.0)]
)
def test_without_biases_the_edge_is_at_a_known_place(activation, expected):
    np.testing.assert_allclose(critical_weight_variance(activation, 0.0), expected, rtol=1e-12)


def test_the_edge_of_gelu_begins_where_its_length_becomes_stable():
    with pytest.raises(ValueError, match="gelu has no critical weight variance"):
        critical_weight_variance("gelu", 0.17)
    assert 1.9 < critical_weight_variance("gelu", 0.176) < 2.0


def test_relu_with_biases_has_no_edge():
    with pytest.raises(ValueError, match="relu has no critical weight variance"):
        critical_weight_variance("relu", 0.1)
    with pytest.raises(ValueError, match="bias_variance must be at least 0"):
        critical_weight_variance("tanh", -0.1)
