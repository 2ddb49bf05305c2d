"""Claims are found without running them, and one bad file spoils nothing."""

import pytest

from experiments.claim import KINDS
from experiments.errors import UsageError
from experiments.registry import load, registry


def test_built_in_claims_are_well_formed():
    found = registry()
    assert not found.problems
    assert len(found.entries) >= 5
    for entry in found.entries.values():
        claim = load(entry)
        assert (claim.id, claim.kind, claim.expected, claim.sources) == (
            entry.id,
            entry.kind,
            entry.expected,
            entry.sources,
        )
        assert entry.kind in KINDS
        assert 20 < len(entry.statement) < 600
        assert {"smoke", "paper"} <= set(claim.tiers)
        assert claim.rivals


def test_metadata_is_read_without_running_the_file(plugin):
    plugin.add("mean", **{"import time\n": "raise RuntimeError('this must not run')\n"})
    entry = registry()["toy/mean"]
    assert entry.statement == "The mean of standard normals is 0."
    assert entry.sources == ("lee2019wide",)
    with pytest.raises(RuntimeError, match="must not run"):
        load(entry)


def test_a_broken_file_is_named_and_the_others_stay(plugin):
    plugin.add("mean")
    plugin.write("broken", "def (")
    plugin.write("silent", '"""A docstring."""\n')
    plugin.add("computed", **{'kind="identity"': 'kind="iden" + "tity"'})
    plugin.add("misplaced", **{'id="toy/misplaced"': 'id="toy/elsewhere"'})
    found = registry()
    assert "toy/mean" in found.entries
    for name in ("broken.py", "silent.py", "computed.py", "misplaced.py"):
        assert any(name in problem for problem in found.problems)
    assert "must be a literal" in next(p for p in found.problems if "computed.py" in p)
    assert "its place says 'toy/misplaced'" in next(p for p in found.problems if "misplaced.py" in p)


def test_a_broken_plug_in_is_named(plugin):
    info = plugin.root / "nowhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nowhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unmagic.claims]\nnowhere = nowhere_at_all.claims\n")
    assert any("nowhere" in problem for problem in registry().problems)


def test_selection(plugin):
    plugin.add("mean")
    plugin.add("other-mean")
    names = [e.id for e in registry().select(["toy"])]
    assert names == ["toy/mean", "toy/other-mean"]
    assert [e.id for e in registry().select(["toy/*other*"])] == ["toy/other-mean"]
    assert [e.id for e in registry().select(["mean"])] == ["toy/mean"]
    assert len(registry().select([])) >= 7


def test_unknown_names_give_the_nearest():
    with pytest.raises(UsageError, match="ntk/linearised-dynamics"):
        registry().select(["ntk/linearized-dynamics"])
    with pytest.raises(UsageError, match="bounds/coverage"):
        registry()["bounds/covrage"]
