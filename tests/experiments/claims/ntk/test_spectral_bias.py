"""The claim's own arithmetic on made-up networks, and its measurement against networks trained one by one."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk.spectral_bias import (
    BIAS_VARIANCES,
    PAPER,
    SMOKE,
    claim,
    distances,
    judge,
    limit,
    measure,
    predict,
    remaining,
    target,
)
from experiments.networks import init_members, network
from experiments.training import GradientDescent, Outputs, SquaredError, members
from theory.architecture import MLP

TINY = replace(SMOKE, widths=(32,), steps=(1, 6), units=128, calls=1, modes=5)


def made_up(prediction: xr.Dataset, rng, *, rate: float = 0.5, drift: float = 1.0, learnt: float = 0.0) -> xr.Dataset:
    """Residuals left(t) r(0) (1 + n^-rate ξ) with a drift of n^-½ in their mean; `learnt` of the modes never learnt."""
    widths, groups, per_group = np.array(SMOKE.widths), 24, 4
    left = prediction["left"].values[:, None, :, :, None, None]
    size = widths[None, :, None, None, None, None].astype(float)
    start = 0.25 * np.exp(2j * np.pi * rng.random((2, len(widths), SMOKE.modes, 1, groups, per_group)))
    noise = rng.normal(size=(*start.shape[:3], len(SMOKE.steps), groups, per_group))
    r = start * (left + 0.5 * size**-rate * noise + drift * (1 - left) * left * size ** -max(rate, 0.5))
    never = prediction["never"].values[:, None, :, None, None, None]
    r = np.where(never, start * (1 - learnt), r)

    def grouped(values):
        return (("net", "width", "mode", "step", "batch", "group"), values.mean(axis=-1)[:, :, :, :, None])

    return xr.Dataset(
        {
            "now": grouped(np.abs(r) ** 2),
            "overlap": grouped((r * start.conj()).real),
            "start": (("net", "width", "mode", "batch", "group"), grouped(np.abs(start) ** 2)[1][:, :, :, 0]),
            "moved": (("net", "width", "mode", "step", "batch"), np.abs(r / start - 1).max(axis=(-1, -2))[..., None]),
        },
        coords={
            "net": list(BIAS_VARIANCES),
            "width": widths,
            "mode": np.arange(SMOKE.modes),
            "step": list(SMOKE.steps),
            "batch": [0],
        },
    )


@pytest.fixture(scope="module")
def prediction():
    return predict(SMOKE)


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, "supported"), ({"rate": 0.0}, "refuted"), ({"rate": 1.0}, "refuted"), ({"learnt": 0.01}, "refuted")],
)
def test_the_verdict_follows_the_networks(changes, status, prediction, rng):
    assert judge(prediction, made_up(prediction, rng, **({"drift": 0.2} | changes))).status == status


def test_every_rival_is_refuted_where_the_claim_holds(prediction, rng):
    measurement = made_up(prediction, rng, drift=0.2)
    for rival in claim.rivals:
        assert rival.predict is not None
        assert judge(rival.predict(SMOKE), measurement).status == "refuted", rival.name


def test_what_is_left_is_extrapolated_without_its_drift(prediction, rng):
    """A drift of n^-½ and the scatter go; the estimate is good to its own error."""
    measurement = made_up(prediction, rng, drift=4.0)
    ratio, error, count = remaining(measurement)
    assert count == 24
    estimate, uncertainty = limit(np.array(SMOKE.widths, float), ratio, error)
    learnt = ~prediction["never"].values
    deviation = ((estimate - prediction["left"].values) / uncertainty)[learnt]
    # Some 90 deviations: the largest of so many normal ones is below 5.
    assert np.abs(deviation).max() < 5
    assert np.abs(ratio[:, 0] - prediction["left"].values).max() > 10 * error[:, 0].max()


def test_distance_is_the_scatter_put_in(prediction, rng):
    distance, error = distances(prediction, made_up(prediction, rng, drift=0.0))
    share = 1 - prediction["never"].values.mean(axis=1)
    expected = 0.5 * np.array(SMOKE.widths) ** -0.5 * np.sqrt(share)[:, None]
    # Eight deviations.
    assert np.abs((distance - expected) / error).max() < 4


def test_compared_modes_are_learnt_and_told_apart():
    for config in (SMOKE, PAPER):
        prediction = predict(config)
        compared = prediction["compared"].values
        assert not (compared & prediction["never"].values[..., None]).any()
        free, biased = compared.any(axis=2).sum(axis=1)
        # Most modes of both: without biases five of seven are learnt at all.
        assert free >= 4
        assert biased >= 5
        np.testing.assert_array_equal(np.argwhere(prediction["never"].values), [[0, 3], [0, 5]])


def test_assumptions_hold_and_can_fail():
    assert all(assumption.holds for config in (SMOKE, PAPER) for assumption in claim.assumptions(config))
    failing = [a.name for a in claim.assumptions(replace(SMOKE, points=15, steps=(1, 2))) if not a.holds]
    assert failing == ["the grid is even and resolves all modes", "three modes are followed for two of their times"]


def test_the_target_has_every_mode_with_one_amplitude():
    waves = np.fft.rfft(target(SMOKE)) / SMOKE.points
    np.testing.assert_allclose(np.abs(waves[1 : SMOKE.modes]), SMOKE.amplitude / 2, rtol=1e-12)
    np.testing.assert_allclose(waves[SMOKE.modes :], 0, atol=1e-14)
    assert abs(waves[0]) > 0.1


def test_measured_residuals_are_those_of_networks_trained_one_by_one(getkey):
    key = getkey()
    measured = measure(TINY, {"net": "biased", "width": 32, "batch": 0}, key)
    net = network(MLP(1, "relu", 2.0, BIAS_VARIANCES["biased"]), width=32, inputs=2)
    angle = 2 * np.pi * np.arange(16) / 16
    x, y = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1), target(TINY)
    params = jax.tree.map(lambda a: a.astype(np.float64), init_members(net, jax.random.fold_in(key, 0), 4, np.float32))
    outputs = members(
        SquaredError(net),
        params,
        (x, y[:, None]),
        method=GradientDescent(TINY.learning_rate / 16),
        records=(0, *TINY.steps),
        record=Outputs(net),
        probe=x,
    ).values[..., 0]
    r = np.swapaxes(np.fft.rfft(outputs - y)[..., : TINY.modes] / 16, 1, 2)
    # Four members, so each is a group; float32 against float64.
    np.testing.assert_allclose(measured["now"].values, np.abs(r[..., 1:]) ** 2, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(measured["overlap"].values, (r[..., 1:] * r[..., :1].conj()).real, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(measured["start"].values, np.abs(r[..., 0]) ** 2, rtol=1e-4, atol=1e-7)


def test_a_bias_free_network_never_learns_the_third_mode(getkey):
    measured = measure(TINY, {"net": "bias-free", "width": 32, "batch": 0}, getkey())
    # Rounding of float32.
    assert measured["moved"].sel(mode=3).max() < 1e-4
    assert measured["moved"].sel(mode=2).min() > 1e-3
