"""Condition numbers by depth: eigenvalues in NumPy, and the asymptotic laws from the recursions at great depth."""

import numpy as np
import pytest

from theory.architecture import MLP
from theory.kernels import kernels_by_depth
from theory.kernels.conditioning import condition_numbers, deep_limit, exchangeable_condition_number
from theory.mean_field import critical_weight_variance, fixed_point

POINTS = 4
# Inputs of one length at right angles.
X = 2.0 * np.eye(POINTS)
CRITICAL_ERF = critical_weight_variance("erf", 0.1)


def exchangeable(mlp):
    kernels = kernels_by_depth(mlp, X)
    return [exchangeable_condition_number(k[:, 0, 0], k[:, 0, 1], POINTS) for k in kernels]


def test_condition_numbers_are_ratios_of_eigenvalues(rng):
    mlp, x = MLP(3, "erf", 1.5, 0.1), rng.normal(size=(4, 2))
    found = condition_numbers(mlp, x)
    for kappa, kernels in zip(found, kernels_by_depth(mlp, x), strict=True):
        assert kappa.shape == (4,)
        values = np.linalg.eigvalsh(np.asarray(kernels[3]))
        np.testing.assert_allclose(kappa[3], values[-1] / values[0], rtol=1e-9)
    for general, closed in zip(condition_numbers(mlp, X), exchangeable(mlp), strict=True):
        np.testing.assert_allclose(general, closed, rtol=1e-10)
    # More points than features: the linear model's kernel is singular.
    assert not found.ntk[0] < 1e12


def test_ordered_networks_lose_all_differences_at_the_rate_l_chi_to_the_l():
    mlp = MLP(80, "erf", 0.8, 0.1)
    chi = fixed_point(mlp).chi_1
    assert chi < 1
    plain, tangent = (np.log(kappa) for kappa in exchangeable(mlp))
    layers = np.array([40, 80])
    # Θ: κ l χ₁^l is constant up to relative order 1/l; K: κ χ₁^l is, without the l.
    rates = np.diff(tangent[layers] + np.log(layers))[0] / 40, np.diff(plain[layers])[0] / 40
    # A missing factor l would shift the rate by ln(2)/40, which is 5 % of it.
    np.testing.assert_allclose(rates, -np.log(chi), rtol=0.005)
    assert deep_limit(mlp, POINTS) == np.inf


def test_chaotic_networks_see_orthogonal_inputs():
    mlp = MLP(60, "erf", 4.0, 0.1)
    chi = fixed_point(mlp).chi_1
    assert chi > 1
    excess = np.log(exchangeable(mlp)[1] - 1.0)
    np.testing.assert_allclose(np.diff(excess[[40, 60]]) / 20, -np.log(chi), rtol=1e-3)
    assert deep_limit(mlp, POINTS) == 1


@pytest.mark.parametrize(("mlp", "limit"), [(MLP(4000, "relu"), 7 / 3), (MLP(4000, "erf", CRITICAL_ERF, 0.1), 3.0)])
def test_critical_networks_settle_between(mlp, limit):
    kappa = exchangeable(mlp)[1]
    # Approached as ln(l)/l: 0.002 at the end, and half of what it was at half the depth but for the logarithm.
    gaps = np.abs(kappa[[2000, 4000]] / limit - 1)
    assert gaps[1] < 0.01
    assert 0.4 < gaps[1] / gaps[0] < 0.7
    assert deep_limit(mlp, POINTS) == pytest.approx(limit, rel=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((1.0, 0.5, 1), "points must be at least 2, got 1"), ((1.0, 1.0, 3), "beside"), ((1.0, -0.1, 3), "beside")],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        exchangeable_condition_number(*arguments)
    with pytest.raises(ValueError, match="points"):
        deep_limit(MLP(1), 1)
