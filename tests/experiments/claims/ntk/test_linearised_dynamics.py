"""The claim's own arithmetic on made-up networks, and its measurement against a network linearised by JAX."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import linearised_dynamics as claim_file
from experiments.claims.ntk.linearised_dynamics import ARCHITECTURE, SMOKE, claim, gaps, judge, measure, predict, task
from experiments.networks import init_members, network

TINY = replace(SMOKE, widths=(8,), members=2, steps=(1, 5))


def made_up(prediction: xr.Dataset, rng, *, own: float, infinite: float) -> xr.Dataset:
    """Networks that stay n^-own from their linearisation and n^-infinite from the infinite one, with 25% of scatter."""
    widths, members = np.array(SMOKE.widths), 200
    y, a = prediction["target"].values, prediction["response"].values
    steps, tests, n = a.shape
    scatter = rng.uniform(0.6, 1.4, (len(widths), 1, members))
    start = rng.normal(size=(len(widths), 1, members, n + tests, y.shape[1]))
    outputs = start[..., None, n:, :] + np.einsum("tmn,wbank->wbatmk", a, y - start[..., :n, :])
    # The distance is reached at one test point and in one output.
    outputs[..., -1, 0, 0] += widths[:, None, None] ** -infinite * scatter
    gap = np.zeros((len(widths), 1, members, steps))
    gap[..., -1] = widths[:, None, None] ** -own * scatter
    lead = ("width", "batch", "member")
    return xr.Dataset(
        {
            "gap": ((*lead, "step"), gap),
            "start": ((*lead, "input", "output"), start),
            "outputs": ((*lead, "step", "test", "output"), outputs),
        },
        coords={"width": widths, "batch": [0]},
    )


@pytest.fixture(scope="module")
def prediction():
    return predict(SMOKE)


@pytest.mark.parametrize(
    ("own", "infinite", "status"),
    [(1.0, 0.5, "supported"), (0.5, 0.5, "refuted"), (1.0, 1.0, "refuted"), (0.0, 0.5, "refuted")],
)
def test_the_verdict_follows_the_rates(own, infinite, status, prediction, rng):
    assert judge(prediction, made_up(prediction, rng, own=own, infinite=infinite)).status == status


def test_rivals_change_what_they_say(prediction):
    assert {rival.name for rival in claim.rivals if rival.predict and not rival.predict(SMOKE).equals(prediction)} == {
        rival.name for rival in claim.rivals
    }


def test_assumptions_hold_at_the_smoke_tier_and_can_fail():
    assert all(assumption.holds for assumption in claim.assumptions(SMOKE))
    failing = claim.assumptions(replace(SMOKE, learning_rate=1.0, steps=(1, 2)))
    assert "the learning rate is below the critical one" in [a.name for a in failing if not a.holds]


def test_measured_distance_is_that_to_the_linearised_network(getkey):
    """Both networks trained here by hand, the linear one through its parameters."""
    key = getkey()
    measured = measure(TINY, {"width": 8, "batch": 0}, key)
    x_train, y, x_test = task(TINY)
    n, x = len(x_train), jnp.asarray(np.concatenate([x_train, x_test]))
    net = network(ARCHITECTURE, width=8, inputs=x.shape[1], outputs=claim_file.CLASSES)
    first = jax.tree.map(lambda leaf: leaf[0].astype(jnp.float64), init_members(net, key, TINY.members))

    def linear(theta):
        shift = jax.tree.map(jnp.subtract, theta, first)
        value, tangent = jax.jvp(lambda p: net.apply(p, x), (first,), (shift,))
        return value + tangent

    def outputs_after_five_steps(f):
        step = jax.jit(jax.grad(lambda theta: 0.5 * jnp.sum((f(theta)[:n] - y) ** 2)))
        theta = first
        for _ in range(5):
            theta = jax.tree.map(lambda p, g: p - TINY.learning_rate * g, theta, step(theta))
        return np.asarray(f(theta))[n:]

    difference = outputs_after_five_steps(lambda p: net.apply(p, x)) - outputs_after_five_steps(linear)
    expected = np.linalg.norm(difference, axis=-1).max()
    # float32 networks against float64 ones.
    np.testing.assert_allclose(measured["gap"].values[0, 1], expected, rtol=1e-4)


def test_the_distance_to_the_infinite_network_is_the_largest_over_test_points(prediction, rng):
    both = gaps(prediction, made_up(prediction, rng, own=1.0, infinite=0.5))
    assert both.shape == (2, len(SMOKE.widths), 200, len(SMOKE.steps))
    np.testing.assert_allclose(
        both[1, ..., -1] * np.sqrt(SMOKE.widths)[:, None], both[0, ..., -1] * np.array(SMOKE.widths)[:, None]
    )
    np.testing.assert_allclose(both[1, ..., :-1], 0, atol=1e-12)
