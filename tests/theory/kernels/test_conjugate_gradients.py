"""Conjugate gradients, the preconditioner and zonal kernels, against dense linear algebra and the kernels."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from theory.architecture import MLP
from theory.kernels import nngp, ntk
from theory.kernels.conjugate_gradients import prediction_error_bound, start, step
from theory.kernels.partial_cholesky import Factor, partial_cholesky, precondition, preconditioner
from theory.kernels.zonal import from_kernel, zonal

ARCHITECTURE = MLP(3, "relu", weight_variance=2.0, bias_variance=0.2)


@pytest.fixture(scope="module")
def matrix():
    """An RBF kernel of points in three dimensions: eigenvalues over many orders."""
    x = np.random.default_rng(3).normal(size=(96, 3))
    return np.exp(-0.5 * np.sum((x[:, None] - x[None]) ** 2, axis=-1))


def low_rank(matrix, rank, seed=0):
    return partial_cholesky(
        lambda i: matrix[:, i].astype(np.float32), np.diag(matrix), rank, np.random.default_rng(seed), block=16
    )


def test_partial_cholesky_leaves_a_positive_remainder_near_the_best_of_its_rank(matrix):
    factor = low_rank(matrix, 40)
    rest = matrix - factor.factor.astype(float) @ factor.factor.T
    # Single precision: 1e-7 of a unit diagonal, times the square root of the condition of a block (JITTER).
    assert np.linalg.eigvalsh(rest)[0] > -1e-4
    np.testing.assert_allclose(
        np.delete(np.diag(rest), factor.pivots), np.delete(factor.rest, factor.pivots), atol=1e-4
    )
    assert len(set(factor.pivots.tolist())) == 40
    best = np.sum(np.linalg.eigvalsh(matrix)[:-40])
    # Pivots drawn at random are within a small factor of the best rank-40 approximation (Chen et al. 2022).
    assert np.trace(rest) < 8 * best + 1e-3


def test_of_a_matrix_of_low_rank_nothing_is_left(rng):
    a = rng.normal(size=(50, 5))
    factor = low_rank(a @ a.T, 40)
    np.testing.assert_allclose(factor.factor @ factor.factor.T, a @ a.T, atol=1e-4)
    assert factor.factor.shape[1] < 40


def test_the_preconditioner_is_the_inverse_of_what_it_says(matrix, rng):
    factor = low_rank(matrix, 24)
    of = preconditioner(factor, 0.01, 32)
    f = factor.factor.astype(float)
    scale = 0.01 + np.mean(factor.rest)
    v = rng.normal(size=(96, 2))
    exact = np.linalg.solve(f @ f.T + scale * np.eye(96), v)
    np.testing.assert_allclose(precondition(of, jnp.asarray(v)), exact, rtol=1e-9, atol=1e-9)


def test_the_search_finds_the_solution_and_the_preconditioner_shortens_it(matrix, rng):
    a, y = matrix + 1e-3 * np.eye(96), rng.normal(size=(96, 3))
    y[:, 2] = 0.0  # an output without a target is solved at once and stays finite
    steps = {}
    for rank in (1, 48):
        of = preconditioner(low_rank(matrix, rank), 1e-3, 96)
        search = start(jnp.zeros_like(y), jnp.asarray(y), of)
        while float(jnp.max(jnp.linalg.norm(search.residual, axis=0))) > 1e-9:
            search = step(search, jnp.asarray(a @ search.direction), of)
            assert int(search.steps) < 400
        np.testing.assert_allclose(search.solution, np.linalg.solve(a, y), atol=1e-5)
        steps[rank] = int(search.steps)
    assert steps[48] < 0.5 * steps[1]


def test_predictions_stay_within_the_bound(matrix, rng):
    k, ridge = matrix[:64, :64], 1e-2
    a, y = k + ridge * np.eye(64), rng.normal(size=(64, 2))
    unfinished = np.linalg.solve(a, y) + 0.1 * rng.normal(size=y.shape)
    residual = y - a @ unfinished
    error = np.abs(matrix[64:, :64] @ (np.linalg.solve(a, y) - unfinished))
    bound = prediction_error_bound(np.linalg.norm(residual, axis=0), ridge, np.diag(matrix)[64:])
    assert bound.shape == error.shape
    assert np.all(error <= bound)
    # Reached, up to 1/√(1 + λ/k), by one point that is asked about itself.
    one = prediction_error_bound(np.array([1.0]), ridge, 1.0)
    np.testing.assert_allclose(one[0, 0], 10.0)
    with pytest.raises(ValueError, match="ridge must be positive"):
        prediction_error_bound(np.ones(1), 0.0, 1.0)


@pytest.mark.parametrize("kernel", [nngp, ntk])
def test_a_zonal_series_is_the_kernel(kernel, rng):
    x = rng.normal(size=(40, 7))
    x *= np.sqrt(7) / np.linalg.norm(x, axis=1, keepdims=True)
    x[1] = -x[0]  # opposite inputs, and nearly equal ones
    x[3] = x[2] * np.cos(1e-3) + np.sin(1e-3) * (x[4] - x[2] * (x[2] @ x[4]) / 7)
    x[3] *= np.sqrt(7) / np.linalg.norm(x[3])
    series = from_kernel(partial(kernel, ARCHITECTURE))
    exact = np.asarray(kernel(ARCHITECTURE, x))
    np.testing.assert_allclose(series(x), exact, atol=2e-8 * exact[0, 0])
    np.testing.assert_allclose(series(x[:9], x), exact[:9], atol=2e-8 * exact[0, 0])
    single = np.asarray(series(x.astype(np.float32)), float)
    assert series(x.astype(np.float32)).dtype == np.float32
    # Clenshaw's sum has a few dozen roundings of 6e-8; the NTK falls as the angle, which 1e-7 in ρ moves by up to 3e-4.
    loose = np.abs(exact) > 0.999 * exact[0, 0] if kernel is ntk else np.zeros_like(exact, bool)
    np.testing.assert_allclose(single[~loose], exact[~loose], atol=3e-6 * exact[0, 0])
    np.testing.assert_array_equal(np.diag(single), np.float32(exact[0, 0]))


def test_wrong_arguments_are_named(matrix):
    with pytest.raises(ValueError, match="profile needs more than 96 terms"):
        zonal(lambda versine: 1.0 - np.sqrt(np.abs(versine - 0.7)))
    with pytest.raises(ValueError, match="profile must be finite"):
        zonal(lambda versine: -1.0 - versine)
    with pytest.raises(ValueError, match="rank must lie between 1"):
        low_rank(matrix, 97)
    with pytest.raises(ValueError, match="rows must divide"):
        preconditioner(low_rank(matrix, 3), 0.1, 50)
    with pytest.raises(ValueError, match="must be positive"):
        preconditioner(Factor(np.ones((4, 1), np.float32), np.array([0]), np.zeros(4)), 0.0, 2)
