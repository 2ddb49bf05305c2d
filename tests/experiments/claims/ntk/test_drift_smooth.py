"""The claim on the kernel's change for smooth units: its ensembles, its margins and its power."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import drift_smooth
from experiments.claims.ntk.drift_smooth import (
    INCOMPLETE,
    NEAR,
    PAPER,
    SMOKE,
    amplitudes,
    claim,
    judge,
    measure,
    predict,
)


def made_up(config, prediction, rng, *, integration=1e-3):
    """Changes that follow a prediction with its next order, and the noise of the planned ensembles."""
    n = np.array(config.widths, float)
    shape = (3, 2, len(n), len(config.times))
    value, error = np.zeros(shape), np.zeros(shape)
    # With two hidden layers the size is unknown; half the networks' spread is that of the pilot.
    for j, (next_order, spread) in enumerate(((2.5, 1.6), (-1.5, 0.37), (-2.5, 1.0))):
        for i, members in enumerate((config.members, config.deep_members)):
            rate = n ** -float(prediction["exponent"]) if j == 2 else 1 / n
            mean = float(prediction["amplitude"][j]) * rate * (1 + next_order / n) * (1 + i)
            noise = spread / n / np.sqrt(members) * (1 - 0.5 * i)
            value[j, i] = (mean + noise * rng.standard_normal(len(n)))[:, None]
            error[j, i] = noise[:, None]
    value *= prediction["size"].values[:, None, None]
    error *= prediction["size"].values[:, None, None]
    error[2] *= 2 * value[2]
    value[2] **= 2
    dims = ("quantity", "depth", "width", "time")
    members = np.array([config.members, config.deep_members])
    return xr.Dataset(
        {
            "value": (dims, value),
            "error": (dims, error),
            "integration": (("depth", "width"), np.full(members.shape, integration)),
            "members": (("depth", "width"), members),
        },
        coords={"width": list(config.widths), "time": list(config.times)},
    )


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_assumptions_hold_and_margins_end_half_way(config):
    assert all(assumption.holds for assumption in drift_smooth.assumptions(config))
    few = replace(config, members=tuple(m // 16 for m in config.members))
    assert not all(assumption.holds for assumption in drift_smooth.assumptions(few))
    prediction = predict(config)
    truth, margin = prediction["amplitude"].values, prediction["margin"].values
    # Each amplitude has a neighbour, and each part that may be left out changes one of them.
    assert np.isfinite(margin).all()
    for left_out in INCOMPLETE:
        rival = amplitudes(config, **left_out)
        distance = np.abs(rival - truth)
        near = distance <= NEAR * np.maximum(np.abs(rival), np.abs(truth))
        assert np.all((margin <= 0.5 * distance * (1 + 1e-9)) | near)
        assert not near.all()


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_made_up_truths_are_supported_and_rivals_refuted(config, rng):
    prediction = predict(config)
    truth = made_up(config, prediction, rng)
    assert judge(prediction, truth).status == "supported"
    for rival in claim.rivals:
        assert rival.predict is not None
        false = rival.predict(config)
        assert judge(false, truth).status == "refuted", rival.name
        assert judge(prediction, made_up(config, false, rng)).status == "refuted", rival.name


def test_a_careless_integration_is_refuted(rng):
    prediction = predict(SMOKE)
    assert judge(prediction, made_up(SMOKE, prediction, rng, integration=0.02)).status == "refuted"


def test_the_measurement_trains_and_vouches_for_its_flow(getkey):
    config = replace(SMOKE, widths=(24,), members=(64,), deep_members=(32,))
    for depth in (1, 2):
        found = measure(config, {"depth": depth, "width": 24}, getkey())
        # Assumptions promise a tenth for the infinite network; at width 24 kernels scatter.
        assert float(found["residual"]) < 0.2
        assert float(found["integration"]) < 0.01
        assert found["value"].shape == (3, len(config.times))
        assert np.all(found["error"] > 0)
        # A typical change is no smaller than the mean changes that are part of it.
        trace, off, square = found["value"].values[:, -1]
        assert square > 0.5 * trace**2 + 2 * off**2
