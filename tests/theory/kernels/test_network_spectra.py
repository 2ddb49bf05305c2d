"""Spectra of networks against kernels written out by hand, on the sphere and on all vertices of a cube."""

import itertools

import numpy as np
import pytest

from experiments.regression import relu_ntk
from theory.architecture import MLP
from theory.kernels.network_spectra import hypercube_spectrum, network_spectrum
from theory.kernels.spectra import mercer, sphere

NET = MLP(1, "relu", weight_variance=2.0, bias_variance=0.3)


def arc_cosine(a, b):
    """The NNGP kernel of `NET` for |x|² = d, from the cosine."""
    rho = np.clip((2.0 * a @ b.T / a.shape[1] + 0.3) / 2.3, -1, 1)
    psi = np.arccos(rho)
    return 2.3 * (np.sin(psi) + (np.pi - psi) * rho) / np.pi + 0.3


@pytest.mark.parametrize(("dimension", "degrees"), [(2, 20), (128, 5)])
def test_blocks_give_the_spectrum_of_the_kernel_itself(dimension, degrees):
    found = network_spectrum(NET, dimension, degrees)
    by_hand = sphere(lambda a, b: relu_ntk(NET, 1 - a @ b.T), dimension, degrees, rtol=1e-10)
    # Distances near 0 from a product of vectors are good to 1e-16, angles to 1e-8, on a few nodes of the quadrature.
    np.testing.assert_allclose(found.eigenvalues, by_hand.eigenvalues, rtol=0, atol=1e-10)
    assert found.tail == pytest.approx(by_hand.tail, abs=1e-6)
    assert found.dimension == dimension


def test_the_kernel_at_initialisation():
    found = network_spectrum(NET, 6, 8, kernel="nngp")
    by_hand = sphere(arc_cosine, 6, 8, radius=6**0.5, rtol=1e-10)
    np.testing.assert_allclose(found.eigenvalues, by_hand.eigenvalues, rtol=0, atol=1e-10)


def test_vertices_of_a_cube():
    m = 5
    points = np.array(list(itertools.product((-1.0, 1.0), repeat=m)))
    gram = relu_ntk(NET, np.clip(1 - points @ points.T / m, 0, 2))
    expected = mercer(gram)[0].eigenvalues
    found = hypercube_spectrum(NET, m)
    assert found.multiplicities.sum() == 2**m
    spread = np.repeat(found.eigenvalues, found.multiplicities.astype(int))
    np.testing.assert_allclose(np.sort(spread), np.sort(expected), atol=1e-13)
    assert found.multiplicities @ found.eigenvalues == pytest.approx(gram[0, 0], rel=1e-13)


def test_errors_name_the_argument():
    for call in (lambda k: network_spectrum(NET, 3, 4, kernel=k), lambda k: hypercube_spectrum(NET, 3, kernel=k)):
        with pytest.raises(ValueError, match="kernel must be one of ntk, nngp, got 'ck'"):
            call("ck")
    with pytest.raises(ValueError, match="dimension must be from 2 to 128, got 129"):
        network_spectrum(NET, 129, 4)
    with pytest.raises(ValueError, match="dimension must be from 1 to 30, got 31"):
        hypercube_spectrum(NET, 31)
