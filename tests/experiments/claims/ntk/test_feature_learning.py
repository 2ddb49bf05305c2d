"""ntk/feature-learning: its task, its best rate on known curves, its judge on made-up power laws."""

import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import feature_learning as subject
from experiments.claims.ntk.feature_learning import CHECKS, GRIDS, SMOKE, best_rate, claim

WIDTHS = np.array(SMOKE.widths, float)


@pytest.fixture(scope="module")
def prediction():
    return subject.predict(SMOKE)


def test_the_task_is_parity_of_small_images():
    x, y = subject.task(SMOKE)
    assert x.shape == (20, 16)
    np.testing.assert_allclose(np.sum(x**2, axis=1), 16.0)
    np.testing.assert_array_equal(y, np.repeat([-1.0, 1.0] * 5, 2))
    data = subject.load("digits")
    first = data.x_train[np.flatnonzero(data.y_train == 3)[0]].reshape(8, 8)
    corner = np.array([first[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for i in range(4) for j in range(4)])
    others = np.concatenate([np.flatnonzero(data.y_train == digit)[:2] for digit in range(10)])
    centre = data.x_train[others].reshape(20, 4, 2, 4, 2).mean(axis=(0, 2, 4)).ravel()
    np.testing.assert_allclose(x[6], (corner - centre) * 4 / np.linalg.norm(corner - centre))


def test_assumptions_hold_and_can_fail():
    assert all(a.holds for a in subject.assumptions(SMOKE))
    few = {"widths": (32, 96), "members": (64, 64), "tuned": (32, 32)}
    for change in ({"widths": (8, 96, 512)}, {"tuned": (128, 128, 8)}, {"members": (64, 512, 128)}, few):
        assert not all(a.holds for a in subject.assumptions(dataclasses.replace(SMOKE, **change))), change


def test_the_best_rate_is_the_vertex_with_its_scatter(rng):
    powers = np.arange(-2.2, 0.9, 0.25)
    # The vertex of each network scatters by 0.4 around −0.7, so that of the mean of 64 does by 0.05.
    found = []
    for _ in range(300):
        vertex = -0.7 + 0.4 * rng.standard_normal((64, 1))
        found.append(best_rate((powers - vertex) ** 2 - 1, powers, rng))
    best, error = np.array(found).T
    assert abs(best.mean() + 0.7) < 4 * 0.05 / np.sqrt(300)
    # 300 draws give a standard deviation to 4 %.
    np.testing.assert_allclose([best.std(), np.sqrt(np.mean(error**2))], 0.05, rtol=0.16)
    for vertex in (-5.0, 4.0):
        assert np.isnan(best_rate(np.tile((powers - vertex) ** 2, (16, 1)), powers, rng)[0])


def test_a_measurement_is_finite_and_learns_features_in_mup():
    config = dataclasses.replace(SMOKE, widths=(24,), members=(40,), tuned=(32,), images=1, steps=2)
    found = subject.measure(config, {"width": 24}, jax.random.key(1))
    assert np.isfinite(found["change"]).all()
    assert np.isfinite(found["change_error"]).all()
    change = found["change"].values
    assert (change[0] > change[2]).all()
    assert np.isfinite(found["best"]).all()
    assert (found["best_error"] > 0).all()
    # The second pass is centred on the best octave, whose neighbours are no better.
    curve = found["log_loss"].values
    assert (curve[:, 6] < np.minimum(curve[:, 2], curve[:, 10])).all()
    best = found["best"].values
    assert (np.abs(best - found["power"].values[:, 6]) < 1).all()


def test_a_best_octave_at_the_end_is_no_number():
    config = dataclasses.replace(SMOKE, widths=(24,), members=(16,), tuned=(16,), images=1, steps=2)
    found = subject.measure(dataclasses.replace(config, lowest=(6, -20, -7)), {"width": 24}, jax.random.key(1))
    np.testing.assert_array_equal(np.isnan(found["best"]), [True, True, False])


def made_up(changes, rates, rng, noise=0.005):
    """Power laws with a correction of relative order 1/n, and noise of that size."""
    tail = 1 + 3 / WIDTHS
    change = np.array([[0.3 * WIDTHS ** -float(p) * tail for p in row] for row in changes])
    best = np.array([np.log2(2.0 * WIDTHS ** -float(p) * tail) for p in rates])
    change = np.moveaxis(change, -1, 0) * (1 + noise * rng.standard_normal((len(WIDTHS), len(CHECKS), 3)))
    best = best.T + noise * rng.standard_normal((len(WIDTHS), len(GRIDS)))
    return xr.Dataset(
        {
            "change": (("width", "check", "quantity"), change),
            "change_error": (("width", "check", "quantity"), noise * change),
            "best": (("width", "scheme"), best),
            "best_error": (("width", "scheme"), np.full(best.shape, noise)),
            "members": ("width", list(SMOKE.members)),
            "tuned": ("width", list(SMOKE.tuned)),
        },
        coords={"width": list(SMOKE.widths)},
    )


def test_the_judge_tells_the_law_from_the_rivals(prediction, rng):
    np.testing.assert_array_equal(prediction["change"], [[0, 0, 0], [0, 0, 0], [0.5, 0.5, 1.0]])
    np.testing.assert_array_equal(prediction["rate"], [0, 0, 1])
    measured = made_up(prediction["change"].values, prediction["rate"].values, rng)
    assert str(subject.judge(prediction, measured).status) == "supported"
    for rival in claim.rivals:
        assert rival.predict is not None
        other = rival.predict(SMOKE)
        assert str(subject.judge(other, measured).status) == "refuted", rival.name
        falsehood = made_up(other["change"].values, other["rate"].values, rng)
        assert str(subject.judge(prediction, falsehood).status) == "refuted", rival.name
    # A best rate at the end of its grid is no number, and decides nothing.
    lost = measured.assign(best=measured["best"].where(measured["width"] > 32))
    assert str(subject.judge(prediction, lost).status) == "failed"
