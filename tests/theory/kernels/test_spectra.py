"""Spectra against closed forms, Bessel functions, SciPy's polynomials and regular polygons."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from theory.architecture import MLP
from theory.kernels import nngp, ntk
from theory.kernels.spectra import gegenbauer, harmonic_dimension, mercer, sphere


def of_cosine(function):
    return lambda a, b: function(jnp.clip(a @ b.T, -1, 1))


def of_network(depth, bias=0.0, kernel=ntk):
    architecture = MLP(depth, "relu", weight_variance=2.0, bias_variance=bias)
    return lambda a, b: kernel(architecture, a, b)


def test_dimensions_of_harmonics():
    np.testing.assert_array_equal(harmonic_dimension(2, [0, 1, 5]), [1, 2, 2])
    np.testing.assert_array_equal(harmonic_dimension(3, np.arange(6)), 2 * np.arange(6) + 1)
    np.testing.assert_array_equal(harmonic_dimension(10, [0, 1, 2]), [1, 10, 54])
    # Harmonics of degree ℓ are the forms of degree ℓ in d variables without |x|² times those of degree ℓ − 2.
    forms = np.asarray(special.comb(7 + np.arange(20) - 1, 7 - 1))
    np.testing.assert_allclose(harmonic_dimension(7, np.arange(2, 20)), forms[2:] - forms[:-2], rtol=1e-12)


@pytest.mark.parametrize("dimension", [3, 4, 11])
def test_polynomials_are_those_of_scipy(dimension):
    t = np.linspace(-1, 1, 41)
    order = (dimension - 2) / 2
    expected = [special.eval_gegenbauer(n, order, t) / special.eval_gegenbauer(n, order, 1.0) for n in range(30)]
    np.testing.assert_allclose(gegenbauer(dimension, 30, t), expected, atol=1e-12)


def test_polynomials_on_the_circle_are_cosines():
    angle = np.linspace(0, np.pi, 33)
    np.testing.assert_allclose(gegenbauer(2, 50, np.cos(angle)), np.cos(np.outer(np.arange(50), angle)), atol=1e-12)


def test_exponential_on_the_sphere_gives_bessel_functions():
    """½ ∫ exp(t) P_ℓ(t) dt = i_ℓ(1), by Gegenbauer's integral."""
    found = sphere(of_cosine(jnp.exp), 3, 12)
    np.testing.assert_allclose(found.eigenvalues, special.spherical_in(np.arange(12), 1.0), rtol=0, atol=found.accuracy)


def test_exponential_on_the_circle_gives_bessel_functions():
    found = sphere(of_cosine(lambda t: jnp.exp(3 * t)), 2, 20)
    np.testing.assert_allclose(found.eigenvalues, special.iv(np.arange(20), 3.0), rtol=0, atol=found.accuracy)


def test_the_angle_on_the_circle():
    """1 − θ/π has the eigenvalues ½, then 2/(πℓ)² for odd ℓ and 0 for even ℓ."""

    def kernel(a, b):
        return 1 - jnp.arctan2(jnp.abs(jnp.cross(a[:, None], b[None])), a @ b.T) / jnp.pi

    degree = np.arange(1, 200)
    expected = np.concatenate([[0.5], np.where(degree % 2, 2 / (np.pi * degree) ** 2, 0.0)])
    found = sphere(kernel, 2, 200)
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=0, atol=found.accuracy)


@pytest.mark.parametrize(("dimension", "kernel"), [(2, nngp), (30, ntk)])
def test_deep_networks_are_positive_and_sum_to_the_diagonal(dimension, kernel):
    found = sphere(of_network(3, bias=0.3, kernel=kernel), dimension, 400 if dimension < 30 else 12, radius=2.0)
    point = np.zeros((1, dimension))
    point[0, 0] = 2.0
    diagonal = float(of_network(3, bias=0.3, kernel=kernel)(point, point)[0, 0])
    assert found.eigenvalues.min() > -10 * found.accuracy
    total = found.multiplicities @ np.maximum(found.eigenvalues, 0)
    np.testing.assert_allclose(total + found.tail, diagonal, rtol=1e-9)
    assert found.tail < diagonal * (0.01 if dimension < 30 else 0.1)


def test_biases_are_needed_for_odd_frequencies():
    """Without biases, odd frequencies from 3 on have the eigenvalue 0 (Basri et al. 2019)."""
    without, with_bias = sphere(of_network(1), 2, 12), sphere(of_network(1, bias=0.5), 2, 12)
    odd = np.arange(3, 12, 2)
    np.testing.assert_allclose(without.eigenvalues[odd], 0, atol=10 * without.accuracy)
    assert (without.eigenvalues[np.arange(0, 12, 2)] > 1e-4).all()
    assert (with_bias.eigenvalues > 1e-4).all()


def test_regular_polygons_alias_the_spectrum_of_the_circle():
    """On n equidistant points the eigenvalue of frequency j is Σ_m λ_|j + mn|."""
    n, kernel = 32, of_cosine(lambda t: 1 / (1.5 - t))
    angle = 2 * np.pi * np.arange(n) / n
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    data, functions = mercer(np.asarray(kernel(points, points)))
    circle = sphere(kernel, 2, 20 * n).eigenvalues
    aliased = sorted((sum(circle[abs(j + m * n)] for m in range(-18, 19)) for j in range(-15, 17)), reverse=True)
    np.testing.assert_allclose(data.eigenvalues, aliased, atol=1e-13)
    np.testing.assert_allclose(functions.T @ functions / n, np.eye(n), atol=1e-12)
    rebuilt = (functions * data.eigenvalues) @ functions.T
    np.testing.assert_allclose(rebuilt, np.asarray(kernel(points, points)), atol=1e-12)


def test_errors_name_the_argument_and_the_fix():
    with pytest.raises(ValueError, match="dimension must be at least 2"):
        sphere(of_cosine(jnp.exp), 1, 3)
    with pytest.raises(ValueError, match="degrees must be at least 1"):
        sphere(of_cosine(jnp.exp), 3, 0)
    with pytest.raises(ValueError, match="radius must be positive"):
        sphere(of_cosine(jnp.exp), 3, 4, radius=0.0)
    with pytest.raises(ValueError, match="angle of its inputs alone"):
        sphere(lambda a, b: a[:, :1] * b[:, :1].T, 3, 4)
    with pytest.raises(RuntimeError, match="not smooth in the angle"):
        sphere(of_cosine(lambda t: jnp.where(t > 0.123, 1.0, 0.0)), 3, 4)
    with pytest.raises(ValueError, match="square matrix"):
        mercer(np.ones((2, 3)))
    with pytest.raises(ValueError, match="symmetric"):
        mercer(np.array([[1.0, 2.0], [0.0, 1.0]]))
