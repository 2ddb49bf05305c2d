"""The claim on moments at initialisation: its ensemble, its standard error, and its power."""

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import initial_moments
from experiments.claims.ntk.initial_moments import ACTIVATIONS, PAPER, SMOKE, Config, measure, predict, ratio_and_error
from theory.kernels.finite_width import ratio_plan

SMALL = Config(widths=(8,), members=(2**12,), depth=2, batches=1)


def gathered(config, seed):
    """A whole measurement, as the runner puts it together."""
    parts = []
    for i, cell in enumerate(initial_moments.cells(config)):
        found = measure(config, cell, jax.random.fold_in(jax.random.key(seed), i))
        parts.append(found.expand_dims({name: [value] for name, value in cell.items()}))
    whole = xr.combine_by_coords(parts)
    assert isinstance(whole, xr.Dataset)
    return whole


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_the_ensemble_is_large_enough_and_margins_end_half_way(config):
    assert all(assumption.holds for assumption in initial_moments.assumptions(config))
    prediction = predict(config)
    for rival in initial_moments.claim.rivals:
        assert rival.predict is not None
        distance = np.abs(rival.predict(config)["ratio"] - prediction["ratio"])
        assert np.all(prediction["margin"] <= 0.5 * distance * (1 + 1e-12))


def test_sums_are_those_of_the_outputs(rng):
    """Against E f² = 1 or 2 in every layer, and the plan's own moments of one member."""
    found = measure(SMALL, {"width": 8, "batch": 0}, jax.random.key(3))
    members = int(found["members"])
    moments = found["moments"].values
    assert moments.shape == (2, 2, 5)
    for depth in (1, 2):
        for j, name in enumerate(ACTIVATIONS):
            s1, s2, s11, s12, s22 = moments[depth - 1, j]
            mean = 2.0 if name == "relu" else 1.0
            assert abs(s1 - mean) < 5 * np.sqrt((s11 - s1**2) / members)
            assert s11 > s1**2
            assert s22 > s2**2
            assert abs(s12) <= np.sqrt(s11 * s22)


def test_the_standard_error_is_the_scatter_of_the_estimate():
    ensembles = [measure(SMALL, {"width": 8, "batch": 0}, jax.random.key(seed)) for seed in range(200)]
    moments = np.stack([e["moments"].values for e in ensembles])
    members = int(ensembles[0]["members"])
    ratios, errors = ratio_and_error(moments, members)
    for depth in (1, 2):
        for j, name in enumerate(ACTIVATIONS):
            scatter = np.std(ratios[:, depth - 1, j])
            planned = ratio_plan(name, [8] * depth, outputs=8).standard_error(members)
            # 200 draws give a standard deviation to 5 %; heavy tails make single estimates of it scatter too.
            np.testing.assert_allclose(scatter, planned, rtol=0.25)
            np.testing.assert_allclose(np.sqrt(np.mean(errors[:, depth - 1, j] ** 2)), scatter, rtol=0.25)


def test_the_truth_is_supported_and_each_rival_refuted():
    config = Config(widths=(8,), members=(2**17,), depth=1, batches=2)
    measurement = gathered(config, 0)
    assert initial_moments.judge(predict(config), measurement).status == "supported"
    for rival in initial_moments.claim.rivals:
        assert rival.predict is not None
        assert initial_moments.judge(rival.predict(config), measurement).status == "refuted"


def compiled() -> int:
    return initial_moments._member_sums._cache_size()  # pyright: ignore[reportAttributeAccessIssue] # JAX's stubs lack it


def test_a_second_seed_compiles_nothing_and_repeats_itself():
    cell = {"width": 8, "batch": 0}
    first = measure(SMALL, cell, jax.random.key(1))
    before = compiled()
    other = measure(SMALL, cell, jax.random.key(2))
    assert compiled() == before
    xr.testing.assert_identical(first, measure(SMALL, cell, jax.random.key(1)))
    assert not np.any(first["moments"].values == other["moments"].values)
