"""Rules of the house that no linter knows: who imports whom, and how a claim's two sides are kept apart."""

import ast
from pathlib import Path

import pytest

from experiments.reachable import reachable
from experiments.registry import registry
from experiments.report.citations import bibliography

ROOT = Path(__file__).parents[1]


def imports(path):
    """Modules that a file imports anywhere, as dotted names (`from a import b` gives both a and a.b)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(folder):
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("path", files("theory"), ids=lambda p: str(p.relative_to(ROOT)))
def test_theory_is_pure(path):
    names = set(imports(path))
    assert not {n for n in names if n.partition(".")[0] in ("experiments", "matplotlib", "optax", "xarray", "pathlib")}
    assert "config.update" not in path.read_text(), "theory sets no global flag"


@pytest.mark.parametrize("room", ["networks", "training", "data"])
def test_finite_networks_know_the_architecture_and_nothing_else_of_theory(room):
    place = ROOT / "experiments" / room
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        found = {n for n in imports(path) if n.partition(".")[0] == "theory"}
        assert all(n.startswith("theory.architecture") for n in found), (path, found)


@pytest.mark.parametrize("claim_id", sorted(registry().entries))
def test_measure_calls_nothing_that_predict_calls(claim_id):
    """Of `theory`, the two sides of a claim share the description of the architecture, and helpers below it."""
    entry = registry()[claim_id]
    sides = {}
    for side in ("predict", "measure"):
        tree = ast.parse(entry.path.read_text())
        local = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        sides[side] = theory_functions(local, tree, side)
    shared = sides["predict"] & sides["measure"]
    assert not {name for name in shared if not name.startswith("theory.architecture")}


def theory_functions(local, tree, name, seen=None):
    """Functions of `theory` that a function of the claim's file names, directly or through others of the file."""
    seen = set() if seen is None else seen
    if name in seen or name not in local:
        return set()
    seen.add(name)
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "theory":
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found = set()
    for node in ast.walk(local[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            found.add(f"{aliases[node.value.id]}.{node.attr}")
        elif isinstance(node, ast.Name) and node.id in aliases:
            found.add(aliases[node.id])
        if isinstance(node, ast.Name):
            found |= theory_functions(local, tree, node.id, seen)
    # A module by itself (`bounds` in `bounds.hoeffding`) is not a function.
    return {f for f in found if not any(other.startswith(f"{f}.") for other in found)}


@pytest.mark.parametrize("claim_id", sorted(registry().entries))
def test_sources_are_in_the_bibliography(claim_id):
    assert set(registry()[claim_id].sources) <= set(bibliography())


def test_measurements_reach_no_verdicts():
    for entry in registry().entries.values():
        modules = {module for module, _, _ in reachable(entry.module, ["Config", "cells", "measure"])}
        assert not any(m.startswith(("experiments.verdict", "experiments.report")) for m in modules), entry.id


def test_the_bibliography_is_whole():
    for key, text in bibliography().items():
        for field in ("title", "author", "year"):
            assert f"{field} " in text or f"{field}=" in text, f"{key} lacks {field}"
