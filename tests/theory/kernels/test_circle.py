"""Fourier eigenvalues: the closed form against quadrature, the grid against its matrix and against aliasing."""

import numpy as np
import pytest
from scipy.integrate import quad

from theory.architecture import MLP
from theory.kernels import nngp, ntk
from theory.kernels.circle import decay, even_grid, grid_eigenvalues, relu_eigenvalues
from theory.kernels.spectra import sphere


def kernel(name, bias_variance=0.0, weight_variance=2.0):
    function = {"ntk": ntk, "nngp": nngp}[name]
    return lambda a, b: function(MLP(1, "relu", weight_variance, bias_variance), a, b)


@pytest.mark.parametrize("name", ["ntk", "nngp"])
def test_closed_form_is_that_of_the_network_kernels(name):
    """By the package's own kernels and quadrature on the sphere of dimension 2."""
    expected = sphere(kernel(name, weight_variance=1.5), 2, 9, radius=2**0.5).eigenvalues
    found = getattr(relu_eigenvalues(np.arange(9), weight_variance=1.5), name)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_closed_form_by_integration_of_the_kernel_written_out():
    for k in range(7):
        integral = quad(lambda g, k=k: (np.sin(g) + 2 * (np.pi - g) * np.cos(g)) * np.cos(k * g), 0, np.pi)[0]
        np.testing.assert_allclose(relu_eigenvalues(k).ntk, 2 / np.pi * integral / np.pi, atol=1e-12)


def test_eigenvalues_add_up_to_the_diagonal():
    k = np.arange(-100_000, 100_001)
    # Θ(0) = σ_w⁴ = 4 and K(0) = σ_w⁴/2 = 2; the NTK's tail is 8/π² · 1/k over even k.
    np.testing.assert_allclose(relu_eigenvalues(k).ntk.sum(), 4, atol=1e-5)
    np.testing.assert_allclose(relu_eigenvalues(k).nngp.sum(), 2, atol=1e-12)


@pytest.mark.parametrize("bias_variance", [0.0, 0.3])
@pytest.mark.parametrize("points", [9, 12])
def test_grid_eigenvalues_are_those_of_the_matrix(points, bias_variance):
    x = even_grid(points)
    np.testing.assert_allclose(np.mean(x**2, axis=1), 1)
    matrix = np.asarray(kernel("ntk", bias_variance)(x, x)) / points
    found = grid_eigenvalues(kernel("ntk", bias_variance), points)
    np.testing.assert_allclose(np.sort(found), np.linalg.eigvalsh(matrix), atol=1e-13)
    wave = np.cos(2 * np.pi * 3 * np.arange(points) / points)
    np.testing.assert_allclose(matrix @ wave, found[3] * wave, atol=1e-13)


@pytest.mark.parametrize("points", [9, 12])
def test_modes_that_agree_on_the_grid_share_a_rate(points):
    p = np.arange(-20_000, 20_001)
    found = grid_eigenvalues(kernel("ntk"), points)
    expected = relu_eigenvalues(np.arange(points)[:, None] + p * points).ntk.sum(axis=1)
    # What the sum leaves out is about 8/(π² m² 20000).
    np.testing.assert_allclose(found, expected, atol=2e-6)
    # Odd modes are not learnt on even grids; on odd ones they are taken for even modes.
    assert (abs(found[3]) < 1e-14) == (points % 2 == 0)


def test_biases_give_every_mode_a_rate():
    assert np.all(grid_eigenvalues(kernel("ntk", 0.3), 16) > 1e-3)


def test_decay_is_repeated_multiplication():
    np.testing.assert_allclose(decay([0.5, 0.0], [0, 1, 3], 0.4), [[1, 0.8, 0.512], [1, 1, 1]], rtol=1e-15)
    small = decay(0.7, [10**6], 1e-6)
    # The flow, up to η c/2 of the exponent.
    np.testing.assert_allclose(small, np.exp(-0.7), rtol=1e-6)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="modes"):
        relu_eigenvalues([0.5])
    with pytest.raises(ValueError, match="points"):
        even_grid(0)
    with pytest.raises(ValueError, match="angle"):
        grid_eigenvalues(lambda a, b: np.outer(a[:, 0], b[:, 0]), 8)
    with pytest.raises(ValueError, match="learning_rate"):
        decay([1.0], [1], 3.0)
    with pytest.raises(ValueError, match="steps"):
        decay([1.0], [-1], 0.1)
