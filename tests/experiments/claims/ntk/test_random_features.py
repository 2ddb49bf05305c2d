"""The claim on random features: its closed-form risk over inputs, its extrapolation, and its power."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import random_features
from experiments.claims.ntk.random_features import CHOSEN, PAPER, SMOKE, claim, judge, measure, predict, worlds

SMALL = replace(SMOKE, dimension=8, members=(30, 20, 10), labels=8, chosen=(4, 28), training_sets=(200, 200), inputs=32)


def truth(config, prediction, rng=None, first_order=3.0):
    """A measurement that a prediction would give, with a correction of first order in 1/d, noise or none."""
    rows = []
    for kind, d, size in worlds(config).values():
        if kind == CHOSEN:
            here = prediction.sel(p=int(size))
            risk, error = here["chosen_risk"].values, here["chosen_error"].values
            members = config.training_sets[config.chosen.index(int(size))]
        else:
            here = prediction.sel(ratio=size)
            risk = here["risk"].values * (1 + first_order / d)
            # A fourteenth of the margin in the extrapolation.
            error = here["margin"].values / 14 / np.sqrt(5)
            members = config.members[config.ratios.index(size)]
        scatter = 0.0 if rng is None else error * rng.standard_normal((2, 2))
        rows.append((risk + scatter, error, members))
    risks, errors, members = (np.array(column) for column in zip(*rows, strict=True))
    dims = ("world", "case", "other")
    return xr.Dataset(
        {"risk": (dims, risks), "error": (dims, errors), "members": ("world", members)},
        coords={"world": list(worlds(config))},
    )


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_in_the_domain_the_truth_is_supported_and_each_rival_refuted(config, rng):
    """Margins end half-way to each rival."""
    assert all(assumption.holds for assumption in random_features.assumptions(config))
    prediction = predict(config)
    measurement = truth(config, prediction, rng)
    assert judge(prediction, truth(config, prediction)).status == "supported"
    assert judge(prediction, measurement).status == "supported"
    for rival in claim.rivals:
        other = rival.predict(config) if rival.predict else prediction
        assert (rival.judge or judge)(other, measurement).status == "refuted", rival.name
        for name, margin in (("risk", "margin"), ("chosen_risk", "chosen_margin")):
            distance = np.abs(other[name].values - prediction[name].values)
            different = distance > 1e-9
            assert np.all(prediction[margin].values[different] <= 0.5 * distance[different] * (1 + 1e-12))


def test_a_config_without_the_peak_or_too_small_is_out_of_domain():
    away = replace(SMOKE, ratios=(1.0, 3.0, 4.0))
    few = replace(SMOKE, training_sets=(10,) * len(SMOKE.chosen))
    close = replace(SMOKE, chosen=(2, 4, 8, 20, 32, 64), training_sets=(10**6,) * 6)
    held = [[a.holds for a in random_features.assumptions(config)] for config in (away, few, close)]
    assert held == [[False, True, True], [True, True, False], [True, False, True]]


def test_a_world_that_is_a_rival_is_refuted_by_the_claim():
    prediction = predict(SMOKE)
    for rival in claim.rivals:
        if rival.predict is not None:
            world = truth(SMOKE, rival.predict(SMOKE))
            assert judge(prediction, world).status == "refuted", rival.name


def test_extrapolation_takes_the_first_order_away():
    prediction = predict(SMOKE)
    risk, error, members = random_features.extrapolated(prediction, truth(SMOKE, prediction, first_order=5.0))
    np.testing.assert_allclose(risk, prediction["risk"].values, rtol=1e-12)
    np.testing.assert_allclose(error, prediction["margin"].values / 14, rtol=1e-12)
    assert members[:, 0, 0].tolist() == list(SMOKE.members)


def test_the_quadratic_form_is_the_mean_square_over_inputs(rng):
    """E f², E fu and E f(u²−1)/√2 as `measure` has them, against 400,000 inputs."""
    directions = rng.standard_normal((1, 5, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    coefficients = rng.standard_normal((1, 5, 2))
    x = rng.standard_normal((400_000, 3))
    hidden = np.maximum(x @ directions[0].T, 0)
    outputs = hidden @ coefficients[0]
    exact = random_features._quadratic_form(directions, coefficients)[0]
    # 4 standard errors are 1.5 %.
    np.testing.assert_allclose(exact, np.mean(outputs**2, axis=0), rtol=0.02)
    u = x[:, 0]
    cosine = directions[0, :, 0]
    for values, closed in ((u, cosine / 2), ((u**2 - 1) / np.sqrt(2), cosine**2 / (2 * np.sqrt(np.pi)))):
        # 4 standard errors of a mean whose terms have a variance of about 1.
        np.testing.assert_allclose(np.mean(hidden * values[:, None], axis=0), closed, atol=4 / np.sqrt(400_000))


def test_a_risk_is_that_on_fresh_inputs(monkeypatch):
    """One draw again: its regression by a least-squares solver, its risk on 200,000 fresh inputs."""
    config, calls = replace(SMOKE, labels=2), []
    solve = random_features._ridge

    def spy(*arguments):
        calls.append((*arguments, solve(*arguments)))
        return calls[-1][-1]

    monkeypatch.setattr(random_features, "_ridge", spy)
    found = random_features._random_features(config, 4, 6, 1, np.random.default_rng(5))
    # The same draws in the same order.
    again = np.random.default_rng(5)
    directions = again.standard_normal((1, 6, 4))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    x = again.standard_normal((1, 8, 4))
    beta = again.standard_normal((1, 4, 2))
    beta /= np.linalg.norm(beta, axis=1, keepdims=True)
    fresh = np.random.default_rng(6).standard_normal((200_000, 4))
    u = fresh @ beta[0]
    scale = np.sqrt(config.variance)
    targets = (u, u + scale * (u**2 - 1) / np.sqrt(2))
    np.testing.assert_allclose(calls[0][0], np.maximum(x @ directions.transpose(0, 2, 1), 0), rtol=1e-12)
    for j, (hidden, labels, penalty, solution) in enumerate(calls):
        assert penalty == pytest.approx(8 * 6 / 4 * config.penalties[j])
        stacked = np.vstack([hidden[0], np.sqrt(penalty) * np.eye(6)])
        direct = np.linalg.lstsq(stacked, np.vstack([labels[0], np.zeros((6, 4))]))[0]
        np.testing.assert_allclose(solution[0], direct, rtol=1e-7, atol=1e-9)
        outputs = np.maximum(fresh @ directions[0].T, 0) @ direct
        for i, target in enumerate(targets):
            risk = np.mean((outputs[:, 2 * i : 2 * i + 2] - target) ** 2)
            # Squares of normals over 200,000 inputs: 4 standard errors are about 2 %.
            np.testing.assert_allclose(found[0, i, j], risk, rtol=0.03)


@pytest.mark.parametrize(("p", "order"), [(3, 0), (10, 1)])
def test_chosen_features_against_numpys_own(p, order):
    config = replace(SMALL, examples=6)
    found = random_features._chosen_features(config, p, 3, np.random.default_rng(8))
    again = np.random.default_rng(8)
    x, noise = again.standard_normal((3, 6, 32)), again.standard_normal((3, 6))
    beta = np.ones(32) if order == 0 else np.arange(1.0, 33) ** -0.5
    beta /= np.linalg.norm(beta)
    for i in range(3):
        for noisy in (0, 1):
            y = x[i] @ beta + noisy * np.sqrt(config.variance) * noise[i]
            # Rounding, times the condition number of a Gram matrix.
            estimate = np.concatenate([np.linalg.lstsq(x[i][:, :p], y)[0], np.zeros(32 - p)])
            np.testing.assert_allclose(found[i, order, noisy], np.sum((estimate - beta) ** 2), rtol=1e-8)


def test_measurement_has_one_shape_repeats_itself_and_differs_between_keys():
    for name in (f"{random_features.RANDOM}, d = 8, N = 16", f"{CHOSEN}, p = 28"):
        first = measure(SMALL, {"world": name}, jax.random.key(1))
        assert first["risk"].shape == first["error"].shape == (2, 2)
        xr.testing.assert_identical(first, measure(SMALL, {"world": name}, jax.random.key(1)))
        assert not np.any(first["risk"].values == measure(SMALL, {"world": name}, jax.random.key(2))["risk"].values)
