"""The claim on pooling: where a share is said to be learned, networks that start at 0, what its judge tells apart."""

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import convolution
from experiments.claims.ntk.convolution import (
    PAPER,
    SMOKE,
    Config,
    cells,
    crossing,
    examples,
    gains,
    measure,
    parts,
    predict,
)
from experiments.invariant_learning import DIAGONAL, NETWORK, RIDGE, twins
from experiments.networks import init_members, network
from experiments.regression import relu_ntk

# No images, whose populations take seconds to diagonalise.
SMALL = Config(
    dimensions=(10, 12, 14),
    labels=(600, 1500),
    least=12,
    network_dimension=10,
    widths=(64, 128, 256),
    networks=(6, 3),
    steps=60,
    images=(),
)
IMAGE = ("digits", "label", 24, 0.3, (6, 9), (240, 350), (40, 12))


def test_grids_are_full_and_sizes_within_reach():
    for config in (SMOKE, PAPER):
        assert [cell["part"] for cell in cells(config)] == parts(config)
        assert len(set(parts(config))) == len(parts(config))
        assert max(max(examples(config, part)[1]) for part in parts(config)) <= 2600
    assert all(a.holds for a in convolution.assumptions(SMALL))


def test_the_diagonal_that_the_ridge_refers_to():
    assert float(relu_ntk(NETWORK, np.zeros(1))[0]) == pytest.approx(DIAGONAL)
    assert RIDGE < 0.01


def test_a_logistic_curve_crosses_where_it_should(rng):
    sizes, position, slope = np.array([80.0, 125.0]), 97.0, 0.9
    level = np.array(0.3)
    shares = 1 / (1 + (1 / 0.3 - 1) * (position / sizes) ** slope)
    found, error = crossing(sizes, shares, np.full(2, 0.004), level)
    assert found == pytest.approx(position, rel=1e-12)
    drawn = crossing(
        np.tile(sizes, (4000, 1)), shares + 0.004 * rng.standard_normal((4000, 2)), np.ones((4000, 2)), level
    )
    # 4000 draws give a standard deviation to 1 %, and the curve is straight over one of them to a few percent.
    assert error == pytest.approx(np.std(drawn[0]), rel=0.07)


def test_twins_start_at_zero_and_have_the_kernel_of_their_half():
    halves, net = (network(NETWORK, width=n, inputs=5, outputs=2) for n in (8, 16))
    params = init_members(halves, jax.random.key(1), 3, np.float64)
    double = twins(params)
    x = np.random.default_rng(0).normal(size=(4, 5))

    def kernel(f, member):
        gradients = jax.jacrev(lambda p: f.apply(p, x)[:, 0])(member)
        rows = np.concatenate([np.asarray(g).reshape(4, -1) for g in jax.tree.leaves(gradients)], axis=1)
        return rows @ rows.T

    first = [jax.tree.map(lambda leaf: leaf[0], tree) for tree in (params, double)]
    np.testing.assert_allclose(net.apply(first[1], x), 0, atol=1e-14)
    np.testing.assert_allclose(kernel(net, first[1]), kernel(halves, first[0]), rtol=1e-12)


def made_up(prediction, gain=None):
    """Shares whose crossings give the gain asked for: the plain curve is moved along ln n."""
    share = prediction["share"].copy(deep=True)
    if gain is not None:
        factor = np.asarray(gain) / prediction["gain"].values
        sizes = prediction["examples"].sel(symmetry="plain").values
        plain = share.sel(symmetry="plain").values
        logit = np.log(plain / (1 - plain))
        slope = (logit[:, 1] - logit[:, 0]) / np.log(sizes[:, 1] / sizes[:, 0])
        moved = logit - (slope * np.log(factor))[:, None]
        share.loc[{"symmetry": "plain"}] = 1 / (1 + np.exp(-moved))
    return xr.Dataset({"share": share, "error": 0.001 + 0 * share, "trials": 60 + 0 * share})


@pytest.fixture(scope="module")
def with_image():
    # Only a wide range of d tells an exponent from its first correction.
    return Config(**{**vars(SMALL), "dimensions": (10, 18, 36), "images": (IMAGE,)})


def test_truth_is_supported_and_rivals_are_refuted(with_image):
    prediction = predict(with_image)
    measurement = made_up(prediction)
    np.testing.assert_allclose(gains(prediction, measurement)[0], prediction["gain"], rtol=1e-12)
    assert convolution.judge(prediction, measurement).status == "supported"
    for rival in convolution.claim.rivals:
        assert rival.predict is not None
        theirs = rival.predict(with_image)
        assert convolution.judge(theirs, measurement).status == "refuted"
        # And where the rival's gains are true, the claim is refuted.
        assert convolution.judge(prediction, made_up(prediction, theirs["gain"])).status == "refuted"


def test_small_measurements_agree_with_the_equations_and_repeat_themselves():
    prediction = predict(SMALL)
    for part in ("sphere 14", "width 128"):
        found = measure(SMALL, {"part": part}, jax.random.key(4))
        xr.testing.assert_identical(found, measure(SMALL, {"part": part}, jax.random.key(4)))
        exact = prediction["share"].sel(part=part).values
        # The equations' own error, about 0.3/n of the share at n = 6 and more; a finite network's adds some.
        allowed = 0.04 if part.startswith("sphere") else 0.1
        assert np.all(abs(found["share"].values - exact) < 4.5 * found["error"].values + allowed), part


def test_images_are_learned_from_random_shifts():
    config = Config(**{**vars(SMALL), "images": (IMAGE,)})
    found = measure(config, {"part": "digits label"}, jax.random.key(2))
    exact = predict(config)["share"].sel(part="digits label").values
    assert np.all(abs(found["share"].values - exact) < 4.5 * found["error"].values + 0.04)
