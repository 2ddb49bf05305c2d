"""Where cells are measured: in this process, in processes beside it, or on a Dask cluster.

All three are `concurrent.futures` executors underneath; a pool adds how many cells it takes at once, and what to do
when a worker dies or turns out to be another version.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, Protocol

from experiments.errors import UsageError
from experiments.provenance import Fingerprint
from experiments.worker import Outcome, Task, marks, run


class Pool(Protocol):
    """An executor as the runner sees it."""

    name: str

    @property
    def slots(self) -> int: ...

    def submit(self, task: Task) -> Future[Outcome]: ...

    def recover(self, error: BaseException) -> bool:
        """After a task's future raised: whether it is worth another try."""
        ...

    def refuse(self, outcome: Outcome) -> str:
        """Sends no more work to the worker of this outcome; returns its name."""
        ...

    def close(self, *, kill: bool = False) -> None: ...


def open_pool(address: str) -> Pool:
    """The pool for `local`, `processes`, `processes:N` or `dask://HOST:PORT`.

    Raises:
        UsageError: the address has none of these forms, or nobody answers there.
    """
    kind, _, rest = address.partition(":")
    if address == "local":
        return LocalPool()
    if kind == "processes" and (not rest or (rest.isdecimal() and int(rest) > 0)):
        return ProcessPool(int(rest) if rest else os.cpu_count() or 1)
    if kind == "dask" and rest.startswith("//") and rest.rpartition(":")[2].isdecimal() and len(rest.split(":")) == 2:
        return DaskPool(rest[2:])
    raise UsageError(f"executor must be local, processes, processes:N or dask://HOST:PORT, got '{address}'")


class LocalPool:
    """Measures at once, in this process and thread."""

    name = "local"
    slots = 1

    def submit(self, task: Task) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(run(task))
        return future

    def recover(self, error: BaseException) -> bool:
        return False

    def refuse(self, outcome: Outcome) -> str:
        raise UsageError(f"the code changed while it ran ({'; '.join(outcome.refused)}): start again")

    def close(self, *, kill: bool = False) -> None:
        return None


class ProcessPool:
    """Worker processes on this machine, spawned: JAX's threads do not survive a fork."""

    def __init__(self, workers: int) -> None:
        self.name = "processes"
        self.slots = workers
        self._executor = self._start()

    def _start(self) -> Any:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(
            self.slots, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_the_client
        )

    def submit(self, task: Task) -> Future[Outcome]:
        try:
            return self._executor.submit(run, task)
        except BrokenExecutor as error:
            self.recover(error)
            return self._executor.submit(run, task)

    def recover(self, error: BaseException) -> bool:
        if not isinstance(error, BrokenExecutor):
            return False
        # All futures of a broken pool raise; the first of them rebuilds it.
        if getattr(self._executor, "_broken", False):
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = self._start()
        return True

    def refuse(self, outcome: Outcome) -> str:
        raise UsageError(f"the code changed while it ran ({'; '.join(outcome.refused)}): start again")

    def close(self, *, kill: bool = False) -> None:
        if kill:
            for process in list((getattr(self._executor, "_processes", None) or {}).values()):
                process.kill()
        self._executor.shutdown(wait=not kill, cancel_futures=True)


class DaskPool:
    """Workers of a Dask cluster; those whose code or versions differ get no work."""

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise UsageError("the executor dask:// needs the extra 'cluster': pip install 'unmagic[cluster]'") from None
        host, _, port = address.partition(":")
        try:
            # Dask tries a refused connection again until its time is up; a port where nobody listens is known at once.
            socket.create_connection((host, int(port)), timeout=5).close()
            self._client = Client(f"tcp://{address}", timeout=5, set_as_default=False)
        except (OSError, OverflowError):
            raise UsageError(f"no Dask scheduler answers at {address}: start one with `dask scheduler`") from None
        self.name = f"dask://{address}"
        self._refused: set[str] = set()
        self._allowed: tuple[str, ...] = ()
        self._executor: Executor | None = None

    @property
    def slots(self) -> int:
        # Two for each thread, so that no worker waits for its next cell.
        return max(2 * sum(self._threads().values()), 1)

    def _threads(self) -> dict[str, int]:
        # Not `scheduler_info`: the client's own timer overwrites what that returns with an empty list of workers.
        scheduler: Any = self._client.scheduler
        identity: Any = self._client.sync(scheduler.identity, n_workers=-1)
        workers = identity["workers"]
        return {a: w["nthreads"] for a, w in workers.items() if a not in self._refused}

    def handshake(self, wanted: Sequence[tuple[str, str, Fingerprint]]) -> list[str]:
        """Compares every worker with this client before any work; one sentence for each that is refused."""
        sentences = []
        answers: Any = self._client.run(
            marks, [(claim_id, variant) for claim_id, variant, _ in wanted], on_error="return"
        )
        for address, answer in sorted(answers.items()):
            if isinstance(answer, BaseException):
                differences = [f"{type(answer).__name__}: {answer}"]
            else:
                found = (mine.differences(theirs) for (_, _, mine), theirs in zip(wanted, answer, strict=True))
                differences = [d for ds in found for d in ds]
            if differences:
                self._refused.add(address)
                sentences.append(f"worker {address} is refused: {'; '.join(dict.fromkeys(differences))}")
        if not self._threads():
            raise UsageError(
                ". ".join(sentences) or f"the scheduler at {self.name} has no workers: start `dask worker`"
            )
        return sentences

    def submit(self, task: Task) -> Future[Outcome]:
        allowed = tuple(sorted(self._threads()))
        if not self._refused:
            allowed = ()  # no restriction, so that workers may come and go
        elif not allowed:
            raise UsageError("no worker is left: all of them differ from this client")
        if self._executor is None or allowed != self._allowed:
            restriction = {"workers": list(allowed)} if allowed else {}
            self._executor, self._allowed = self._client.get_executor(pure=False, **restriction), allowed
        return self._executor.submit(_run_named, task)

    def recover(self, error: BaseException) -> bool:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        return isinstance(error, KilledWorker | CancelledError)

    def refuse(self, outcome: Outcome) -> str:
        self._refused.add(outcome.worker)
        return outcome.worker

    def close(self, *, kill: bool = False) -> None:
        self._client.close(timeout=2)


def _leave_interrupts_to_the_client() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_named(task: Task) -> Outcome:
    """Runs a task on a Dask worker and signs with the worker's address."""
    from dataclasses import replace

    from distributed import get_worker

    return replace(run(task), worker=get_worker().address)
