"""BibTeX: the entries of `references.bib`, found by key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from experiments.errors import UsageError
from experiments.registry import registry

BIBLIOGRAPHY = Path(__file__).parents[1] / "references.bib"


@cache
def bibliography() -> dict[str, str]:
    """Entries of `references.bib` by key, as they stand in the file.

    Raises:
        ValueError: two entries have one key, or braces do not balance.
    """
    text = BIBLIOGRAPHY.read_text(encoding="utf-8")
    entries: dict[str, str] = {}
    for match in re.finditer(r"@(\w+)\s*\{\s*([^,\s]+)\s*,", text):
        end = _closing(text, match.start() + match.group(0).index("{"))
        key = match.group(2)
        if key in entries:
            raise ValueError(f"references.bib has two entries with the key '{key}'")
        entries[key] = text[match.start() : end + 1]
    return entries


def package_entry() -> str:
    """How to cite this package."""
    return (
        "@software{unmagic,\n"
        "  title = {unmagic: verification of deep-learning theory},\n"
        "  author = {{The unmagic developers}},\n"
        f"  version = {{{version('unmagic')}}},\n"
        "  year = {2026},\n"
        "}"
    )


def cite(patterns: Sequence[str]) -> int:
    """Prints BibTeX of the sources of the claims that match, and of this package.

    Raises:
        UsageError: a claim names a source that the bibliography lacks.
    """
    known = bibliography()
    keys: dict[str, str] = {}
    for entry in registry().select(patterns):
        for key in entry.sources:
            if key not in known:
                raise UsageError(f"{entry.id} names the source '{key}', which {BIBLIOGRAPHY.name} lacks: add it there")
            keys[key] = known[key]
    print("\n\n".join([*(keys[k] for k in sorted(keys)), package_entry()]))
    return 0


def _closing(text: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"references.bib: the entry that starts with '{text[opening - 10 : opening + 30]}' is not closed")
