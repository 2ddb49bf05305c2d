"""The measurement's own kernel against the library's and against many digits; control variates."""

import mpmath
import numpy as np
import pytest

from experiments.regression import BLOCK, adjusted_mean, relu_ntk, sphere_points, versines
from theory.architecture import MLP
from theory.kernels import ntk


def test_the_kernel_is_that_of_the_library(rng):
    net, d = MLP(2, "relu", weight_variance=1.7, bias_variance=0.3), 5
    x = sphere_points(rng, (9,), d)
    gap = versines(x, x)
    np.fill_diagonal(gap, 0.0)
    np.testing.assert_allclose(relu_ntk(net, gap), ntk(net, x * d**0.5), rtol=1e-13)


def test_close_neighbours_keep_their_digits():
    """The fall of Θ over a small angle, one hidden layer, to 50 digits."""
    net, angle = MLP(1, "relu", weight_variance=2.0, bias_variance=1.0), 1e-6
    with mpmath.workdps(50):
        variance = mpmath.mpf(3)
        rho = (2 * mpmath.cos(angle) + 1) / variance
        psi = mpmath.acos(rho)
        arc = variance * (mpmath.sin(psi) + (mpmath.pi - psi) * rho) / mpmath.pi
        exact = arc + 1 + (mpmath.pi - psi) / mpmath.pi * variance * rho
        fall = float(2 * variance + 1 - exact)
    here = relu_ntk(net, np.array([0.0, 2 * np.sin(angle / 2) ** 2]))
    assert here[0] == pytest.approx(7.0, rel=1e-15)
    # Rounding of Θ = 7 itself, 1e-15, over the fall of 3e-6.
    assert here[0] - here[1] == pytest.approx(fall, rel=1e-9)


def test_blocks_do_not_show(rng):
    net, gap = MLP(1, "relu", 2.0, 0.1), rng.uniform(0, 2, (3, BLOCK // 2 + 1))
    np.testing.assert_array_equal(relu_ntk(net, gap)[1, 5:9], relu_ntk(net, gap[1, 5:9]))


def test_a_control_takes_its_share_of_the_scatter(rng):
    control = rng.standard_normal(4000) + 2
    rest = rng.standard_normal(4000)
    mean, error = adjusted_mean(5 * control + rest, control, 2.0)
    # The control's own scatter, five times as large, is gone.
    assert error == pytest.approx(1 / 4000**0.5, rel=0.05)
    assert abs(mean - 10) < 4 * error
    values = rng.standard_normal(50)
    mean, error = adjusted_mean(values, 1 + 1e-15 * rng.standard_normal(50), 1.0)
    assert mean == values.mean()
    assert error == pytest.approx(values.std() / 48**0.5, rel=1e-12)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="activation 'relu', got 'erf'"):
        relu_ntk(MLP(1, "erf"), np.zeros(1))
    with pytest.raises(ValueError, match="positive weight_variance or bias_variance"):
        relu_ntk(MLP(1, "relu", 0.0, 0.0), np.zeros(1))
