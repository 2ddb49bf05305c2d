"""What code a measurement rests on: the definitions reachable from it, found in the syntax trees.

A cached measurement is valid as long as this code is. Names are followed from the claim's `Config`, `cells` and
`measure` through the modules of this project (and of the plug-in that the claim comes from), one definition at a time,
so that an edit of `predict`, of a figure, a comment or a docstring changes nothing here, and an edit of a shared
function changes the claims that use it.

It sees names, not values: a function picked at run time out of a registry that fills itself would be missed. The
project has no such registry; statements at a module's top level that are not definitions count always.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOTS = ("theory", "experiments")


@dataclass
class _Module:
    """A module's top level, sorted by what its statements do."""

    name: str
    is_package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


def code_hash(module: str, names: Iterable[str]) -> str:
    """SHA-256 over the code reachable from the given names of a module.

    Args:
        module: dotted name, importable.
        names: top-level names in it; one that it lacks is skipped (a claim without its own `Config`, say).

    Returns:
        64 hexadecimal digits, the same on every machine with the same code.
    """
    digest = hashlib.sha256()
    for owner, name, text in reachable(module, names):
        digest.update(f"{owner}\0{name}\0{text}\0".encode())
    return digest.hexdigest()


def reachable(module: str, names: Iterable[str]) -> list[tuple[str, str, str]]:
    """(module, name, normalised source) of every definition reachable from the names, sorted."""
    roots = {*ROOTS, module.partition(".")[0]}
    seen: set[tuple[str, str]] = set()
    found: set[tuple[str, str, str]] = set()
    todo: list[tuple[str, str]] = [(module, name) for name in names]
    while todo:
        owner, name = todo.pop()
        if (owner, name) in seen or owner.partition(".")[0] not in roots:
            continue
        seen.add((owner, name))
        source = _module(owner)
        if source is None:
            continue
        # Importing a module runs its top level, so its effects count as soon as anything in it does.
        if (owner, "") not in seen:
            todo.append((owner, ""))
        if name == "":
            nodes = source.effects
        elif name == "*":
            todo += [(owner, n) for n in source.definitions] + [(m, n or "*") for m, n in source.imports.values()]
            continue
        elif name in source.definitions:
            nodes = source.definitions[name]
        elif name in source.imports:
            target, attribute = source.imports[name]
            todo.append((target, attribute or ""))
            continue
        elif _module(f"{owner}.{name}") is not None:
            todo.append((f"{owner}.{name}", ""))
            continue
        else:
            continue
        for node in nodes:
            found.add((owner, name, _text(node)))
            todo += _references(node, source)
    return sorted(found)


def _references(node: ast.stmt, source: _Module) -> Iterator[tuple[str, str]]:
    """The (module, name) pairs that a statement mentions."""
    imports = dict(source.imports)
    for child in ast.walk(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            imports.update(_imported(child, source))
            for target, attribute in _imported(child, source).values():
                yield target, attribute or ""
    stripped = _normalised(node)
    # Of `a.b.c` only the whole chain counts: `a.b` by itself would stand for everything in that module.
    inner = {id(child.value) for child in ast.walk(stripped) if isinstance(child, ast.Attribute)}
    qualified: set[int] = set()
    for child in ast.walk(stripped):
        if isinstance(child, ast.Attribute) and id(child) not in inner:
            chain = _chain(child)
            if chain and chain[0] in imports:
                qualified.add(id(_root(child)))
                yield from _resolve(chain, imports)
    for child in ast.walk(stripped):
        if not isinstance(child, ast.Name) or id(child) in qualified:
            continue
        if child.id in imports:
            target, attribute = imports[child.id]
            if attribute is not None:
                yield from _resolve([child.id], imports)
            else:
                yield target, "*"  # a module handed on as a value: anything in it may be used
        elif child.id in source.definitions:
            yield source.name, child.id


def _resolve(chain: list[str], imports: dict[str, tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    """Follows `alias.a.b` through submodules to the first definition."""
    target, attribute = imports[chain[0]]
    rest = ([attribute] if attribute else []) + chain[1:]
    for position, part in enumerate(rest):
        source = _module(target)
        if source is None or part in source.definitions:
            yield target, part
            return
        if part in source.imports:
            inner, inner_attribute = source.imports[part]
            if inner_attribute is not None and _module(f"{inner}.{inner_attribute}") is None:
                yield target, part
                return
            yield target, ""
            target = inner if inner_attribute is None else f"{inner}.{inner_attribute}"
        elif _module(f"{target}.{part}") is not None:
            yield target, ""
            target = f"{target}.{part}"
        else:
            yield target, part
            return
        if position == len(rest) - 1:
            yield target, "*"


@cache
def _module(name: str) -> _Module | None:
    """A module's top level, or None when there is no such source file."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    result = _Module(name, spec.submodule_search_locations is not None)
    if spec.origin and spec.origin.endswith(".py"):
        _sort(ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body, result)
    elif spec.submodule_search_locations is None:
        return None
    return result


def _sort(body: Iterable[ast.stmt], result: _Module) -> None:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            result.imports.update(_imported(node, result))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            result.definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and _targets(node):
            for name in _targets(node):
                result.definitions.setdefault(name, []).append(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        elif isinstance(node, ast.Try | ast.If):
            result.effects.append(node)
            for child in ast.walk(node):
                if isinstance(child, ast.Import | ast.ImportFrom):
                    result.imports.update(_imported(child, result))
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            result.effects.append(node)


def _targets(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names: list[str] = []
    for target in targets:
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        names += [part.id for part in parts if isinstance(part, ast.Name)]
    return names


def _imported(node: ast.Import | ast.ImportFrom, source: _Module) -> dict[str, tuple[str, str | None]]:
    """Local name → (module, name in it or None for the module itself)."""
    if isinstance(node, ast.Import):
        return {
            alias.asname or alias.name.partition(".")[0]: (
                alias.name if alias.asname else alias.name.partition(".")[0],
                None,
            )
            for alias in node.names
        }
    base = node.module or ""
    if node.level:
        parts = source.name.split(".")
        keep = len(parts) - node.level + (1 if source.is_package else 0)
        base = ".".join([*parts[:keep], *([node.module] if node.module else [])])
    return {alias.asname or alias.name: (base, alias.name) for alias in node.names}


def _chain(node: ast.Attribute) -> list[str]:
    parts: list[str] = []
    current: ast.expr = node
    while isinstance(current, ast.Attribute):
        parts.append(current.attr)
        current = current.value
    return [current.id, *reversed(parts)] if isinstance(current, ast.Name) else []


def _root(node: ast.Attribute) -> ast.expr:
    current: ast.expr = node
    while isinstance(current, ast.Attribute):
        current = current.value
    return current


@cache
def _text(node: ast.stmt) -> str:
    return ast.unparse(_normalised(node))


class _Strip(ast.NodeTransformer):
    """Takes away docstrings and the annotations of functions: neither changes a number."""

    def _body(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._body(node)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._body(node)
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


@cache
def _normalised(node: ast.stmt) -> ast.stmt:
    # A round trip through text gives a deep copy without positions.
    copy = ast.parse(ast.unparse(node)).body[0]
    return ast.fix_missing_locations(_Strip().visit(copy))
