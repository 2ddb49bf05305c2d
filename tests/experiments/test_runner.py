"""Planning, measuring, judging: what is repeated and what is not, and what a bad claim does to the others."""

import shutil
import sys

import jax
import numpy as np
import pytest
import xarray as xr

from experiments import ledger
from experiments.errors import UsageError
from experiments.executors import LocalPool, open_pool
from experiments.judging import assemble
from experiments.registry import registry
from experiments.report.published import judged_anew
from experiments.runner import Observer, plan, verify
from experiments.store import Store


class Listener(Observer):
    def __init__(self):
        self.messages, self.started_tasks, self.total = [], [], None

    def message(self, text):
        self.messages.append(text)

    def planned(self, tasks):
        self.total = tasks

    def started(self, task):
        self.started_tasks.append(task)


@pytest.fixture
def run(tmp_path):
    def run(patterns=("toy",), seeds=(0,), fresh=False, tier="smoke"):
        store, listener = Store(tmp_path / "results"), Listener()
        jobs = plan(registry().select(patterns), tier, seeds, store, fresh=fresh, observer=listener)
        return verify(jobs, store, LocalPool(), listener), listener, store

    return run


def test_a_claim_runs_from_prediction_to_ledger(plugin, run):
    plugin.add("mean")
    (record,), listener, store = run()
    assert record["verdict"]["status"] == "supported"
    assert record["as_expected"]
    assert {name: r["status"] for name, r in record["rivals"].items()} == {"shifted": "refuted", "biased": "refuted"}
    assert listener.total == 8  # four cells, and four of the rival that measures for itself
    folder = store.folder("smoke", "toy/mean", 0)
    assert {p.name for p in folder.iterdir()} >= {"provenance.json", "verdict.json", "figure.svg", "figure.pdf"}
    (line,) = ledger.read_ledger(store.root)
    assert line["status"] == "supported"
    assert line["clearance"] > 4
    assert line == ledger.entry(record)


def test_finished_evidence_is_judged_again_but_not_measured_again(plugin, run):
    path = plugin.add("mean")
    run()
    _, listener, _ = run()
    assert listener.total == 0
    plugin.edit(path, '{"mean": 0.0', '{"mean": 2.0')
    del sys.modules[f"{plugin.package}.toy.mean"]
    (record,), listener, _ = run()
    assert listener.total == 0
    assert record["verdict"]["status"] == "refuted"
    assert not record["as_expected"]


def test_fresh_measures_again(plugin, run):
    plugin.add("mean")
    (before,), _, _ = run()
    (after,), listener, _ = run(fresh=True)
    assert listener.total == 8
    assert before["evidence"] == after["evidence"]  # the same seed gives the same numbers, to the bit


def test_seeds_and_cells_differ_in_their_randomness(plugin, run):
    plugin.add("mean")
    _, _, store = run(seeds=(0, 1))
    means = [
        store.load_evidence(store.folder("smoke", "toy/mean", seed))[0][""]["mean"].values.ravel() for seed in (0, 1)
    ]
    assert np.unique(np.concatenate(means)).size == 8


def test_a_second_seed_compiles_nothing(plugin, run):
    plugin.add("mean")
    run(seeds=(0,))
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compilations.append(event) if "backend_compile" in event else None
    )
    run(seeds=(1, 2))
    assert not compilations
    jax.jit(lambda x: x + 12345.678)(1.0)
    assert compilations  # the listener hears


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("raise RuntimeError('no such luck')", "no such luck"),
        ("sample = sample * float('nan')", "holds NaN"),
        ("return 3", "must return an xarray.Dataset"),
        ("return xr.Dataset({'size': 1.0})", "leave out the cell's own dimensions"),
        ("return xr.Dataset({'flag': True})", "dtype bool"),
    ],
)
def test_a_claim_that_fails_says_why_and_the_others_go_on(plugin, run, body, word):
    plugin.add("bad", body=body)
    plugin.add("mean")
    records, _, store = run()
    statuses = {r["claim"]: r["verdict"]["status"] for r in records}
    assert statuses == {"toy/bad": "failed", "toy/mean": "supported"}
    assert word in records[0]["verdict"]["reason"]
    assert "size=1000, batch=0" in records[0]["verdict"]["reason"]
    assert {e["status"] for e in ledger.read_ledger(store.root)} == {"failed", "supported"}


@pytest.mark.parametrize(
    ("replacement", "word"),
    [
        ({"import time\n": "raise ImportError('lost')\n"}, "lost"),
        ({'"mean": 0.0, "margin"': '"mean": float("nan"), "margin"'}, "the prediction 'mean' holds NaN"),
        ({"axes = figure.subplots()": "axes = 1 / 0"}, "division by zero"),
        ({"    return decide(": "    raise KeyError('judge')\n    return decide("}, "judge"),
        ({"for size in config.sizes for": "for size in () for"}, "cells(config) is empty"),
    ],
)
def test_a_claim_that_breaks_outside_its_measurement_fails_too(plugin, run, replacement, word):
    plugin.add("bad", **replacement)
    plugin.add("mean")
    records, _, _ = run()
    assert [r["verdict"]["status"] for r in records] == ["failed", "supported"]
    assert word in records[0]["verdict"]["reason"]


def test_an_assumption_that_does_not_hold_is_out_of_domain(plugin, run):
    plugin.add("small", settings="large=False")
    (record,), listener, _ = run()
    assert listener.total == 0
    assert record["verdict"]["status"] == "out-of-domain"
    assert "the sample is large does not hold" in record["verdict"]["reason"]
    assert not record["as_expected"]


def test_an_altered_file_is_named_and_measured_again(plugin, run):
    plugin.add("mean")
    (before,), _, store = run()
    path = next(store.folder("smoke", "toy/mean", 0).glob("evidence-[0-9a-f]*.nc"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    (after,), listener, _ = run()
    assert any(path.name in m and "measured again" in m for m in listener.messages)
    assert listener.total == 8
    assert after["evidence"] == before["evidence"]


def test_a_tier_that_a_claim_lacks_is_wrong_use(plugin, run):
    plugin.add("mean")
    with pytest.raises(UsageError, match="has no tier 'scale': it has smoke"):
        run(tier="scale")


def test_the_tasks_of_an_interrupted_run_are_not_repeated(plugin, run, tmp_path):
    trace = tmp_path / "trace"
    trace.mkdir()
    plugin.add("mean", settings=f"trace={str(trace)!r}")

    interrupt_after(3, Store(tmp_path / "results"), fresh=False)
    (record,), listener, _ = run()
    assert listener.total == 5
    assert len(list(trace.iterdir())) == 8
    assert record["verdict"]["status"] == "supported"


def test_assembling_a_grid():
    cells = [{"width": w, "batch": b} for w in (8, 4) for b in (0, 1)]
    data = [xr.Dataset({"x": ("member", np.full(3, 10.0 * c["width"] + c["batch"]))}) for c in cells]
    whole = assemble(cells, data)
    assert whole["x"].dims == ("width", "batch", "member")
    assert whole["x"].sel(width=4, batch=1).values.tolist() == [41.0] * 3
    assert whole["width"].values.tolist() == [8, 4]
    with pytest.raises(ValueError, match="full grid over width, batch: 3 cells, 4 places"):
        assemble(cells[:3], data[:3])


@pytest.mark.parametrize(
    "address", ["remote", "processes:0", "processes:x", "dask:", "dask://host", "dask://host:x", ""]
)
def test_wrong_executor_addresses(address):
    with pytest.raises(UsageError, match="executor must be local, processes, processes:N or dask://HOST:PORT"):
        open_pool(address)


def interrupt_after(count, store, **options):
    """Runs all toys until `count` cells have been measured, as Ctrl-C would cut them off."""
    done = []

    class Interrupting(LocalPool):
        def submit(self, task):
            if len(done) == count:
                raise KeyboardInterrupt
            done.append(task)
            return super().submit(task)

    jobs = plan(registry().select(["toy"]), "smoke", [0], store, observer=Observer(), **options)
    with pytest.raises(KeyboardInterrupt):
        verify(jobs, store, Interrupting(), Observer())


def test_an_interrupted_fresh_run_goes_on_in_place_of_the_old_evidence(plugin, run):
    plugin.add("mean")
    _, _, store = run()
    interrupt_after(3, store, fresh=True)
    _, listener, _ = run()
    assert listener.total == 5
    _, listener, _ = run()
    assert listener.total == 0


def test_a_verdict_without_its_evidence_leaves_the_ledger(plugin, run, capsys):
    plugin.add("mean")
    _, _, store = run()
    path = next(store.folder("smoke", "toy/mean", 0).glob("evidence-biased-*.nc"))
    path.write_bytes(b"nonsense")
    assert ledger.update_ledger(store) == []
    assert path.name in capsys.readouterr().err


def test_published_evidence_meets_the_assumptions_of_today_and_lies_in_its_place(plugin, run):
    path = plugin.add("mean")
    _, _, store = run()
    (found,) = judged_anew(store.root, tier="smoke")
    assert found.verdict.status == "supported"
    assert found.record["as_expected"]
    plugin.edit(path, '"the sample is large", config.large', '"never", False')
    del sys.modules[f"{plugin.package}.toy.mean"]
    (found,) = judged_anew(store.root, tier="smoke")
    assert found.verdict.status == "out-of-domain"
    assert not found.record["as_expected"]
    shutil.copytree(store.root / "smoke", store.root / "paper")
    with pytest.raises(UsageError, match="at the smoke tier, seed 0: it was put in the wrong folder"):
        judged_anew(store.root, tier="paper")
