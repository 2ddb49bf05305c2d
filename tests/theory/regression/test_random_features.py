"""Chosen and random features, against simulation and an independent derivation."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import root_scalar

from theory.quadrature import trapezoid
from theory.regression import (
    RELU,
    Nonlinearity,
    chosen_features_risk,
    chosen_features_variance,
    least_squares_risk,
    random_features_risk,
)


def by_conditioning(features, samples, *, penalty, linear, nonlinear, noise, activation):
    """The same risk by another route.

    Given the directions W, features are equivalent to Gaussian ones with covariance Σ = μ_1² WWᵀ/d + μ_*², and the
    target to a linear function of them plus an independent remainder; ridge regression on Gaussian inputs follows the
    eigenlearning equations with the eigenvalues of Σ, which are those of the Marchenko–Pastur law.
    """
    low, high = (1 - np.sqrt(features)) ** 2, (1 + np.sqrt(features)) ** 2
    angle = (np.arange(4000) + 0.5) * np.pi / 4000
    s = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
    # Non-zero eigenvalues of WWᵀ/d, min(1, N/d) of them for each dimension, and N/d in all.
    weights = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * np.pi * s) * np.pi / 4000
    zeros = features - weights.sum()
    learnable, rest = activation.linear**2 * s, activation.residual
    eigenvalues = learnable + rest

    def balance(log_kappa):
        kappa = np.exp(log_kappa)
        learned = weights @ (eigenvalues / (eigenvalues + kappa)) + zeros * rest / (rest + kappa)
        return learned + samples * features * penalty / kappa - samples

    kappa = np.exp(root_scalar(balance, bracket=(-40, 40), xtol=1e-14).root)
    squares = weights @ (eigenvalues / (eigenvalues + kappa)) ** 2 + zeros * (rest / (rest + kappa)) ** 2
    unexplained = linear * (1 - weights @ (learnable / eigenvalues)) + nonlinear + noise
    bias = linear * kappa**2 * (weights @ (learnable / (eigenvalues * (eigenvalues + kappa) ** 2)))
    return samples / (samples - squares) * (unexplained + bias) - noise


@pytest.mark.parametrize("features", [0.4, 1.0, 2.0, 2.5, 9.0])
@pytest.mark.parametrize("penalty", [1e-4, 0.01, 0.7])
@pytest.mark.parametrize("activation", [RELU, Nonlinearity(linear=0.8, residual=0.05)])
def test_the_closed_form_agrees_with_an_independent_derivation(features, penalty, activation):
    known: dict[str, Any] = {
        "linear": 1.3,
        "nonlinear": 0.2,
        "noise": 0.4,
        "penalty": penalty,
        "activation": activation,
    }
    # Rounding, in a rational function whose terms cancel to three digits.
    np.testing.assert_allclose(
        random_features_risk(features, 2.0, **known), by_conditioning(features, 2.0, **known), rtol=1e-9
    )


def test_moments_of_relu():
    # The trapezoidal rule is exact to a part in 10⁴ at a kink, and these are exact to its square.
    nodes, weights = trapezoid(12.0, 400)
    values = np.maximum(nodes, 0)
    first, linear, square = weights @ values, weights @ (nodes * values), weights @ values**2
    assert linear == pytest.approx(RELU.linear, rel=1e-5)
    assert square - first**2 - linear**2 == pytest.approx(RELU.residual, rel=1e-5)


def test_without_penalty_it_diverges_at_interpolation_alone():
    known: dict[str, Any] = {"linear": 1.0, "noise": 0.5, "penalty": 0.0}
    assert random_features_risk(2.0, 2.0, **known) == np.inf
    near = [random_features_risk(2.0 + step, 2.0, **known) for step in (-0.1, -0.01, 0.01, 0.1)]
    assert near[1] > 5 * near[0] > 0
    assert near[2] > 5 * near[3] > 0
    # A small penalty is none, away from the peak.
    for features in (1.0, 4.0):
        small = random_features_risk(features, 2.0, linear=1.0, noise=0.5, penalty=1e-10)
        assert small == pytest.approx(random_features_risk(features, 2.0, **known), rel=1e-6)


def test_infinitely_many_features_or_examples():
    """Nothing is learned at an infinite penalty; all but the nonlinear part is for n ≫ N ≫ d."""
    known: dict[str, Any] = {"linear": 1.0, "nonlinear": 0.3, "noise": 0.5}
    assert random_features_risk(3.0, 2.0, **known, penalty=1e8) == pytest.approx(1.3, rel=1e-6)
    assert random_features_risk(1e3, 1e6, **known, penalty=1e-8) == pytest.approx(0.3, rel=0.02)


def chosen_draws(n, p, beta, noise, members, rng):
    x = rng.standard_normal((members, n, beta.size))
    y = x @ beta + np.sqrt(noise) * rng.standard_normal((members, n))
    found = np.stack([np.linalg.pinv(a[:, :p]) @ b for a, b in zip(x, y, strict=True)])
    return np.sum((found - beta[:p]) ** 2, axis=1) + np.sum(beta[p:] ** 2)


@pytest.mark.parametrize(("n", "p"), [(14, 4), (5, 15)])
def test_chosen_features_against_draws(n, p, rng):
    beta = 1 / np.arange(1.0, 21)
    used, rest = np.sum(beta[:p] ** 2), np.sum(beta[p:] ** 2)
    found = chosen_draws(n, p, beta, 0.1, 4000, rng)
    error = np.sqrt(chosen_features_variance(n, used, rest, p, noise=0.1) / found.size)
    assert abs(found.mean() - chosen_features_risk(n, used, rest, p, noise=0.1)) < 4 * error
    # A kurtosis of about 10 makes a variance from 4000 draws scatter by 5 %.
    np.testing.assert_allclose(found.std() / np.sqrt(found.size), error, rtol=0.15)


def test_choosing_all_is_plain_least_squares():
    whole = least_squares_risk(10, 30, signal=2.0, noise=0.3)
    assert chosen_features_risk(10, 2.0, 0.0, 30, noise=0.3) == whole


def test_wrong_arguments_are_named():
    for call, name in (
        (lambda: random_features_risk(0.0, 1.0, penalty=0.1, linear=1.0), "features"),
        (lambda: random_features_risk(1.0, -1.0, penalty=0.1, linear=1.0), "samples"),
        (lambda: random_features_risk(1.0, 1.0, penalty=-0.1, linear=1.0), "penalty"),
        (lambda: random_features_risk(1.0, 1.0, penalty=0.1, linear=1.0, noise=-1.0), "noise"),
        (lambda: chosen_features_risk(5, 1.0, -1.0, 2, noise=0.1), "left_out"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
