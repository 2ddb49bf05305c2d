"""Finds claims: by walking folders and reading each file's syntax tree, so that nothing runs until it must.

Other packages add theirs through the entry-point group `unmagic.claims`: each entry point names a package whose folder
is laid out as `experiments/claims` is, `<area>/<claim>.py`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from experiments.claim import Claim
from experiments.errors import UsageError

GROUP = "unmagic.claims"
BUILT_IN = "experiments.claims"
_METADATA = ("id", "kind", "expected", "sources")


@dataclass(frozen=True)
class Entry:
    """A claim's metadata, read without running its file.

    Attributes:
        id, kind, expected, sources: as in `Claim`.
        statement: the first paragraph of the file's docstring.
        docstring: the whole of it.
        module: the name to import it by.
        path: the file.
    """

    id: str
    kind: str
    expected: str
    sources: tuple[str, ...]
    statement: str
    docstring: str
    module: str
    path: Path

    @property
    def area(self) -> str:
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class Registry:
    """All claims that can be read, and a sentence for each file or plug-in that can't."""

    entries: dict[str, Entry]
    problems: tuple[str, ...]

    def __getitem__(self, claim_id: str) -> Entry:
        if claim_id not in self.entries:
            raise UsageError(f"there is no claim '{claim_id}'{_nearest(claim_id, self.entries)}")
        return self.entries[claim_id]

    def select(self, patterns: Sequence[str]) -> list[Entry]:
        """Entries whose id matches any pattern (`ntk/*`, an area, a full id, a name), in the order of their ids.

        Raises:
            UsageError: a pattern matches nothing; names the nearest ids.
        """
        if not patterns:
            return [self.entries[i] for i in sorted(self.entries)]
        chosen: set[str] = set()
        for pattern in patterns:
            found = {
                claim_id
                for claim_id in self.entries
                if fnmatchcase(claim_id, pattern)
                or claim_id.partition("/")[0] == pattern.rstrip("/")
                or claim_id.partition("/")[2] == pattern
            }
            if not found:
                raise UsageError(f"no claim matches '{pattern}'{_nearest(pattern, self.entries)}")
            chosen |= found
        return [self.entries[i] for i in sorted(chosen)]


@cache
def registry() -> Registry:
    """Walks the built-in claims and those of installed plug-ins."""
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for package, source in _packages(problems):
        for path in sorted(source.glob("*/*.py")):
            if path.name.startswith("_"):
                continue
            module = f"{package}.{path.parent.name}.{path.stem}"
            try:
                entry = read_entry(path, module)
            except (SyntaxError, ValueError, OSError, UnicodeDecodeError) as error:
                problems.append(f"{path} is left out: {error}")
                continue
            if entry.id in entries:
                problems.append(f"{path} is left out: {entries[entry.id].path} has the id '{entry.id}' already")
            else:
                entries[entry.id] = entry
    return Registry(entries, tuple(problems))


def read_entry(path: Path, module: str) -> Entry:
    """A claim file's metadata from its syntax tree.

    Raises:
        ValueError: the file has no `claim = Claim(…)` with literal metadata, or its id does not fit its place.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    call = next(
        (
            node.value
            for node in reversed(tree.body)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and any(isinstance(t, ast.Name) and t.id == "claim" for t in node.targets)
        ),
        None,
    )
    if call is None:
        raise ValueError("it does not end with `claim = Claim(…)`")
    literals: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg in _METADATA:
            try:
                literals[keyword.arg] = ast.literal_eval(keyword.value)
            except ValueError:
                raise ValueError(f"`{keyword.arg}` must be a literal, so that it can be read without running") from None
    missing = [name for name in _METADATA if name not in literals]
    if missing:
        raise ValueError(f"its Claim lacks {', '.join(missing)}")
    place = f"{path.parent.name}/{path.stem}".replace("_", "-")
    if literals["id"] != place:
        raise ValueError(f"its id is '{literals['id']}', but its place says '{place}'")
    docstring = ast.get_docstring(tree) or ""
    if not docstring:
        raise ValueError("it has no docstring: the first paragraph is the statement")
    statement = " ".join(docstring.split("\n\n")[0].split())
    return Entry(
        id=literals["id"],
        kind=literals["kind"],
        expected=literals["expected"],
        sources=tuple(literals["sources"]),
        statement=statement,
        docstring=docstring,
        module=module,
        path=path,
    )


def load(entry: Entry) -> Claim:
    """Runs a claim's file and gives its claim.

    Raises:
        TypeError: what the file calls `claim` is not a `Claim`.
    """
    claim = getattr(importlib.import_module(entry.module), "claim", None)
    if not isinstance(claim, Claim):
        raise TypeError(f"{entry.path} must define `claim` as an experiments.claim.Claim, got {type(claim).__name__}")
    return claim


def _packages(problems: list[str]) -> Iterable[tuple[str, Path]]:
    yield BUILT_IN, Path(__file__).parent / "claims"
    for point in entry_points(group=GROUP):
        try:
            spec = importlib.util.find_spec(point.value)
            locations = list(spec.submodule_search_locations or ()) if spec else []
        except Exception as error:  # a plug-in may raise anything while its parent package is imported
            problems.append(f"plug-in '{point.name}' ({point.value}) is left out: {type(error).__name__}: {error}")
            continue
        if not locations:
            problems.append(f"plug-in '{point.name}' is left out: there is no package '{point.value}'")
        for location in locations:
            yield point.value, Path(location)


def _nearest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    near += [k for k in known if name.strip("*") and name.strip("*") in k and k not in near][:3]
    if not near:
        return "; `unmagic list` shows them all"
    return f"; the nearest: {', '.join(near[:4])}"
