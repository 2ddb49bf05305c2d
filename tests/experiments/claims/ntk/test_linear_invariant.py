"""The claim on the invariant of gradient flow: its measurement against SciPy, and its power."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.integrate import solve_ivp

from experiments.claims.ntk.linear_invariant import (
    MARGIN,
    PAPER,
    SMOKE,
    SQUARE,
    WEIGHT_VARIANCE,
    Config,
    assumptions,
    cells,
    claim,
    deviations,
    judge,
    measure,
    predict,
)
from experiments.networks import init_members, network
from theory.architecture import MLP

# Width and power alone matter here; the integrals below are SciPy's.
CONFIG = Config(widths=(32, 4096), members=3)


def by_hand(config, rng, *, drift=0.0):
    """The two equations of motion integrated by SciPy; `drift` is a share by which the kernel moves too far."""
    times = np.array([0.0, *config.times]) / (2 * WEIGHT_VARIANCE**2 * SQUARE)
    shape = (len(config.widths), len(config.powers), config.members)
    output, kernel = np.empty((2, *shape, times.size))
    for i, j, m in np.ndindex(shape):
        n = config.widths[i]
        k = 4 * WEIGHT_VARIANCE**2 * SQUARE / n
        y = config.target * n ** config.powers[j]

        def field(t, state, k=k, y=y):
            f, theta = state
            return [-theta * (f - y), -(1 + drift) * k * f * (f - y)]

        start = (rng.normal(), 3.6 * (1 + rng.normal() / np.sqrt(n)))
        solution = solve_ivp(field, (0, times[-1]), start, method="DOP853", t_eval=times, rtol=1e-11, atol=1e-11)
        output[i, j, m], kernel[i, j, m] = solution.y
    lead = ("width", "power", "member")
    return xr.Dataset(
        {
            "output": ((*lead, "time"), output),
            "kernel": ((*lead, "time"), kernel),
            "error": (lead, np.full(shape, 1e-12)),
        },
        coords={"width": list(config.widths), "power": list(config.powers), "time": times},
    )


@pytest.fixture(scope="module")
def motion():
    return by_hand(CONFIG, np.random.default_rng(5))


def test_the_truth_is_supported_and_rivals_are_refuted(motion):
    assert judge(predict(CONFIG), motion).status == "supported"
    for rival in claim.rivals:
        assert rival.predict is not None
        assert judge(rival.predict(CONFIG), motion).status == "refuted", rival.name


def test_rivals_are_refuted_at_every_width_and_by_far(motion):
    for rival in claim.rivals:
        assert rival.predict is not None
        gaps = deviations(rival.predict(CONFIG), motion)["invariant"]
        # The first order errs by its own next order, which is small where the kernel hardly moves.
        seen = gaps[:, 1] if rival.name == "first-order" else gaps
        assert seen.min() > 0.4, rival.name


def test_a_kernel_that_moves_a_thousandth_too_far_is_refuted(rng):
    assert judge(predict(CONFIG), by_hand(CONFIG, rng, drift=1e-3)).status == "refuted"


def test_a_careless_integration_is_refuted(motion):
    careless = motion.assign(error=motion["error"] * 0 + 1e-5)
    assert judge(predict(CONFIG), careless).status == "refuted"


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_assumptions_hold_and_can_fail(config):
    assert all(assumption.holds for assumption in assumptions(config))
    assert not all(assumption.holds for assumption in assumptions(replace(config, target=1.0)))
    assert len(cells(config)) == len(config.widths) * len(config.powers)


def test_the_measurement_is_that_of_a_network_integrated_by_scipy(getkey):
    """Parameters, output and gradient written out in NumPy, from the same start."""
    config = Config(widths=(5,), members=2, times=(0.2, 1.0))
    key = getkey()
    found = measure(config, {"width": 5, "power": 0.5}, key)
    net = network(MLP(1, "linear", WEIGHT_VARIANCE), width=5, inputs=config.inputs)
    params = jax.tree.map(lambda leaf: np.asarray(leaf[1]), init_members(net, key, 2, np.float64))
    w, v = params[0]["weight"], params[1]["weight"][:, 0]
    x, y = np.full(3, np.sqrt(SQUARE)), config.target * np.sqrt(5)
    scale = WEIGHT_VARIANCE / np.sqrt(5 * 3)

    def gradient(state):
        w, v = state[:15].reshape(3, 5), state[15:]
        return scale * np.concatenate([np.outer(x, v).ravel(), x @ w])

    def output(state):
        return scale * (x @ state[:15].reshape(3, 5)) @ state[15:]

    solution = solve_ivp(
        lambda t, state: -(output(state) - y) * gradient(state),
        (0, found["time"].values[-1]),
        np.concatenate([w.ravel(), v]),
        method="DOP853",
        t_eval=found["time"].values,
        rtol=1e-11,
        atol=1e-11,
    )
    # Both integrators are asked for 1e-10 a step.
    expected = [output(state) for state in solution.y.T]
    np.testing.assert_allclose(found["output"][1], expected, rtol=1e-7)
    expected = [np.sum(gradient(state) ** 2) for state in solution.y.T]
    np.testing.assert_allclose(found["kernel"][1], expected, rtol=1e-7)
    assert (found["error"] < MARGIN).all()
