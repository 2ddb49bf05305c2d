"""`unmagic report`: the ledger as a web page, and as the table in a README."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.errors import UsageError
from experiments.ledger import records, scan, summary
from experiments.report.tables import GLYPHS, clearance_text, figure, region_text
from experiments.store import Store, write_atomically

BEGIN, END = "<!-- ledger: made by `unmagic report`, not by hand -->", "<!-- end of ledger -->"

_STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1, h2 { font-weight: normal; } code { font-size: .9em; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
.supported { color: #00694c; } .refuted { color: #a33c00; } .inconclusive, .out-of-domain { color: #6b5200; }
.failed { color: #8b0045; } .unexpected { font-weight: bold; } figure { margin: 1rem 0; } img { max-width: 100%; }
@media (prefers-color-scheme: dark) { img { background: white; } }
"""


def report(source: Path, to: Path | None, readme: Path | None) -> int:
    """Writes the page, and brings the README's table up to date where one is named.

    Raises:
        UsageError: there are no verdicts, or the README has no place for the table.
    """
    store = Store(source, write=False)
    found = list(records(store))
    if not found:
        raise UsageError(f"{source} holds no verdicts: run `unmagic verify` first, or name a folder with --from")
    page = to or source / "report.html"
    write_atomically(page, web_page(found, store, page.parent).encode())
    print(page)
    if readme is not None:
        write_atomically(readme, with_table(readme, markdown_table(scan(store))).encode())
        print(readme)
    return 0


def markdown_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """One row a tier and claim; of several seeds the one nearest to another verdict."""
    lines = [
        "| claim | kind | verdict | deviation | margin | clearance | rivals refuted | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in summary(entries).values():
        rivals = line["rivals"].values()
        wording = f"{sum(r['status'] == r['expected'] for r in rivals)} of {len(rivals)}"
        lines.append(
            f"| `{line['claim']}` | {line['kind']} | {line['status']}{'' if line['as_expected'] else ' (unexpected)'} "
            f"| {figure(line['effect'])} | {region_text(line['region_low'], line['region_high'])} "
            f"| {clearance_text(line['clearance'])} | {wording} | {line['seeds']} |"
        )
    return "\n".join(lines)


def with_table(readme: Path, table: str) -> str:
    """The README's text with the table between its two marks.

    Raises:
        UsageError: it lacks the marks.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UsageError(f"{readme} has no place for the ledger: put the lines '{BEGIN}' and '{END}' where it belongs")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def web_page(found: Sequence[Mapping[str, Any]], store: Store, page_folder: Path) -> str:
    """A page that needs nothing but itself and the figures beside the evidence."""
    body = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>unmagic: ledger</title><style>{_STYLE}</style>",
        "<h1>Ledger</h1><div class=wide><table><tr><th>claim<th>tier<th>seed<th>kind<th>verdict<th>clearance<th>rivals",
    ]
    for record in found:
        verdict = record["verdict"]
        lost = sum(r["status"] == r["expected"] for r in record["rivals"].values())
        body.append(
            f"<tr><td><a href='#{_anchor(record)}'>{escape(record['claim'])}</a><td>{record['tier']}"
            f"<td>{record['seed']}<td>{record['kind']}<td>{_status(record)}"
            f"<td>{clearance_text(verdict['clearance'])}<td>{lost} of {len(record['rivals'])} lost"
        )
    body.append("</table></div>")
    for record in found:
        body += _section(record, store, page_folder)
    return "\n".join(body) + "\n"


def _section(record: Mapping[str, Any], store: Store, page_folder: Path) -> list[str]:
    verdict = record["verdict"]
    out = [
        f"<h2 id='{_anchor(record)}'>{escape(record['claim'])}, {record['tier']} tier, seed {record['seed']}</h2>",
        f"<p>{_status(record)}, expected {record['expected']}; clearance {clearance_text(verdict['clearance'])}. "
        f"{escape(verdict['reason'])}</p>",
    ]
    drawn = store.folder(record["tier"], record["claim"], record["seed"]) / "figure.svg"
    if drawn.exists():
        source = escape(Path(os.path.relpath(drawn.resolve(), page_folder.resolve())).as_posix())
        out.append(f"<figure><img src='{source}' alt='Figure of {escape(record['claim'])}'></figure>")
    if verdict["comparisons"]:
        out.append(f"<p>Margin: {escape(verdict['margin_source'])}</p><div class=wide><table>")
        out.append("<tr><th>comparison<th>predicted<th>deviation<th>99 % interval<th>agreement<th>n")
        out += [
            f"<tr><td>{escape(c['label'])}<td>{figure(c['prediction'])}<td>{figure(c['effect'])}"
            f"<td>{figure(c['low'])} … {figure(c['high'])}<td>{escape(region_text(c['region_low'], c['region_high']))}"
            f"<td>{c['sample_size'] or 'exact'}"
            for c in verdict["comparisons"]
        ]
        out.append("</table></div>")
    if record["rivals"]:
        out.append("<ul>")
        out += [
            f"<li>Rival <em>{escape(name)}</em> ({escape(r['statement'])}): "
            f"<span class={r['status']}>{r['status']}</span>, clearance {clearance_text(r['clearance'])}"
            for name, r in record["rivals"].items()
        ]
        out.append("</ul>")
    commit = escape(record["commit"][:10] or "unknown")
    out.append(f"<p>Measured at commit <code>{commit}</code>{', tree changed' if record['dirty'] else ''}.</p>")
    return out


def _status(record: Mapping[str, Any]) -> str:
    status = record["verdict"]["status"]
    unexpected = "" if record["as_expected"] else " <span class=unexpected>(unexpected)</span>"
    return f"<span class={status}>{GLYPHS[status]} {status}</span>{unexpected}"


def _anchor(record: Mapping[str, Any]) -> str:
    return f"{record['tier']}-{record['claim'].replace('/', '-')}-{record['seed']}"
