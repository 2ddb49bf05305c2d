"""The claim on learning curves: its targets, its sum rule, its margins, and what its judge can tell apart."""

import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import learning_curve
from experiments.claims.ntk.learning_curve import (
    PAPER,
    SMOKE,
    Config,
    harmonics,
    learnabilities,
    measure,
    network,
    predict,
    regressions,
)
from experiments.regression import sphere_points
from theory.architecture import MLP

SMALL = Config(depths=(1,), samples=(32, 64), trials=(60, 30))


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_the_equations_are_accurate_enough_and_margins_end_half_way(config):
    assert all(assumption.holds for assumption in learning_curve.assumptions(config))
    prediction = predict(config)
    for rival in learning_curve.claim.rivals:
        assert rival.predict is not None
        other = rival.predict(config)
        for name in ("test", "train"):
            margin, distance = prediction[f"{name}_margin"].values, abs(other[name] - prediction[name]).values
            assert np.all(margin <= 0.5 * distance * (1 + 1e-12))
    assert config.samples == tuple(sorted(config.samples))


def test_targets_are_orthonormal_harmonics(rng):
    d, count = 7, 200_000
    x = sphere_points(rng, (count,), d)
    f = harmonics(x)
    # Four standard errors; products of three coordinates have a kurtosis of about 10.
    np.testing.assert_allclose(f.T @ f / count, np.eye(3), atol=4 * 3 / count**0.5)
    np.testing.assert_allclose(f.mean(axis=0), 0, atol=4 / count**0.5)
    # Homogeneous of their degree, and without a Laplacian: their mean over a small sphere is the value at its centre.
    centre, offsets = x[0], x[:5000]
    mirrored = np.concatenate([offsets, -offsets])
    for degree in (1, 2, 3):
        np.testing.assert_allclose(harmonics(-2 * x[:5])[:, degree - 1], (-2) ** degree * f[:5, degree - 1])
    means = harmonics(centre + 0.1 * mirrored)
    np.testing.assert_allclose(means.mean(axis=0), f[0], atol=0.1 * 4 * means.std(axis=0).max() / 100)


def test_learnabilities_of_all_functions_sum_to_the_examples(rng):
    found = learnabilities(5, network(2), 11, rng)
    assert found.shape == (32,)
    assert found.sum() == pytest.approx(11, rel=1e-12)
    assert found.min() > -1e-12
    assert found.max() < 1 + 1e-12
    # The constant function, first in order, is learned before the parity of all coordinates, the last.
    assert found[0] > 0.5 > found[-1]


def test_without_learning_errors_are_the_power_of_the_labels(rng):
    """A ridge of 10⁶ leaves f̂ = 0, and the labels' mean square as the train error."""
    config = dataclasses.replace(SMALL, ridges=(1e6,))
    errors, power_test, power_train = regressions(config, network(1), 32, 3, rng)
    # What is learned all the same is of the order of the inverse ridge.
    np.testing.assert_allclose(errors[:, 0, 0], power_test + config.noise, rtol=1e-5)
    np.testing.assert_allclose(errors[:, 1, 0], power_train, rtol=1e-5)


def test_a_linear_network_is_ridge_regression_on_coordinates():
    """The regression code with the kernel x·x', against least squares on the 20 coordinates."""
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    config = dataclasses.replace(SMALL, ridges=(0.3,), power=(1.0, 0.0, 0.0), draws=1, noise=0.1)

    def linear(net, versine):
        return 1 - versine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_curve, "relu_ntk", linear)
        errors, _, _ = regressions(config, MLP(1, "relu"), 40, 1, rng)
    x, fresh = sphere_points(again, (1, 40), 20)[0], sphere_points(again, (1, config.fresh), 20)[0]
    y = x.sum(axis=1) + 0.1**0.5 * again.standard_normal(40)
    beta = np.linalg.solve(x.T @ x + 0.3 * np.eye(20), x.T @ y)
    assert errors[0, 0, 0] == pytest.approx(np.mean((fresh @ beta - fresh.sum(axis=1)) ** 2) + 0.1, rel=1e-10)
    assert errors[0, 1, 0] == pytest.approx(np.mean((x @ beta - y) ** 2), rel=1e-10)


def made_up(prediction, shift=1.0):
    """A measurement that follows a prediction, with errors of a fifteenth of the margins."""
    return xr.Dataset(
        {
            "test": prediction["test"] * shift,
            "test_error": prediction["test_margin"] / 15,
            "train": prediction["train"] * shift,
            "train_error": prediction["train_margin"] / 15,
            "sum": prediction["sum"],
            "trials": 100,
        }
    ).assign(trials=(("depth", "samples"), np.full(prediction["sum"].shape, 100)))


def test_truth_is_supported_and_falsehood_refuted():
    prediction = predict(SMOKE)
    assert learning_curve.judge(prediction, made_up(prediction)).status == "supported"
    assert learning_curve.judge(prediction, made_up(prediction, 1.07)).status == "refuted"
    for rival in learning_curve.claim.rivals:
        assert rival.predict is not None
        assert learning_curve.judge(rival.predict(SMOKE), made_up(prediction)).status == "refuted"
        assert learning_curve.judge(prediction, made_up(rival.predict(SMOKE))).status == "refuted"
    broken = made_up(prediction).copy(deep=True)
    broken["sum"].values[0, 0] += 1e-6
    assert learning_curve.judge(prediction, broken).status == "refuted"


def test_a_seed_repeats_itself():
    cell = {"depth": 1, "samples": 32}
    first = measure(SMALL, cell, jax.random.key(1))
    xr.testing.assert_identical(first, measure(SMALL, cell, jax.random.key(1)))
    assert np.all(first["test"].values != measure(SMALL, cell, jax.random.key(2))["test"].values)
    assert float(first["sum"]) == pytest.approx(64, rel=1e-12)
