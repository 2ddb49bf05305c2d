"""Noise between neighbours: lines drawn through random points, Green's functions, and the ReLU kernel itself."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta
from threadpoolctl import threadpool_limits

from experiments.regression import relu_ntk
from theory.architecture import MLP
from theory.kernels.interpolation import interpolation_noise, stiffness
from theory.kernels.network_spectra import network_spectrum
from theory.kernels.spectra import Spectrum, sphere

NET = MLP(1, "relu", weight_variance=2.0, bias_variance=1.0)


def lines(x, test):
    """1 + Σ w² of linear interpolation on the circle between sorted points x."""
    above = np.searchsorted(x, test)
    low = np.where(above > 0, x[above - 1], x[-1] - 2 * np.pi)
    high = np.where(above < len(x), x[above % len(x)], x[0] + 2 * np.pi)
    s = (test - low) / (high - low)
    return 1 + s**2 + (1 - s) ** 2


def regression(kernel, x, test):
    """1 + Σ w² of interpolation with a kernel of the angle."""

    def gaps(a):
        difference = np.abs(a[:, None] - x)
        return np.minimum(difference, 2 * np.pi - difference)

    with threadpool_limits(1, "blas"):
        return 1 + np.sum(np.linalg.solve(kernel(gaps(x)), kernel(gaps(test)).T) ** 2, axis=0)


def relu(angle):
    return relu_ntk(NET, 2 * np.sin(angle / 2) ** 2)


def test_lines_between_random_points(rng):
    for n in (2, 7):
        values = [
            np.mean(lines(np.sort(rng.uniform(0, 2 * np.pi, n)), rng.uniform(0, 2 * np.pi, 50))) for _ in range(4000)
        ]
        assert abs(np.mean(values) - interpolation_noise(n)[0]) < 4 * np.std(values) / 4000**0.5
        assert interpolation_noise(n)[0] == pytest.approx(5 / 3)


def test_a_greens_function_on_the_circle(rng):
    """cosh μ(π − θ) is the Green's function of −∂² + μ²: local for all n, so that the mean over gaps is exact."""
    mu, n = 1.5, 60

    def between(u):
        x = mu * 2 * np.pi * u
        return (1 / (np.tanh(x) * x) - 1 / np.sinh(x) ** 2) * beta.pdf(u, 2, n - 1)

    exact = 1 + quad(between, 1e-6, 1)[0]
    found = interpolation_noise(n, stiffness=mu**2)[0]
    # The next term, (12/945) μ⁴ E h⁴ ~ (12/945) μ⁴ (2π)⁴ 120/n⁴.
    assert abs(found - exact) < 12 / 945 * (2 * np.pi * mu / n) ** 4 * 120
    assert abs(5 / 3 - exact) > 3 * abs(found - exact)

    def draw():
        x = np.sort(rng.uniform(0, 2 * np.pi, n))
        test = rng.uniform(0, 2 * np.pi, 200)
        return np.mean(regression(lambda angle: np.cosh(mu * (np.pi - angle)), x, test) - lines(x, test))

    values = [draw() for _ in range(200)]
    assert abs(5 / 3 + np.mean(values) - exact) < 4 * np.std(values) / 200**0.5
    assert abs(exact - 5 / 3) > 8 * np.std(values) / 200**0.5


def test_stiffness_of_a_greens_function_and_of_the_relu_kernel():
    degree = np.arange(100.0)
    for square in (2.25, -0.5):
        assert stiffness(Spectrum(3 / (degree**2 + square), degree, 0.0, 2, 0.0)) == pytest.approx(square, rel=1e-9)

    def cosh(a, b):
        half = np.arctan2(np.linalg.norm(a[:, None] - b, axis=-1), np.linalg.norm(a[:, None] + b, axis=-1))
        return np.cosh(1.5 * (np.pi - 2 * half))

    assert stiffness(sphere(cosh, 2, 60)) == pytest.approx(2.25, rel=1e-6)
    # Integration by parts: λ_k = −k'(0)/πk² + k'''(0)/πk⁴ − …, so that μ² = k'''(0)/k'(0).
    angle = np.linspace(0, 0.2, 200)
    polynomial = np.polynomial.Polynomial.fit(angle, relu(angle), 9).convert().coef
    expected = 6 * polynomial[3] / polynomial[1]
    # What is left out falls as 1/k², here 1/24².
    assert stiffness(network_spectrum(NET, 2, 200)) == pytest.approx(expected, rel=5e-3)
    assert stiffness(network_spectrum(NET, 2, 200), low=80, high=160) == pytest.approx(expected, rel=5e-4)


def test_the_relu_kernel_joins_neighbours_by_lines(rng):
    """Paired with lines through the same points: the difference is the first correction, less a share O(1/n) of it."""
    n = 128
    differences = []
    for _ in range(120):
        x, test = np.sort(rng.uniform(0, 2 * np.pi, n)), rng.uniform(0, 2 * np.pi, 150)
        differences.append(np.mean(regression(relu, x, test) - lines(x, test)))
    predicted = interpolation_noise(n, stiffness=stiffness(network_spectrum(NET, 2, 200)))[0] - 5 / 3
    # The share is about 20/n: the ten or so low frequencies that do not follow k² + μ².
    assert 1 - 30 / n < np.mean(differences) / predicted < 1
    assert np.std(differences) / 120**0.5 < 0.03 * predicted


def test_errors_name_the_argument():
    degree = np.arange(100.0)
    circle = Spectrum(1 / (degree + 1.0) ** 2, degree, 0.0, 2, 0.0)
    with pytest.raises(ValueError, match="samples must be numbers of at least 2"):
        interpolation_noise([1])
    with pytest.raises(ValueError, match="stiffness must be finite"):
        interpolation_noise([5], stiffness=np.inf)
    with pytest.raises(ValueError, match="dimension 3"):
        stiffness(Spectrum(circle.eigenvalues, degree, 0.0, 3, 0.0))
    with pytest.raises(ValueError, match="1 ≤ low < high < 100, got 50 and 20"):
        stiffness(circle, low=50, high=20)
    with pytest.raises(ValueError, match="are rounding"):
        stiffness(Spectrum(circle.eigenvalues, degree, 0.0, 2, 1e-3))
