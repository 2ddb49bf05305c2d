"""Regression by tiles against dense solutions; its memory, its executors, its checkpoints."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest

from experiments import large_regression
from experiments.errors import UsageError
from experiments.large_regression import TiledKernel, forget, lines, predict, solve
from theory.architecture import MLP
from theory.kernels import nngp
from theory.kernels.zonal import zonal

KERNEL = zonal(lambda versine: np.exp(-versine / 0.5))
RIDGE = 1e-3


@pytest.fixture(scope="module")
def problem():
    """120 points on a sphere: with tiles of 32 the last is padded."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(150, 6))
    x *= np.sqrt(6) / np.linalg.norm(x, axis=1, keepdims=True)
    x = x.astype(np.float32)
    return x[:120], np.stack([x[:120, 0] * x[:120, 1], x[:120, 2] ** 2], axis=1).astype(float), x[120:]


def exact(problem):
    x, y, x_test = (a.astype(float) for a in problem)
    k = np.asarray(KERNEL(x))
    coefficients = np.linalg.solve(k + RIDGE * np.eye(len(x)), y)
    return coefficients, np.asarray(KERNEL(x_test, x)) @ coefficients


options = {"ridge": RIDGE, "rank": 20, "tile": 32}


@pytest.mark.parametrize("tiles", [0, 4, 100])
def test_products_are_those_of_the_matrix_however_many_tiles_are_kept(problem, tiles, rng):
    x = problem[0]
    calls = []

    def kernel(x1, x2=None):
        calls.append(x2 is None)
        return KERNEL(x1, x2)

    matrix = TiledKernel(kernel, x, tile=32, memory=tiles * 32 * 32 * 4, executor=None)
    v = np.zeros((128, 3))
    v[:120] = rng.normal(size=(120, 3))
    dense = np.asarray(KERNEL(x.astype(float)))
    for precise, tolerance in ((False, 1e-4), (True, 5e-6)):
        # Float32 products err by 6e-8·√120·|v|, the tiles themselves by as much.
        np.testing.assert_allclose(matrix.product(v, precise=precise)[:120], dense @ v[:120], atol=tolerance)
    calls.clear()
    matrix.product(v)
    assert len(calls) == max(10 - tiles, 0)  # four blocks make ten tiles of the upper half
    np.testing.assert_allclose(matrix.columns(np.array([3, 119]))[:120], dense[:, [3, 119]], atol=2e-6)
    assert not matrix.columns(np.array([3]))[120:].any()


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_the_solution_is_that_of_the_dense_system_and_its_residual_is_true(problem, tolerance):
    x, y, x_test = problem
    coefficients, outputs = exact(problem)
    seen = []
    found = solve(KERNEL, x, y, tolerance=tolerance, watch=seen.append, **options)
    k = np.asarray(KERNEL(x)).astype(float)
    residual = np.linalg.norm(y - k @ found.coefficients - RIDGE * found.coefficients, axis=0)
    # The matrix here is one call's, whose rounding may differ from the tiles'.
    np.testing.assert_allclose(found.residual_norm, residual, atol=3e-6 * float(np.linalg.norm(found.coefficients)))
    assert np.all(found.residual <= tolerance)
    np.testing.assert_allclose(found.residual, found.residual_norm / np.linalg.norm(y, axis=0))
    np.testing.assert_allclose(
        found.coefficients, coefficients, atol=float(np.linalg.norm(y)) * (tolerance + 1e-6) / RIDGE
    )
    np.testing.assert_allclose(predict(KERNEL, x, found.coefficients, x_test, tile=32), outputs, atol=3e-4)
    assert seen[0].stage == "preconditioner"
    assert seen[-1].stage == "true residual"


def test_a_network_kernel_serves_as_well(problem):
    x, y, _ = problem
    kernel = partial(nngp, MLP(2, "erf", weight_variance=1.5, bias_variance=0.1))
    found = solve(kernel, x.astype(float), y, tolerance=1e-9, **options)
    k = np.asarray(kernel(x.astype(float)))
    exact = np.linalg.solve(k + RIDGE * k[0, 0] * np.eye(len(x)), y)
    np.testing.assert_allclose(found.coefficients, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_an_executor_computes_what_is_not_kept(problem, kind):
    x, y, _ = problem
    pool = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with pool as executor:
        found = solve(KERNEL, x, y, memory=3 * 32 * 32 * 4, executor=executor, **options)
    alone = solve(KERNEL, x, y, **options)
    np.testing.assert_allclose(found.coefficients, alone.coefficients, atol=1e-6 * np.abs(alone.coefficients).max())


class Interrupted(Exception):
    pass


def test_blocks_go_to_dask(problem):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    x, y, _ = problem
    alone = solve(KERNEL, x, y, **options)
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        found = solve(KERNEL, x, y, memory=0.0, executor=client.get_executor(pure=False), **options)
    np.testing.assert_allclose(found.coefficients, alone.coefficients, atol=1e-6 * np.abs(alone.coefficients).max())


def test_an_interrupted_run_goes_on_where_it_was(problem, tmp_path):
    x, y, _ = problem
    whole = solve(KERNEL, x, y, **options)

    def interrupt(status):
        if status.steps == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        solve(KERNEL, x, y, checkpoint=tmp_path, every=0.0, watch=interrupt, **options)
    again = solve(KERNEL, x, y, checkpoint=tmp_path, **options)
    assert again.resumed == 4
    assert again.steps == whole.steps
    np.testing.assert_allclose(again.coefficients, whole.coefficients, rtol=1e-12)
    assert again.checkpoint is not None
    # Finished, but asked for more.
    further = solve(KERNEL, x, y, checkpoint=again.checkpoint, tolerance=1e-6, **options)
    assert further.resumed == whole.steps < further.steps
    forget(again.checkpoint)
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_other_problems_and_damaged_ones_are_refused(problem, tmp_path):
    x, y, _ = problem
    path = tmp_path / "state.npz"
    solve(KERNEL, x, y, checkpoint=path, **options)
    for other in ({"x": -x[::-1]}, {"y": 2 * y}, {"kernel": zonal(lambda v: np.exp(-v))}, {"ridge": 0.1}):
        with pytest.raises(UsageError, match="belongs to another problem"):
            solve(**{"kernel": KERNEL, "x": x, "y": y, "checkpoint": path, **options, **other})
    path.write_bytes(b"no archive")
    with pytest.raises(UsageError, match="cannot be read"):
        solve(KERNEL, x, y, checkpoint=path, **options)


def test_wrong_arguments_are_named(problem):
    x, y, _ = problem
    with pytest.raises(ValueError, match="y must have shape"):
        solve(KERNEL, x, y[:5], **options)
    with pytest.raises(ValueError, match="ridge must be positive"):
        solve(KERNEL, x, y, ridge=0.0)
    with pytest.raises(ValueError, match="tile must be a positive multiple of 8"):
        solve(KERNEL, x, y, ridge=0.1, tile=20)
    with pytest.raises(ArithmeticError, match="after 2 steps"):
        solve(KERNEL, x, y, most_steps=2, **options)
    # What double precision cannot resolve is said, not hidden.
    with pytest.raises(ArithmeticError, match="stays at"):
        solve(KERNEL, x, y, tolerance=1e-16, **options)


def test_lines_are_few(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(large_regression.time, "monotonic", lambda: now[0])
    tell = lines("NNGP", every=30.0)
    for _ in range(100):
        now[0] += 1.0
        tell(large_regression.Status("conjugate gradients", 3, 1e-3))
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 3
    assert printed[0] == "NNGP: conjugate gradients, step 3, residual 1.0e-03, 30 s"
