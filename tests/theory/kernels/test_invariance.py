"""Invariant harmonics and spectra over shifts: counts by brute force, eigenvalues on the whole population."""

import numpy as np
import pytest

from experiments.regression import relu_ntk, versines
from theory.architecture import MLP
from theory.kernels.invariance import cyclic_dimension, cyclic_spectrum, shift_spectra
from theory.kernels.learning_curves import learning_curve
from theory.kernels.spectra import Spectrum, gegenbauer, harmonic_dimension, mercer


@pytest.mark.parametrize("d", [5, 6, 8])
def test_invariant_harmonics_are_as_many_as_the_rank_of_their_projection(d, rng):
    """The reproducing kernel of degree ℓ, averaged over shifts, has the invariant harmonics for its range."""
    x = rng.normal(size=(90, d))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    counts = cyclic_dimension(d, 4)
    for degree in range(4):
        averaged = np.mean([gegenbauer(d, 4, (x @ np.roll(x, s, 1).T).ravel())[degree] for s in range(d)], axis=0)
        assert np.linalg.matrix_rank(averaged.reshape(90, 90), tol=1e-8) == counts[degree]
    assert counts.tolist()[:2] == [1, 1]


def test_the_group_takes_away_a_factor_of_d():
    for d in (31, 127):
        gains = harmonic_dimension(d, [2, 3]) / cyclic_dimension(d, 4)[2:]
        # For a prime d: (d − 1)/2 invariant quadratic forms beside |x|²; no cubic monomial is a fixed point of a shift.
        np.testing.assert_array_equal(gains, [d + 2, d])


def test_at_equal_resolution_the_same_is_learned_from_a_dth_of_the_examples():
    d, degrees = 101, 5
    values = np.array([1.0, 0.5 / d, 0.3 / d**2, 0.0, 0.02 / d**4])
    full = Spectrum(values, harmonic_dimension(d, np.arange(degrees)), 0.05, d, 0.0)
    few = cyclic_spectrum(full)
    power = np.array([0.0, 0.0, 1.0, 0.0, 0.0])
    half = learning_curve(full, power, [float(full.multiplicities @ (values / (values + values[2])))])
    n = float(few.multiplicities @ (values / (values + half.resolution[0])) + few.tail / half.resolution[0])
    same = learning_curve(few, power, [n])
    np.testing.assert_allclose(same.resolution, half.resolution, rtol=1e-10)
    assert half.samples[0] / n == pytest.approx(d, rel=4 / d)
    assert same.test_error[0] == pytest.approx(half.test_error[0], rel=4 / d)


def test_spectra_over_shifts_are_those_of_the_whole_population(rng):
    """All shifts of 4 images of 3 × 2 as 24 inputs; the invariant part is the mean over shifts of both arguments."""
    images, mlp = rng.normal(size=(4, 3, 2)), MLP(1, "relu", 2.0, 0.1)
    images /= np.linalg.norm(images, axis=(1, 2), keepdims=True)
    moved = np.stack([[np.roll(images, (s, t), (1, 2)) for t in range(2)] for s in range(3)])
    flat = images.reshape(4, 6)
    by_shift = [[relu_ntk(mlp, versines(flat, y.reshape(4, 6))) for y in row] for row in moved]
    kernel = np.moveaxis(np.array(by_shift), (0, 1), (2, 3))
    target = rng.normal(size=4)
    (whole, power), (invariant, invariant_power) = shift_spectra(kernel, target)
    every = moved.reshape(24, 6)
    expected, functions = mercer(relu_ntk(mlp, versines(every, every)))
    np.testing.assert_allclose(np.sort(whole.eigenvalues)[::-1], expected.eigenvalues, atol=1e-12)
    pooled, _ = mercer(kernel.mean(axis=(2, 3)))
    np.testing.assert_allclose(np.sort(invariant.eigenvalues)[::-1], pooled.eigenvalues, atol=1e-12)
    # The target's part in the mode of the largest eigenvalue, on the whole population.
    spread = np.tile(target, 6)
    assert power[np.argmax(whole.eigenvalues)] == pytest.approx(np.mean(functions[:, 0] * spread) ** 2, rel=1e-9)
    assert power.sum() == pytest.approx(np.mean(target**2), rel=1e-12)
    assert invariant_power.sum() == pytest.approx(power.sum(), rel=1e-12)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="dimension must be at least 2"):
        cyclic_dimension(1, 3)
    with pytest.raises(ValueError, match="for data use shift_spectra"):
        cyclic_spectrum(Spectrum(np.ones(1), np.ones(1), 0.0, None, 0.0))
    with pytest.raises(ValueError, match=r"\(N, N, \*shifts\)"):
        shift_spectra(np.ones((3, 3)), np.ones(3))
