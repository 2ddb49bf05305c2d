"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from experiments.ledger import number

if TYPE_CHECKING:
    from experiments.registry import Entry

GLYPHS = {"supported": "✓", "refuted": "✗", "inconclusive": "?", "out-of-domain": "∅", "failed": "!"}
_COLOURS = {
    "supported": "green",
    "refuted": "red",
    "inconclusive": "yellow",
    "out-of-domain": "cyan",
    "failed": "magenta",
}


def claims_table(entries: Sequence[Entry], last: Mapping[str, Mapping[str, Any] | None]) -> Table:
    table = Table("claim", "kind", "source", "expected", "last verdict", box=None, pad_edge=False)
    for entry in entries:
        found = last[entry.id]
        verdict = f"{_status(found['status'])} ({found['tier']}, seed {found['seed']})" if found else "–"
        table.add_row(escape(entry.id), entry.kind, ", ".join(entry.sources), entry.expected, verdict)
    return table


def ledger_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """One row a claim; with several seeds, of the one with the smallest clearance."""
    table = Table(
        "claim", "kind", "verdict", "as expected", "decisive comparison", "deviation", "99 % interval", "margin",
        "n", "clearance", "rivals", "seeds", box=None, pad_edge=False,
    )  # fmt: skip
    for line in lines:
        lost = sum(r["status"] == r["expected"] for r in line["rivals"].values())
        table.add_row(
            escape(line["claim"]),
            line["kind"],
            _status(line["status"]),
            "yes" if line["as_expected"] else f"[bold red]NO{_whose_fault(line)}[/bold red]",
            escape(line["decisive"]),
            figure(line["effect"]),
            f"{figure(line['low'])} … {figure(line['high'])}" if line["effect"] is not None else "",
            region_text(line["region_low"], line["region_high"]),
            str(line["sample_size"] or "exact") if line["effect"] is not None else "",
            clearance_text(line["clearance"]),
            f"{lost}/{len(line['rivals'])}",
            str(line["seeds"]),
        )
    return table


def comparisons_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        "comparison", "predicted", "measured", "deviation", "99 % interval", "agreement", "n", box=None, pad_edge=False
    )
    for row in rows:
        table.add_row(
            escape(row["label"]),
            figure(row["prediction"]),
            figure(number(row["prediction"]) + number(row["effect"])),
            figure(row["effect"]),
            f"{figure(row['low'])} … {figure(row['high'])}",
            region_text(row["region_low"], row["region_high"]),
            str(row["sample_size"] or "exact"),
        )
    return table


def figure(value: Any, digits: int = 3) -> str:
    """A number for a reader: three significant digits, with a true minus sign."""
    x = number(value)
    if math.isnan(x):
        return ""
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    return f"{x:.{digits}g}".replace("-", "−")


def region_text(low: Any, high: Any) -> str:
    """Where a deviation counts as agreement."""
    a, b = number(low), number(high)
    if math.isnan(a) or math.isnan(b):
        return ""
    if a == -b:
        return f"±{figure(b)}"
    if math.isinf(a):
        return f"< {figure(b)}"
    if math.isinf(b):
        return f"> {figure(a)}"
    return f"{figure(a)} … {figure(b)}"


def clearance_text(value: Any) -> str:
    """Standard errors to the decision's edge; without noise there is no edge to be near."""
    x = number(value)
    if math.isnan(x):
        return "–"
    if math.isinf(x):
        return "exact"
    return "> 1000 s.e." if x > 1000 else f"{x:.1f} s.e."


def _whose_fault(line: Mapping[str, Any]) -> str:
    return " (rivals)" if line["status"] == line["expected"] else ""


def _status(status: str) -> str:
    colour = _COLOURS.get(status, "white")
    return f"[{colour}]{GLYPHS.get(status, '')} {status}[/{colour}]"
