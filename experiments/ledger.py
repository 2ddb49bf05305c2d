"""The ledger: one entry for each verdict in a results folder, derived by scanning it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.claim import TIERS
from experiments.store import FORMAT, AlteredError, Store, locked, read_json, write_atomically, write_json
from experiments.verdict.status import Status, Verdict


def verdict_record(
    *,
    claim_id: str,
    kind: str,
    expected: str,
    tier: str,
    seed: int,
    verdict: Verdict,
    rivals: Mapping[str, Verdict],
    rival_statements: Mapping[str, str],
    expected_of_rivals: str,
    provenance: Mapping[str, Any] | None,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """What `verdict.json` holds; `run` is what may differ between two runs of the same measurement."""
    environment = (provenance or {}).get("environment", {})
    return {
        "format": FORMAT,
        "claim": claim_id,
        "kind": kind,
        "expected": expected,
        "tier": tier,
        "seed": seed,
        "as_expected": verdict.status == expected and all(v.status == expected_of_rivals for v in rivals.values()),
        "verdict": verdict.as_json(),
        "rivals": {
            name: {"statement": rival_statements[name], "expected": expected_of_rivals, **v.as_json()}
            for name, v in rivals.items()
        },
        "evidence": (provenance or {}).get("evidence", {}),
        "code": (provenance or {}).get("code", ""),
        "commit": environment.get("commit", ""),
        "dirty": environment.get("dirty", False),
        "versions": environment.get("versions", {}),
        "backend": environment.get("backend", ""),
        "config": (provenance or {}).get("config", {}),
        "run": dict(run),
    }


def entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict's line in the ledger."""
    verdict = Verdict.from_json(record["verdict"])
    decisive = verdict.decisive_comparison
    rows = verdict.as_json()["comparisons"]
    return {
        "claim": record["claim"],
        "tier": record["tier"],
        "seed": record["seed"],
        "kind": record["kind"],
        "expected": record["expected"],
        "status": str(verdict.status),
        "as_expected": record["as_expected"],
        "decisive": decisive.label if decisive else "",
        **{
            name: rows[verdict.decisive][name] if decisive else None
            for name in ("effect", "low", "high", "region_low", "region_high", "standard_error", "sample_size")
        },
        "comparisons": len(rows),
        "clearance": record["verdict"]["clearance"],
        "margin_source": verdict.margin_source,
        "reason": verdict.reason,
        "rivals": {
            name: {"status": rival["status"], "expected": rival["expected"], "clearance": rival["clearance"]}
            for name, rival in record["rivals"].items()
        },
        "code": record["code"],
        "commit": record["commit"],
        "dirty": record["dirty"],
        "backend": record["backend"],
        "versions": record["versions"],
        "evidence": {name: file["sha256"] for name, file in record["evidence"].items()},
        "run": record["run"],
    }


def write_verdict(store: Store, record: dict[str, Any]) -> None:
    folder = store.folder(record["tier"], record["claim"], record["seed"])
    with locked(folder):
        write_json(folder / "verdict.json", record)


def update_ledger(store: Store) -> list[dict[str, Any]]:
    """Scans the folder and replaces `ledger.json`; returns its entries."""
    with locked(store.root):
        entries = scan(store)
        content = {"format": FORMAT, "entries": entries}
        write_atomically(
            store.root / "ledger.json", (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
        )
    return entries


def scan(store: Store) -> list[dict[str, Any]]:
    """The ledger's entries, by tier, claim and seed, from the verdicts on disk."""
    return [entry(record) for record in records(store)]


def records(store: Store) -> Iterable[dict[str, Any]]:
    """All verdict records that are as they were written and whose evidence is; others are named and left out."""
    found = []
    for path in store.root.glob("*/*/*/seed-*/verdict.json"):
        try:
            record = read_json(path)
            store.check_files(path.parent, record["evidence"])
        except FileNotFoundError:  # another run is writing here
            continue
        except AlteredError as error:
            print(f"unmagic: {error}: left out of the ledger", file=sys.stderr)
            continue
        if record.get("format") == FORMAT:
            found.append(record)
    return sorted(found, key=lambda r: (TIERS.index(r["tier"]), r["claim"], r["seed"]))


def read_ledger(root: Path) -> list[dict[str, Any]]:
    """Entries of a folder's ledger as it stands; empty when there is none or it can't be read."""
    try:
        return json.loads((root / "ledger.json").read_text(encoding="utf-8"))["entries"]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def summary(entries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Entries of several seeds as one line a (tier, claim): statuses, the smallest clearance, how many seeds."""
    lines: dict[str, dict[str, Any]] = {}
    for item in entries:
        line = lines.setdefault(f"{item['tier']}/{item['claim']}", {**item, "seeds": 0, "statuses": []})
        line["seeds"] += 1
        line["statuses"].append(item["status"])
        line["as_expected"] = line["as_expected"] and item["as_expected"]
        if number(item["clearance"]) < number(line["clearance"]):
            line.update({k: v for k, v in item.items() if k not in ("as_expected", "seed")})
    for line in lines.values():
        if len(set(line["statuses"])) > 1:
            line["status"] = ", ".join(f"{s} {line['statuses'].count(s)}" for s in Status if s in line["statuses"])
    return lines


def number(value: Any) -> float:
    """A number from JSON, where non-finite ones are strings."""
    return float("nan") if value is None else float(value)
