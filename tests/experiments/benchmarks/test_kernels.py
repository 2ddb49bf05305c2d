"""The benchmark of kernels runs, and its ways give one kernel (it raises otherwise)."""

import time

import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import kernels


def test_infinite_networks_are_timed_beside_the_peer(rng):
    x = rng.standard_normal((24, 8)).astype(np.float32)
    row = kernels.infinite("relu", 1, x, 1)
    whole = {"peer", "ours", "product", "result", "peer memory", "our memory"}
    assert set(row) == whole | {"tiles' products", "tiles' layers"}
    assert min(row.values()) > 0


def test_finite_networks_are_timed_beside_the_peers(monkeypatch):
    monkeypatch.setattr(kernels, "FEATURES", 6)
    row = kernels.finite(16, 5, 1)
    assert set(row) == {"NTK–vector products", "Jacobians", "ours", "bare products"}
    assert min(row.values()) > 0


def test_a_race_multiplies_by_the_scale_and_takes_the_median():
    waits = iter([0.0, 1.2, 0.0, 0.1])
    found = kernels.race([kernels.Way("one", lambda: time.sleep(next(waits)) or jnp.zeros(1), 100.0)], 3, pause=0.0)
    # The mean would be above 43.
    assert 10 < found["one"] < 40
