"""Where a number comes from: what a cell's key covers, and what the ledger says of the machine and the code."""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.claim import Cell, Claim
from experiments.reachable import code_hash

MEASURED_BY = ("Config", "cells", "measure")
# Raised when the frame itself changes what a cell's numbers are: how keys are derived, precision set, cells joined.
PROTOCOL = 1
_RECORDED = ("jax", "jaxlib", "numpy", "scipy", "optax", "diffrax", "xarray", "scikit-learn")


@dataclass(frozen=True)
class Fingerprint:
    """What must be equal on two machines for their cells to be one measurement.

    Attributes:
        code: hash of the code that the measurement reaches.
        jax, jaxlib, numpy, scipy: versions.
        backend: cpu, gpu or tpu.
    """

    code: str
    jax: str
    jaxlib: str
    numpy: str
    scipy: str
    backend: str

    def differences(self, other: Fingerprint) -> list[str]:
        """One phrase for each field in which `other` departs from this one."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name} {_short(theirs[name])} in place of {_short(mine[name])}"
            for name in mine
            if mine[name] != theirs[name]
        ]


def set_precision() -> None:
    """Double precision on, and float32 products without shortcuts: processes do not inherit either."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")


def fingerprint(module: str, measure_name: str = "measure") -> Fingerprint:
    """The fingerprint of a claim's measurement (or of a rival's, named by its function) in this process."""
    import jax

    names = (*MEASURED_BY, measure_name) if measure_name not in MEASURED_BY else MEASURED_BY
    return Fingerprint(
        code=code_hash(module, names),
        jax=version("jax"),
        jaxlib=version("jaxlib"),
        numpy=version("numpy"),
        scipy=version("scipy"),
        backend=jax.default_backend(),
    )


def cell_key(
    claim: Claim, variant: str, config: Any, cell: Cell, seed: int, mark: Fingerprint, checksums: Mapping[str, str]
) -> str:
    """SHA-256 over everything that determines a cell's result.

    Args:
        variant: empty for the claim's own `measure`, else the name of the rival that replaces it.
        checksums: of the data sets that `measure` reads.
    """
    covered = {
        "protocol": PROTOCOL,
        "claim": claim.id,
        "variant": variant,
        "config": config_dict(config),
        "cell": dict(cell),
        "seed": seed,
        "data": dict(checksums),
        "precision": {"x64": True, "matmul": "highest"},
        **asdict(mark),
    }
    return hashlib.sha256(canonical(covered).encode()).hexdigest()


def fold(text: str) -> int:
    """32 bits of a text, to fold into a random key."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def config_dict(config: Any) -> dict[str, Any]:
    """A configuration's fields as plain data."""
    return {f.name: getattr(config, f.name) for f in fields(config)}


def canonical(data: Any) -> str:
    """JSON with one spelling for equal data."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@cache
def environment() -> dict[str, Any]:
    """The machine and the software, for the record."""
    import jax

    device = jax.devices()[0]
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "unmagic": version("unmagic"),
        **commit(),
        "python": platform.python_version(),
        "versions": versions,
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "precision": {"x64": True, "matmul": "highest"},
        "host": socket.gethostname(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


@cache
def commit() -> dict[str, Any]:
    """Commit of the checkout that this file lies in, and whether its tree is dirty; empty outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    if head is None:
        return {"commit": "", "dirty": False}
    # Results and generated files do not make a measurement irreproducible; changed code does.
    # A claim's file that is not added yet is such code too.
    status = git(
        "status", "--porcelain", "--", ":(top)experiments/*.py", ":(top)theory/*.py", ":(top)requirements.lock"
    )
    return {"commit": head.strip(), "dirty": bool((status or "").strip())}


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 else value
