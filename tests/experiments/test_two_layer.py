"""Training in blocks against the package's training of one network after another."""

import jax
import numpy as np
import pytest

from experiments.networks import init_members, network
from experiments.training import GradientDescent, Outputs, SquaredError, members
from experiments.two_layer import train_two_layer
from theory.architecture import MLP

X = np.array([[1.0, 0.3], [-0.4, 1.1], [0.2, -0.9]])
Y = np.array([0.5, -1.0, 0.3])


@pytest.mark.parametrize(("width", "count", "bias_variance"), [(32, 4, 0.3), (64, 2, 0.3), (64, 2, 0.0)])
def test_blocks_train_as_networks_do(width, count, bias_variance, getkey):
    net = network(MLP(1, "relu", 2.0, bias_variance), width=width, inputs=2)
    params = init_members(net, getkey(), count, np.float64)
    found = train_two_layer(net, params, X, Y, learning_rate=0.1, steps=(0, 2, 9))
    expected = members(
        SquaredError(net),
        params,
        (X, Y[:, None]),
        method=GradientDescent(0.1),
        records=(0, 2, 9),
        record=Outputs(net),
        probe=X,
    ).values
    np.testing.assert_allclose(found, expected[..., 0], rtol=1e-12, atol=1e-13)


def test_single_precision_stays_single(getkey):
    net = network(MLP(1, "relu", 2.0), width=32, inputs=2)
    params = init_members(net, getkey(), 2, np.float32)
    assert train_two_layer(net, params, X, Y, learning_rate=0.1, steps=(1,)).dtype == np.float32


@pytest.mark.parametrize(
    "other",
    [
        network(MLP(1, "relu"), width=33, inputs=2),
        network(MLP(2, "relu"), width=32, inputs=2),
        network(MLP(1, "erf"), width=32, inputs=2),
        network(MLP(1, "relu"), width=32, inputs=2, outputs=2),
        network(MLP(1, "relu"), width=32, inputs=2, parametrisation="mup"),
    ],
)
def test_other_networks_are_refused(other):
    params = jax.tree.map(lambda leaf: leaf[None], other.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="one hidden layer"):
        train_two_layer(other, params, X, Y, learning_rate=0.1, steps=(1,))
