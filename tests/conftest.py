"""Double precision and checked array types for every test."""

import itertools

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")

# Annotations of shapes are claims too: with this hook a false one fails the test that meets it.
install_import_hook(["theory", "experiments.networks", "experiments.training", "experiments.data"], "beartype.beartype")


@pytest.fixture
def getkey():
    """A function that gives a fresh key at each call, the same ones in every run."""
    count = itertools.count()
    return lambda: jax.random.fold_in(jax.random.key(20231), next(count))


@pytest.fixture
def rng():
    """NumPy's generator with a fixed seed."""
    return np.random.default_rng(4102)
