"""Runs claims: plans their cells, has them measured, stores the evidence, judges it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import ledger
from experiments.claim import Cell, Claim
from experiments.errors import UsageError
from experiments.executors import DaskPool, Pool
from experiments.judging import Theory, assemble, draw, judge
from experiments.provenance import cell_key, config_dict, environment, set_precision
from experiments.registry import Entry, load
from experiments.store import AlteredError, Store, write_atomically
from experiments.verdict.status import Verdict, failed
from experiments.worker import Outcome, Task, describe, mark_of

if TYPE_CHECKING:
    import xarray as xr

# A cell whose worker died this often is itself what kills workers.
ATTEMPTS = 3


@dataclass
class Job:
    """One claim under one seed: its tasks, and what is known of their results."""

    entry: Entry
    claim: Claim | None
    theory: Theory | None
    tier: str
    seed: int
    folder: Path
    plan: list[tuple[Task, str]] = field(default_factory=list)
    kept: dict[str, xr.Dataset] = field(default_factory=dict)
    measured: dict[str, tuple[xr.Dataset, float, str]] = field(default_factory=dict)
    provenance: dict[str, Any] | None = None
    evidence: dict[str, xr.Dataset] | None = None
    verdict: Verdict | None = None
    fresh: bool = False

    @property
    def todo(self) -> list[tuple[Task, str]]:
        if self.verdict is not None or self.evidence is not None:
            return []
        return [(task, key) for task, key in self.plan if key not in self.kept and key not in self.measured]


class Observer:
    """What the runner tells the outside; the command line shows it."""

    def message(self, text: str) -> None: ...

    def planned(self, tasks: int) -> None: ...

    def started(self, task: Task) -> None: ...

    def finished(self, count: int) -> None: ...

    def judged(self, record: dict[str, Any]) -> None: ...


def plan(
    entries: Sequence[Entry], tier: str, seeds: Sequence[int], store: Store, *, fresh: bool, observer: Observer
) -> list[Job]:
    """Loads the claims and finds which cells are still to be measured.

    Raises:
        UsageError: a claim has no such tier.
    """
    set_precision()
    jobs = []
    for entry in entries:
        try:
            claim = load(entry)
        except Exception as error:  # a broken claim file is that claim's failure
            for seed in seeds:
                job = Job(entry, None, None, tier, seed, store.folder(tier, entry.id, seed))
                job.verdict = failed(f"the file cannot be loaded: {describe(error)}")
                jobs.append(job)
            continue
        if tier not in claim.tiers:
            raise UsageError(f"{entry.id} has no tier '{tier}': it has {', '.join(claim.tiers)}")
        theory = Theory(claim, claim.tiers[tier])
        for seed in seeds:
            job = Job(entry, claim, theory, tier, seed, store.folder(tier, entry.id, seed))
            try:
                job.verdict = theory.unmet()
                if job.verdict is None:
                    _plan_cells(job, claim, store, fresh, observer)
            except Exception as error:  # as above
                job.verdict = failed(describe(error))
            jobs.append(job)
    return jobs


def verify(jobs: Sequence[Job], store: Store, pool: Pool, observer: Observer) -> list[dict[str, Any]]:
    """Measures what is missing, then judges; returns the verdict records in the order of the jobs.

    Raises:
        UsageError: no worker is fit for the work.
        KeyboardInterrupt: passed on; what was finished is on disk.
    """
    if isinstance(pool, DaskPool):
        wanted = {(t.claim_id, t.variant): t.mark for job in jobs for t, _ in job.todo}
        for sentence in pool.handshake([(c, v, m) for (c, v), m in wanted.items()]):
            observer.message(sentence)
    for job in jobs:
        if job.fresh:
            store.start_afresh(job.folder)
    observer.planned(sum(len(job.todo) for job in jobs))
    records: dict[int, dict[str, Any]] = {}

    def finish(index: int) -> None:
        records[index] = _finish(jobs[index], store, pool.name, drawn=_first_seed(jobs, index))
        observer.judged(records[index])

    for index, job in enumerate(jobs):
        if not job.todo:
            finish(index)
    try:
        _measure(jobs, store, pool, observer, finish)
    finally:
        ledger.update_ledger(store)
    return [records[index] for index in range(len(jobs))]


def _plan_cells(job: Job, claim: Claim, store: Store, fresh: bool, observer: Observer) -> None:
    assert job.theory is not None
    config = job.theory.config
    cells = list(claim.cells(config))
    if not cells:
        raise ValueError("cells(config) is empty: a claim measures at least one cell")
    checksums = _checksums(claim.datasets(config))
    for variant in ("", *(r.name for r in claim.rivals if r.measure)):
        mark = mark_of(claim.id, variant)
        for cell in cells:
            task = Task(claim.id, variant, config_dict(config), dict(cell), job.seed, mark)
            job.plan.append((task, cell_key(claim, variant, config, cell, job.seed, mark, checksums)))
    if fresh:
        job.fresh = True
        return
    wanted = [key for _, key in job.plan]
    try:
        stored = None if store.is_afresh(job.folder) else store.load_evidence(job.folder)
        if stored and [c["key"] for c in stored[1]["cells"]] == wanted:
            job.evidence, job.provenance = stored
            return
    except AlteredError as error:
        observer.message(f"{error}: measured again")
    halves, altered = store.load_cells(job.folder)
    for name in altered:
        observer.message(f"{name} is not what was written: measured again")
    job.kept = {key: halves[key[:32]] for key in wanted if key[:32] in halves}


def _checksums(names: Sequence[str]) -> dict[str, str]:
    if not names:
        return {}
    from experiments.data import checksum

    return {name: checksum(name) for name in names}


def _measure(jobs: Sequence[Job], store: Store, pool: Pool, observer: Observer, finish: Callable[[int], None]) -> None:
    # Seeds are the inner loop: what one seed compiled, the next uses.
    order = {id(job.entry): i for i, job in enumerate(jobs[::-1])}
    queue = deque(
        (index, task, key)
        for _, _, index, task, key in sorted(
            (
                (-order[id(job.entry)], position, index, task, key)
                for index, job in enumerate(jobs)
                for position, (task, key) in enumerate(job.todo)
            ),
            key=lambda row: row[:3],
        )
    )
    running: dict[Future[Outcome], tuple[int, Task, str]] = {}
    deaths: Counter[str] = Counter()
    while queue or running:
        while queue and len(running) < pool.slots:
            index, task, key = queue.popleft()
            if jobs[index].verdict is not None:  # another cell of this run has failed
                observer.finished(1)
                continue
            observer.started(task)
            running[pool.submit(task)] = (index, task, key)
        done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in done:
            index, task, key = running.pop(future)
            try:
                outcome = future.result()
            except Exception as error:  # the worker died under the task, or the cluster gave it up
                deaths[key] += 1
                again = pool.recover(error) and deaths[key] < ATTEMPTS
                if again:
                    queue.appendleft((index, task, key))
                    continue
                outcome = Outcome(None, f"the worker died {deaths[key]} times: {describe(error)}", (), 0.0, "")
            if outcome.refused:
                observer.message(f"worker {pool.refuse(outcome)} is refused: {'; '.join(outcome.refused)}")
                queue.appendleft((index, task, key))
                continue
            observer.finished(1)
            job = jobs[index]
            if outcome.error or outcome.data is None:
                if job.verdict is None:
                    job.verdict = failed(f"{task.name}: {outcome.error}")
                    finish(index)
                continue
            job.measured[key] = (outcome.data, outcome.seconds, outcome.worker)
            store.save_cell(job.folder, key, outcome.data.assign_attrs(seconds=outcome.seconds, worker=outcome.worker))
            if job.verdict is None and not job.todo:
                finish(index)


def _finish(job: Job, store: Store, executor: str, *, drawn: bool) -> dict[str, Any]:
    start = time.perf_counter()
    stored = job.evidence is not None
    rivals: dict[str, Verdict] = {}
    theory = job.theory
    try:
        if job.verdict is None and theory is not None:
            if job.evidence is None:
                _seal(job, store, executor)
            assert job.evidence is not None
            job.verdict, rivals = judge(theory, job.evidence)
            if drawn:
                for suffix, content in draw(theory, job.evidence[""], job.verdict).items():
                    write_atomically(job.folder / f"figure.{suffix}", content)
    except Exception as error:  # whatever a claim's own code raises is its failure, and the others go on
        job.verdict = failed(describe(error))
    assert job.verdict is not None
    claim = job.claim
    seconds = sum(c["seconds"] for c in (job.provenance or {}).get("cells", ())) + time.perf_counter() - start
    record = ledger.verdict_record(
        claim_id=job.entry.id,
        kind=job.entry.kind,
        expected=job.entry.expected,
        tier=job.tier,
        seed=job.seed,
        verdict=job.verdict,
        rivals=rivals,
        rival_statements={r.name: r.statement for r in claim.rivals} if claim else {},
        expected_of_rivals=str(claim.rival_verdict) if claim else "",
        provenance=job.provenance if job.evidence is not None else None,
        run={
            "seconds": round(seconds, 3),
            "stored": stored,
            "executor": (job.provenance or {}).get("executor", executor),
            "host": (job.provenance or {}).get("environment", {}).get("host", ""),
            "measured": (job.provenance or {}).get("measured", ""),
            "judged": ledger.now(),
        },
    )
    ledger.write_verdict(store, record)
    return record


def _seal(job: Job, store: Store, executor: str) -> None:
    by_variant: dict[str, tuple[list[Cell], list[xr.Dataset]]] = {}
    rows = []
    for task, key in job.plan:
        data, seconds, worker = job.measured[key] if key in job.measured else _kept(job.kept[key])
        cells, results = by_variant.setdefault(task.variant, ([], []))
        cells.append(task.cell)
        results.append(data)
        row = {"variant": task.variant, "cell": dict(task.cell), "key": key}
        rows.append({**row, "seconds": round(seconds, 3), "worker": worker})
    job.evidence = {variant: assemble(cells, results) for variant, (cells, results) in by_variant.items()}
    job.provenance = store.seal(
        job.folder,
        job.evidence,
        {
            "claim": job.entry.id,
            "tier": job.tier,
            "seed": job.seed,
            "config": job.plan[0][0].config,
            "code": job.plan[0][0].mark.code,
            "cells": rows,
            "executor": executor,
            "environment": environment(),
            "measured": ledger.now(),
        },
    )


def _kept(data: xr.Dataset) -> tuple[xr.Dataset, float, str]:
    """A stored cell with the time and the worker that were stored beside it."""
    attributes = dict(data.attrs)
    seconds, worker = float(attributes.pop("seconds")), str(attributes.pop("worker"))
    return data.copy().drop_attrs(deep=False).assign_attrs(attributes), seconds, worker


def _first_seed(jobs: Sequence[Job], index: int) -> bool:
    """Figures are drawn for the first seed of a run; `unmagic figure` draws any other."""
    return all(job.entry.id != jobs[index].entry.id for job in jobs[:index])
