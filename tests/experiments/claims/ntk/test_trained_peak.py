"""The claim on the peak of trained networks: its count of dimensions, what it trains, and that its judge can tell.

Equalities are exact, and tolerances of 1e-12 the rounding of double precision.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import trained_peak
from experiments.claims.ntk.trained_peak import (
    ARCHITECTURE,
    MARGIN,
    PAPER,
    SMOKE,
    Loss,
    MeanSquares,
    interpolation,
    narrowed,
    peak,
    predict,
    trained,
    widths,
)
from experiments.networks import network

SMALL = replace(SMOKE, examples=(12,), outputs=(2,), steps=(1500,), ratios=(0.4, 1.2, 6.0), members=6, dimension=4)


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_rivals_are_far_and_widths_differ(config):
    assert all(assumption.holds for assumption in trained_peak.assumptions(config))
    prediction = predict(config)
    for name in ("parameters", "units"):
        assert np.all(np.abs(np.log(prediction[name] / prediction["threshold"])) > 2 * MARGIN)
    near = replace(config, outputs=(1,) * len(config.outputs))
    assert not trained_peak.assumptions(near)[0].holds


def test_parameters_are_counted_as_the_network_has_them():
    """At N* dimensions are as many as labels, at the rival's N parameters as many as examples, for whole numbers."""
    d, k, n = 12, 4, 49
    prediction = predict(replace(SMOKE, examples=(n,), outputs=(k,), steps=(1,)))
    star = float(prediction["threshold"][0])
    assert star == 12.0
    net = network(ARCHITECTURE, width=12, inputs=d, outputs=k)
    assert net.parameters - 12 == n * k
    few = float(predict(replace(SMOKE, examples=(38,), outputs=(k,), steps=(1,)))["parameters"][0])
    assert network(ARCHITECTURE, width=int(few), inputs=d, outputs=k).parameters == 38


def test_outputs_span_as_many_dimensions_as_counted(getkey):
    """The rank of the Jacobian by all parameters is N(d+K) + K below N*, and nK above it."""
    n, d, k = 41, 3, 2
    x = jax.random.normal(getkey(), (n, d), jnp.float64)
    for width in (4, 12, 40):
        net = network(ARCHITECTURE, width=width, inputs=d, outputs=k)
        params = net.init(getkey(), jnp.float64)
        # A unit that is on for few of the examples, or for all, would have fewer dimensions.
        params[0]["bias"] *= 0.1
        slopes = jax.tree.leaves(jax.jacrev(net.apply)(params, x))
        jacobian = np.concatenate([np.reshape(slope, (n * k, -1)) for slope in slopes], axis=1)
        assert np.linalg.matrix_rank(jacobian, tol=1e-9) == min(width * (d + k) + k, n * k)


def test_a_narrowed_network_is_one_of_fewer_units(getkey):
    d, k, units, width = 5, 3, 9, 4
    wide, narrow = (network(ARCHITECTURE, width=w, inputs=d, outputs=k) for w in (units, width))
    params, x = wide.init(getkey(), jnp.float64), jax.random.normal(getkey(), (7, d), jnp.float64)
    y = jnp.ones((7, k))
    first, last = params
    kept = [
        {"weight": first["weight"][:, :width], "bias": first["bias"][:width]},
        {"weight": last["weight"][:width], "bias": last["bias"]},
    ]
    np.testing.assert_allclose(wide.apply(narrowed(params, width), x), narrow.apply(kept, x), rtol=1e-13)
    # Gradients too, and the units that are left out have none.
    gradient = jax.grad(Loss(wide))(params, (x, y, jnp.asarray(float(width))))
    expected = jax.grad(lambda p: 0.5 * jnp.sum((narrow.apply(p, x) - y) ** 2))(kept)
    np.testing.assert_allclose(gradient[0]["weight"][:, :width], expected[0]["weight"], rtol=1e-12)
    np.testing.assert_allclose(gradient[1]["weight"][:width], expected[1]["weight"], rtol=1e-12)
    assert not np.any(gradient[0]["weight"][:, width:])
    assert not np.any(gradient[1]["weight"][width:])
    found = MeanSquares(wide)(params, (jnp.asarray(4.0), [(x, y), (x[:2], y[:2])]))
    errors = np.asarray((narrow.apply(kept, x) - y) ** 2)
    np.testing.assert_allclose(found, [errors.mean(), errors[:2].mean()], rtol=1e-12)


def test_training_interpolates_with_units_enough_only():
    grid = widths(SMALL)[0]
    loss, risk = trained(SMALL, 0, grid, jax.random.key(4))
    assert loss.shape == risk.shape == (3, 6)
    assert np.all(loss[0] > trained_peak.THRESHOLD)
    assert np.mean(loss[2] < trained_peak.THRESHOLD) > 0.5
    assert np.all(risk > 0.05)
    np.testing.assert_array_equal(trained(SMALL, 0, grid, jax.random.key(4)), (loss, risk))
    assert np.all(trained(SMALL, 0, grid, jax.random.key(5))[1] != risk)


def test_the_peak_of_a_curve():
    """Of a parabola the exact place, also between widths; NaN where the curve rises to the end of its range."""
    at = np.log([5.0, 7, 9, 12, 16, 21, 30])
    places = np.log([8.0, 12.0, 13.9])
    curves = 1 - 0.7 * (at - places[:, None]) ** 2
    np.testing.assert_allclose(peak(at, curves), places, rtol=1e-12)
    np.testing.assert_allclose(peak(at, curves[1]), places[1], rtol=1e-12)
    assert np.all(np.isnan(peak(at, np.stack([at, -at]))))


def test_the_width_of_interpolation():
    at, log = np.log([5.0, 10, 20, 40]), np.log(trained_peak.THRESHOLD)
    losses = log + np.array([[5, 3, -3, -9], [2, 1, -1, 4], [5, 4, 3, 2], [-1, -2, -3, -4]])
    found = interpolation(at, losses)
    np.testing.assert_allclose(found[:2], np.log([10 * 2**0.5, 10 * 2**0.5]), rtol=1e-12)
    assert np.all(np.isnan(found[2:]))
    np.testing.assert_allclose(interpolation(at, losses[0]), found[0])


def made_up(prediction, shift=0.0, top=None, noise=0.2):
    """Risks with a peak at N* (or elsewhere), and losses that fall below the threshold at e^shift N*."""
    rng = np.random.default_rng(3)
    star = prediction["threshold"] if top is None else prediction[top]
    log_width, log_star = np.log(prediction["width"]), np.log(star)
    shape = (*prediction["width"].shape, 1, 30)
    dims = ("world", "ratio", "batch", "member")
    risk = (-2 * (log_width - log_star) ** 2).values[..., None, None] + noise * rng.standard_normal(shape)
    loss = (np.log(prediction["threshold"]) + shift - log_width).values[..., None, None]
    loss = np.log(trained_peak.THRESHOLD) + 8 * loss + rng.standard_normal(shape)
    return xr.Dataset({"risk": (dims, np.exp(risk)), "loss": (dims, np.exp(loss))}).assign_coords(
        world=prediction["world"], ratio=prediction["ratio"]
    )


def test_the_judge_tells_where_the_peak_is():
    prediction = predict(PAPER)
    truth = made_up(prediction)
    verdict = trained_peak.judge(prediction, truth)
    assert verdict.status == "supported"
    assert "in n = 60, K = 2" in verdict.reason
    for rival in trained_peak.claim.rivals:
        assert rival.judge is not None
        assert rival.judge(prediction, truth).status == "refuted"
    # One network that interpolates with too few dimensions, and interpolation elsewhere than the peak.
    impossible = truth.copy(deep=True)
    impossible["loss"][2, 1, 0, 4] = 1e-8
    assert trained_peak.judge(prediction, impossible).status == "refuted"
    assert trained_peak.judge(prediction, made_up(prediction, shift=0.7)).status == "refuted"


@pytest.mark.parametrize(("top", "name", "outputs"), [("parameters", "parameters-n", 2), ("units", "units-n", 8)])
def test_rivals_would_win_in_their_own_worlds(top, name, outputs):
    """On the widths that are measured, in the world where the rival's peak lies among them."""
    only = replace(PAPER, examples=(60,), outputs=(outputs,), steps=(1,))
    prediction = predict(only)
    world = made_up(prediction, top=top, noise=0.05)
    (judge,) = (rival.judge for rival in trained_peak.claim.rivals if rival.name == name)
    assert judge is not None
    assert judge(prediction, world).status == "supported"
    assert trained_peak.judge(prediction, world).status == "refuted"


def test_a_curve_without_a_peak_fails():
    prediction = predict(PAPER)
    rising = made_up(prediction)
    rising["risk"] = rising["risk"] * np.exp((np.log(prediction["width"] / prediction["threshold"]) + 1) ** 2)
    assert trained_peak.judge(prediction, rising).status == "failed"
