"""Which edits make a measurement stale: those of code that it reaches, and no others."""

import pytest

from experiments import reachable
from experiments.reachable import code_hash

FILES = {
    "__init__.py": "",
    "claim.py": '''
"""A claim."""
import numpy as np
from PACKAGE import tools
from PACKAGE.shapes import Shape
from PACKAGE.deep import inner as renamed
from . import relative
import PACKAGE.dotted.module

SCALE = 2
UNUSED = 3


class Config:
    """Docstring."""
    members: int = 10


def cells(config):
    return range(SCALE)


def measure(config, cell, key):
    """Docstring."""
    from PACKAGE.local import late
    # comment
    return tools.helper(cell) + Shape().area() + renamed(1) + late() + relative.near() + PACKAGE.dotted.module.far()


def predict(config):
    return tools.theory(config)


def draw(figure, evidence):
    figure.plot(1)
''',
    "tools.py": '''
"""Tools."""
FACTOR = 7

def helper(x):
    return _private(x) * FACTOR

def _private(x):
    return TABLE["a"](x)

def entry(x):
    return x + 1

TABLE = {"a": entry}

def theory(x):
    return 5
''',
    "shapes.py": """
class Base:
    def side(self):
        return 4

class Shape(Base):
    def area(self):
        return self.side() ** 2
""",
    "deep/__init__.py": "from PACKAGE.deep.core import inner\n",
    "deep/core.py": "def inner(x: int) -> int:\n    return x\n\n\ndef outer(x):\n    return x\n",
    "local.py": "def late():\n    return 3\n",
    "relative.py": "def near():\n    return 1\n",
    "dotted/__init__.py": "",
    "dotted/module.py": "STATE = []\nSTATE.append(1)\n\n\ndef far():\n    return 1\n",
}  # fmt: skip


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    name = f"package_{abs(hash(request.node.nodeid)) % 10**12}"
    for path, text in FILES.items():
        target = tmp_path / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("PACKAGE", name))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / name


def hash_of(package):
    reachable._module.cache_clear()
    return code_hash(f"{package.name}.claim", ["Config", "cells", "measure"])


def changes(package, path, old, new):
    before = hash_of(package)
    text = (package / path).read_text()
    assert old in text
    (package / path).write_text(text.replace(old, new))
    return hash_of(package) != before


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("claim.py", "members: int = 10", "members: int = 11"),
        ("claim.py", "range(SCALE)", "range(SCALE + 1)"),
        ("claim.py", "SCALE = 2", "SCALE = 4"),
        ("claim.py", "return tools.helper(cell)", "return 2 * tools.helper(cell)"),
        ("tools.py", "FACTOR = 7", "FACTOR = 8"),
        ("tools.py", 'TABLE["a"](x)', 'TABLE["a"](x) + 1'),
        ("tools.py", "return x + 1", "return x + 2"),
        ("shapes.py", "return 4", "return 5"),
        ("deep/core.py", "return x\n\n\ndef outer", "return -x\n\n\ndef outer"),
        ("local.py", "return 3", "return 4"),
        ("relative.py", "return 1", "return 2"),
        ("dotted/module.py", "def far():\n    return 1", "def far():\n    return 2"),
        ("dotted/module.py", "STATE.append(1)", "STATE.append(2)"),
    ],
)
def test_an_edit_of_reached_code_counts(package, path, old, new):
    assert changes(package, path, old, new)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("claim.py", '"""Docstring."""', '"""Another."""'),
        ("claim.py", "# comment", "# other comment"),
        ("claim.py", "figure.plot(1)", "figure.plot(2)"),
        ("claim.py", "return tools.theory(config)", "return 2 * tools.theory(config)"),
        ("claim.py", "UNUSED = 3", "UNUSED = 4"),
        ("claim.py", "return range(SCALE)", "return  range( SCALE )"),
        ("tools.py", "return 5", "return 6"),
        ("tools.py", '"""Tools."""', '"""Better tools."""'),
        ("deep/core.py", "def outer(x):\n    return x", "def outer(x):\n    return -x"),
        ("deep/core.py", "x: int) -> int", "x: float) -> float"),
    ],
)
def test_an_edit_of_anything_else_does_not(package, path, old, new):
    assert not changes(package, path, old, new)


def test_real_claims_reach_their_estimators_and_not_their_predictions():
    reachable._module.cache_clear()
    found = {(m, n) for m, n, _ in reachable.reachable("experiments.claims.ntk.linearised_dynamics", ["measure"])}
    modules = {m for m, _ in found}
    assert "experiments.training" in modules or any(m.startswith("experiments.training.") for m in modules)
    assert ("experiments.claims.ntk.linearised_dynamics", "predict") not in found
    assert ("experiments.claims.ntk.linearised_dynamics", "draw") not in found
    assert not any(m.startswith("experiments.verdict") for m in modules)
