"""The law of the kernel's change for ReLU, against quadrature over units, sampled outputs and an exact invariant."""

import numpy as np
import pytest
from scipy.integrate import dblquad, quad

from theory.kernels.relu_drift import relu_drift


@pytest.mark.parametrize(("target", "weight_variance", "square"), [(0.0, 2.0, 1.0), (1.7, 1.5, 0.6)])
def test_averages_over_the_output_at_the_start(target, weight_variance, square):
    kappa = weight_variance * np.sqrt(square)
    law = relu_drift(target, weight_variance=weight_variance, square=square)

    def average(g):
        def density(f):
            return np.exp(-((f / kappa) ** 2)) / np.sqrt(np.pi * kappa**2)

        return sum(quad(lambda f: g(f) * density(f), *ends)[0] for ends in ((-12, target), (target, 12)))

    np.testing.assert_allclose(law.distance, average(lambda f: abs(f - target)), rtol=1e-9)
    second = average(lambda f: 2 * (target**2 - f**2) - (f - target) ** 2 / (2 * np.pi**2))
    np.testing.assert_allclose(law.next_order, second, rtol=1e-7)
    np.testing.assert_allclose([law.rate, law.lost], [kappa / np.pi, law.distance / (2 * np.pi * kappa)], rtol=1e-9)


@pytest.mark.parametrize("clock", [0.02, -0.02])
def test_the_loss_in_the_clock_by_quadrature_over_units(clock):
    """Units by their exact motion: z cosh s + a sinh s while it is positive. Θ of all units, less those lost."""
    reach = 9.0

    def edge(a):
        return max(0.0, -a * np.tanh(clock))

    def density(z, a):
        return np.exp(-0.5 * (z * z + a * a)) / (2 * np.pi)

    def share(z, a):
        return ((z * z + a * a) * np.cosh(2 * clock) + 2 * z * a * np.sinh(2 * clock)) * density(z, a)

    low, high = (0, reach) if clock < 0 else (-reach, 0)
    lost = dblquad(density, low, high, 0, edge)[0]
    missing = dblquad(share, low, high, 0, edge)[0]
    squares = dblquad(lambda z, a: (z * z + a * a) * share(z, a), low, high, 0, edge)[0]
    law = relu_drift(0.0, weight_variance=1.0)
    # With κ = 1 and E|f_0 − y| = |S| √n, per unit; corrections are of order S² relatively, 4e-4 with coefficients up
    # to 4 or so: the fifth and third powers of |a|.
    s = abs(clock)
    np.testing.assert_allclose(lost, s * law.lost / law.distance, rtol=3e-3)
    np.testing.assert_allclose(missing, s * law.rate, rtol=3e-3)
    np.testing.assert_allclose(squares, s * law.variance / law.distance, rtol=3e-3)


def test_without_lost_units_the_next_order_is_that_of_the_linear_network():
    """Θ² − 4κ² f²/n is conserved there: n ΔΘ = 2κ² (y² − f_0²)/Θ_∞ with Θ_∞ = κ² for active halves."""
    target, kappa = 1.2, 2.0
    law = relu_drift(target)
    clock = (target**2 + kappa**2 / 2) / (2 * np.pi**2)
    np.testing.assert_allclose(law.next_order + clock, 2 * kappa**2 * (target**2 - kappa**2 / 2) / kappa**2, rtol=1e-12)


def test_scales_and_signs():
    """f → c f with y → c y is a change of κ by c; and y → −y is a change of the signs of all a."""
    one, other = relu_drift(0.7, weight_variance=1.0), relu_drift(2.1, weight_variance=3.0)
    np.testing.assert_allclose(other.mean, 9 * one.mean, rtol=1e-12)
    np.testing.assert_allclose(other.next_order, 9 * one.next_order, rtol=1e-12)
    np.testing.assert_allclose(other.variance, 81 * one.variance, rtol=1e-12)
    np.testing.assert_allclose(other.lost, one.lost, rtol=1e-12)
    assert relu_drift(-0.7) == relu_drift(0.7)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="weight_variance must be positive"):
        relu_drift(0.0, weight_variance=0.0)
    with pytest.raises(ValueError, match="square must be positive"):
        relu_drift(0.0, square=0.0)
