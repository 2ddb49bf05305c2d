"""Fourth moments of φ and φ' at several inputs against closed forms, exact rules, and the other routes."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest

from theory.activations import Activation, activation
from theory.kernels.four_points import four_points

KINKED = Activation("own-relu", lambda z: jnp.maximum(z, 0.0), lambda z: jnp.where(z > 0, 1.0, 0.0))


def covariance(rng, inputs, dimensions=5):
    root = rng.standard_normal((inputs, dimensions))
    return root @ root.T / dimensions


def test_sines_of_four_inputs(rng):
    """∏ sin z is a sum of exponentials, and so is ∏ cos z: E e^(is·z) = e^(−sᵀKs/2)."""
    k = covariance(rng, 4)
    expected = np.zeros((3,))
    for signs in product((1, -1), repeat=4):
        s = np.array(signs)
        wave = np.exp(-0.5 * s @ k @ s) / 16
        # sin z = (e^(iz) − e^(−iz))/2i gives i⁻⁴ = 1 for four sines, and i⁻² = −1 for two.
        expected += wave * np.array([np.prod(s), -s[0] * s[1], 1.0])
    found = four_points(activation("sin"), k)
    np.testing.assert_allclose([tensor[0, 1, 2, 3] for tensor in found], expected, atol=1e-9)


@pytest.mark.parametrize("inputs", [2, 3])
def test_squares_by_a_rule_that_is_exact(inputs, rng):
    """All entries, so that each derivative is seen to stand at its own input."""
    k = covariance(rng, inputs)
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    u = np.stack([m.ravel() for m in np.meshgrid(*[nodes] * inputs)], axis=1)
    w = np.prod(np.stack(np.meshgrid(*[weights] * inputs)), axis=0).ravel() / (2 * np.pi) ** (inputs / 2)
    z = u @ np.linalg.cholesky(k).T
    f, s = z**2, 2 * z
    found = four_points(activation("square"), k)
    for tensor, factors in zip(found, ((f, f, f, f), (f, f, s, s), (s, s, s, s)), strict=True):
        np.testing.assert_allclose(tensor, np.einsum("z,za,zb,zc,zd->abcd", w, *factors), rtol=1e-8, atol=1e-9)


def test_kinks_by_quadrature_are_those_of_the_closed_forms(rng):
    k = covariance(rng, 4)
    for own, closed in ((KINKED, "relu"), (Activation("own-sign", lambda z: jnp.sign(z), jnp.zeros_like), "sign")):
        for found, expected in zip(four_points(own, k), four_points(activation(closed), k), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-9)
    assert four_points(activation("relu"), k).slopes.min() > 0.01


def test_inputs_in_a_plane_are_the_limit_of_inputs_that_are_not(rng):
    root = rng.standard_normal((3, 2))
    for name in ("relu", "erf"):
        flat, near = (four_points(activation(name), root @ root.T + e * np.eye(3)) for e in (0.0, 1e-7))
        for one, other in zip(flat, near, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)
