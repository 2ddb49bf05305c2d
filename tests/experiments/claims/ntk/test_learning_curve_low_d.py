"""The claim on low dimensions: what it measures, and that its judge can tell 5/3 from 2 either way."""

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import learning_curve_low_d as low_d
from experiments.claims.ntk.learning_curve_low_d import (
    MARGIN,
    NETWORK,
    PAPER,
    SMOKE,
    Config,
    interpolated,
    measure,
    noise_factor,
    predict,
)
from experiments.regression import relu_ntk, sphere_points, versines

SMALL = Config(dimensions=(2, 10), degrees=(800, 24), samples=(96,), trials=(6,))


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_the_equations_err_little_but_for_their_assumption(config):
    assert all(assumption.holds for assumption in low_d.assumptions(config))
    prediction, truth = predict(config), interpolated(config)
    circle = prediction["factor"].sel(dimension=2).values
    np.testing.assert_allclose(circle, 2, atol=0.01)
    # Half the distance between the claim and its rival.
    assert np.all(0.5 * (circle - truth["factor"].sel(dimension=2).values) >= MARGIN)
    np.testing.assert_allclose(truth["factor"].sel(dimension=2), 5 / 3, atol=0.01)
    np.testing.assert_array_equal(truth["factor"].sel(dimension=10), prediction["factor"].sel(dimension=10))


def test_the_factor_is_the_error_on_drawn_noise():
    """The mean over drawn labels of the squared error on a new noisy label, for one data set."""
    d, n, fresh = 3, 30, 40
    found = noise_factor(d, n, fresh, np.random.default_rng(8))
    rng = np.random.default_rng(8)
    x, test = sphere_points(rng, (n,), d), sphere_points(rng, (fresh,), d)
    labels = rng.standard_normal((n, 20_000))
    predicted = relu_ntk(NETWORK, versines(test, x)) @ np.linalg.solve(relu_ntk(NETWORK, versines(x, x)), labels)
    errors = np.mean((predicted - rng.standard_normal(predicted.shape)) ** 2, axis=0)
    assert abs(errors.mean() - found) < 4 * errors.std() / len(errors) ** 0.5


def made_up(prediction):
    return xr.Dataset(
        {
            "factor": prediction["factor"],
            "error": 0 * prediction["factor"] + 0.003,
            "trials": xr.full_like(prediction["factor"], 50, dtype=int),
        }
    )


def test_the_judge_tells_both_ways():
    equations, lines = predict(SMOKE), interpolated(SMOKE)
    (rival,) = low_d.claim.rivals
    assert rival.judge is not None
    assert low_d.judge(equations, made_up(equations)).status == "supported"
    assert rival.judge(lines, made_up(equations)).status == "refuted"
    assert low_d.judge(equations, made_up(lines)).status == "refuted"
    verdict = rival.judge(lines, made_up(lines))
    assert verdict.status == "supported"
    assert "1.000 at d = 10" in verdict.reason
    # Equations that fail in ten dimensions too are not what the rival says.
    assert rival.judge(lines, made_up(lines.assign(factor=lines["factor"] * 5 / 6))).status == "refuted"


def test_a_seed_repeats_itself():
    first = measure(SMALL, {"dimension": 2, "samples": 96}, jax.random.key(1))
    xr.testing.assert_identical(first, measure(SMALL, {"dimension": 2, "samples": 96}, jax.random.key(1)))
    other = measure(SMALL, {"dimension": 2, "samples": 96}, jax.random.key(2))
    assert float(first["factor"]) != float(other["factor"])
    for found in (first, other):
        assert abs(float(found["factor"]) - 5 / 3) < 5 * float(found["error"]) + 0.01
