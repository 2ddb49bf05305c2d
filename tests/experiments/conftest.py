"""A plug-in package with small claims, laid out in a temporary folder as a user's own would be."""

import contextlib
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from experiments import reachable, registry, worker
from experiments.cli import main

CLAIM = '''
"""The mean of standard normals is 0.

Nobody doubts it.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import xarray as xr

from experiments.claim import Assumption, Claim, Rival
from experiments.verdict import decide, equivalence


@dataclass(frozen=True)
class Config:
    sizes: tuple[int, ...] = (1000, 2000)
    batches: int = 2
    pause: float = 0.0
    trace: str = ""
    large: bool = True


def assumptions(config):
    return [Assumption("the sample is large", config.large, "a flag says so")]


def predict(config):
    return xr.Dataset({"mean": 0.0, "margin": 0.4})


def cells(config):
    return [{"size": size, "batch": batch} for size in config.sizes for batch in range(config.batches)]


def measure(config, cell, key):
    """A docstring."""
    if config.trace:
        Path(config.trace, f"{cell['size']}-{cell['batch']}-{time.time_ns()}").touch()
    time.sleep(config.pause)
    sample = np.asarray(jax.random.normal(key, (1000,)))
    BODY
    return xr.Dataset({"mean": sample.mean(), "error": sample.std() / sample.size**0.5})


def judge(prediction, measurement):
    comparisons = equivalence(
        "mean", measurement["mean"].values, float(prediction["mean"]), float(prediction["margin"]),
        standard_error=measurement["error"].values, sample_size=1000,
    )
    return decide(comparisons, margin_source="half the distance to the rival")


def draw(figure, evidence):
    axes = figure.subplots()
    axes.axhline(float(evidence.prediction["mean"]))
    axes.plot(evidence.measurement["size"], evidence.measurement["mean"].isel(batch=0), "o")


def shifted(config):
    return predict(config).assign(mean=1.0)


def biased(config, cell, key):
    data = measure(config, cell, key)
    return data.assign(mean=data["mean"] + 1.0)


claim = Claim(
    id="toy/NAME",
    kind="identity",
    expected="supported",
    sources=("lee2019wide",),
    tiers={"smoke": Config(SETTINGS)},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(Rival("shifted", "it is 1", predict=shifted), Rival("biased", "measured with a bias", measure=biased)),
)
'''


class Plugin:
    """A package of claims that `unmagic` finds through its entry point."""

    def __init__(self, root: Path, package: str):
        self.root, self.package = root, package
        (root / package / "toy").mkdir(parents=True)
        (root / package / "__init__.py").touch()
        info = root / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[unmagic.claims]\n{package} = {package}\n")

    def add(self, name: str, *, settings: str = "", body: str = "pass", **replacements: str) -> Path:
        """Writes the claim toy/<name>; `body` runs in the middle of `measure`; other replacements are of text."""
        text = (
            CLAIM.replace("NAME", name).replace("SETTINGS", settings).replace("BODY", textwrap.indent(body, "    ")[4:])
        )
        for old, new in replacements.items():
            assert old in text
            text = text.replace(old, new)
        return self.write(name, text)

    def write(self, name: str, text: str) -> Path:
        path = self.root / self.package / "toy" / f"{name.replace('-', '_')}.py"
        path.write_text(text)
        return path

    def edit(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def environment(self, **extra: str) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root), "JAX_PLATFORMS": "cpu", **extra}

    def command(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        """Runs `unmagic` in its own process, in the plug-in's folder."""
        return subprocess.run(
            [sys.executable, "-m", "experiments.cli", *arguments],
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )

    def inside(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs `unmagic` in this process, which has loaded JAX already: for what needs no process of its own."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.root),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as exit_,
        ):
            main(list(arguments))
        status = exit_.value.code
        assert isinstance(status, int)
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())

    def start(self, *arguments: str) -> subprocess.Popen:
        """Starts `unmagic` in its own process, deaf to no signal: what runs in the background inherits deafness."""
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
            "from experiments.cli import main; main()"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def plugin(tmp_path, monkeypatch, request):
    """A fresh plug-in, visible in this process too."""
    # Modules stay in sys.modules: each test gets a package name of its own.
    package = f"plugin_{abs(hash(request.node.nodeid)) % 10**12}"
    made = Plugin(tmp_path, package)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield made
    forget()


def forget():
    """What is cached of claims and code for the life of a process."""
    registry.registry.cache_clear()
    worker.mark_of.cache_clear()
    reachable._module.cache_clear()
