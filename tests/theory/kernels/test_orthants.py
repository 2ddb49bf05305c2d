"""Moments with steps at zero against orthant probabilities, sectors of the plane, and Wick's theorem."""

import numpy as np
import pytest
from scipy.special import gamma

from theory.kernels.orthants import four_signs, step_moment


def in_the_plane(root, powers, left, right):
    """E ∏ z^k s(z) for z = root·u with u in the plane: radius exactly, angle between the kinks by Gauss–Legendre."""
    kinks = np.arctan2(-root[:, 0], root[:, 1])
    edges = np.sort(np.mod(np.concatenate([kinks, kinks + np.pi]), 2 * np.pi))
    edges = np.append(edges, edges[0] + 2 * np.pi)
    nodes, base = np.polynomial.legendre.leggauss(40)
    half = 0.5 * np.diff(edges)[:, None]
    angle = 0.5 * (edges[1:] + edges[:-1])[:, None] + half * nodes
    z = np.stack([np.cos(angle), np.sin(angle)], axis=-1) @ root.T
    values = np.prod(z ** np.array(powers) * np.where(z > 0, right, left), axis=-1)
    order = sum(powers)
    return np.sum(values * half * base) / (2 * np.pi) * 2 ** (order / 2) * gamma(1 + order / 2)


def test_equally_correlated_orthants():
    """P(all of m positive) = 1/(m + 1) at ρ = ½: one of m + 1 independent variables is the smallest."""
    for m in (1, 2, 3, 4):
        covariance = 0.5 * (np.eye(m) + 1) * 1.7
        assert abs(step_moment(covariance, (0,) * m, (0.0,) * m, (1.0,) * m) - 1 / (m + 1)) < 1e-11
    # Signs of independent pairs multiply.
    pair = np.array([[1.0, 0.6], [0.6, 1.0]])
    blocks = np.block([[pair, 0 * pair], [0 * pair, pair]])
    assert abs(four_signs(blocks) - (2 / np.pi * np.arcsin(0.6)) ** 2) < 1e-13


@pytest.mark.parametrize("slope", [0.0, 0.3, -1.0])
def test_four_inputs_in_a_plane(slope, rng):
    """The covariance is singular, as it is for more inputs than dimensions."""
    for _ in range(3):
        root = rng.standard_normal((4, 2))
        for powers in ((1, 1, 1, 1), (0, 1, 1, 0), (0, 0, 0, 0)):
            sides = (slope,) * 4, (1.0,) * 4
            found = step_moment(root @ root.T, powers, *sides)
            assert abs(found - in_the_plane(root, powers, *sides)) < 1e-10
        three = (slope**2, slope, slope), (1.0,) * 3
        found = step_moment(root[:3] @ root[:3].T, (2, 1, 0), *three)
        assert abs(found - in_the_plane(root[:3], (2, 1, 0), *three)) < 1e-10


def test_without_steps_it_is_wicks_theorem(rng):
    root = rng.standard_normal((4, 4))
    k = root @ root.T
    expected = k[0, 1] * k[2, 3] + k[0, 2] * k[1, 3] + k[0, 3] * k[1, 2]
    ones = (1.0,) * 4
    np.testing.assert_allclose(step_moment(k, (1, 1, 1, 1), ones, ones), expected, rtol=1e-10)
    squares = k[0, 0] * k[1, 1] + 2 * k[0, 1] ** 2
    np.testing.assert_allclose(step_moment(k[:2, :2], (2, 2), ones[:2], ones[:2]), squares, rtol=1e-12)


def test_five_variables_are_refused():
    with pytest.raises(ValueError, match="four"):
        step_moment(np.eye(5), (0,) * 5, (0.0,) * 5, (1.0,) * 5)
