"""`unmagic paper`: published evidence → macros, tables and figures → PDF."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from experiments.errors import UsageError
from experiments.report.citations import BIBLIOGRAPHY
from experiments.report.latex import ledger_table, macros
from experiments.report.published import Published, judged_anew
from experiments.store import write_atomically

_PACKAGES = (
    "latexmk texlive-latex-recommended texlive-latex-extra texlive-science texlive-fonts-recommended texlive-pictures"
)
# An error with the lines that explain it, or a warning that would leave a question mark in print.
_COMPLAINT = r"^(?:! .*(?:\n.*){0,4}|.*Warning: (?:Citation|Reference) .*undefined.*)$"


def build(source: Path, paper: Path) -> int:
    """Judges the evidence anew, writes `generated/`, runs LaTeX; returns the exit status.

    Raises:
        UsageError: no checkout, no LaTeX, no evidence, or altered evidence.
    """
    if not (paper / "main.tex").is_file():
        raise UsageError(f"{paper / 'main.tex'} is missing: run this in a checkout of the project, or name --paper")
    if shutil.which("latexmk") is None:
        raise UsageError(f"latexmk is missing: install LaTeX (on Debian: {_PACKAGES})")
    published = judged_anew(source)
    if not published:
        raise UsageError(
            f"{source} holds no evidence of the paper tier: run `unmagic verify --tier paper --out {source}`"
        )
    generate(published, paper / "generated")
    for item in published:
        notes = [f"measured by older code, commit {item.record['commit'][:10]}"] if item.older else []
        if item.missing:
            notes.append(f"not judged anew: {', '.join(item.missing)} is not at hand, see UNMAGIC_DATA")
        print(f"{item.record['claim']}: {item.verdict.status}" + (f" ({'; '.join(notes)})" if notes else ""))
    status = _latex(paper)
    unexpected = [item.record["claim"] for item in published if not item.record["as_expected"]]
    if unexpected:
        print(f"unmagic: not as expected: {', '.join(unexpected)}", file=sys.stderr)
    return status or int(bool(unexpected))


def generate(published: list[Published], folder: Path) -> None:
    """Writes all that LaTeX reads beside the sections: macros, the table, figures, the bibliography."""
    records = [item.record for item in published]
    measurements = {item.record["claim"]: item.measurement for item in published}
    write_atomically(folder / "macros.tex", macros(records, measurements).encode())
    older = {item.record["claim"]: item.older for item in published}
    write_atomically(folder / "ledger.tex", ledger_table(records, older).encode())
    write_atomically(folder / "references.bib", BIBLIOGRAPHY.read_bytes())
    for item in published:
        write_atomically(folder / "figures" / f"{item.record['claim'].replace('/', '-')}.pdf", item.figure)


def _latex(paper: Path) -> int:
    done = subprocess.run(
        ["latexmk", "-pdf", "-outdir=build", "-interaction=nonstopmode", "-halt-on-error", "-quiet", "main.tex"],
        cwd=paper,
        # TeX breaks its messages at 79 characters, in the middle of the word that matters.
        env={**os.environ, "max_print_line": "1000"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    log = paper / "build" / "main.log"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else done.stdout + done.stderr
    # An error with the lines that explain it; without one, a warning that would leave a question mark in print.
    complaints = re.findall(r"^! .*(?:\n.*){0,4}$", text, re.MULTILINE) or re.findall(
        r"^.*Warning: (?:Citation|Reference) .*undefined.*$", text, re.MULTILINE
    )
    if done.returncode or complaints:
        print(f"unmagic: LaTeX failed; {log} says:", file=sys.stderr)
        print("\n".join(complaints) or done.stderr[-2000:], file=sys.stderr)
        return 1
    print(paper / "build" / "main.pdf")
    return 0
