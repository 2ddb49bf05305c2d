"""Double precision and checked array types for every test."""

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")

# Annotations of shapes are claims too: with this hook a false one fails the test that meets it.
install_import_hook(["theory", "experiments.networks", "experiments.training", "experiments.data"], "beartype.beartype")

# Of the 65,530 memory maps that Linux grants a process, after which XLA's compiler dies of a segmentation fault. A
# large compiled kernel holds 400.
MAPS = 30_000
finished = itertools.count(1)


@pytest.fixture(autouse=True)
def few_memory_maps():
    """Compiled programs are let go of before there are too many for one process."""
    yield
    maps = Path("/proc/self/maps")
    if next(finished) % 16 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()


@pytest.fixture
def getkey():
    """A function that gives a fresh key at each call, the same ones in every run."""
    count = itertools.count()
    return lambda: jax.random.fold_in(jax.random.key(20231), next(count))


@pytest.fixture
def rng():
    """NumPy's generator with a fixed seed."""
    return np.random.default_rng(4102)
