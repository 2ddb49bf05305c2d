"""ntk/ensemble-law: its rivals' laws, its measurement against a training loop, its judge on made-up ensembles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import ensemble_law
from experiments.claims.ntk.ensemble_law import ARCHITECTURE, CLASSES, SMOKE, claim, functionals, task
from experiments.networks import init_members, network
from theory.kernels import nngp, ntk

UNITS = 32


@pytest.fixture(scope="module")
def prediction():
    return ensemble_law.predict(SMOKE)


def test_laws_are_those_of_linear_maps_of_the_start(prediction):
    """f_t = f_0(x*) + A(y − f_0(X)) with A from repeated steps; for a rival with the kernel or the time of its own."""
    x_train, y, x_test = task(SMOKE)
    both = np.concatenate([x_train, x_test])
    start = np.asarray(nngp(ARCHITECTURE, both))
    n = len(x_train)
    for kernel, predicted, steps in (
        (ntk, ensemble_law.predict, SMOKE.steps),
        (nngp, ensemble_law.last_layer_only, SMOKE.steps),
        (ntk, ensemble_law.half_time, [step // 2 for step in SMOKE.steps]),
    ):
        theta = np.asarray(kernel(ARCHITECTURE, both, x_train))
        law = predicted(SMOKE)
        for i, count in enumerate(steps):
            # Rows of `left` are outputs as linear functions of all outputs at the start.
            left, offset = np.eye(2 * n), np.zeros((2 * n, CLASSES))
            for _ in range(count):
                offset = offset - SMOKE.learning_rate * theta @ (offset[:n] - y)
                left = left - SMOKE.learning_rate * theta @ left[:n]
            np.testing.assert_allclose(law["mean"][i], offset[n:], rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(law["covariance"][i], (left @ start @ left.T)[n:, n:], rtol=1e-9, atol=1e-11)


def test_directions_put_every_rival_at_distance_one(prediction):
    for i, rival in enumerate(claim.rivals):
        assert rival.predict is not None
        other = rival.predict(SMOKE)
        compared = 0
        for name in ensemble_law.MOMENTS:
            chosen = np.any(prediction[f"{name}_direction"].values[i] != 0, axis=(-2, -1))
            distance = (other[f"{name}_value"] - prediction[f"{name}_value"]).values[i]
            np.testing.assert_allclose(distance[chosen], 1.0, rtol=1e-9)
            compared += chosen.sum()
        assert compared >= 2
    assert all(a.holds for a in ensemble_law.assumptions(SMOKE))
    assert not all(a.holds for a in ensemble_law.assumptions(dataclasses.replace(SMOKE, learning_rate=0.7)))


def test_the_measurement_is_that_of_pairs_trained_one_by_one():
    config = dataclasses.replace(SMOKE, widths=(6,), members=(8,), units=2, steps=(1, 3))
    key = jax.random.key(4)
    found = ensemble_law.measure(config, {"width": 6, "batch": 0}, key)
    x_train, y, x_test = task(config)
    net = network(ARCHITECTURE, width=6, inputs=x_train.shape[1], outputs=CLASSES)
    gradient = jax.jit(jax.grad(lambda p: 0.5 * jnp.sum((net.apply(p, x_train) - y) ** 2)))
    start = init_members(net, key, 4)
    outputs = []
    for pair in range(4):
        for sign in (1, -1):
            params = jax.tree.map(lambda leaf, pair=pair: leaf[pair], start)
            params[-1] = jax.tree.map(lambda leaf, sign=sign: sign * leaf, params[-1])
            for _ in range(3):
                params = jax.tree.map(lambda p, g: p - config.learning_rate * g, params, gradient(params))
            outputs.append(net.apply(params, x_test))
    f = np.array(outputs, np.float64).reshape(2, 4, *outputs[0].shape)
    # Single precision.
    np.testing.assert_allclose(found["mean"][:, 1], f.mean(axis=1), atol=1e-5)
    expected = np.einsum("umik,umjk->uij", f, f) / (4 * CLASSES)
    np.testing.assert_allclose(found["second"][:, 1], expected, atol=1e-5)


def made_up(law, rng, pairs):
    """Unit means of Gaussian outputs with the given law, the two of a pair scattering oppositely, and a 1/n shift."""
    data = {"mean": [], "second": []}
    mean, covariance = law["mean"].values, law["covariance"].values
    roots = np.stack([np.linalg.cholesky(c + 1e-9 * np.eye(len(c))) for c in covariance])
    for width in SMOKE.widths:
        half = np.einsum("sij,upsjk->upsik", roots, rng.standard_normal((UNITS, pairs, *mean.shape)))
        centre = mean * (1 + 2 / width) + 0.1 / np.sqrt(width) * rng.standard_normal(half.shape)
        data["mean"].append(centre.mean(axis=1))
        second = sum(np.einsum("upsik,upsjk->usij", g, g) for g in (half, centre)) / (pairs * CLASSES)
        data["second"].append(second)
    axes = {"mean": "output", "second": "test2"}
    return xr.Dataset(
        {
            name: (("width", "batch", "unit", "step", "test", axes[name]), np.stack(values)[:, None])
            for name, values in data.items()
        },
        coords={"width": list(SMOKE.widths)},
    )


def test_the_judge_tells_the_law_from_the_rivals(prediction, rng):
    assert str(ensemble_law.judge(prediction, made_up(prediction, rng, 64)).status) == "supported"
    for rival in claim.rivals:
        assert rival.predict is not None
        measured = made_up(rival.predict(SMOKE), rng, 64)
        assert str(ensemble_law.judge(prediction, measured).status) == "refuted", rival.name


def test_standard_errors_are_the_scatter_of_the_estimates(prediction, rng):
    found = [functionals(prediction, made_up(prediction, rng, 4)) for _ in range(60)]
    for name in ensemble_law.MOMENTS:
        values, errors = (np.stack([f[name][i] for f in found]) for i in (0, 1))
        compared = np.any(prediction[f"{name}_direction"].values != 0, axis=(-2, -1))
        ratio = np.std(values, axis=0)[compared] / np.sqrt(np.mean(errors**2, axis=0))[compared]
        # 60 draws give a standard deviation to 9 %; four of these for the extremes.
        np.testing.assert_allclose(ratio, 1.0, atol=0.36)
