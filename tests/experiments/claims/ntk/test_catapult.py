"""The claim on the catapult: its measurement against networks trained by hand, and its power."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk.catapult import (
    CATAPULT,
    DIVERGENT,
    HUGE,
    LAZY,
    PAPER,
    SHARES,
    SMOKE,
    assumptions,
    cells,
    claim,
    deviations,
    exceptions,
    judge,
    measure,
    predict,
)

SMALL = replace(SMOKE, widths=(32, 128), members=20, target_members=10)


def by_hand(config, rng, *, second_order=1.0) -> xr.Dataset:
    """Networks in the projections (u, v) of their weights on x, f = u·v/√n and λ = (|u|² + |v|²)/n, step by step.

    Args:
        second_order: factor of the terms in η² of both layers; 1 for gradient descent.
    """
    parts = []
    for width in config.widths:
        u, v = rng.normal(size=(2, config.members, 1, width))
        data = {}
        for prefix, count, y in (("", config.members, 0.0), ("target_", config.target_members, config.target)):
            data |= _runs(config, u[:count], v[:count], y, prefix, second_order)
        coords = {"rate": [*config.rates, *(2 + s / 1000 for s in SHARES)], "step": [0, *config.steps]}
        parts.append(xr.Dataset(data, coords=coords).expand_dims(width=[width]))
    whole = xr.combine_by_coords(parts)
    assert isinstance(whole, xr.Dataset)
    return whole


def _runs(config, u, v, y, prefix, second_order):
    n = u.shape[-1]
    f, kernel = (u * v).sum(-1) / np.sqrt(n), (u**2 + v**2).sum(-1) / n
    a = (f - y) ** 2 / n
    lower = (2 / kernel * [[1.0, 1.0]]).copy()
    for _ in range(200):  # η = (2 + share aη²)/λ by iteration
        lower = (2 + np.array(SHARES) * a * lower**2) / kernel
    eta = np.concatenate([np.array(config.rates) / kernel, lower], axis=1)
    u, v = (np.repeat(w, eta.shape[1], axis=1) for w in (u, v))
    found = []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(config.steps[-1] + 1):
            f, kernel = (u * v).sum(-1) / np.sqrt(n), (u**2 + v**2).sum(-1) / n
            found.append((f, kernel))
            c = (eta * (f - y) / np.sqrt(n))[..., None]
            u, v = u - c * v, v - c * u
            # The scale of both layers shows up in the terms in η² alone.
            u, v = (w * np.sqrt((1 + second_order * c**2) / (1 + c**2)) for w in (u, v))
    f, kernel = np.clip(np.nan_to_num(np.moveaxis(np.array(found), 0, -1), nan=HUGE), -HUGE, HUGE)
    size = np.abs(f - y)
    grew = ((np.diff(size) > 0) & (size[..., :-1] > 1e-10)).any(-1)
    kept = [0, *config.steps]
    dims = (f"{prefix}member", "rate")
    phase = np.where(size[..., -1] >= HUGE / 2, DIVERGENT, np.where(grew, CATAPULT, LAZY))
    return {
        f"{prefix}learning_rate": (dims, eta),
        f"{prefix}phase": (dims, phase),
        f"{prefix}peak": (dims, (size / size[..., :1]).max(-1)),
        f"{prefix}output": ((*dims, "step"), f[..., kept]),
        f"{prefix}kernel": ((*dims, "step"), kernel[..., kept]),
    }


@pytest.fixture(scope="module")
def trained():
    return by_hand(SMALL, np.random.default_rng(11))


def test_networks_trained_by_hand_are_supported_and_rivals_refuted(trained):
    assert judge(predict(SMALL), trained).status == "supported"
    for rival in claim.rivals:
        assert rival.predict is not None
        assert judge(rival.predict(SMALL), trained).status == "refuted", rival.name


def test_wrong_maps_deviate_by_far(trained):
    by_name = {rival.name: rival.predict for rival in claim.rivals}
    for name, prefix in (
        ("frozen-kernel", ""),
        ("half-coupling", ""),
        ("no-second-order", ""),
        ("residual-map", "target_"),
    ):
        predicted = by_name[name]
        assert predicted is not None
        assert deviations(predicted(SMALL), trained, prefix=prefix).max(axis=(1, 2, 3)).min() > 0.1, name


def test_a_descent_whose_second_order_is_a_thousandth_off_is_refuted(rng):
    assert judge(predict(SMALL), by_hand(SMALL, rng, second_order=0.999)).status == "refuted"


def test_one_network_in_another_phase_refutes(trained):
    wrong = trained["phase"].copy()
    wrong[0, 0, 0] = CATAPULT
    assert judge(predict(SMALL), trained.assign(phase=wrong)).status == "refuted"
    wrong[0, 0, 0] = LAZY
    assert judge(predict(SMALL), trained.assign(phase=wrong)).status == "supported"


def test_a_network_that_does_not_settle_refutes(trained):
    kernel = trained["kernel"].copy()
    kernel[0, 0, 1, -1] = 2.1 / trained["learning_rate"][0, 0, 1]
    assert exceptions(predict(SMALL), trained.assign(kernel=kernel))["end"][1] == 1
    assert judge(predict(SMALL), trained.assign(kernel=kernel)).status == "refuted"


def test_few_networks_are_not_judged(trained):
    judged = exceptions(predict(SMALL), trained)["judged"]
    assert judged.min() >= 0.9 * SMALL.members * len(SMALL.widths)


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_assumptions_hold_and_can_fail(config):
    assert all(assumption.holds for assumption in assumptions(config))
    assert not all(assumption.holds for assumption in assumptions(replace(config, rates=(0.5, 1.0))))
    assert [cell["width"] for cell in cells(config)] == list(config.widths)


def test_the_measurement_is_gradient_descent(getkey):
    """Against the recursion of the projections (u, v), from the same outputs and kernels; both targets."""
    config = replace(SMOKE, widths=(6,), members=3, target_members=2, rates=(0.7, 3.0, 5.0), steps=(1, 2, 5))
    found = measure(config, {"width": 6}, getkey())
    assert found["output"].shape == (3, 5, 4)
    assert found["target_kernel"].shape == (2, 5, 4)
    np.testing.assert_allclose(found["learning_rate"][:, :3] * found["kernel"][:, :3, 0], [[0.7, 3.0, 5.0]] * 3)
    beside = found["learning_rate"][:, 3] * found["kernel"][:, 3, 0] - 2
    step = (found["learning_rate"] * found["output"][..., 0])[:, 3] ** 2 / 6
    np.testing.assert_allclose(beside, SHARES[0] * step, rtol=1e-9)
    # With target 0 and with another the same networks start.
    np.testing.assert_array_equal(found["output"][:2, :, 0], found["target_output"][..., 0])
    for prefix, y in (("", 0.0), ("target_", config.target)):
        f, kernel = found[f"{prefix}output"].values, found[f"{prefix}kernel"].values
        eta = found[f"{prefix}learning_rate"].values
        # Any u and v of these f and λ move alike: |u + v|² and |u − v|² are all that counts.
        root = np.sqrt(6)
        plus, minus = (
            np.sqrt(6 * kernel[..., 0] + 2 * root * f[..., 0]),
            np.sqrt(6 * kernel[..., 0] - 2 * root * f[..., 0]),
        )
        for t in range(config.steps[-1] + 1):
            out, theta = (plus**2 - minus**2) / (4 * root), (plus**2 + minus**2) / 12
            if t in (0, *config.steps):
                i = (0, *config.steps).index(t)
                # Rounding of 1e-16 grows some threefold a step.
                np.testing.assert_allclose(f[..., i], np.clip(out, -HUGE, HUGE), rtol=1e-9, atol=1e-12)
                np.testing.assert_allclose(kernel[..., i], np.minimum(theta, HUGE), rtol=1e-9)
            c = eta * (out - y) / root
            plus, minus = (1 - c) * plus, (1 + c) * minus


def test_a_second_seed_compiles_nothing(caplog):
    config = replace(SMOKE, widths=(6,), members=3, target_members=2, rates=(0.7, 3.0, 5.0), steps=(1, 2, 5))
    measure(config, {"width": 6}, jax.random.key(1))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        measure(config, {"width": 6}, jax.random.key(2))
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
