"""Moments of the tangent kernel: closed form, matchings, χ² laws and simulated networks against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import binom

from theory.kernels import finite_width
from theory.kernels.ntk_fluctuations import (
    ends_plan,
    layer_moment,
    layer_second_moment,
    ntk_moment,
    ntk_plan,
    ntk_second_moment,
)


def shares(activation, widths, members, rng):
    """T_ℓ in units of their mean, by explicit Jacobians: every matrix product from layer to output is formed."""
    sizes = [1, *widths, 1]
    gain = np.sqrt(2.0 if activation == "relu" else 1.0)
    weights = [rng.standard_normal((members, sizes[i + 1], sizes[i])) for i in range(len(sizes) - 1)]
    h, jacobians, activities = np.ones((members, 1)), [], [np.ones((members, 1))]
    for i, w in enumerate(weights[:-1]):
        z = np.einsum("mij,mj->mi", w, h) / np.sqrt(sizes[i]) * gain
        on = (z > 0).astype(float) if activation == "relu" else np.ones_like(z)
        h = z * on
        jacobians.append(weights[i + 1] * on[:, None, :] * gain / np.sqrt(sizes[i + 1]))
        activities.append(h)
    found = []
    for matrix in range(1, len(sizes)):
        back = np.eye(1)[None].repeat(members, axis=0)
        for j in reversed(jacobians[matrix - 1 :]):
            back = back @ j
        found.append(np.mean(activities[matrix - 1] ** 2, axis=1) * np.sum(back**2, axis=(1, 2)))
    return np.stack(found, axis=1)


@settings(deadline=None, max_examples=25)
@given(activation=st.sampled_from(["relu", "linear"]), widths=st.lists(st.integers(1, 300), max_size=5))
def test_both_routes_agree(activation, widths):
    matrices = range(1, len(widths) + 2)
    for first in matrices:
        for second in matrices:
            closed = layer_second_moment(activation, widths, first, second)
            np.testing.assert_allclose(closed, layer_moment(activation, widths, (first, second)), rtol=1e-11)
    np.testing.assert_allclose(ntk_second_moment(activation, widths), ntk_moment(activation, widths, 2), rtol=1e-11)
    np.testing.assert_allclose(ntk_moment(activation, widths, 1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("width", [1, 2, 7, 300])
def test_two_layers_follow_chi_squared_laws(width):
    """Θ ∝ Σ over units that are on of a_i² + g_i²: χ² with twice as many degrees of freedom as units on."""
    np.testing.assert_allclose(ntk_second_moment("relu", (width,)), 1 + 3 / width, rtol=1e-13)
    np.testing.assert_allclose(ntk_second_moment("linear", (width,)), 1 + 1 / width, rtol=1e-13)
    on = np.arange(1, width + 1)
    for order in range(5):
        linear = np.exp(gammaln(width + order) - gammaln(width)) / width**order
        np.testing.assert_allclose(ntk_moment("linear", (width,), order), linear, rtol=1e-10)
        if order > 0:
            powers = binom.pmf(on, width, 0.5) * np.exp(gammaln(on + order) - gammaln(on))
            relu = powers.sum() / (width / 2) ** order
            np.testing.assert_allclose(ntk_moment("relu", (width,), order), relu, rtol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_powers_of_one_contribution_are_those_of_the_output_variance(activation):
    widths = (3, 8, 5)
    for order in range(5):
        expected = finite_width.variance_moment(activation, widths, order)
        for matrix in range(1, 5):
            np.testing.assert_allclose(layer_moment(activation, widths, (matrix,) * order), expected, rtol=1e-10)


@pytest.mark.parametrize(("activation", "widths"), [("relu", (6, 9, 5)), ("linear", (4, 3, 6, 5))])
def test_moments_of_simulated_networks(activation, widths, rng):
    members = 60_000
    t = shares(activation, widths, members, rng)
    theta = t.sum(axis=1)
    plan, ends = ntk_plan(activation, widths), ends_plan(activation, widths)
    np.testing.assert_allclose(plan.ratio, ntk_second_moment(activation, widths), rtol=1e-12)
    np.testing.assert_allclose(ends.ratio, layer_second_moment(activation, widths, 1, len(widths) + 1), rtol=1e-12)
    # 4 standard errors; the mean itself has the exact variance of Θ.
    spread = np.sqrt((plan.ratio - 1) / members)
    assert abs(theta.mean() / len(t[0]) - 1) < 4 * spread
    assert abs(np.mean(theta**2) / np.mean(theta) ** 2 - plan.ratio) < 4 * plan.standard_error(members)
    first, last = t[:, 0], t[:, -1]
    ratio = np.mean(first * last) / (np.mean(first) * np.mean(last))
    assert abs(ratio - ends.ratio) < 4 * ends.standard_error(members)
    # The sample is large enough that contributions without correlation would fail.
    assert ends.ratio - 1 > 8 * ends.standard_error(members)


def test_planned_variances_are_those_of_the_estimates(rng):
    members, repetitions, widths = 400, 500, (8, 10)
    t = shares("relu", widths, members * repetitions, rng).reshape(repetitions, members, 3)
    theta, first, last = t.sum(axis=2), t[..., 0], t[..., -1]
    whole = np.mean(theta**2, axis=1) / np.mean(theta, axis=1) ** 2
    ends = np.mean(first * last, axis=1) / (np.mean(first, axis=1) * np.mean(last, axis=1))
    # A standard deviation from 500 draws: 3.2 %, more for the tails.
    np.testing.assert_allclose(np.std(whole), ntk_plan("relu", widths).standard_error(members), rtol=0.15)
    np.testing.assert_allclose(np.std(ends), ends_plan("relu", widths).standard_error(members), rtol=0.15)


def test_equal_widths_and_the_limit_of_many_layers():
    """The closed sum, and Hanin and Nica's e^(5τ) with the constant ⅓ once depth exceeds width."""
    n, depth = 40, 13
    s, r = 1 + 5 / n, (1 - 1 / n) / (1 + 5 / n)
    distance = np.abs(np.subtract.outer(np.arange(depth), np.arange(depth)))
    expected = s ** (depth - 1) * (1 / 3 + 2 / 3 * np.mean(r**distance))
    np.testing.assert_allclose(ntk_second_moment("relu", [n] * (depth - 1)), expected, rtol=1e-13)
    # At fixed τ = L/n the distance to the continuous formula falls as 1/n: by two, if n doubles.
    x = 6 * 0.5
    limit = np.exp(5 * 0.5) * (1 / 3 + 2 / 3 * 2 * (x - 1 + np.exp(-x)) / x**2)
    coarse, fine = (ntk_second_moment("relu", [n] * (n // 2 - 1)) / limit - 1 for n in (40, 80))
    np.testing.assert_allclose(coarse / fine, 2.0, rtol=0.1)
    # So that e^(5τ) itself, 1.6 times the limit here, would fail.
    assert abs(fine) < 0.15
    assert ntk_second_moment("linear", ()) == 1.0


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: ntk_second_moment("tanh", (4,)), "activation"),
        (lambda: ntk_second_moment("relu", (4, 0)), "widths"),
        (lambda: layer_second_moment("relu", (4,), 0, 1), "first"),
        (lambda: layer_second_moment("relu", (4,), 1, 3), "second"),
        (lambda: layer_moment("relu", (4,), (1, 3)), "matrices"),
        (lambda: ntk_moment("relu", (4,), 5), "order"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
