"""What the commands do: list, show, verify, figure."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.errors import UsageError
from experiments.ledger import read_ledger, records, summary
from experiments.registry import Entry, load, registry
from experiments.report.citations import bibliography
from experiments.report.tables import GLYPHS, claims_table, clearance_text, ledger_table
from experiments.store import AlteredError, Store, write_atomically
from experiments.stored import stored_config

PUBLISHED = Path("paper/results")


def list_claims(patterns: Sequence[str], out: Path, *, as_json: bool) -> int:
    entries = _registry_entries(patterns)
    last = {e.id: _last(e.id, out) for e in entries}
    if as_json:
        rows = [
            {
                "id": e.id,
                "kind": e.kind,
                "sources": list(e.sources),
                "expected": e.expected,
                "statement": e.statement,
                "last": _brief(last[e.id]),
            }
            for e in entries
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        _console().print(claims_table(entries, last))
    return 0


def show(claim_id: str, out: Path) -> int:
    from rich.markup import escape

    entry = registry()[claim_id]
    console = _console()
    console.print(f"[bold]{entry.id}[/bold]  ({entry.kind}, expected {entry.expected})\n")
    console.print(escape(entry.docstring), highlight=False)
    console.print(f"\n[bold]Sources[/bold]  {', '.join(entry.sources)}   [bold]File[/bold]  {entry.path}")
    found = _last_record(claim_id, out)
    if found is None:
        console.print(f"\nNo evidence yet: `unmagic verify {claim_id}`.")
        return 0
    folder, record = found
    _show_prediction(console, entry, record["tier"])
    verdict = record["verdict"]
    console.print(f"\n[bold]Evidence[/bold]  {folder} ({record['tier']} tier, seed {record['seed']})")
    console.print(f"{GLYPHS[verdict['status']]} {verdict['status']}, clearance {clearance_text(verdict['clearance'])}")
    if verdict["reason"]:
        console.print(escape(verdict["reason"]))
    if verdict["comparisons"]:
        console.print(f"Margin: {escape(verdict['margin_source'])}")
        from experiments.report.tables import comparisons_table

        console.print(comparisons_table(verdict["comparisons"]))
    for name, rival in record["rivals"].items():
        console.print(
            f"Rival {name}: {rival['status']} (clearance {clearance_text(rival['clearance'])}). {rival['statement']}"
        )
    drawn = folder / "figure.svg"
    console.print(f"[bold]Figure[/bold]  {drawn if drawn.exists() else f'not drawn yet: `unmagic figure {claim_id}`'}")
    return 0


def verify(
    patterns: Sequence[str],
    *,
    tier: str,
    seeds: range,
    out: Path,
    as_json: bool,
    dry_run: bool,
    fresh: bool,
    executor: str,
) -> int:
    from experiments import ledger
    from experiments.executors import open_pool
    from experiments.runner import plan
    from experiments.runner import verify as run
    from experiments.watch import Watch

    entries = _registry_entries(patterns)
    for entry in entries:
        for key in sorted(set(entry.sources) - set(bibliography())):
            print(f"unmagic: {entry.id} names the source '{key}', which references.bib lacks", file=sys.stderr)
    store = Store(out, write=not dry_run)
    pool = open_pool(executor) if not dry_run else None
    console = Console(stderr=True)
    with Watch(console) as watch:
        try:
            jobs = plan(entries, tier, seeds, store, fresh=fresh, observer=watch)
            if pool is None:
                for job in jobs:
                    todo = len(job.todo)
                    kept = "" if job.verdict is None else f" ({job.verdict.status}: {job.verdict.reason})"
                    print(f"{job.entry.id} seed {job.seed}: {todo} of {len(job.plan)} cells to measure{kept}")
                return 0
            done = run(jobs, store, pool, watch)
        except BaseException:  # Ctrl-C included: workers must not outlive the command
            if pool is not None:
                pool.close(kill=True)
            raise
        pool.close()
    entries_of_run = [ledger.entry(record) for record in done]
    if as_json:
        print(json.dumps(entries_of_run, indent=1, ensure_ascii=False))
    else:
        _console().print(ledger_table(list(summary(entries_of_run).values())))
        for problem in (e for e in entries_of_run if not e["as_expected"]):
            rivals = [
                f"rival {n} is {r['status']}" for n, r in problem["rivals"].items() if r["status"] != r["expected"]
            ]
            detail = problem["reason"] or "; ".join(rivals)
            _console().print(f"{problem['claim']} seed {problem['seed']}: {problem['status']}. {detail}", markup=False)
    return 0 if all(e["as_expected"] for e in entries_of_run) else 1


def figure(claim_id: str, source: Path, tier: str | None, seed: int | None, to: Path | None) -> int:
    from experiments.claim import TIERS
    from experiments.data import DataError
    from experiments.judging import Theory, draw, judge
    from experiments.provenance import set_precision

    entry = registry()[claim_id]
    store = Store(source, write=False)
    folders = sorted(
        (-TIERS.index(p.relative_to(store.root).parts[0]), int(p.parent.name.partition("-")[2]), p.parent)
        for p in store.root.glob(f"{tier or '*'}/{claim_id}/seed-{'*' if seed is None else seed}/provenance.json")
    )
    if not folders:
        which = f" at tier {tier}" if tier else ""
        if not source.is_dir():
            raise UsageError(
                f"{source} is no folder and holds no evidence: name the results folder of a run with --from"
            )
        raise UsageError(f"{source} holds no evidence for {claim_id}{which}: run `unmagic verify {claim_id}` first")
    folder = folders[0][2]
    try:
        stored = store.load_evidence(folder)
    except AlteredError as error:
        raise UsageError(f"{error}; `unmagic verify {claim_id}` measures it again") from None
    assert stored is not None
    evidence, provenance = stored
    set_precision()
    claim = load(entry)
    theory = Theory(claim, stored_config(claim.tiers[provenance["tier"]], provenance["config"]))
    try:
        verdict, _ = judge(theory, evidence)
    except DataError as error:  # a prediction may need the data that the networks were trained on
        raise UsageError(str(error)) from None
    for suffix, content in draw(theory, evidence[""], verdict).items():
        path = (to or folder) / f"figure.{suffix}"
        write_atomically(path, content)
        print(path)
    return 0


def _registry_entries(patterns: Sequence[str]) -> list[Entry]:
    known = registry()
    for problem in known.problems:
        print(f"unmagic: {problem}", file=sys.stderr)
    return known.select(patterns)


def _console() -> Console:
    # Piped output gets a fixed width: a table squeezed to 80 columns helps nobody.
    console = Console()
    return console if console.is_terminal else Console(width=150)


def _brief(entry: dict[str, Any] | None) -> dict[str, Any] | None:
    return (
        None
        if entry is None
        else {name: entry[name] for name in ("status", "tier", "seed", "as_expected", "clearance")}
    )


def _last(claim_id: str, out: Path) -> dict[str, Any] | None:
    for root in (out, PUBLISHED):
        found = [e for e in read_ledger(root) if e["claim"] == claim_id]
        if found:
            return _first_of_newest(found)
    return None


def _last_record(claim_id: str, out: Path) -> tuple[Path, dict[str, Any]] | None:
    for root in (out, PUBLISHED):
        if root.is_dir():
            store = Store(root, write=False)
            found = [r for r in records(store) if r["claim"] == claim_id]
            if found:
                record = _first_of_newest(found)
                return store.folder(record["tier"], claim_id, record["seed"]), record
    return None


def _first_of_newest(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The smallest seed of the tier that was judged last: the one whose figure is drawn."""
    tier = max(found, key=lambda r: r["run"].get("judged", ""))["tier"]
    return min((r for r in found if r["tier"] == tier), key=lambda r: r["seed"])


def _show_prediction(console: Console, entry: Entry, tier: str) -> None:
    from experiments.judging import Theory
    from experiments.provenance import set_precision

    set_precision()
    claim = load(entry)
    console.print("\n[bold]Prediction[/bold]")
    console.print(repr(Theory(claim, claim.tiers[tier]).prediction()), markup=False, highlight=False)
