"""Measures one cell, in whatever process it is asked to."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from experiments.claim import Cell, Claim, Scalar
from experiments.provenance import Fingerprint, canonical, fingerprint, fold, set_precision
from experiments.registry import load, registry

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Task:
    """One cell to measure: plain data only, so that any process can take it.

    Attributes:
        claim_id: of the claim.
        variant: empty, or the rival whose `measure` is meant.
        config: the configuration's fields.
        cell, seed: which part of which run.
        mark: what the worker must be like.
    """

    claim_id: str
    variant: str
    config: Mapping[str, Any]
    cell: Mapping[str, Scalar]
    seed: int
    mark: Fingerprint

    @property
    def name(self) -> str:
        cell = ", ".join(f"{k}={v}" for k, v in self.cell.items())
        rival = f" (rival {self.variant})" if self.variant else ""
        return f"{self.claim_id}{rival} [{cell}] seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a task: data, or an error, or a refusal because the worker differs from the client."""

    data: xr.Dataset | None
    error: str
    refused: tuple[str, ...]
    seconds: float
    worker: str


def run(task: Task) -> Outcome:
    """Measures a cell; an exception becomes an `Outcome` with its message, an interrupt passes through."""
    start = time.perf_counter()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    try:
        differences = task.mark.differences(mark_of(task.claim_id, task.variant))
        if differences:
            return Outcome(None, "", tuple(differences), 0.0, worker)
        data, error = _measure(task), ""
    except Exception as exception:  # a claim may raise anything: it is the claim's verdict, not the run's end
        data, error = None, describe(exception)
    return Outcome(data, error, (), time.perf_counter() - start, worker)


@cache
def mark_of(claim_id: str, variant: str) -> Fingerprint:
    """This process's fingerprint for a claim's measurement, or for a rival's."""
    set_precision()
    entry = registry()[claim_id]
    claim = load(entry)
    return fingerprint(entry.module, measure_function(claim, variant).__name__)


def marks(names: list[tuple[str, str]]) -> list[Fingerprint]:
    """Fingerprints of several measurements at once, for a handshake."""
    return [mark_of(claim_id, variant) for claim_id, variant in names]


def measure_function(claim: Claim, variant: str) -> Any:
    """The claim's `measure`, or that of the rival with this name."""
    if not variant:
        return claim.measure
    rival = next(r for r in claim.rivals if r.name == variant)
    if rival.measure is None:
        raise ValueError(f"rival '{variant}' of {claim.id} has no measure of its own")
    return rival.measure


def describe(exception: BaseException) -> str:
    """An exception in one line: what it says, and where the project's code raised it."""
    frames = traceback.extract_tb(exception.__traceback__)
    ours = [f for f in frames if "/experiments/" in f.filename or "/theory/" in f.filename]
    place = ""
    if ours:
        path = ours[-1].filename
        start = max(path.rfind("/experiments/"), path.rfind("/theory/")) + 1
        place = f" ({path[start:]}:{ours[-1].lineno})"
    message = " ".join(str(exception).split())
    return f"{type(exception).__name__}: {message[:500]}{place}"


def _measure(task: Task) -> xr.Dataset:
    import jax

    set_precision()
    entry = registry()[task.claim_id]
    claim = load(entry)
    config_class = type(next(iter(claim.tiers.values())))
    key = jax.random.key(task.seed, impl="threefry2x32")
    for text in (task.claim_id, canonical(dict(task.cell))):
        key = jax.random.fold_in(key, fold(text))
    cell: Cell = dict(task.cell)
    data = measure_function(claim, task.variant)(config_class(**task.config), cell, key)
    return _checked(data, cell)


def _checked(data: Any, cell: Cell) -> xr.Dataset:
    import numpy as np
    import xarray as xr

    if not isinstance(data, xr.Dataset):
        raise TypeError(f"measure must return an xarray.Dataset, got {type(data).__name__}")
    clash = sorted(set(cell) & set(data.variables))
    if clash:
        raise ValueError(
            f"measure returns {', '.join(clash)}, which the runner adds: leave out the cell's own dimensions"
        )
    for name, variable in data.variables.items():
        if variable.dtype.kind not in "iuf" and not (name in data.coords and variable.dtype.kind == "U"):
            raise TypeError(f"'{name}' has dtype {variable.dtype}: evidence holds integers and floats only")
        if variable.dtype.kind == "f" and bool(np.isnan(variable.values).any()):
            raise FloatingPointError(f"'{name}' holds NaN")
    return data.load()
