"""ntk/conditioning: its prediction by eigenvalues, its error bar, and its judge on made-up networks."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import conditioning
from experiments.claims.ntk.conditioning import PAPER, PHASES, POINTS, SMOKE, claim, log_condition
from theory.kernels import ntk


@pytest.fixture(scope="module")
def prediction():
    return conditioning.predict(SMOKE)


def test_the_prediction_is_a_ratio_of_eigenvalues(prediction):
    x = np.sqrt(POINTS) * np.eye(POINTS)
    for i in (0, 3):
        values = np.linalg.eigvalsh(np.asarray(ntk(conditioning.architecture(PHASES[i], 8), x)))
        np.testing.assert_allclose(prediction["log_condition"][i, -1], np.log(values[-1] / values[0]), rtol=1e-10)


def test_margins_are_half_of_the_distance_to_the_rivals_and_every_rival_is_a_neighbour_in_two_phases(prediction):
    margin = prediction["margin"].values
    assert np.all(margin <= conditioning.LARGEST)
    for rival in claim.rivals:
        assert rival.predict is not None
        distance = np.abs(rival.predict(SMOKE)["log_condition"] - prediction["log_condition"]).values
        far = distance >= conditioning.CLOSE
        assert np.all(2 * margin[far] <= distance[far] * (1 + 1e-12))
        assert far.any(axis=1).sum() >= 2
    assert all(a.holds for config in (SMOKE, PAPER) for a in conditioning.assumptions(config))
    shallow = dataclasses.replace(SMOKE, widths=(16, 64, 128))
    assert not all(a.holds for a in conditioning.assumptions(shallow))


def made_up(prediction, rng, log_condition, correction=2.0):
    """Sums over members whose ln κ is the given one plus a correction in 1/n; p scatters, and t with it."""
    sums = []
    for width, count in zip(SMOKE.widths, SMOKE.members, strict=True):
        kappa = np.exp(log_condition * (1 + correction / width))[..., None]
        p = np.exp(rng.normal(0, 0.3, (*log_condition.shape, count)))
        t = p * (kappa - 1) / (kappa + POINTS - 1) + 0.02 * rng.standard_normal(p.shape)
        sums.append(np.stack([p, t, p * p, p * t, t * t]).sum(axis=-1))
    data = {
        "sums": (("width", "batch", "moment", "phase", "depth"), np.stack(sums)[:, None]),
        "members": (("width", "batch"), np.array(SMOKE.members)[:, None]),
    }
    return xr.Dataset(data, coords={"width": list(SMOKE.widths)})


def test_the_judge_tells_the_truth_from_the_rivals(prediction, rng):
    truth = prediction["log_condition"].values
    assert str(conditioning.judge(prediction, made_up(prediction, rng, truth)).status) == "supported"
    for rival in claim.rivals:
        assert rival.predict is not None
        wrong = rival.predict(SMOKE)["log_condition"].values
        assert str(conditioning.judge(prediction, made_up(prediction, rng, wrong)).status) == "refuted", rival.name


def test_the_standard_error_is_the_scatter(rng):
    p = np.exp(rng.normal(0, 0.2, (4000, 50)))
    t = 0.4 * p * np.exp(rng.normal(0, 0.1, p.shape))
    sums = np.stack([p, t, p * p, p * t, t * t]).sum(axis=-1)
    value, error = log_condition(sums, np.full(4000, 50.0))
    # 4,000 draws give a standard deviation to 1.1 %; the delta method at 50 members is off by a per cent or two more.
    np.testing.assert_allclose(np.std(value), np.sqrt(np.mean(error**2)), rtol=0.06)
