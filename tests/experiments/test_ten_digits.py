"""The digits task: its rows, and its normalisation."""

import numpy as np
import pytest

from experiments.data import load
from experiments.ten_digits import ten_digits


def test_rows_are_the_first_images_of_each_digit():
    x, y = ten_digits("digits", 2, 1)
    assert x.shape == (30, 64)
    assert y.shape == (20, 10)
    np.testing.assert_allclose(np.mean(x**2, axis=1), 1)
    np.testing.assert_array_equal(np.argmax(y, axis=1), np.repeat(np.arange(10), 2))
    np.testing.assert_allclose(y.sum(axis=1), 0, atol=1e-15)
    data = load("digits")
    seven = np.flatnonzero(data.y_train == 7)
    mean = np.mean([data.x_train[np.flatnonzero(data.y_train == digit)[:2]] for digit in range(10)], axis=(0, 1))
    # The second training image of the seven, and its test image: the third.
    for row, image in ((15, seven[1]), (27, seven[2])):
        expected = (data.x_train[image] - mean).ravel()
        np.testing.assert_allclose(x[row], expected * np.sqrt(64 / np.sum(expected**2)), atol=1e-12)


def test_too_many_images_are_refused():
    with pytest.raises(ValueError, match="at most"):
        ten_digits("digits", 1000, 1)
