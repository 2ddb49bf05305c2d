"""The command as a user meets it: in its own process, with wrong flags, kills and altered files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import main


def ledger(plugin, out="results"):
    return json.loads((plugin.root / out / "ledger.json").read_text())["entries"]


def trace_of(plugin):
    folder = plugin.root / "trace"
    folder.mkdir(exist_ok=True)
    return folder


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_verify_show_figure_report(plugin):
    plugin.add("mean")
    done = plugin.command("verify", "toy")
    assert done.returncode == 0, done.stderr
    assert "supported" in done.stdout
    shown = plugin.inside("show", "toy/mean").stdout
    assert "The mean of standard normals is 0." in shown
    assert "Rival shifted: refuted" in shown
    assert "figure.svg" in shown
    for figure in ("figure.svg", "figure.pdf"):
        (plugin.root / "results/smoke/toy/mean/seed-0" / figure).unlink()
    redrawn = plugin.inside("figure", "toy/mean", "--from", "results", "--to", "drawn")
    assert redrawn.returncode == 0, redrawn.stderr
    assert (plugin.root / "drawn/figure.pdf").read_bytes().startswith(b"%PDF")
    assert plugin.inside("report").returncode == 0
    page = (plugin.root / "results/report.html").read_text()
    assert "toy/mean" in page
    assert "it is 1" in page
    listed = plugin.inside("list", "toy", "--json")
    assert json.loads(listed.stdout)[0]["last"]["status"] == "supported"


def test_json_and_dry_run(plugin):
    plugin.add("mean")
    dry = plugin.inside("verify", "toy", "--dry-run")
    assert dry.returncode == 0
    assert "toy/mean seed 0: 8 of 8 cells to measure" in dry.stdout
    assert not (plugin.root / "results").exists()
    done = plugin.inside("verify", "toy", "--json", "--seeds", "2")
    entries = json.loads(done.stdout)
    assert [e["seed"] for e in entries] == [0, 1]
    assert entries == ledger(plugin)
    assert "0 of 8 cells" in plugin.inside("verify", "toy", "--dry-run").stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["verify", "toy/meen"], "the nearest: toy/mean"),
        (["show", "toy/meen"], "the nearest: toy/mean"),
        (["verify", "--tier", "huge"], "smoke"),
        (["verify", "toy", "--tier", "scale"], "has no tier 'scale'"),
        (["verify", "--seed", "-1"], "--seed must lie between"),
        (["verify", "--seed", "many"], "int"),
        (["verify", "--seeds", "0"], "--seeds must be at least 1"),
        (["verify", "toy", "--executor", "cloud"], "executor must be"),
        (["verify", "toy", "--executor", "dask://127.0.0.1:9"], "no Dask scheduler"),
        (["verify", "toy", "--out", "occupied/results"], "cannot write"),
        (["verify", "toy", "--out", "foreign"], "has format 0"),
        (["figure", "toy/mean"], "holds no evidence"),
        (["figure", "toy/mean", "--from", "nowhere"], "holds no evidence"),
        (["report", "--from", "nowhere"], "holds no verdicts"),
        (["paper"], "main.tex is missing"),
        (["cite", "toy/meen"], "the nearest"),
        (["verfy"], "verify"),
        ([], "subcommand"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_2(plugin, arguments, word, monkeypatch, capsys):
    plugin.add("mean")
    (plugin.root / "occupied").touch()
    (plugin.root / "foreign").mkdir()
    (plugin.root / "foreign/ledger.json").write_text('{"format": 0}')
    monkeypatch.chdir(plugin.root)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    output = "".join(capsys.readouterr())
    assert exit_.value.code == 2, output
    assert word in output
    assert not (plugin.root / "results/smoke").exists()


def test_a_verdict_that_is_not_as_expected_is_exit_1(plugin):
    plugin.add("bad", body="raise RuntimeError('no such luck')")
    plugin.add("mean")
    done = plugin.inside("verify", "toy")
    assert done.returncode == 1
    assert "no such luck" in done.stdout
    assert {e["claim"]: e["status"] for e in ledger(plugin)} == {"toy/bad": "failed", "toy/mean": "supported"}


def test_altered_evidence_is_refused_on_figure_and_measured_again_on_verify(plugin):
    plugin.add("mean")
    plugin.inside("verify", "toy")
    path = next((plugin.root / "results/smoke/toy/mean/seed-0").glob("evidence-[0-9a-f]*.nc"))
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    refused = plugin.inside("figure", "toy/mean")
    assert refused.returncode == 2
    assert path.name in refused.stderr
    again = plugin.inside("verify", "toy")
    assert again.returncode == 0
    assert path.name in again.stderr
    assert plugin.inside("figure", "toy/mean").returncode == 0


def test_interrupt_is_130_and_the_next_run_goes_on(plugin):
    trace = trace_of(plugin)
    plugin.add("mean", settings=f"trace={str(trace)!r}, pause=0.3")
    process = plugin.start("verify", "toy")
    wait_for(lambda: len(list(trace.iterdir())) >= 4)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    begun = len(list(trace.iterdir()))
    assert plugin.inside("verify", "toy").returncode == 0
    # At most the one cell that was running is measured twice.
    assert len(list(trace.iterdir())) - 8 <= 1
    assert begun < 8


@pytest.mark.parametrize("executor", ["local", "processes:2"])
def test_kill_9_costs_at_most_the_running_cells(plugin, executor):
    trace = trace_of(plugin)
    plugin.add("mean", settings=f"trace={str(trace)!r}, pause=0.15, batches=4")
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", "verify", "toy", "--executor", executor],
        cwd=plugin.root,
        env=plugin.environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(list(trace.iterdir())) >= 6)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = plugin.inside("verify", "toy")
    assert done.returncode == 0, done.stderr
    assert len(list(trace.iterdir())) - 16 <= (1 if executor == "local" else 2) + 1
    assert [e["status"] for e in ledger(plugin)] == ["supported"]


def test_two_runs_into_one_folder(plugin):
    plugin.add("mean", settings="pause=0.1")
    plugin.add("other", settings="pause=0.1")
    processes = [plugin.start("verify", "toy") for _ in range(2)]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert [(e["claim"], e["status"]) for e in ledger(plugin)] == [
        ("toy/mean", "supported"),
        ("toy/other", "supported"),
    ]
    assert plugin.inside("figure", "toy/other").returncode == 0
    assert "0 of 8 cells" in plugin.inside("verify", "toy/mean", "--dry-run").stdout
    assert not list(Path(plugin.root / "results").rglob("*.nc.*"))


def test_processes_give_the_ledger_of_local(plugin):
    plugin.add("mean")
    assert plugin.inside("verify", "toy", "--out", "one").returncode == 0
    done = plugin.inside("verify", "toy", "--out", "two", "--executor", "processes:2")
    assert done.returncode == 0, done.stderr
    one, two = ([{**e, "run": None} for e in ledger(plugin, out)] for out in ("one", "two"))
    assert one == two


def test_a_worker_process_that_dies_costs_its_cell_and_a_cell_that_always_kills_it_fails_its_claim(plugin):
    trace = trace_of(plugin)
    flag = plugin.root / "died"
    once = f"flag = Path({str(flag)!r})\nif not flag.exists():\n    flag.touch()\n    import os\n    os._exit(9)"
    plugin.add("deadly", body="import os\nos._exit(9)")
    plugin.add("mean", settings=f"trace={str(trace)!r}", body=once)
    done = plugin.inside("verify", "toy", "--executor", "processes:1")
    assert done.returncode == 1
    entries = {e["claim"]: e for e in ledger(plugin)}
    assert entries["toy/deadly"]["status"] == "failed"
    assert "the worker died 3 times" in entries["toy/deadly"]["reason"]
    assert entries["toy/mean"]["status"] == "supported"
    assert len(list(trace.iterdir())) == 9


@pytest.mark.parametrize(
    ("argument", "absent"), [("--help", ("jax", "scipy", "numpy")), ("list", ("jax", "matplotlib"))]
)
def test_light_commands_load_nothing_heavy(argument, absent):
    code = f"""
import sys
from experiments.cli import main
try:
    main([{argument!r}])
except SystemExit as exit_:
    assert not exit_.code
heavy = set({absent!r}) & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
