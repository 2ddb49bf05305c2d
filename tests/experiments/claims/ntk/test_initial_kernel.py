"""The claim on the fluctuations of the tangent kernel at initialisation: its ensemble, its margins, and its power."""

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import initial_kernel
from experiments.claims.ntk.initial_kernel import PAPER, SMOKE, WIDE, Config, measure, predict, standard
from experiments.networks import network
from experiments.random_kernels import contributions
from theory.architecture import MLP

SMALL = Config(widths=(5,), depths=(2,), members=(4_000,), batches=1)


def made_up(prediction, rng, power=1.0):
    """A measurement that follows a prediction, with its planned noise; deeper networks fall as n^−power."""
    variance, error = (prediction[name].values for name in ("variance", "error"))
    n = prediction["width"].values[:, None].astype(float)
    deeper = prediction["depth"].values[:, None] > 2
    law = np.where(deeper, variance * (n / n[deeper[:, 0]].min()) ** (1 - power), variance)
    values = law * (1 + error / variance * rng.standard_normal(law.shape))
    count = np.full_like(values, 1000.0)
    # Mean 1 about a centre of 0.
    sums = np.stack([count, count, count * (1 + values * (count - 1) / count)], axis=-1)[:, None]
    return xr.Dataset(
        {
            "sums": (("case", "batch", "activation", "power"), sums),
            "centre": (("case", "batch", "activation"), np.zeros(sums.shape[:3])),
        }
    )


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_the_ensemble_is_large_enough_and_margins_end_half_way(config):
    assert all(assumption.holds for assumption in initial_kernel.assumptions(config))
    assert min(config.members) >= 32
    prediction = predict(config)
    two = prediction["depth"].values == 2
    for rival in (initial_kernel.standard_parametrisation, initial_kernel.other_activation):
        distance = np.abs(rival(config)["variance"].values - prediction["variance"].values)[two]
        assert np.all(prediction["margin"].values[two] <= 0.5 * distance * (1 + 1e-12))
    assert float(prediction["exponent_margin"]) <= 0.5 * abs(0.5 - float(prediction["exponent"]))


def test_every_exponent_of_the_paper_rests_on_seven_widths_up_to_4096():
    assert len(WIDE) >= 7
    assert (WIDE[0], WIDE[-1]) == (32, 4096)


def test_two_layers_have_three_and_one_over_n():
    prediction = predict(SMOKE)
    two = prediction.isel(case=prediction["depth"].values == 2)
    np.testing.assert_allclose(two["variance"] * two["width"], [[3.0, 1.0]] * 2, rtol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_the_law_of_the_standard_parametrisation(activation, rng):
    """Against networks: it is a rival, and has to be right as one."""
    n, members = 8, 40_000
    net = network(
        MLP(1, activation, initial_kernel.WEIGHT_VARIANCES[activation]), width=n, inputs=2, parametrisation="standard"
    )
    theta = contributions(net, rng.standard_normal((members, net.parameters)), np.ones((1, 2))).sum(axis=(1, 2, 3))
    variance = np.var(theta) / np.mean(theta) ** 2
    # The relative error of a variance of nearly Gaussian numbers is √(2/members), 0.7 %; the tails double it at most.
    np.testing.assert_allclose(variance, standard(activation, n, 2), rtol=0.06)
    # The NTK parametrisation's law would fail.
    assert abs(variance / ({"relu": 3, "linear": 1}[activation] / n) - 1) > 0.15


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_made_up_truths_are_supported_and_rivals_refuted(config, rng):
    prediction = predict(config)
    assert initial_kernel.judge(prediction, made_up(prediction, rng)).status == "supported"
    for rival in initial_kernel.claim.rivals:
        assert rival.predict is not None
        assert initial_kernel.judge(rival.predict(config), made_up(prediction, rng)).status == "refuted"
    for power in (0.5, 2.0):
        assert initial_kernel.judge(prediction, made_up(prediction, rng, power)).status == "refuted"


def test_an_ensemble_has_the_variance_of_the_law_and_repeats_itself():
    cell = {"case": 0, "batch": 0}
    found = measure(SMALL, cell, jax.random.key(1))
    xr.testing.assert_identical(found, measure(SMALL, cell, jax.random.key(1)))
    variance, members = initial_kernel.relative_variances(found.expand_dims({"case": [0], "batch": [0]}))
    prediction = predict(SMALL)
    assert members == 4_000
    assert np.all(np.abs(variance - prediction["variance"].values) < 5 * prediction["error"].values)
