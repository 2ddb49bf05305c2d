"""The claim on small data: its power on made-up leads, its controls, and a measurement small enough to run here."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk.small_data import (
    IMAGES,
    LARGEST,
    METHODS,
    OTHERS,
    PAPER,
    SMOKE,
    all_alike,
    assumptions,
    cells,
    claim,
    differences,
    features_win,
    forests_first,
    independent_splits,
    judge,
    measure,
    predict,
    tuned_on_test,
)


def made_up(rng, lead=(0.0, 0.05, 0.03, 0.0), alarms=0.02, independent=0.25, coin=0.5, on_test=0.55) -> xr.Dataset:
    """Evidence as of the smoke tier, with normal errors of the sizes met there: mostly the table's."""
    tasks, error = np.array([1, 4]), np.array([0.013, 0.004])
    mean = np.array(lead) + error[:, None] * rng.normal(size=(2, 4))
    rates = rng.binomial(250, np.clip([alarms, independent], 0, 1), size=(2, 2))
    means = np.array([coin, on_test]) + 0.0015 * rng.normal(size=(2, 2))
    return xr.Dataset(
        {
            "mean": (("set", "other"), mean),
            "error": (("set", "other"), np.broadcast_to(error[:, None], (2, 4)).copy()),
            "dof": (("set", "other"), np.full((2, 4), 19.0)),
            "tasks": ("set", tasks),
            "splits": ("set", [20, 10]),
            "assignments": ("set", [250, 250]),
            "alarms": (("set", "test"), rates),
            "coin": (("set", "tuned"), means),
            "coin_error": (("set", "tuned"), np.full((2, 2), 0.0015)),
            "draws": ("set", [2000, 2000]),
        },
        coords={
            "set": ["wine", "digits"],
            "other": list(OTHERS),
            "test": ["corrected", "independent"],
            "tuned": ["inside", "test"],
        },
    )


def test_the_claim_and_its_rivals_on_what_is_true(rng):
    prediction = predict(SMOKE)
    for _ in range(20):
        data = made_up(rng)
        assert judge(prediction, data).status == "supported"
        for rival in (forests_first, features_win, independent_splits, tuned_on_test):
            assert rival(prediction, data).status == "refuted"
        # Forests at 5 points are far, but not far enough beyond 2 for certainty at this sample.
        assert all_alike(prediction, made_up(rng, lead=(0.0, 0.08, 0.03, 0.0))).status == "refuted"


@pytest.mark.parametrize(
    "change",
    [
        {"lead": (-0.045, 0.05, 0.03, 0.0)},
        {"lead": (0.0, -0.03, 0.03, 0.0)},
        {"lead": (0.0, 0.05, -0.03, 0.0)},
        {"lead": (0.0, 0.05, 0.03, 0.045)},
        {"alarms": 0.25},
        {"coin": 0.55},
    ],
)
def test_each_falsehood_is_refuted(rng, change):
    statuses = {str(judge(predict(SMOKE), made_up(rng, **change)).status) for _ in range(20)}
    assert statuses <= {"refuted", "inconclusive"}
    assert "refuted" in statuses


def test_too_much_noise_supports_nothing(rng):
    data = made_up(rng)
    data["error"] = 10 * data["error"]
    assert judge(predict(SMOKE), data).status == "inconclusive"


def test_rivals_can_be_right(rng):
    """Were forests or networks better, all methods alike, splits independent and tuning harmless, they would say so."""
    prediction = predict(SMOKE)
    assert forests_first(prediction, made_up(rng, lead=(0, -0.05, 0, 0))).status == "supported"
    assert features_win(prediction, made_up(rng, lead=(0, 0, -0.05, 0))).status == "supported"
    assert all_alike(prediction, made_up(rng, lead=(0, 0, 0, 0))).status == "supported"
    assert independent_splits(prediction, made_up(rng, independent=0.04)).status == "supported"
    assert tuned_on_test(prediction, made_up(rng, on_test=0.5)).status == "supported"


def test_the_mean_is_over_tasks(rng):
    data = made_up(rng)
    found = differences(data)
    np.testing.assert_allclose(found.mean, (data["mean"].values[0] + 4 * data["mean"].values[1]) / 5, rtol=1e-12)
    np.testing.assert_allclose(found.error, np.hypot(0.013, 4 * 0.004) / 5, rtol=1e-12)


def test_a_small_measurement_is_judged_and_drawn():
    """Few splits, one size: the accuracies are sane, the controls quiet, and the same key gives the same numbers."""
    config = replace(SMOKE, sizes=(10, 20), splits=4, replicates=3, trees=10, steps=(5, 20), assignments=10, draws=200)
    parts = []
    for cell in cells(config):
        parts.append(measure(config, cell, jax.random.key(5)).expand_dims(set=[cell["set"]]))
    data: Any = xr.concat(parts, "set")
    accuracy = data["accuracy"].sel(set="wine").isel(size=0)
    assert set(accuracy["method"].values) == set(METHODS)
    assert float(accuracy.min()) > 0.85
    # Ten classes and one or two examples of each: far above chance, far from perfect.
    digits = data["accuracy"].sel(set="digits")
    assert float(digits.min()) > 0.2
    assert float(digits.max()) < 0.9
    assert np.all(digits.isel(size=1) > digits.isel(size=0))
    np.testing.assert_array_equal(data["examples"].sel(set="wine").values[:1], [143])
    np.testing.assert_array_equal(data["tasks"], [1, 2])
    assert float(np.abs(data["coin"].sel(tuned="inside") - 0.5).max()) < 0.08
    np.testing.assert_allclose(
        data["mean"].sel(set="digits").values,
        data["task_mean"].sel(set="digits").mean("size").values,
        atol=1e-12,
    )
    again = measure(config, {"set": "wine"}, jax.random.key(5))
    xr.testing.assert_identical(again, parts[0].isel(set=0, drop=True))


def test_assumptions_speak_up():
    for config in (SMOKE, PAPER):
        assert all(a.holds for a in assumptions(config))
    for change in ({"sizes": (10, 1280)}, {"sets": ("digits",)}, {"sets": ("wine",)}, {"replicates": 5}):
        assert not all(a.holds for a in assumptions(replace(SMOKE, **change)))
    assert set(LARGEST) == set(IMAGES)


def test_the_record_is_complete():
    assert claim.kind == "empirical"
    assert len(claim.rivals) == 5
    assert {cell["set"] for cell in claim.cells(PAPER)} == {"wine", "breast-cancer", "digits", "cifar10"}
