"""Risks of linear regression, against simulation, each other, and their limits."""

import mpmath
import numpy as np
import pytest

from theory.regression import (
    best_ridge,
    least_squares_limit,
    least_squares_risk,
    least_squares_variance,
    ridge_limit,
    ridge_risk,
)

KNOWN = {"signal": 2.0, "noise": 0.5}


def draws(n, p, members, rng, penalty=None):
    """|β̂ − β|² of least squares by NumPy's own solver, or of ridge by stacking √μ I under the inputs."""
    beta = np.zeros(p)
    # Any direction: the inputs are isotropic.
    beta[0] = np.sqrt(KNOWN["signal"])
    found = np.empty(members)
    for i in range(members):
        x = rng.standard_normal((n, p))
        y = x @ beta + np.sqrt(KNOWN["noise"]) * rng.standard_normal(n)
        if penalty is not None:
            x, y = np.vstack([x, np.sqrt(penalty) * np.eye(p)]), np.concatenate([y, np.zeros(p)])
        found[i] = np.sum((np.linalg.lstsq(x, y)[0] - beta) ** 2)
    return found


@pytest.mark.parametrize(("n", "p"), [(16, 4), (5, 14)])
def test_least_squares_against_draws(n, p, rng):
    """Mean within 4 standard errors and variance within 15 %: a lost −1 in d − 1 or a factor ½ would be further off."""
    found = draws(n, p, 6000, rng)
    risk, variance = least_squares_risk(n, p, **KNOWN), least_squares_variance(n, p, **KNOWN)
    error = np.sqrt(variance / found.size)
    assert abs(found.mean() - risk) < 4 * error
    assert abs(least_squares_limit(p / n, **KNOWN) - risk) > 6 * error
    # A variance from 6000 draws scatters by √((κ − 1)/6000), for a kurtosis κ of about 10: 4 % each.
    np.testing.assert_allclose(found.var(), variance, rtol=0.15)


def test_variance_from_moments_of_the_inverse_wishart_law():
    """2 E tr W⁻² + Var tr W⁻¹ from the textbook covariances of W⁻¹, in exact fractions."""
    for n, p in ((9, 1), (11, 4), (30, 25)):
        d = mpmath.mpf(n - p)
        diagonal = 2 / ((d - 1) ** 2 * (d - 3))
        across = 2 / (d * (d - 1) ** 2 * (d - 3))
        off = 1 / (d * (d - 1) * (d - 3))
        of_trace = p * diagonal + p * (p - 1) * across
        of_square = p * (diagonal + 1 / (d - 1) ** 2) + p * (p - 1) * off
        exact = float(2 * of_square + of_trace)
        # The same in floating point.
        np.testing.assert_allclose(least_squares_variance(n, p, signal=0.0, noise=1.0), exact, rtol=1e-13)
        # Beyond interpolation inputs and examples change places.
        np.testing.assert_allclose(least_squares_variance(p, n, signal=0.0, noise=1.0), exact, rtol=1e-13)


def test_bias_and_its_variance_are_those_of_a_random_subspace():
    """1 − Beta(n/2, (p−n)/2)."""
    n, p = 5, 12
    a, b = mpmath.mpf(n) / 2, mpmath.mpf(p - n) / 2
    variance = float(a * b / ((a + b) ** 2 * (a + b + 1)))
    assert least_squares_risk(n, p, signal=3.0, noise=0.0) == pytest.approx(3 * (1 - 5 / 12), rel=1e-14)
    np.testing.assert_allclose(least_squares_variance(n, p, signal=3.0, noise=0.0), 9 * variance, rtol=1e-13)


def test_where_the_moments_end():
    n = 10
    for p in range(1, 20):
        assert np.isfinite(least_squares_risk(n, p, **KNOWN)) == (abs(n - p) > 1)
        assert np.isfinite(least_squares_variance(n, p, **KNOWN)) == (abs(n - p) > 3)
    assert least_squares_risk(n, n, signal=1.0, noise=0.0) == 0


@pytest.mark.parametrize(("n", "p"), [(8, 5), (6, 6), (5, 9)])
def test_ridge_against_draws(n, p, rng):
    penalty = 1.3
    found = draws(n, p, 3000, rng, penalty)
    error = found.std() / np.sqrt(found.size)
    exact = ridge_risk(n, p, **KNOWN, penalty=penalty)
    assert error < 0.02 * exact
    assert abs(found.mean() - exact) < 4 * error


@pytest.mark.parametrize(("n", "p"), [(20, 8), (8, 20)])
def test_ridge_without_penalty_is_least_squares(n, p):
    exact = least_squares_risk(n, p, **KNOWN)
    # To first order in the penalty.
    np.testing.assert_allclose(ridge_risk(n, p, **KNOWN, penalty=1e-7), exact, rtol=1e-6)


@pytest.mark.parametrize(("n", "p"), [(12, 5), (7, 7), (6, 15)])
def test_the_best_penalty_is_a_minimum_and_the_bayes_risk(n, p):
    best = best_ridge(p, **KNOWN)
    at = ridge_risk(n, p, **KNOWN, penalty=best)
    for factor in (0.9, 1.1):
        assert ridge_risk(n, p, **KNOWN, penalty=factor * best) > at
    # Flat to first order: a 1e-3 step in the penalty moves a minimum by 1e-6 only.
    nearby = ridge_risk(n, p, **KNOWN, penalty=1.001 * best)
    assert abs(nearby / at - 1) < 1e-6


def test_with_the_best_penalty_the_risk_rises_through_interpolation():
    n = 12
    risks = [ridge_risk(n, p, **KNOWN, penalty=best_ridge(p, **KNOWN)) for p in range(4, 24, 2)]
    assert np.all(np.diff(risks) > 0)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_limits_are_approached_as_one_over_n(ratio):
    """The gap halves when n doubles, to the next order."""
    limit = ridge_limit(ratio, **KNOWN, penalty=0.2)
    gaps = [ridge_risk(n, round(n * ratio), **KNOWN, penalty=0.2 * n) - limit for n in (20, 40)]
    assert 1.6 < gaps[0] / gaps[1] < 2.4
    if ratio != 1:
        plain = least_squares_limit(ratio, **KNOWN)
        np.testing.assert_allclose(least_squares_risk(10**7, round(10**7 * ratio), **KNOWN), plain, rtol=1e-6)
        np.testing.assert_allclose(ridge_limit(ratio, **KNOWN, penalty=1e-9), plain, rtol=1e-7)


def test_the_ridge_limit_is_an_integral_over_the_marchenko_pastur_law():
    ratio, penalty = 0.6, 0.3
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    # Chebyshev nodes of the second kind absorb the square-root edges: exponential convergence.
    angle = (np.arange(400) + 0.5) * np.pi / 400
    s = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
    weights = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * ratio * s) * np.pi / 400
    terms = (KNOWN["signal"] * penalty**2 + KNOWN["noise"] * ratio * s) / (s + penalty) ** 2
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(ridge_limit(ratio, **KNOWN, penalty=penalty), weights @ terms, rtol=1e-12)


def test_wrong_arguments_are_named():
    for call, name in (
        (lambda: least_squares_risk(0, 3, **KNOWN), "samples"),
        (lambda: least_squares_variance(3, 0, **KNOWN), "features"),
        (lambda: least_squares_risk(3, 9, signal=-1.0, noise=0.0), "signal"),
        (lambda: ridge_risk(3, 9, signal=1.0, noise=-1.0, penalty=1.0), "noise"),
        (lambda: ridge_risk(3, 9, **KNOWN, penalty=0.0), "penalty"),
        (lambda: ridge_limit(0.5, **KNOWN, penalty=-1.0), "penalty"),
        (lambda: least_squares_limit(0.0, **KNOWN), "ratio"),
        (lambda: best_ridge(3, signal=0.0, noise=1.0), "signal"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
