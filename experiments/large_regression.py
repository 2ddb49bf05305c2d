"""Kernel regression on more inputs than a kernel matrix has room for: (K + λI) A = Y, then f(x*) = K(x*, X) A.

K is cut into square tiles. Those of its upper half are computed once and kept as long as they fit into the memory that
is allowed; the rest are computed at every product, here or by an executor. Conjugate gradients go on single-precision
products (their vectors are float64); then the residual is computed from all tiles with float64 products, and as long as
it is above the tolerance the search starts again from it. What is reported is that true residual.

The state is written to a checkpoint, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.errors import UsageError
from theory.kernels.conjugate_gradients import Search, start, step
from theory.kernels.partial_cholesky import Factor, partial_cholesky, preconditioner

# Tasks that wait for an executor: enough to keep it busy, few enough that their rows fit into memory.
WAITING = 32
# Tiles in the works at once in this process. A product goes through its tile in small parts, in one thread.
THREADS = 4
# Bytes; what XLA asks of an array that it takes over.
ALIGNMENT = 64
# The search stops this far below the tolerance, which leaves room for what single-precision products add.
RESERVE = 0.8


class Kernel(Protocol):
    """A kernel of rows: of two sets of them, or of one with itself. `partial(nngp, architecture)` is one."""

    def __call__(self, x1: np.ndarray, x2: np.ndarray | None = None, /) -> Any: ...


@dataclass(frozen=True)
class Status:
    """What a running solution tells.

    Attributes:
        stage: what is being done.
        steps: of conjugate gradients so far.
        residual: largest relative residual of an output, by recurrence.
    """

    stage: str
    steps: int
    residual: float


@dataclass(frozen=True)
class Solution:
    """A solved regression.

    Attributes:
        coefficients: A, float64.
        residual: |Y − (K + λI)A| / |Y| of each output, computed from all tiles in float64.
        residual_norm: its numerator.
        steps: of conjugate gradients.
        restarts: how often the true residual was still above the tolerance.
        resumed: at which step this run took over from a checkpoint; 0 for none.
        checkpoint: the file, for `forget`.
    """

    coefficients: Float[np.ndarray, "n k"]
    residual: Float[np.ndarray, " k"]
    residual_norm: Float[np.ndarray, " k"]
    steps: int
    restarts: int
    resumed: int
    checkpoint: Path | None = None


class TiledKernel:
    """K of some inputs as a sum of tiles.

    Args:
        kernel: must be picklable for executors with processes.
        x: inputs (n, d); a tile has their dtype.
        tile: side of a tile; a multiple of 8.
        memory: bytes that tiles may take.
        executor: computes the tiles that are not kept; by default this process does.
    """

    def __init__(
        self, kernel: Kernel, x: Float[np.ndarray, "n d"], *, tile: int, memory: float, executor: Executor | None
    ) -> None:
        if tile < 8 or tile % 8:
            raise ValueError(f"tile must be a positive multiple of 8, got {tile}")
        self.kernel, self.x, self.tile, self.executor = kernel, x, tile, executor
        self.blocks = -(-len(x) // tile)
        size = tile * tile * x.dtype.itemsize
        self._most = min(int(memory // size), self.blocks * (self.blocks + 1) // 2)
        self._kept: dict[int, Array] = {}
        # One buffer for all, because thousands of arrays among others of their size leave as many holes in the heap;
        # it starts where JAX can use it without a copy. The system gives its pages as they are written.
        bare = np.empty(self._most * size + ALIGNMENT, np.uint8)
        start = -bare.ctypes.data % ALIGNMENT
        self._room = bare[start : start + self._most * size].view(x.dtype).reshape(self._most, tile, tile)
        first = self.rows(0)
        # Without its mean a tile's products with a vector lose fewer digits; the mean is added back exactly.
        self.shift = float(jnp.mean(jnp.asarray(kernel(first, self.rows(self.blocks - 1)))))
        self.diagonal = float(jnp.asarray(kernel(first, None))[0, 0])

    @property
    def size(self) -> int:
        """Rows with their padding."""
        return self.blocks * self.tile

    def rows(self, block: int) -> np.ndarray:
        """Rows of a block, the last one padded by repetition so that all tiles have one shape."""
        part = self.x[block * self.tile : (block + 1) * self.tile]
        if len(part) == self.tile:
            return part
        return np.concatenate([part, np.repeat(part[-1:], self.tile - len(part), axis=0)])

    def product(self, v: Float[np.ndarray, "size k"], *, precise: bool = False) -> Float[np.ndarray, "size k"]:
        """K v for v that is 0 on the padding; with products in the tiles' dtype, or in float64 where `precise`."""
        parts = [np.ascontiguousarray(p) for p in v.reshape(self.blocks, self.tile, -1)]
        pairs = [(i, j) for i in range(self.blocks) for j in range(i, self.blocks)]
        away = [] if self.executor is None else pairs[self._most :]
        here = pairs[: len(pairs) - len(away)]
        # Each thread has a fixed share and a sum of its own, so that the result does not depend on who is first.
        shares = [here[k::THREADS] for k in range(THREADS)]
        with ThreadPoolExecutor(THREADS) as threads:
            sums = [threads.submit(self._sum, share, parts, precise) for share in shares]
            out = self._sum_away(away, parts, precise)
            for part in sums:
                out += part.result()
        result = out.reshape(v.shape) + self.shift * v.sum(axis=0)
        result[len(self.x) :] = 0.0
        return result

    def _sum(self, pairs: list[tuple[int, int]], parts: list[np.ndarray], precise: bool) -> np.ndarray:
        """What some tiles, computed in this thread, add to the product."""
        out = np.zeros((self.blocks, *parts[0].shape))
        with jax.enable_x64(True):
            for i, j in pairs:
                _add(out, i, j, _products(self._tile(i, j), parts[i], parts[j], precise))
        return out

    def _sum_away(self, pairs: list[tuple[int, int]], parts: list[np.ndarray], precise: bool) -> np.ndarray:
        """What some tiles, computed by the executor, add to the product."""
        out = np.zeros((self.blocks, *parts[0].shape))
        waiting: deque[tuple[int, int, Future[tuple[np.ndarray, np.ndarray]]]] = deque()
        for i, j in pairs:
            assert self.executor is not None
            if len(waiting) == WAITING:
                row, column, future = waiting.popleft()
                _add(out, row, column, future.result())
            right = None if i == j else self.rows(j)
            task = (self.kernel, self.rows(i), right, parts[i], parts[j], self.shift, precise)
            waiting.append((i, j, self.executor.submit(_fresh_products, *task)))
        for i, j, future in waiting:
            _add(out, i, j, future.result())
        return out

    def columns(self, indices: np.ndarray) -> Float[np.ndarray, "size b"]:
        """Columns of K, 0 on the padding."""
        right = self.x[indices]
        found = np.concatenate([np.asarray(self.kernel(self.rows(i), right)) for i in range(self.blocks)])
        found[len(self.x) :] = 0.0
        return found

    def _tile(self, i: int, j: int) -> Array:
        place = i * self.blocks - i * (i - 1) // 2 + j - i  # the first tiles are kept, row by row
        if place in self._kept:
            return self._kept[place]
        tile = _shifted_tile(self.kernel, self.rows(i), None if i == j else self.rows(j), self.shift)
        if place < self._most:
            self._room[place] = tile
            self._kept[place] = tile = jnp.from_dlpack(self._room[place], copy=False)
        return tile


def solve(
    kernel: Kernel,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n k"],
    *,
    ridge: float,
    tolerance: float = 1e-4,
    rank: int = 1000,
    tile: int = 1000,
    memory: float = 2.0**32,
    seed: int = 0,
    executor: Executor | None = None,
    checkpoint: Path | None = None,
    every: float = 60.0,
    watch: Callable[[Status], None] | None = None,
    most_steps: int = 2000,
) -> Solution:
    """Solves (K + λI) A = Y to a relative residual in every output.

    Args:
        kernel: of rows.
        x: inputs; float32 halves the memory of tiles.
        y: targets.
        ridge: λ, in units of K(x, x) of the first input. In float32 a kernel matrix is itself uncertain by about
            2√n·6e-8 of that (spectral norm), so that the ridge should be well above.
        tolerance: on the relative residual.
        rank: of the preconditioner, whose float32 factor takes n·rank numbers.
        tile: side of a tile.
        memory: bytes for tiles that are kept.
        seed: of the preconditioner's pivots.
        executor: for tiles that are not kept.
        checkpoint: file to write the state to and to go on from, or a folder in which the problem's hash names the
            file; a second file beside it holds the preconditioner.
        every: seconds between two checkpoints.
        watch: called at each step.
        most_steps: gives up after so many.

    Raises:
        ValueError: an argument is out of range, or shapes do not match.
        UsageError: the checkpoint belongs to another problem.
        ArithmeticError: the residual does not reach the tolerance.
    """
    if y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"y must have shape ({len(x)}, outputs), got {y.shape}")
    if not ridge > 0 or not 0 < tolerance < 1:
        raise ValueError(f"ridge must be positive and tolerance between 0 and 1, got {ridge} and {tolerance}")
    tell = watch or (lambda status: None)
    tile = min(tile, -(-len(x) // 8) * 8)
    matrix = TiledKernel(kernel, x, tile=tile, memory=memory, executor=executor)
    penalty = ridge * matrix.diagonal
    targets = np.zeros((matrix.size, y.shape[1]))
    targets[: len(x)] = y
    norm = np.maximum(np.linalg.norm(targets, axis=0), np.finfo(float).tiny)
    store = _Checkpoint(checkpoint, _key(kernel, x, y, ridge, rank, tile, seed), every)

    with jax.enable_x64(True):
        tell(Status("preconditioner", 0, 1.0))
        factor = store.factor()
        if factor is None:
            diagonal = np.where(np.arange(matrix.size) < len(x), matrix.diagonal, 0.0)
            rng = np.random.default_rng(seed)
            factor = partial_cholesky(matrix.columns, diagonal, min(rank, len(x)), rng)
            store.keep_factor(factor)
        conditioner = preconditioner(factor, penalty, tile)
        del factor

        def apply(v: Array, precise: bool = False) -> np.ndarray:
            wide = np.asarray(v)
            return matrix.product(wide, precise=precise) + penalty * wide

        kept = store.state()
        search, restarts = kept or (start(jnp.zeros_like(targets), jnp.asarray(targets), conditioner), 0)
        resumed = int(search.steps)
        before = np.inf
        while True:
            while (left := float(np.max(np.linalg.norm(search.residual, axis=0) / norm))) > RESERVE * tolerance:
                tell(Status("conjugate gradients", int(search.steps), left))
                if int(search.steps) >= most_steps:
                    raise ArithmeticError(f"the residual is {left:.2g} after {most_steps} steps: raise rank or ridge")
                search = step(search, jnp.asarray(apply(search.direction)), conditioner)
                store.keep_state(search, restarts)
            store.keep_state(search, restarts, now=True)
            tell(Status("true residual", int(search.steps), left))
            true = targets - apply(search.solution, precise=True)
            true_norm = np.linalg.norm(true, axis=0)
            worst = float(np.max(true_norm / norm))
            if worst <= tolerance:
                solution = np.asarray(search.solution)[: len(x)]
                steps = int(search.steps)
                return Solution(solution, true_norm / norm, true_norm, steps, restarts, resumed, store.path)
            if worst > 0.5 * before:
                raise ArithmeticError(f"the residual stays at {worst:.2g}, above {tolerance:g}: raise the ridge")
            before, restarts = worst, restarts + 1
            fresh = start(search.solution, jnp.asarray(true), conditioner)
            search = fresh._replace(steps=search.steps)


def predict(
    kernel: Kernel,
    x: Float[np.ndarray, "n d"],
    coefficients: Float[np.ndarray, "n k"],
    x_test: Float[np.ndarray, "m d"],
    *,
    tile: int = 1000,
) -> Float[np.ndarray, "m k"]:
    """f(x*) = K(x*, X) A, tile by tile, with products in float64."""
    left = TiledKernel(kernel, x_test, tile=min(tile, -(-len(x_test) // 8) * 8), memory=0, executor=None)
    right = TiledKernel(kernel, x, tile=min(tile, -(-len(x) // 8) * 8), memory=0, executor=None)
    padded = np.zeros((right.size, coefficients.shape[1]))
    padded[: len(x)] = coefficients
    parts = padded.reshape(right.blocks, right.tile, -1)
    out = np.zeros((left.blocks, left.tile, coefficients.shape[1]))
    with jax.enable_x64(True):
        for j in range(right.blocks):
            rows = right.rows(j)
            for i in range(left.blocks):
                out[i] += np.asarray(_one_product(jnp.asarray(kernel(left.rows(i), rows)), parts[j]))
    return out.reshape(-1, out.shape[-1])[: len(x_test)]


def lines(name: str, *, every: float = 30.0) -> Callable[[Status], None]:
    """A `watch` that prints a line now and then, on standard error, above any progress bar."""
    begin = last = time.monotonic()

    def tell(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < every:
            return
        last = now
        from rich.console import Console  # made at each line: a progress bar may have taken over the stream

        Console(stderr=True).print(
            f"{name}: {status.stage}, step {status.steps}, residual {status.residual:.1e}, {now - begin:.0f} s",
            highlight=False,
        )

    return tell


class _Checkpoint:
    """The state of a search in two files, written under a temporary name and renamed."""

    def __init__(self, path: Path | None, key: str, every: float) -> None:
        self.path = path / f"{key[:32]}.npz" if path is not None and path.suffix != ".npz" else path
        self._key, self._every, self._last = key, every, time.monotonic()

    def factor(self) -> Factor | None:
        found = self._read(_beside(self.path)) if self.path is not None else None
        return None if found is None else Factor(*(found[name] for name in Factor._fields))

    def keep_factor(self, factor: Factor) -> None:
        if self.path is not None:
            self._write(_beside(self.path), factor._asdict())

    def state(self) -> tuple[Search, int] | None:
        found = self._read(self.path) if self.path is not None else None
        if found is None:
            return None
        return Search(*(jnp.asarray(found[name]) for name in Search._fields)), int(found["restarts"])

    def keep_state(self, search: Search, restarts: int, *, now: bool = False) -> None:
        if self.path is None or (not now and time.monotonic() - self._last < self._every):
            return
        self._write(self.path, {**search._asdict(), "restarts": restarts})
        self._last = time.monotonic()

    def _read(self, path: Path) -> dict[str, np.ndarray] | None:
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = {name: stored[name] for name in stored.files}
            key = str(found.pop("key"))
        except Exception as error:  # zipfile and NumPy each have their own for a damaged file
            raise UsageError(f"checkpoint {path} cannot be read ({error}): remove it") from error
        if key != self._key:
            raise UsageError(f"checkpoint {path} belongs to another problem: remove it, or name another file")
        return found

    def _write(self, path: Path, arrays: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, key=self._key, **{k: np.asarray(a) for k, a in arrays.items()})
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def scratch() -> Path:
    """The user's folder for checkpoints, beside the data sets in the cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unmagic" / "regression"


def forget(checkpoint: Path) -> None:
    """Removes a checkpoint's files."""
    for path in (checkpoint, _beside(checkpoint)):
        path.unlink(missing_ok=True)


def _beside(checkpoint: Path) -> Path:
    """Where the preconditioner is kept, which is written once."""
    return checkpoint.with_name(f"{checkpoint.stem}-factor.npz")


def _key(kernel: Kernel, x: np.ndarray, y: np.ndarray, *rest: Any) -> str:
    """SHA-256 of the problem. The tolerance is not part of it: a run may be taken further."""
    total = hashlib.sha256(pickle.dumps(kernel))
    for array in (x, y):
        total.update(f"{array.shape}{array.dtype.str}".encode())
        total.update(np.ascontiguousarray(array).data)
    total.update(repr(rest).encode())
    return total.hexdigest()


def _add(out: np.ndarray, i: int, j: int, pair: tuple[Any, Any]) -> None:
    out[i] += np.asarray(pair[0])
    if i != j:
        out[j] += np.asarray(pair[1])


def _shifted_tile(kernel: Kernel, x1: np.ndarray, x2: np.ndarray | None, shift: float) -> Array:
    return _shifted(jnp.asarray(kernel(x1, x2)), np.asarray(shift, x1.dtype))


def _fresh_products(
    kernel: Kernel,
    x1: np.ndarray,
    x2: np.ndarray | None,
    v1: np.ndarray,
    v2: np.ndarray,
    shift: float,
    precise: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """What an executor's worker does: a tile, and its two products."""
    with jax.enable_x64(True):
        first, second = _products(_shifted_tile(kernel, x1, x2, shift), v1, v2, precise)
        return np.asarray(first), np.asarray(second)


@jax.jit
def _shifted(tile: Array, shift: Array) -> Array:
    return tile - shift


@partial(jax.jit, static_argnames="precise")
def _products(
    tile: Float[Array, "t t"], v1: Float[Array, "t k"], v2: Float[Array, "t k"], precise: bool
) -> tuple[Float[Array, "t k"], Float[Array, "t k"]]:
    """T v2 and Tᵀ v1 in one pass over T; sums over its rows' eighths in float64."""
    wide, dtype = jnp.float64, jnp.float64 if precise else tile.dtype
    right = v2.astype(dtype)

    def part(total: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, left = pair[0].astype(dtype), pair[1].astype(dtype)
        across = jnp.matmul(left.T, rows, precision=jax.lax.Precision.HIGHEST)
        return total + across.astype(wide), jnp.matmul(rows, right, precision=jax.lax.Precision.HIGHEST).astype(wide)

    side, outputs = v1.shape
    start_from = jnp.zeros((outputs, side), wide)
    across, down = jax.lax.scan(part, start_from, (tile.reshape(8, -1, side), v1.reshape(8, -1, outputs)))
    return down.reshape(side, outputs), across.T


@jax.jit
def _one_product(tile: Float[Array, "s t"], v: Float[Array, "t k"]) -> Float[Array, "s k"]:
    return jnp.matmul(tile.astype(jnp.float64), v, precision=jax.lax.Precision.HIGHEST)
