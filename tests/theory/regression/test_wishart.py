"""Exact expectations over real Wishart matrices, against moments in closed form, one eigenvalue, and simulation."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi2

from theory.regression import expected_sum

# Quadrature with hundreds of nodes and one linear system: rounding, with room for its condition number.
ROUNDING = 1e-11


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 5), (5, 5), (8, 16), (15, 24), (40, 48)])
def test_positive_moments(rows, columns):
    """E tr W = NM, E tr W² = NM(N+M+1), and the number of eigenvalues."""
    for function, exact in (
        (np.ones_like, rows),
        (lambda x: x, rows * columns),
        (lambda x: x**2, rows * columns * (rows + columns + 1)),
    ):
        np.testing.assert_allclose(expected_sum(function, rows, columns), exact, rtol=ROUNDING)


@pytest.mark.parametrize(("rows", "columns"), [(1, 6), (4, 10), (7, 12), (16, 24), (60, 66)])
def test_inverse_moments(rows, columns):
    """E tr W⁻¹ = N/(d−1), E tr W⁻² = N(M−1)/(d(d−1)(d−3)), d = M − N."""
    d = columns - rows
    first, second = rows / (d - 1), rows * (columns - 1) / (d * (d - 1) * (d - 3))
    np.testing.assert_allclose(expected_sum(lambda x: 1 / x, rows, columns), first, rtol=ROUNDING)
    np.testing.assert_allclose(expected_sum(lambda x: x**-2, rows, columns), second, rtol=ROUNDING)


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_one_eigenvalue_is_chi_squared(columns):
    # In t = √x, for the density is infinite at x = 0 with one degree of freedom.
    exact = quad(lambda t: 2 * t * chi2.pdf(t**2, columns) / (t**2 + 0.7), 0, np.inf)[0]
    # What quad promises.
    np.testing.assert_allclose(expected_sum(lambda x: 1 / (x + 0.7), 1, columns), exact, rtol=1e-7)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (4, 7)])
def test_a_resolvent_against_draws(rows, columns, rng):
    """Odd and even N."""
    x = rng.standard_normal((40_000, rows, columns))
    sums = np.sum(1 / (np.linalg.eigvalsh(x @ x.transpose(0, 2, 1)) + 0.5), axis=1)
    error = sums.std() / np.sqrt(sums.size)
    exact = expected_sum(lambda s: 1 / (s + 0.5), rows, columns)
    assert error < 0.01 * exact
    # One run in 16,000 would fail, were the key not fixed.
    assert abs(sums.mean() - exact) < 4 * error


def test_wrong_sizes_are_named():
    for rows, columns in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="rows and columns"):
            expected_sum(lambda x: x, rows, columns)
