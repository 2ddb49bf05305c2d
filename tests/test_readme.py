"""The README is true: its example runs, its table is that of the published ledger."""

import re
from pathlib import Path

import pytest

from experiments.executors import LocalPool
from experiments.ledger import read_ledger, scan
from experiments.registry import read_entry, registry
from experiments.report.page import markdown_table, with_table
from experiments.runner import Observer, plan, verify
from experiments.store import Store

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_library_example_runs():
    names: dict = {}
    exec(blocks("python")[0], names)
    assert names["kernel"].shape == (20, 20)
    assert names["ensemble"].mean.shape == (2, 5)


def test_the_example_claim_is_supported_and_its_rival_refuted(tmp_path, monkeypatch):
    folder = tmp_path / "example_claims" / "ntk"
    folder.mkdir(parents=True)
    (tmp_path / "example_claims" / "__init__.py").touch()
    path = folder / "output_scale.py"
    path.write_text(blocks("python")[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = read_entry(path, "example_claims.ntk.output_scale")
    monkeypatch.setitem(registry().entries, entry.id, entry)
    store = Store(tmp_path / "results")
    jobs = plan([entry], "smoke", [0], store, fresh=False, observer=Observer())
    (record,) = verify(jobs, store, LocalPool(), Observer())
    assert record["as_expected"], record["verdict"]["reason"]
    assert record["verdict"]["clearance"] > 4


@pytest.mark.skipif(not (ROOT / "paper/results").is_dir(), reason="the sources come without the published evidence")
def test_the_table_is_that_of_the_published_ledger():
    store = Store(ROOT / "paper/results", write=False)
    entries = scan(store)
    assert entries
    assert read_ledger(store.root) == entries
    assert with_table(ROOT / "README.md", markdown_table(entries)) == README


def test_the_commands_in_the_readme_exist():
    from experiments import cli

    documented = set(re.findall(r"^unmagic (\w+)", README, re.MULTILINE))
    assert documented == {"list", "show", "verify", "figure", "report", "paper", "cite"}
    assert documented == {
        name.lower() for name in ("List", "Show", "Verify", "Figure", "Report", "Paper", "Cite") if hasattr(cli, name)
    }
