"""Exact moments of finite networks against exact sums, simulated networks, and the planned variance of an estimate."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.kernels.finite_width import kurtosis_ratio, layer_moment, output_moments, ratio_plan, variance_moment


def outputs(activation, widths, count, members, rng):
    """f of finite networks of one input, `count` units each, with the variance kept by every layer."""
    h = np.ones((members, 1))
    for width in widths:
        z = np.einsum("mi,mij->mj", h, rng.standard_normal((members, h.shape[1], width))) / np.sqrt(h.shape[1])
        h = z if activation == "linear" else np.sqrt(2) * np.maximum(z, 0)
    return np.einsum("mi,mij->mj", h, rng.standard_normal((members, h.shape[1], count))) / np.sqrt(h.shape[1])


@given(width=st.integers(1, 2000))
def test_second_moments_are_those_of_the_claim(width):
    np.testing.assert_allclose(layer_moment("relu", width, 2), 1 + 5 / width, rtol=1e-9)
    np.testing.assert_allclose(layer_moment("linear", width, 2), 1 + 2 / width, rtol=1e-9)


@given(width=st.integers(1, 300), order=st.integers(0, 1), activation=st.sampled_from(["relu", "linear"]))
def test_a_layer_keeps_the_mean(width, order, activation):
    np.testing.assert_allclose(layer_moment(activation, width, order), 1.0, rtol=1e-11)


@pytest.mark.parametrize("order", [3, 4, 8])
@pytest.mark.parametrize("width", [1, 5, 12])
def test_moments_match_the_expansion_of_the_power_of_a_sum(width, order):
    """E (Σ X_i)^k by n-fold products of moment generating series, exact in rational arithmetic."""
    for activation, half, scale in (("relu", mpmath.mpf(1) / 2, 2), ("linear", mpmath.mpf(1), 1)):
        # E X^j of X = φ(g)²: (2j − 1)!!, halved for ReLU from j = 1 on.
        series = [mpmath.mpf(1)] + [half * mpmath.fac2(2 * j - 1) / mpmath.factorial(j) for j in range(1, order + 1)]
        power = [mpmath.mpf(1)] + [mpmath.mpf(0)] * order
        for _ in range(width):
            power = [sum(power[i] * series[j - i] for i in range(j + 1)) for j in range(order + 1)]
        expected = power[order] * mpmath.factorial(order) * (mpmath.mpf(scale) / width) ** order
        np.testing.assert_allclose(layer_moment(activation, width, order), float(expected), rtol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_moments_of_simulated_networks(activation, rng):
    f = outputs(activation, (6, 9), 32, 40_000, rng)
    ratio = np.mean(f**4) / (3 * np.mean(f**2) ** 2)
    plan = ratio_plan(activation, (6, 9), outputs=32)
    np.testing.assert_allclose(plan.ratio, kurtosis_ratio(activation, (6, 9)), rtol=1e-14)
    assert abs(ratio - plan.ratio) < 4 * plan.standard_error(40_000)
    # The other activation's ratio, or half of the excess over 1, would fail.
    assert (plan.ratio - 1) / 2 > 8 * plan.standard_error(40_000)
    np.testing.assert_allclose(output_moments(activation, (6, 9), 2), [1, 3 * plan.ratio], rtol=1e-12)


@pytest.mark.parametrize(("activation", "widths", "count"), [("relu", (12,), 3), ("linear", (8, 8), 1)])
def test_the_planned_variance_is_that_of_the_estimate(activation, widths, count, rng):
    members, repetitions = 2_000, 600
    f = outputs(activation, widths, count, members * repetitions, rng).reshape(repetitions, members, count)
    estimates = np.mean(f**4, axis=(1, 2)) / (3 * np.mean(f**2, axis=(1, 2)) ** 2)
    plan = ratio_plan(activation, widths, outputs=count)
    # Relative error of a standard deviation from 600 draws: 2.9 %, more for the skew of the tails.
    np.testing.assert_allclose(np.std(estimates), plan.standard_error(members), rtol=0.15)
    shift = plan.ratio * plan.bias / members
    assert abs(np.mean(estimates) - plan.ratio - shift) < 4 * np.std(estimates) / np.sqrt(repetitions)


def test_members_meet_the_standard_error_asked_for():
    plan = ratio_plan("relu", (32, 32), outputs=32)
    members = plan.members(0.01)
    assert plan.standard_error(members) <= 0.01 < plan.standard_error(members - 1)


def test_without_hidden_layers_and_at_infinite_width_the_output_is_gaussian():
    assert kurtosis_ratio("relu", ()) == 1.0
    assert ratio_plan("linear", (), outputs=1).ratio == 1.0
    # For Gaussian f: Var(f⁴)/9 − 4 Cov(f², f⁴)/3 + 4 Var f² = 96/9 − 16 + 8.
    np.testing.assert_allclose(ratio_plan("linear", (), outputs=1).variance, 8 / 3, rtol=1e-12)
    np.testing.assert_allclose(variance_moment("relu", (10**6,), 4), 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kurtosis_ratio("tanh", (4,)), "activation must be one of"),
        (lambda: layer_moment("relu", 0, 2), "at least 1 unit"),
        (lambda: layer_moment("relu", 4, -1), "order must be at least 0"),
        (lambda: variance_moment("relu", (4,), -1), "order must be at least 0"),
        (lambda: ratio_plan("relu", (4,), outputs=0), "outputs must be at least 1"),
        (lambda: ratio_plan("relu", (4,), outputs=1).members(0.0), "standard_error must be positive"),
        (lambda: output_moments("relu", (4,), 5), "orders must be between 1 and 4"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
