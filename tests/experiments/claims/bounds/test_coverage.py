"""The claim on coverage: its exact predictions by another route, its margins, and what its judges can tell apart."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binom

from experiments.claims.bounds.coverage import PAPER, SMOKE, cells, claim, judge, measure, predict
from experiments.verdict import Status
from experiments.violations import NO_CONFIDENCE, NO_UNION, SOUND
from theory.bounds import occam

SMALL = dataclasses.replace(SMOKE, one=(5, 30), three=(3,), perceptrons=(32,), trials=3000)


def measured(config, getkey):
    parts = [measure(config, cell, getkey()).expand_dims(world=[cell["world"]]) for cell in cells(config)]
    return xr.concat(parts, "world")


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_the_risk_of_the_many_hypotheses_is_just_above_a_jump(config):
    values = occam(0, config.many, log_prior=-np.log(config.many_hypotheses), delta=config.deltas[0]).value
    assert values < config.many_risk < values + 1e-4


def test_exact_rates_are_those_of_a_plain_count():
    prediction = predict(SMOKE)
    rate = 1 - (1 - (1 - SMOKE.many_risk) ** SMOKE.many) ** SMOKE.many_hypotheses
    assert prediction.occam_rate.values[0] == pytest.approx(rate, rel=1e-9)
    # One error at most, the largest count at which Clopper–Pearson fails at δ = 0.05 with this risk.
    k = max(k for k in range(SMOKE.many) if binom.cdf(k, SMOKE.many, SMOKE.many_risk) < 0.05)
    rate = 1 - (1 - binom.cdf(k, SMOKE.many, SMOKE.many_risk)) ** SMOKE.many_hypotheses
    assert prediction.rival_rate.sel(rival=NO_UNION).values[0] == pytest.approx(rate, rel=1e-9)


def test_margins_stay_below_half_the_distance_to_every_rival_beyond_delta():
    prediction = predict(SMOKE)
    for delta in SMOKE.deltas:
        margin = float(prediction.margin.sel(delta=delta))
        beyond = [r for r in prediction.rival_rate.sel(delta=delta).values if r > 1.1 * delta]
        assert beyond
        assert 0 < margin <= min(np.array(beyond) - delta) / 2


def test_sound_bounds_are_supported_and_faulty_ones_refuted(getkey):
    # A tenth of the samples needs wider margins; the judges and rivals are the claim's own.
    config = dataclasses.replace(SMALL, margins=(0.05, 0.015))
    prediction, measurement = predict(config), measured(config, getkey)
    verdict = judge(prediction, measurement)
    assert verdict.status is Status.SUPPORTED
    assert "mean slack" in verdict.reason
    for rival in claim.rivals:
        assert rival.judge is not None
        assert rival.judge(prediction, measurement).status is Status.REFUTED


def test_one_bound_at_twice_delta_turns_the_verdict(getkey):
    config = dataclasses.replace(SMALL, margins=(0.05, 0.015))
    prediction, measurement = predict(config), measured(config, getkey)
    world, bound = cells(config)[0]["world"], SOUND[3]
    measurement.rate.loc[{"world": world, "bound": bound, "delta": 0.05}] = 0.1
    verdict = judge(prediction, measurement)
    assert verdict.status is Status.REFUTED
    assert bound in verdict.comparisons[verdict.decisive].label


def test_a_dropped_confidence_term_is_caught_at_small_delta(getkey):
    config = dataclasses.replace(SMALL, deltas=(0.001,), margins=(0.006,))
    measurement = measured(config, getkey).sel(bound=NO_CONFIDENCE, delta=0.001)
    assert np.all(measurement.rate.values > 0.002)
