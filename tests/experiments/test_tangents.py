"""Tangent kernels of every depth: against gradients of the networks with the same weights, and against the limit."""

import jax
import numpy as np
import pytest

from experiments import tangents
from experiments.networks import network
from experiments.tangents import tangent_kernels_by_depth
from theory.architecture import MLP
from theory.kernels import empirical_ntk

X = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
DEEP = [MLP(3, "tanh", 1.5, 0.3), MLP(3, "relu", 2.0), MLP(3, "tanh", 0.8, 0.1)]


def test_each_depth_is_the_kernel_of_the_network_with_these_weights():
    nets = tuple(network(mlp, width=6, inputs=4) for mlp in DEEP)
    key = jax.random.key(3)
    (found,) = tangent_kernels_by_depth(nets, key, X, (1, 3), 2)
    weights, biases = tangents._draw(jax.random.fold_in(key, 0), 2, 4, 6)
    for i, mlp in enumerate(DEEP):
        for j, depth in enumerate((1, 3)):
            net = network(MLP(depth, mlp.activation, mlp.weight_variance, mlp.bias_variance), width=6, inputs=4)
            for member in range(2):
                params = []
                for layer in range(depth + 1):
                    rows, columns = slice(4 if layer == 0 else 6), slice(1 if layer == depth else 6)
                    params.append({"weight": weights[member, layer, rows, columns]})
                    if net.bias:
                        params[-1]["bias"] = biases[member, layer, columns]
                expected = empirical_ntk(lambda p, x, net=net: net.apply(p, x)[:, 0], params, X)
                # Single precision.
                np.testing.assert_allclose(found[member, i, j], expected, rtol=2e-5, atol=1e-5)


def test_members_come_in_batches_and_differ(monkeypatch):
    nets = (network(DEEP[0], width=5, inputs=4),)
    monkeypatch.setattr(tangents, "DRAWS", 4 * 5 * 6 * 2)
    batches = list(tangent_kernels_by_depth(nets, jax.random.key(0), X, (2,), 5))
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert len(np.unique(np.concatenate(batches)[:, 0, 0, 0, 0])) == 6


@pytest.mark.parametrize(
    ("nets", "x", "depths", "message"),
    [
        ([(DEEP[0], 6, 4), (DEEP[1], 7, 4)], X, (1,), "same width"),
        ([(DEEP[0], (6, 7, 6), 4)], X, (1,), "same width"),
        ([(DEEP[0], 6, 3)], X, (1,), r"shape \(m, 3\)"),
        ([(DEEP[0], 3, 4)], X, (1,), "no more features than units"),
        ([(DEEP[0], 6, 4)], X, (2, 1), "increase"),
        ([(DEEP[0], 6, 4)], X, (4,), "at most 3"),
    ],
)
def test_wrong_arguments_are_named(nets, x, depths, message):
    built = tuple(network(mlp, width=width, inputs=inputs) for mlp, width, inputs in nets)
    with pytest.raises(ValueError, match=message):
        next(tangent_kernels_by_depth(built, jax.random.key(0), x, depths, 1))
