"""ntk/nngp-posterior: its rivals' laws, both trainings against plain loops, its judge on made-up ensembles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import nngp_posterior as subject
from experiments.claims.ntk.nngp_posterior import DEEP, MOMENTUM, PARTS, SHALLOW, SMOKE, claim, functionals, task
from experiments.networks import init_members, network
from theory.kernels import nngp, ntk

UNITS = 32


@pytest.fixture(scope="module")
def prediction():
    return subject.predict(SMOKE)


def conditioned(kernel, noise):
    """Mean and covariance of a Gaussian process given noisy labels, from the joint law of labels and outputs."""
    x, y, x_test = task(SMOKE)
    joint = np.asarray(kernel(np.concatenate([x, x_test])))
    precision = np.linalg.inv(joint + np.diag([noise] * len(x) + [0.0] * len(x_test)))[len(x) :]
    covariance = np.linalg.inv(precision[:, len(x) :])
    return -covariance @ precision[:, : len(x)] @ y, covariance


def test_laws_are_those_of_conditioned_processes():
    for law, expected in (
        (subject._truth(SMOKE, "last-layer"), conditioned(lambda x: nngp(DEEP, x), 0.0)),
        (subject._truth(SMOKE, "langevin"), conditioned(lambda x: nngp(SHALLOW, x), 0.3)),
        (subject._other_noise(SMOKE, "last-layer"), conditioned(lambda x: nngp(DEEP, x), 0.3)),
        (subject._other_noise(SMOKE, "langevin"), conditioned(lambda x: nngp(SHALLOW, x), 0.0)),
        (subject._half_noise(SMOKE, "langevin"), conditioned(lambda x: nngp(SHALLOW, x), 0.15)),
        (subject._tangent(SMOKE, "langevin"), conditioned(lambda x: ntk(SHALLOW, x), 0.3)),
    ):
        for found, wanted in zip(law, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)


def test_directions_put_every_rival_at_distance_one(prediction):
    for i, rival in enumerate(claim.rivals):
        assert rival.predict is not None
        other, compared = rival.predict(SMOKE), 0
        for name in subject.MOMENTS:
            chosen = np.any(prediction[f"{name}_direction"].values[:, i] != 0, axis=(-2, -1))
            distance = (other[f"{name}_value"] - prediction[f"{name}_value"]).values[:, i]
            np.testing.assert_allclose(distance[chosen], 1.0, rtol=1e-9)
            compared += chosen.sum()
        assert compared >= 1


def test_assumptions_hold_and_can_fail():
    assert all(a.holds for a in subject.assumptions(SMOKE))
    for change in ({"rate": 0.03}, {"steps": 10}, {"burn_in": 0}):
        assert not all(a.holds for a in subject.assumptions(dataclasses.replace(SMOKE, **change))), change


def test_the_last_layer_ends_where_its_own_kernel_says():
    """f_0(x*) + K̂* K̂⁻¹ (y − f_0(X)), K̂ of this network's features; and hidden layers frozen by a rate of 0 agree."""
    config = dataclasses.replace(SMOKE, widths=(40,), networks=(2,), heads=1, steps=3000, units=2)
    key = jax.random.key(3)
    outputs, residual = subject.last_layer(config, 40, key)
    assert outputs.shape == (2, 2, 6, 4)
    assert residual.max() < 1e-3
    x, y, x_test = task(config)
    net = network(DEEP, width=40, inputs=3, outputs=4)
    (params,) = (jax.tree.map(lambda leaf: leaf[0], init_members(net, jax.random.fold_in(key, 1), 1)),)
    for i, sign in enumerate((1, -1)):
        mine = [*params[:-1], jax.tree.map(lambda leaf, sign=sign: sign * leaf, params[-1])]
        features = np.asarray(jax.scipy.special.erf(net.preactivations(mine, np.concatenate([x, x_test]))[-2]))
        kernel = 12 / 40 * features.astype(np.float64) @ features.T
        start = np.asarray(net.apply(mine, np.concatenate([x, x_test])), np.float64)
        end = start[6:] + kernel[6:, :6] @ np.linalg.solve(kernel[:6, :6], y - start[:6])
        # Single precision, times the condition number.
        np.testing.assert_allclose(outputs[1, i], end, atol=2e-3)

    # Some steps of the whole network, of which only the last array has a rate, with momentum.
    few = dataclasses.replace(config, steps=3)
    outputs, _ = subject.last_layer(few, 40, key)
    gradient = jax.jit(jax.grad(lambda p: 0.5 * jnp.sum((net.apply(p, x) - y) ** 2)))
    weights, velocity = params[-1]["weight"], 0.0
    for _ in range(3):
        slope = gradient([*params[:-1], {"weight": weights}])[-1]["weight"]
        velocity = MOMENTUM * velocity + slope
        weights = weights - config.rate * velocity
    np.testing.assert_allclose(outputs[1, 0], net.apply([*params[:-1], {"weight": weights}], x_test), atol=1e-4)


def test_langevin_outputs_are_means_of_consecutive_steps():
    """A plain loop with the same random numbers."""
    config = dataclasses.replace(SMOKE, widths=(5,), chains=(2,), burn_in=2, spacing=3, records=2, units=2)
    key = jax.random.key(8)
    found = subject.langevin(config, 5, key)
    assert found.shape == (2, 2, 6, 4)
    x, y, x_test = task(config)
    net = network(SHALLOW, width=5, inputs=3, outputs=4)
    gradient = jax.jit(jax.grad(lambda p: 0.5 * jnp.sum((net.apply(p, x) - y) ** 2)))
    start, walk = jax.random.split(key)
    params = jax.tree.map(lambda leaf: leaf[1], init_members(net, start, 2))
    own, history, spread = jax.random.fold_in(walk, 1), [], float(np.sqrt(2 * 0.06 * 0.3))
    for k in range(7):
        history.append(net.apply(params, x_test))
        leaves, structure = jax.tree.flatten(params)
        slopes = jax.tree.leaves(gradient(params))
        keys = jax.random.split(jax.random.fold_in(own, k), len(leaves))
        params = structure.unflatten(
            p - 0.06 * (g + 0.3 * p) + spread * jax.random.normal(noise, p.shape, p.dtype)
            for p, g, noise in zip(leaves, slopes, keys, strict=True)
        )
    for i, first in enumerate((2, 5)):
        np.testing.assert_allclose(found[1, i], (history[first] + history[first + 1]) / 2, atol=1e-5)


def made_up(laws, rng, samples):
    """Units of Gaussian outputs with the given law in each part, and a shift of order 1/n."""
    data = {"mean": [], "second": []}
    for part, (mean, covariance) in zip(PARTS, laws, strict=True):
        root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance)))
        for width in SMOKE.widths:
            noise = rng.standard_normal((UNITS, samples, *mean.shape))
            f = mean * (1 + 2 / width) + np.einsum("ij,usjk->usik", root, noise)
            data["mean"].append(f.mean(axis=1))
            data["second"].append(np.einsum("usik,usjk->uij", f, f) / (samples * mean.shape[1]))
        assert part in PARTS
    shape = (len(PARTS), len(SMOKE.widths), UNITS)
    axes = {"mean": "output", "second": "test2"}
    found = {
        name: (("part", "width", "unit", "test", axes[name]), np.reshape(values, (*shape, *values[0].shape[1:])))
        for name, values in data.items()
    }
    residual = (("part", "width", "unit"), np.full(shape, 1e-5))
    return xr.Dataset(found | {"residual": residual}, coords={"part": list(PARTS), "width": list(SMOKE.widths)})


def test_the_judge_tells_the_law_from_the_rivals(prediction, rng):
    truth = [subject._truth(SMOKE, part) for part in PARTS]
    measured = made_up(truth, rng, 256)
    assert str(subject.judge(prediction, measured).status) == "supported"
    assert str(subject.judge(prediction, measured.assign(residual=measured["residual"] * 1000)).status) == "refuted"
    for name, law in subject.DIRECTIONS.items():
        measured = made_up([law(SMOKE, part) for part in PARTS], rng, 256)
        assert str(subject.judge(prediction, measured).status) == "refuted", name


def test_moments_are_unbiased_and_their_errors_are_their_scatter(prediction, rng):
    """With 4 samples in each of 32 units, where the centring's own bias would be 1/128 of the covariance."""
    truth = [subject._truth(SMOKE, part) for part in PARTS]
    found = [functionals(prediction, made_up(truth, rng, 4)) for _ in range(200)]
    for name in subject.MOMENTS:
        values, errors = (np.stack([f[name][i] for f in found]) for i in (0, 1))
        compared = np.any(prediction[f"{name}_direction"].values != 0, axis=(-2, -1))
        values, errors = values[:, compared], errors[:, compared]
        # 200 draws give a standard deviation to 5 %; four of these for the extremes.
        np.testing.assert_allclose(np.std(values, axis=0) / np.sqrt(np.mean(errors**2, axis=0)), 1.0, atol=0.2)
        if name == "covariance":
            exact = prediction["covariance_value"].values[compared][:, None]
            assert np.all(np.abs(values.mean(axis=0) - exact) < 4 * np.std(values, axis=0) / np.sqrt(200))
