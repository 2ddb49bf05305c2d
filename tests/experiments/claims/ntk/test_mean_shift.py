"""The claim on the mean of the tangent kernel at finite width: its ensemble, its margins, and its power."""

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import mean_shift
from experiments.claims.ntk.mean_shift import ACTIVATIONS, PAPER, SMOKE, Config, measure, predict, quantities

SMALL = Config(widths=(6,), depths=(4,), members=(20_000,), correction=False, batches=1)


def made_up(config, prediction, rng, power=1.0):
    """A measurement that follows a prediction, with a pilot's noise: D and O a common part and one of its own."""
    n = prediction["width"].values.astype(float)
    members = np.array(config.members)
    limit = prediction["limit"].values
    means, variances = np.ones((*limit.shape[:2], 2)), np.zeros((*limit.shape[:2], 3))
    for j, activation in enumerate(ACTIVATIONS):
        for i, depth in enumerate(config.depths):
            law = {q.entry: c for q, c in zip(quantities(config), prediction["coefficient"].values, strict=True)
                   if (q.activation, q.depth) == (activation, depth)}  # fmt: skip
            spread = {q.entry: q.spread for q in quantities(config) if (q.activation, q.depth) == (activation, depth)}
            on = law.get("diagonal", 0.0)
            off = law.get("off", on + law.get("ratio", 0.0))
            common, own = spread.get("diagonal", 5.0), spread.get("ratio", 0.5)
            noise = rng.standard_normal(2) * np.sqrt(np.array([common, own]) / n[i] / members[i])
            shift = np.array([on, off]) * n[i] ** -power
            means[i, j] = (1 + shift[0] + noise[0], 1 + shift[1] + noise[0] + noise[1])
            variances[i, j] = np.array([common, common + own, common]) / n[i]
    on, off = means[..., 0] * limit[..., 0], means[..., 1] * limit[..., 1]
    second = [on**2 * (1 + variances[..., 0]), off**2 * (1 + variances[..., 1]), on * off * (1 + variances[..., 2])]
    moments = np.stack([on, off, *second], axis=-1)[:, None]
    return xr.Dataset(
        {
            "moments": (("case", "batch", "activation", "moment"), moments),
            "members": (("case", "batch"), members[:, None]),
        }
    )


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_the_ensemble_is_large_enough_and_margins_end_half_way(config):
    assert all(assumption.holds for assumption in mean_shift.assumptions(config))
    prediction = predict(config)
    truth, margin = prediction["coefficient"].values, prediction["margin"].values
    for law in (mean_shift.no_shift, mean_shift.as_deep, mean_shift.diagonal_too, mean_shift.independent):
        rival = law(config)["coefficient"].values
        distance = np.abs(rival - truth)
        near = distance <= mean_shift.NEAR * np.maximum(np.abs(truth), np.abs(rival))
        assert np.all((margin <= 0.5 * distance * (1 + 1e-9)) | near | (distance < 1e-6))
    # What the claim says to be zero is, and the rest is not.
    for q, c in zip(quantities(config), truth, strict=True):
        assert (abs(c) < 1e-11) == mean_shift.exact(q)


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_made_up_truths_are_supported_and_rivals_refuted(config, rng):
    prediction = predict(config)
    truth = made_up(config, prediction, rng)
    assert mean_shift.judge(prediction, truth).status == "supported"
    for rival in mean_shift.claim.rivals:
        assert rival.predict is not None
        assert mean_shift.judge(rival.predict(config), truth).status == "refuted"
        # And networks that follow the rival refute the law.
        power = 0.5 if rival.name == "root" else 1.0
        assert mean_shift.judge(prediction, made_up(config, rival.predict(config), rng, power)).status == "refuted"


def test_an_ensemble_has_the_limit_as_its_mean_and_repeats_itself():
    cell = {"case": 0, "batch": 0}
    found = measure(SMALL, cell, jax.random.key(1))
    xr.testing.assert_identical(found, measure(SMALL, cell, jax.random.key(1)))
    prediction = predict(SMALL)
    values, errors, members = mean_shift.shifts(prediction, found.expand_dims({"case": [0], "batch": [0]}))
    assert members == 20_000
    assert np.all(np.abs(values[0, 0, 0]) < 5 * errors[0, 0, 0])
    for i, label in enumerate(prediction["quantity"].values):
        q = mean_shift._pick(str(label))
        j, k = ACTIVATIONS.index(q.activation), mean_shift.ENTRIES.index(q.entry)
        expected = float(prediction["coefficient"][i])
        # 5 standard errors, and a quarter of the shift for the next order at so small a width.
        assert abs(6 * values[0, j, k] - expected) < 5 * 6 * errors[0, j, k] + 0.25 * abs(expected)
        # The pilot's spreads, which the plans rest on, within the tails' scatter.
        np.testing.assert_allclose(6 * members[0] * errors[0, j, k] ** 2, q.spread, rtol=0.5)
