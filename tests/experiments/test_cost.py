"""The cost of an objective, against counts by hand for each family of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.attention_networks import attention_network
from experiments.families import convolutional_network
from experiments.networks import network
from experiments.training import SquaredError
from experiments.training.cost import cost
from theory.architecture import MLP, Attention, Convolutional


def shapes(net, *one):
    """Parameters, and five inputs with their targets, as shapes."""
    params = jax.eval_shape(net.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((5, *one), jnp.float32)
    return params, (x, jax.ShapeDtypeStruct((5, net.outputs), jnp.float32))


def products(found, widest, expected):
    """Whether the products are these, and all else less than a fifth beside them."""
    assert found.widest == widest
    assert 2 * expected <= found.flops < 2.4 * expected


@pytest.mark.parametrize("outputs", [1, 3])
def test_fully_connected_networks_multiply_each_weight_with_each_example(outputs):
    net = network(MLP(2, "relu"), width=(70, 30), inputs=20, outputs=outputs)
    found = cost(SquaredError(net), *shapes(net, 20))
    products(found, 5 * 70, 5 * net.parameters)
    assert found.entries == 5 * (70 + 30 + outputs)


@pytest.mark.parametrize("channels", [3, 16])  # few channels are products with patches, more are convolutions
@pytest.mark.parametrize(("padding", "sizes"), [("circular", (48, 48)), ("valid", (24, 8))])
def test_convolutional_networks_multiply_at_each_position(channels, padding, sizes):
    architecture = Convolutional(2, "relu", filter=(3, 3), padding=padding, readout="pool")
    space = (6, 8)
    net = convolutional_network(architecture, width=(40, 20), space=space, channels=channels)
    found = cost(SquaredError(net), *shapes(net, *space, channels))
    first, second = sizes
    # Beside the products of narrow layers the elementwise work is larger than a fifth.
    multiplications = 5 * (first * 9 * channels * 40 + second * 9 * 40 * 20 + 20)
    assert 2 * multiplications <= found.flops < 2.6 * multiplications
    assert found.widest == 5 * first * 40
    assert found.entries == 5 * (first * 40 + second * 20 + 1)


def test_attention_multiplies_in_each_head_and_for_each_pair_of_positions():
    architecture = Attention(1, "relu", readout="pool")
    n, heads, positions = 32, 4, 7
    net = attention_network(architecture, width=n, heads=heads, positions=positions, channels=6)
    found = cost(SquaredError(net), *shapes(net, positions, 6))
    each = 3 * positions * n * n + 2 * positions**2 * n  # keys, values and outputs; weights, and what they collect
    assert 2 * 5 * (positions * 6 * n + heads * each + n) <= found.flops
    assert found.widest == 5 * heads * positions * n


def test_a_scan_counts_each_round_and_a_cond_each_branch():
    matrix = jax.ShapeDtypeStruct((10, 10), jnp.float32)

    def repeated(a):
        return jax.lax.scan(lambda carry, _: (carry @ a, None), a, None, length=7)[0]

    def either(a):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ a, lambda: a @ a @ a)

    assert cost(repeated, matrix).flops == 7 * 2000
    assert cost(repeated, matrix).entries == 700
    assert 3 * 2000 <= cost(either, matrix).flops < 3 * 2000 + 20


def test_an_objective_without_products_counts_its_entries():
    found = cost(lambda p: jnp.sum(p**2), np.zeros(100, np.float32))
    assert (found.widest, found.entries) == (100, 100)
    assert 100 <= found.flops <= 300


def test_what_a_scatter_and_a_reduction_return_is_counted():
    """The programs in them combine two numbers, and are no work of their own."""
    rows = np.zeros(50, np.int32)
    assert cost(lambda p: jnp.zeros(1000).at[rows].add(p), np.zeros(50, np.float32)).flops >= 1000
    assert cost(lambda p: jnp.tanh(p), np.zeros((30, 40), np.float32)).widest == 1200
