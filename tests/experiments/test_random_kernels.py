"""Tangent kernels of random ensembles against Jacobians, and ensembles that depend on their key alone."""

import jax
import numpy as np
import pytest

from experiments import random_kernels
from experiments.networks import network
from experiments.random_kernels import contributions, total
from theory.architecture import MLP
from theory.kernels import empirical_ntk


@pytest.mark.parametrize(("activation", "scheme"), [("relu", "ntk"), ("erf", "standard")])
def test_contributions_add_up_to_the_kernel_of_the_jacobians(activation, scheme, rng):
    net = network(MLP(2, activation, 1.7), width=(5, 4), inputs=3, parametrisation=scheme)
    normals, x = rng.standard_normal((2, net.parameters)), rng.standard_normal((2, 3))
    found = contributions(net, normals, x)
    assert found.shape == (2, 3, 2, 2)
    for member in range(2):
        exact = empirical_ntk(net.apply, jax.tree.map(np.asarray, net.assemble(normals[member])), x)
        np.testing.assert_allclose(found[member].sum(axis=0), exact, rtol=1e-11)


def test_the_last_matrix_sees_the_hidden_layer_and_the_first_the_inputs(rng):
    net = network(MLP(1, "linear", 1.0), width=4, inputs=2)
    normals, x = rng.standard_normal((3, net.parameters)), np.array([[1.0, 1.0]])
    found = contributions(net, normals, x)[:, :, 0, 0]
    w1, w2 = normals[:, :8].reshape(3, 2, 4), normals[:, 8:]
    np.testing.assert_allclose(found[:, 0], np.mean(w2**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found[:, 1], np.mean((w1.sum(axis=1) / np.sqrt(2)) ** 2, axis=1), rtol=1e-12)


def test_an_ensemble_depends_on_its_key_and_not_on_the_threads(monkeypatch):
    def sums(normals):
        return np.array([len(normals), normals.astype(float).sum(), (normals.astype(float) ** 2).sum()])

    monkeypatch.setattr(random_kernels, "DRAWS", 1000)
    first = total(sums, 7, 5000, jax.random.key(1))
    monkeypatch.setattr(random_kernels.os, "cpu_count", lambda: 1)
    np.testing.assert_array_equal(first, total(sums, 7, 5000, jax.random.key(1)))
    other = total(sums, 7, 5000, jax.random.key(2))
    assert first[0] == other[0] == 5000
    assert first[1] != other[1]
    # 35 000 standard normals: 4 standard errors.
    assert abs(first[2] / 35_000 - 1) < 4 * np.sqrt(2 / 35_000)


def test_wrong_arguments_are_named():
    x, normals = np.ones((1, 2)), np.zeros((1, 100))
    for wrong in (
        network(MLP(1, "relu", 2.0), width=3, inputs=2, outputs=2),
        network(MLP(1, "relu", 2.0, 0.1), width=3, inputs=2),
        network(MLP(1, "gelu", 2.0), width=3, inputs=2),
    ):
        with pytest.raises(ValueError, match="net must"):
            contributions(wrong, normals, x)
    with pytest.raises(ValueError, match="members"):
        total(np.sum, 3, 0, jax.random.key(0))
