"""Tests of differences between classifiers: their variances against simulation, and their false alarms."""

import numpy as np
import pytest
from scipy.stats import norm, t

from experiments.paired_tests import Estimate, average, coins, crossed, false_alarms, halves, resampled
from experiments.small_data import inner_folds, relu_tangent_kernels

SHARE = 0.2


def test_the_corrected_variance_is_right_where_its_assumption_is(rng):
    """Differences with correlation test/(train + test): the mean of the squared error is the variance of the mean."""
    j, repeats = 12, 40_000
    common = rng.normal(size=(repeats, 1)) * SHARE**0.5
    differences = common + rng.normal(size=(repeats, j)) * (1 - SHARE) ** 0.5
    found = resampled(differences, 80, 20)
    variance = np.var(differences.mean(axis=1))
    # The relative error of a variance of 40,000 Gaussians is √(2/40,000) = 0.7 %, here at 5 of them.
    assert np.mean(found.error**2) == pytest.approx(variance, rel=0.035)
    naive = resampled(differences, 80, 20, corrected=False)
    assert np.mean(naive.error**2) < 0.3 * variance
    alarms = false_alarms(differences, 80, 20, 0.05)
    assert alarms[0] / repeats == pytest.approx(0.05, abs=5 * (0.05 * 0.95 / repeats) ** 0.5)
    # Independent splits would be right without the correction.
    alarms = false_alarms(rng.normal(size=(repeats, j)), 80, 20, 0.05)
    assert alarms[1] / repeats == pytest.approx(0.05, abs=5 * (0.05 * 0.95 / repeats) ** 0.5)
    assert found.dof[0] == j - 1


@pytest.mark.parametrize("features", [2])
def test_false_alarms_on_fresh_data_of_a_known_population(rng, features):
    """Two nearest-mean classifiers, each blind to half of the features, are equally good; their test must say so.

    Each repetition draws a new data set, so that the level is that for the population. Splits taken as independent
    give several times the level, the corrected test no more than it.
    """
    repeats, n, j, test = 1500, 60, 15, 12
    differences = np.empty((repeats, j))
    for r in range(repeats):
        y = np.arange(n) % 2
        x = rng.normal(size=(n, 2 * features)) + 0.7 * (2 * y[:, None] - 1)
        for s in range(j):
            order = rng.permutation(n)
            held, train = order[:test], order[test:]
            first, second = (x[train][y[train] == label].mean(axis=0) for label in (0, 1))
            score = (x[held] - (first + second) / 2) * (second - first)
            right = [
                np.mean((score[:, part].sum(axis=1) > 0) == y[held]) for part in np.split(np.arange(2 * features), 2)
            ]
            differences[r, s] = right[0] - right[1]
    corrected, independent = false_alarms(differences, n - test, test, 0.05) / repeats
    # 4 standard errors at 5 % are 2.3 %.
    assert corrected < 0.05 + 0.023
    assert independent > 0.15


def test_the_placebo_has_no_difference_and_correlated_splits(rng):
    """Over halvings the mean is zero; over splits of one halving the mean scatters more than independent ones would."""
    y = np.arange(80) % 2
    x = rng.normal(size=(80, 3)) + 0.8 * (2 * y[:, None] - 1)
    kernel = relu_tangent_kernels(x, x, (1,), 0.1)[0]
    found = np.stack([halves(kernel, y, 12, 0.01, rng) for _ in range(300)])
    means = found.mean(axis=1)
    assert abs(means.mean()) < 4 * means.std() / 300**0.5
    assert means.var() > 1.5 * found.var(axis=1, ddof=1).mean() / 12
    alarms = false_alarms(found, 64, 16, 0.05) / 300
    assert alarms[0] < 0.1 < alarms[1]


def test_crossed_errors_hold_in_simulation(rng):
    """Training sets, test examples and both: the variance is right but for C/(rm), on the safe side."""
    r, m, repeats = 10, 60, 4000
    sets, examples = 0.5 * rng.normal(size=(repeats, r, 1)), 1.5 * rng.normal(size=(repeats, 1, m))
    both = rng.normal(size=(repeats, r, m))
    found = crossed(0.3 + sets + examples + both)
    exact = 0.25 / r + 2.25 / m + 1 / (r * m)
    # 5 standard errors of a variance of 4000 repetitions.
    assert np.var(found.mean) == pytest.approx(exact, rel=0.11)
    assert np.mean(found.error**2) == pytest.approx(exact + 1 / (r * m), rel=0.03)
    covered = np.abs(found.mean - 0.3) < t.ppf(0.995, found.dof) * found.error
    assert np.mean(~covered) < 0.01 + 4 * (0.01 / repeats) ** 0.5
    assert np.all((found.dof > r - 1 - 1e-9) & (found.dof < r + m))
    # Without a spread there is nothing to divide by.
    still = crossed(np.zeros((3, 4)))
    assert float(still.error) == 0
    assert float(still.dof) == 2


def test_averages_weigh_and_propagate(rng):
    first, second = rng.normal(1.0, 0.3, size=40_000), rng.normal(3.0, 0.1, size=40_000)
    found = average(
        Estimate(np.array([[1.0], [3.0]]), np.array([[0.3], [0.1]]), np.array([[9.0], [30.0]])), np.array([1.0, 3])
    )
    assert found.mean[0] == 2.5
    assert found.error[0] == pytest.approx((first / 4 + 3 * second / 4).std(), rel=0.02)
    # Welch & Satterthwaite: between the smallest and the sum.
    assert 9 < found.dof[0] < 39


def test_coins_come_out_even_unless_the_test_examples_choose(rng):
    x = rng.normal(size=(60, 3))
    train, test = x[:45], x[45:]
    kernels = [
        (relu_tangent_kernels(train, train, (d,), 0.1)[0], relu_tangent_kernels(test, train, (d,), 0.1)[0])
        for d in (1, 2)
    ]
    folds = inner_folds(np.arange(45) % 3, 3, rng)
    honest, wrong = coins(kernels, folds, (0.01, 1.0, 100.0), 4000, rng)
    assert abs(honest.mean() - 0.5) < norm.ppf(0.9999) * honest.std() / 4000**0.5
    assert wrong.mean() > 0.53
    assert np.all(wrong >= honest)
