"""Kernels averaged over shifts, invariant targets and small images, each against a direct computation."""

import numpy as np
import pytest

from experiments.regression import relu_ntk, sphere_points
from experiments.shifts import SIDE, correlations, overlaps, regression_kernel, small_images
from theory.architecture import MLP, Convolutional
from theory.kernels import ntk


def test_overlaps_are_inner_products_with_all_shifts(rng):
    a, b = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 2, 4, 5))
    found = overlaps(a, b, 2)
    assert found.shape == (2, 3, 2, 4, 5)
    for s, t in ((0, 0), (3, 1), (2, 4)):
        moved = np.roll(b, (s, t), axis=(2, 3))
        expected = np.einsum("kiyx,kjyx->kij", a, moved)
        np.testing.assert_allclose(found[..., s, t], expected, atol=1e-12)


def test_the_pooled_kernel_is_that_of_the_convolution(rng):
    d, mlp = 5, MLP(1, "relu", 2.0, 0.1)
    x, y = sphere_points(rng, (3,), d), sphere_points(rng, (2,), d)
    net = Convolutional(1, "relu", 2.0, 0.1, filter=(d,), readout="pool")
    expected = ntk(net, d**0.5 * x[..., None], d**0.5 * y[..., None])
    np.testing.assert_allclose(regression_kernel(mlp, x, y, 1, pooled=True), expected, rtol=1e-12)
    plain = relu_ntk(mlp, 1 - x @ y.T)
    np.testing.assert_array_equal(regression_kernel(mlp, x, y, 1, pooled=False), plain)


@pytest.mark.parametrize("d", [6, 7])
def test_targets_are_invariant_and_orthonormal(d, rng):
    x, count = sphere_points(rng, (200_000,), d), 200_000
    f = correlations(x)
    assert f.shape == (count, d // 2)
    np.testing.assert_allclose(correlations(np.roll(x[:5], 2, axis=1)), f[:5], atol=1e-12)
    # Five standard errors; the fourth moment of a normalised quadratic form is at most 15.
    np.testing.assert_allclose(f.T @ f / count, np.eye(d // 2), atol=5 * 15**0.5 / count**0.5)
    assert np.abs(f.mean(axis=0)).max() < 5 / count**0.5


def test_images_are_centred_unit_vectors_and_their_targets_are_invariant():
    x, label = small_images("digits", 60, "label")
    assert x.shape == (60, SIDE, SIDE)
    np.testing.assert_allclose(np.sum(x**2, axis=(1, 2)), 1, rtol=1e-12)
    np.testing.assert_allclose(x.mean(axis=(1, 2)), 0, atol=1e-15)
    assert len(np.unique(label)) == 2
    smooth = small_images("digits", 60, "smoothness")[1]
    for target in (label, smooth):
        assert np.mean(target) == pytest.approx(0, abs=1e-12)
        assert np.mean(target**2) == pytest.approx(1)
    # On one circle of columns the neighbours of a shifted image are those of the image.
    moved = np.roll(x, (3, 5), axis=(1, 2))
    values = [sum(np.sum(y * np.roll(y, 1, axis), (1, 2)) for axis in (1, 2)) for y in (x, moved)]
    np.testing.assert_allclose(*values, rtol=1e-12)
    assert np.corrcoef(values[0], smooth)[0, 1] == pytest.approx(1)
    with pytest.raises(ValueError, match="target must be 'label' or 'smoothness', got 'colour'"):
        small_images("digits", 5, "colour")
