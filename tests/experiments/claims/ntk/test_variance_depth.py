"""The claim on the variance of the tangent kernel in depth: its ensemble, its margins, and its power."""

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import variance_depth
from experiments.claims.ntk.variance_depth import (
    ACTIVATIONS,
    LAWS,
    NEAR,
    PAPER,
    SMOKE,
    Config,
    measure,
    predict,
    ratios,
)
from theory.kernels.ntk_fluctuations import ntk_second_moment

SMALL = Config(widths=(4,), depths=(3,), members=(4_000,), ends=(True,), batches=1)


def made_up(prediction, rng):
    """A measurement that follows a prediction, with its planned noise."""
    ratio = prediction["ratio"].values + prediction["error"].values * rng.standard_normal(prediction["ratio"].shape)
    one = np.ones_like(ratio[..., 0])
    moments = np.stack([one, ratio[..., 0], one, one, ratio[..., 1]], axis=-1)[:, None]
    dims = ("case", "batch", "activation", "moment")
    members = np.full(moments.shape[:2], 1000)
    return xr.Dataset({"moments": (dims, moments), "members": (("case", "batch"), members)})


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_the_ensemble_is_large_enough_and_margins_end_half_way(config):
    assert all(assumption.holds for assumption in variance_depth.assumptions(config))
    prediction = predict(config)
    truth = prediction["ratio"].values
    for rival in variance_depth.claim.rivals:
        assert rival.predict is not None
        distance = np.abs(rival.predict(config)["ratio"].values - truth)
        assert np.all((prediction["margin"].values <= 0.5 * distance * (1 + 1e-12)) | (distance <= NEAR * truth))


def test_laws_meet_where_they_must():
    for activation in ACTIVATIONS:
        for n, depth in ((8, 2), (5, 4)):
            law = ratios(variance_depth.exact, activation, n, depth)
            np.testing.assert_allclose(law[0], ntk_second_moment(activation, [n] * (depth - 1)), rtol=1e-12)
        # Two layers have one layer between their matrices: its first order is all there is.
        first = ratios(variance_depth.first_order, activation, 8, 2)
        np.testing.assert_allclose(first, ratios(variance_depth.exact, activation, 8, 2), rtol=1e-12)
    # At fixed L/n the first-order law stays away: the distance grows with n.
    gaps = []
    for n in (16, 64):
        law, first = (ratios(law, "relu", n, n // 4)[1] for law in (variance_depth.exact, variance_depth.first_order))
        gaps.append(law - first)
    assert gaps[1] > gaps[0] > 0.1


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_made_up_truths_are_supported_and_rivals_refuted(config, rng):
    prediction = predict(config)
    assert variance_depth.judge(prediction, made_up(prediction, rng)).status == "supported"
    for rival in variance_depth.claim.rivals:
        assert rival.predict is not None
        assert variance_depth.judge(rival.predict(config), made_up(prediction, rng)).status == "refuted"
        # And the other way round: networks that follow the rival refute the law.
        assert variance_depth.judge(prediction, made_up(rival.predict(config), rng)).status == "refuted"
    assert set(LAWS) == {rival.name for rival in variance_depth.claim.rivals}


def test_an_ensemble_has_the_moments_of_the_law_and_repeats_itself():
    cell = {"case": 0, "batch": 0}
    found = measure(SMALL, cell, jax.random.key(1))
    xr.testing.assert_identical(found, measure(SMALL, cell, jax.random.key(1)))
    assert int(found["members"]) == 4_000
    theta, _, first, last, _ = np.moveaxis(found["moments"].values, -1, 0)
    # Each of the three contributions has the mean 2 (ReLU) or 1 (linear); 5 standard errors.
    mean = np.array([2.0, 1.0])
    for values, factor in ((theta, 3), (first, 1), (last, 1)):
        spread = factor * mean * np.sqrt([(1 + 5 / 4) ** 2 - 1, (1 + 2 / 4) ** 2 - 1]) / np.sqrt(4_000)
        assert np.all(np.abs(values - factor * mean) < 5 * spread)
    whole = found.expand_dims({"case": [0], "batch": [0]})
    ratio, members = variance_depth.estimates(whole)
    prediction = predict(SMALL)
    assert members == 4_000
    assert np.all(np.abs(ratio - prediction["ratio"].values) < 5 * prediction["error"].values)
