"""A Dask cluster on this machine: the same ledger as in one process, workers that die, workers that differ."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import pytest

pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")


class Cluster:
    """A scheduler and workers as processes, started as a user would."""

    def __init__(self, root: Path, environment: dict[str, str]):
        self.root, self.environment = root, environment
        self.processes: list[tuple[subprocess.Popen, TextIO]] = []
        self.scheduler = self.start("dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        self.address = self.wait_for_line(self.scheduler, r"Scheduler at:\s+tcp://(\S+)")

    def start(self, module, *arguments, folder=None):
        log = (self.root / f"{module}-{len(self.processes)}.log").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
            cwd=folder or self.root,  # Python looks for packages there first
            env={**self.environment, "PYTHONPATH": str(folder or self.root)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self.processes.append((process, log))
        return process

    def workers(self, *folders):
        """One worker for each folder, all of them started before the first is waited for."""
        arguments = (f"tcp://{self.address}", "--no-nanny", "--nthreads", "1", "--no-dashboard")
        processes = [self.start("dask_worker", *arguments, folder=folder) for folder in folders]
        for process in processes:
            self.wait_for_line(process, "Registered to")
        return processes

    def wait_for_line(self, process, pattern, seconds=60):
        log = next(log for started, log in self.processes if started is process)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            log.seek(0)
            found = re.search(pattern, log.read())
            if found:
                return found.group(found.lastindex or 0)
            time.sleep(0.1)
        raise AssertionError(f"no line '{pattern}' in time")

    def close(self):
        for process, log in reversed(self.processes):
            process.kill()
            process.wait()
            log.close()


@pytest.fixture
def cluster(plugin):
    made = Cluster(plugin.root, plugin.environment())
    yield made
    made.close()


def ledger(plugin, out):
    entries = json.loads((plugin.root / out / "ledger.json").read_text())["entries"]
    return [{**e, "run": None} for e in entries]


def test_two_workers_give_the_ledger_of_local_and_a_killed_one_costs_only_its_cells(plugin, cluster):
    plugin.add("mean", settings="pause=0.15")
    first, _ = cluster.workers(plugin.root, plugin.root)
    no_worker_is_overlooked_while_the_client_refreshes_what_it_knows_of_the_scheduler(cluster.address)
    assert plugin.inside("verify", "toy", "--out", "one").returncode == 0
    process = plugin.start("verify", "toy", "--out", "two", "--executor", f"dask://{cluster.address}")
    cells = plugin.root / "two/smoke/toy/mean/seed-0/cells"
    end = time.monotonic() + 60
    while not (cells.exists() and len(list(cells.iterdir())) >= 2):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert ledger(plugin, "two") == ledger(plugin, "one")


def no_worker_is_overlooked_while_the_client_refreshes_what_it_knows_of_the_scheduler(address):
    from dask import config

    from experiments.executors import DaskPool

    # The client forgets the workers each time it refreshes: here a thousand times a second.
    with config.set({"distributed.client.scheduler-info-interval": "1ms"}):
        pool = DaskPool(address)
        try:
            assert {pool.slots for _ in range(200)} == {4}
        finally:
            pool.close()


def test_a_worker_with_other_code_is_refused_by_name(plugin, cluster, tmp_path):
    path = plugin.add("mean")
    # This worker sees a copy of the plug-in in which `measure` differs.
    other = tmp_path / "other"
    other.mkdir()
    for item in (plugin.package, f"{plugin.package}-1.0.dist-info"):
        subprocess.run(["cp", "-r", str(plugin.root / item), str(other / item)], check=True)
    changed = other / path.relative_to(plugin.root)
    changed.write_text(changed.read_text().replace("(1000,)", "(1001,)"))
    cluster.workers(other)
    refused = plugin.inside("verify", "toy", "--executor", f"dask://{cluster.address}")
    assert refused.returncode == 2
    assert re.search(r"worker tcp://127.0.0.1:\d+ is refused: code \w{12} in place of \w{12}", refused.stderr)
    cluster.workers(plugin.root)
    mixed = plugin.inside("verify", "toy", "--executor", f"dask://{cluster.address}")
    assert mixed.returncode == 0, mixed.stderr
    assert "is refused: code" in mixed.stderr
