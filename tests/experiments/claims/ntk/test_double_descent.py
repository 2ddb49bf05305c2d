"""The claim on double descent: its sizes, its regression, and its power."""

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import double_descent
from experiments.claims.ntk.double_descent import PAPER, SMOKE, Config, claim, judge, measure, predict
from experiments.verdict import decide

SMALL = Config(samples=(8,), ratios=(0.25, 2.0), members=(400, 600), ridge_members=(300, 300))


def truth(config, rng=None):
    """A measurement that the theory itself would give, with its noise or without."""
    prediction = predict(config)
    shape = prediction["risk"].shape
    risk = prediction["risk"].where(prediction["members"] > 0, 0.0).values
    error = prediction["error"].where(prediction["members"] > 0, 0.0).values
    best = prediction["ridge_risk"].values
    # A fluctuation of |β̂ − β|² in p dimensions, by its χ² approximation.
    ridge_error = best * np.sqrt(2 / prediction["features"].values / np.array(config.ridge_members))
    normal = np.zeros((2, *shape)) if rng is None else rng.standard_normal((2, *shape))
    best = best + ridge_error * normal[1]
    dims = ("samples", "ratio")
    return xr.Dataset(
        {
            "risk": (dims, risk + error * normal[0]),
            "members": (dims, prediction["members"].values),
            "ridge": ((*dims, "penalty"), best[..., None] * np.array([1.2, 1.0, 1.2])),
            "ridge_error": ((*dims, "penalty"), np.repeat(ridge_error[..., None], 3, axis=-1)),
            "excess_error": ((*dims, "penalty"), np.repeat(ridge_error[..., None], 3, axis=-1)),
            "ridge_members": (dims, np.broadcast_to(config.ridge_members, shape)),
        },
        coords={name: prediction[name].values for name in dims} | {"penalty": ["without p", "best", "fourfold"]},
    )


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_in_the_domain_the_truth_is_supported_and_each_rival_refuted(config, rng):
    """Margins end half-way to each rival."""
    assert all(assumption.holds for assumption in double_descent.assumptions(config))
    prediction = predict(config)
    measured = prediction["members"].values > 0
    measurement = truth(config, rng)
    assert judge(prediction, truth(config)).status == "supported"
    assert judge(prediction, measurement).status == "supported"
    for rival in claim.rivals:
        other = rival.predict(config) if rival.predict else prediction
        assert (rival.judge or judge)(other, measurement).status == "refuted", rival.name
        for name, margin in (("risk", "margin"), ("ridge_risk", "ridge_margin")):
            distance = np.abs(other[name].values[measured] - prediction[name].values[measured])
            different = distance > 1e-9
            assert np.all(prediction[margin].values[measured][different] <= 0.5 * distance[different] * (1 + 1e-12))


def test_a_config_too_close_to_the_peak_or_too_small_is_out_of_domain():
    close = Config(samples=(16,), ratios=(0.75, 2.0), members=(10**6, 10**6), ridge_members=(10, 10))
    few = Config(samples=(16,), ratios=(0.25, 2.0), members=(100, 100), ridge_members=(10, 10))
    assert [a.holds for a in double_descent.assumptions(close)] == [True, False, True]
    assert [a.holds for a in double_descent.assumptions(few)] == [True, True, False]


def test_a_world_that_is_a_rival_is_refuted_by_the_claim():
    measurement, prediction = truth(SMOKE), predict(SMOKE)
    for index in range(3):
        other = double_descent._with_risk(SMOKE, index)["risk"]
        moved = measurement.assign(risk=other.where(prediction["members"] > 0, 0.0))
        assert judge(prediction, moved).status == "refuted"
    # A risk with a peak at p = n under the best penalty.
    bump = measurement["ridge"] * xr.where(measurement["ratio"] == 1, 3.0, 1.0)
    assert judge(prediction, measurement.assign(ridge=bump)).status == "refuted"
    # A best penalty that does not win.
    flat = measurement["ridge"].sel(penalty="best", drop=True) * xr.ones_like(measurement["penalty"], dtype=float)
    losing = decide(double_descent.best_penalty_wins(measurement.assign(ridge=flat)), margin_source="none")
    assert losing.status != "supported"


@pytest.mark.parametrize("p", [3, 9])
def test_regression_against_numpys_own(p, rng):
    inputs, labels = rng.standard_normal((4, 6, p)), rng.standard_normal((4, 6))
    plain, ridge = double_descent._regress(inputs, labels, 0.0), double_descent._regress(inputs, labels, 0.8)
    for x, y, a, b in zip(inputs, labels, plain, ridge, strict=True):
        # Rounding, times the condition number of a Gram matrix.
        np.testing.assert_allclose(a, np.linalg.lstsq(x, y)[0], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(b, np.linalg.solve(x.T @ x + 0.8 * np.eye(p), x.T @ y), rtol=1e-9, atol=1e-11)


def test_measurement_repeats_itself_and_differs_between_keys():
    cell = {"samples": 8, "ratio": 2.0}
    first = measure(SMALL, cell, jax.random.key(1))
    xr.testing.assert_identical(first, measure(SMALL, cell, jax.random.key(1)))
    assert float(first["risk"]) != float(measure(SMALL, cell, jax.random.key(2))["risk"])
    assert int(first["members"]) == 600
    assert int(first["ridge_members"]) == 300


def test_measurement_is_near_the_theory_and_its_errors_are_the_scatter():
    """40 small ensembles: means within 4 standard errors, ridge errors within 30 % of the scatter."""
    for ratio, place in ((0.25, 0), (2.0, 1)):
        found = [measure(SMALL, {"samples": 8, "ratio": ratio}, jax.random.key(seed)) for seed in range(40)]
        prediction = predict(SMALL).isel(samples=0, ratio=place)
        best = [float(f["ridge"].sel(penalty="best")) for f in found]
        errors = [float(f["ridge_error"].sel(penalty="best")) for f in found]
        # 40 ensembles give a standard deviation to 11 %.
        np.testing.assert_allclose(np.std(best), np.mean(errors), rtol=0.3)
        assert abs(np.mean(best) - float(prediction["ridge_risk"])) < 4 * np.mean(errors) / np.sqrt(40)
        risks = [float(f["risk"]) for f in found]
        assert abs(np.mean(risks) - float(prediction["risk"])) < 4 * float(prediction["error"]) / np.sqrt(40)
