"""The claim on the kernel's change for ReLU: its ensembles, its margins and its power."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import drift_relu
from experiments.claims.ntk.drift_relu import PAPER, SMOKE, TARGETS, claim, judge, measure, predict
from theory.kernels.relu_drift import relu_drift


def made_up(config, rng, *, amplitude=1.0, power=0.5, variance=1.0, integration=1e-4):
    """Changes that follow the law, or not, with orders beyond it and the noise of the planned ensembles."""
    n = np.array(config.widths, float)
    members = config.units / n
    found = {}
    for target, third in zip(TARGETS, (1.2, -2.0), strict=True):
        law = relu_drift(target)
        rate = amplitude * law.rate * n ** (0.5 - power) - law.next_order / law.distance * n**-0.5 + third / n
        # Given f_0 the relative spread is about 3 n^-¼; variances and numbers of lost units have one of their own.
        draws = rng.standard_normal((3, len(n)))
        error = 3 * law.rate * n**-0.25 / np.sqrt(members)
        values = {
            "rate": (rate + error * draws[0], error),
            "variance": (
                variance * law.variance / law.distance * (1 + 1 / np.sqrt(n) + 8 * n**-0.25 * draws[1] / members**0.5),
                law.variance / law.distance * 8 * n**-0.25 / members**0.5,
            ),
            "lost": (
                law.lost / law.distance * (1 - 0.5 / np.sqrt(n) + 3 * n**-0.25 * draws[2] / members**0.5),
                law.lost / law.distance * 3 * n**-0.25 / members**0.5,
            ),
        }
        for name, (value, spread) in values.items():
            found.setdefault(name, []).append(value)
            found.setdefault(f"{name}_error", []).append(spread)
    return xr.Dataset(
        {name: (("target", "width"), np.array(rows)) for name, rows in found.items()}
        | {"integration": ("width", np.full(len(n), integration)), "members": ("width", members.astype(int))},
        coords={"width": list(config.widths), "target": list(TARGETS)},
    )


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_assumptions_hold_and_can_fail(config):
    assert all(assumption.holds for assumption in drift_relu.assumptions(config))
    assert not all(assumption.holds for assumption in drift_relu.assumptions(replace(config, units=config.units // 64)))
    assert not all(assumption.holds for assumption in drift_relu.assumptions(replace(config, time=1.0)))


def test_margins_end_half_way_to_the_nearest_rival():
    prediction = predict(SMOKE)
    for name in ("rate", "variance", "lost", "slope"):
        truth, margin = (prediction[column].values for column in (name, f"{name}_margin"))
        for rival in claim.rivals:
            assert rival.predict is not None
            distance = np.abs(rival.predict(SMOKE)[name].values - truth)
            # A hundredth or less is none.
            assert np.all((margin <= 0.5 * distance * (1 + 1e-9)) | (distance < 1e-2 * np.abs(truth))), (
                name,
                rival.name,
            )


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_the_truth_is_supported_and_falsehoods_refuted(config, rng):
    prediction, truth = predict(config), made_up(config, rng)
    assert judge(prediction, truth).status == "supported"
    for rival in claim.rivals:
        assert rival.predict is not None
        assert judge(rival.predict(config), truth).status == "refuted", rival.name
    for wrong in ({"amplitude": 0.5**0.5}, {"power": 0.75}, {"variance": 2.0}, {"integration": 0.02}):
        assert judge(prediction, made_up(config, rng, **wrong)).status == "refuted", wrong


def test_the_measurement_counts_and_integrates(getkey):
    config = replace(SMOKE, widths=(64,), units=2**16)
    found = measure(config, {"width": 64}, getkey())
    assert int(found["members"]) == 2**10
    # The integration of four networks steps over some thirty kinks.
    assert 0 < float(found["integration"]) < drift_relu.INTEGRATION
    for name in ("rate", "variance", "lost"):
        assert np.all(found[f"{name}_error"] > 0)
        assert np.all(found[f"{name}_error"] < 0.2 * found[name])
    # Bins of |f_0 − y| hold means of what the whole ensemble has.
    assert np.nanmin(found["distance"]) > 0
    assert np.all(np.diff(found["distance"].values[0]) > 0)
