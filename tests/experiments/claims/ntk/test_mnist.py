"""ntk/mnist: its numbers, its kernels and dense solutions by other routes, and its judge on made-up classifiers."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import mnist
from experiments.claims.ntk.mnist import ARCHITECTURE, KERNELS, PAPER, PUBLISHED, SMOKE, claim, judge, series, task
from experiments.regression import relu_ntk
from theory.kernels import nngp, ntk
from theory.kernels.posterior import nngp_posterior

TINY = replace(SMOKE, sizes=(48, 128), reference=128, reference_test=40, tuning=64, rank=64, tile=64, fewer=12)


@pytest.fixture(scope="module")
def prediction():
    return mnist.predict(TINY)


def test_the_paper_tier_is_the_published_table():
    full, fewer = mnist._accuracies(PAPER)
    assert (full, fewer) == (0.9875, 0.9765)
    assert PAPER.sizes == (1_000, 10_000, 60_000)
    assert PAPER.reference in PAPER.sizes
    assert PAPER.fewer in PUBLISHED
    for config in (SMOKE, PAPER):
        assert all(a.holds for a in mnist.assumptions(config))
    assert not all(a.holds for a in mnist.assumptions(replace(PAPER, ridge=1e-6)))


def test_the_measurements_kernels_are_those_of_the_theory():
    angle = np.linspace(0, np.pi, 50)
    circle = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    versine = 1 - np.cos(angle)
    # arccos of the measurement's ρ loses digits as the square root next to ρ = 1.
    np.testing.assert_allclose(mnist.relu_nngp(versine), nngp(ARCHITECTURE, circle[:1], circle)[0], atol=1e-10)
    np.testing.assert_allclose(relu_ntk(ARCHITECTURE, versine), ntk(ARCHITECTURE, circle[:1], circle)[0], atol=1e-10)
    x = task("digits")[0][:30].astype(float)
    for name, kernel in (("nngp", nngp), ("ntk", ntk)):
        exact = np.asarray(kernel(ARCHITECTURE, x))
        np.testing.assert_allclose(series(name)(x), exact, atol=3e-8 * exact[0, 0])
    distance = np.sum((x[:, None] - x[None]) ** 2, axis=-1) / x.shape[1]
    np.testing.assert_allclose(series("rbf", 0.3)(x), np.exp(-distance / 2 / 0.3), atol=3e-8)


def test_images_are_standardised():
    x, y, x_test, digits = task("digits")
    for rows in (x, x_test):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-6)
        np.testing.assert_allclose(np.mean(rows.astype(float) ** 2, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(y.sum(axis=1), 0, atol=1e-15)
    assert len(x) == SMOKE.sizes[-1]
    assert len(x_test) == len(digits) == SMOKE.reference_test


def test_the_dense_solution_is_the_posterior_mean(prediction):
    x, y, x_test, _ = task("digits")
    x, x_test = x[:128].astype(float), x_test[:40].astype(float)
    k = np.asarray(nngp(ARCHITECTURE, x[:1]))[0, 0]
    mean = nngp_posterior(ARCHITECTURE, x, y[:128], x_test, noise=TINY.ridge * k).mean
    np.testing.assert_allclose(prediction["outputs"].sel(network="nngp"), mean, atol=1e-9)
    theta = np.asarray(ntk(ARCHITECTURE, x))
    solved = np.linalg.solve(theta + TINY.ridge * theta[0, 0] * np.eye(128), y[:128])
    outputs = np.asarray(ntk(ARCHITECTURE, x_test, x)) @ solved
    np.testing.assert_allclose(prediction["outputs"].sel(network="ntk"), outputs, atol=1e-9)


def test_the_measurement_is_the_dense_solution_and_leaves_no_checkpoint(prediction, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("nngp", "rbf"):
        data = mnist.measure(TINY, {"kernel": name}, jax.random.key(1))
        assert np.all(data["residual"] <= TINY.tolerance)
        assert np.all(data["steps"] > 0)
        assert not list((tmp_path / "unmagic" / "regression").iterdir())
        if name == "nngp":
            distance = np.sqrt(np.mean((data["outputs"] - prediction["outputs"].sel(network=name).values) ** 2))
            # Far below the judge's tolerance, and below the proven bound.
            assert distance < 0.1 * prediction["apart"]
            assert distance < data["bound"][-1]
            outputs = prediction["outputs"].sel(network=name).values
            right = outputs.argmax(axis=1) == task("digits")[3][:40]
            np.testing.assert_array_equal(data["right"].sel(size=128)[:40], right)
        else:
            assert data["width"] in TINY.widths
            assert data["ridge"] in TINY.ridges


def made_up(prediction, accuracies, *, residual=5e-5, outputs=None, count=10_000):
    """Classifiers on MNIST's number of test digits that disagree on 50 digits beside their difference.

    With fewer digits each gets 150 more wrong, and 25 others right.
    """
    right = np.zeros((3, 2, count), int)
    for row, accuracy in zip(right, accuracies, strict=True):
        row[:, : round(accuracy * count) + 25] = 1
    for i in range(3):
        right[i, 1, 25 * i : 25 * (i + 1)] = 0
        right[i, 0, 1000 : 1000 + 150] = 0
    found = prediction["outputs"].values if outputs is None else outputs
    return xr.Dataset(
        {
            "right": (("kernel", "size", "test"), right),
            "residual": (("kernel", "size", "output"), np.full((3, 2, 10), residual)),
            "outputs": (("kernel", "probe", "output"), np.concatenate([found, 0 * found[:1]]) + 1e-5),
        },
        coords={"kernel": list(KERNELS), "size": [10_000, 60_000]},
    )


def test_the_judge_tells_the_truth_from_the_rivals(prediction):
    paper = prediction.assign(accuracy=0.9875, margin=0.0055)
    truth = made_up(prediction, (0.9880, 0.9870, 0.9885))
    assert str(judge(paper, truth).status) == "supported"
    # 175 digits on which the last two sizes differ: √176 in 10,000, and 2.576 of that on either side.
    np.testing.assert_allclose(judge(paper, truth).clearance, 50 / 176**0.5 - 2.576, atol=0.02)
    assert str(mnist.judge_only_networks(paper, truth).status) == "refuted"
    assert str(judge(paper.assign(accuracy=0.9765), truth).status) == "refuted"
    exchanged = paper.assign(outputs=(("network", "probe", "output"), prediction["outputs"].values[::-1]))
    assert str(judge(exchanged, truth).status) == "refuted"
    # The same judge is not content with anything.
    only = made_up(prediction, (0.9880, 0.9870, 0.9780))
    assert str(judge(paper, only).status) == "refuted"
    assert str(mnist.judge_only_networks(paper, only).status) == "supported"
    assert str(judge(paper, made_up(prediction, (0.9770, 0.9770, 0.9770))).status) == "refuted"
    assert str(judge(paper, made_up(prediction, (0.9880, 0.9870, 0.9885), residual=2e-4)).status) == "refuted"
    wrong = made_up(prediction, (0.9880, 0.9870, 0.9885), outputs=prediction["outputs"].values * 1.5)
    assert str(judge(paper, wrong).status) == "refuted"


def test_rivals_predict_what_they_say(prediction):
    by_name = {rival.name: rival for rival in claim.rivals}
    fewer = by_name["fewer-digits"].predict
    assert fewer is not None
    assert float(fewer(TINY)["accuracy"]) < float(prediction["accuracy"]) - float(prediction["margin"])
    np.testing.assert_allclose(fewer(TINY)["margin"], prediction["margin"])
