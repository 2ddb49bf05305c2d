"""Closed forms against 60-digit arithmetic where a naive formula loses its digits: |ρ| → 1."""

from typing import Any

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from theory import gaussian
from theory.determinant import angles, determinant, sine_squared

CORRELATIONS = [1.0, -1.0, 1 - 1e-12, -(1 - 1e-12), 0.0, 0.3, -0.9]
VARIANCES = [(1.0, 1.0), (4.0, 1.0), (1.7, 1.7), (64.0, 0.25)]


@pytest.fixture(autouse=True)
def _many_digits():
    with mp.workdps(60):
        yield


def exact_arguments(rho):
    """(a, b, c) with c = ρ√(ab) rounded once: what mpmath sees is what the code sees."""
    return [(a, b, rho * float(np.sqrt(a * b))) for a, b in VARIANCES]


def correlation(a, b, c):
    return max(min(mp.mpf(c) / mp.sqrt(mp.mpf(a) * mp.mpf(b)), mp.mpf(1)), mp.mpf(-1))


def cho_saul(a, b, c):
    """The arc-cosine kernels of order 1 and 0, halved, as printed."""
    rho = correlation(a, b, c)
    theta = mp.acos(rho)
    first = mp.sqrt(mp.mpf(a) * b) * (mp.sin(theta) + (mp.pi - theta) * rho) / (2 * mp.pi)
    return first, (mp.pi - theta) / (2 * mp.pi)


def williams(a, b, c):
    scale = (1 + 2 * mp.mpf(a)) * (1 + 2 * mp.mpf(b))
    return 2 / mp.pi * mp.asin(2 * mp.mpf(c) / mp.sqrt(scale)), 4 / mp.pi / mp.sqrt(scale - 4 * mp.mpf(c) ** 2)


def gelu_by_integral(a, b, c) -> Any:
    """E[φ(u) E[φ(v)|u]], where the inner mean is mΦ(m/√(1+s²)) + s²N(m/√(1+s²))/√(1+s²)."""
    a, b, c = mp.mpf(a), mp.mpf(b), mp.mpf(c)
    rest = max(b - c * c / a, mp.mpf(0))
    root = mp.sqrt(1 + rest)

    def inner(mean):
        return mean * mp.ncdf(mean / root) + rest * mp.npdf(mean / root) / root

    def integrand(z):
        u = mp.sqrt(a) * z
        return u * mp.ncdf(u) * inner(c / a * u) * mp.npdf(z)

    return mp.quad(integrand, [-14, -4, -1, 0, 1, 4, 14])


def assert_close(value, expected, relative):
    error = abs(mp.mpf(float(value)) - expected)
    assert error <= relative * abs(expected) + 1e-45, f"{value} for {mp.nstr(expected, 20)}"


@pytest.mark.parametrize("rho", CORRELATIONS)
def test_relu_keeps_its_digits(rho):
    for a, b, c in exact_arguments(rho):
        first, zeroth = cho_saul(a, b, c)
        # Near ρ = −1 the dual itself is of size θ³, and still good to 10 digits.
        assert_close(gaussian.dual("relu", a, b, c), first, 1e-10)
        assert_close(gaussian.dual_derivative("relu", a, b, c), zeroth, 1e-10)


@pytest.mark.parametrize("rho", CORRELATIONS)
def test_abs_and_sign_keep_their_digits(rho):
    for a, b, c in exact_arguments(rho):
        theta = mp.acos(correlation(a, b, c))
        product = mp.sqrt(mp.mpf(a) * b) * 2 / mp.pi * (mp.sin(theta) + (mp.pi / 2 - theta) * mp.cos(theta))
        assert_close(gaussian.dual("abs", a, b, c), product, 1e-14)
        assert abs(mp.mpf(float(gaussian.dual("sign", a, b, c))) - (1 - 2 * theta / mp.pi)) < 1e-15


@pytest.mark.parametrize("rho", CORRELATIONS)
def test_erf_keeps_its_digits(rho):
    for a, b, c in exact_arguments(rho):
        value, slope = williams(a, b, c)
        assert_close(gaussian.dual("erf", a, b, c), value, 1e-14)
        assert_close(gaussian.dual_derivative("erf", a, b, c), slope, 1e-14)


def test_gelu_keeps_its_digits():
    with mp.workdps(20):
        for rho in (1.0, -1.0, 1 - 1e-12, 0.0, -0.9):
            for a, b, c in exact_arguments(rho)[1:2]:
                assert_close(gaussian.dual("gelu", a, b, c), gelu_by_integral(a, b, c), 1e-13)
        step = mp.mpf("1e-6")
        for a, b, c in ((1.3, 0.7, 0.5), (4.0, 1.0, -1.8)):
            slope = (gelu_by_integral(a, b, c + step) - gelu_by_integral(a, b, c - step)) / (2 * step)
            assert_close(gaussian.dual_derivative("gelu", a, b, c), slope, 1e-11)


@pytest.mark.parametrize(("dtype", "gap", "tolerance"), [(np.float64, 1e-12, 1e-11), (np.float32, 1e-5, 1e-5)])
def test_the_determinant_is_exact_to_its_last_digits(rng, dtype, gap, tolerance):
    a = rng.uniform(0.5, 2.0, 50).astype(dtype)
    b = rng.uniform(0.5, 2.0, 50).astype(dtype)
    c = (np.sqrt(a.astype(float) * b) * (1 - gap)).astype(dtype)
    values = determinant(jnp.asarray(a), jnp.asarray(b), jnp.asarray(c))
    arguments = jnp.asarray(a), jnp.asarray(b), jnp.asarray(c)
    theta = angles(*arguments, sine_squared(*arguments)).theta
    for i in range(50):
        x, y, z = (mp.mpf(float(v[i])) for v in (a, b, c))
        assert_close(values[i], x * y - z * z, tolerance)
        assert_close(theta[i], mp.acos(z / mp.sqrt(x * y)), tolerance)
