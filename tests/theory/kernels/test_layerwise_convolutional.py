"""The layer-wise tangent kernel of convolutional networks against the contraction of Jacobians."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.families import convolutional_network
from experiments.family_networks import OnRows
from experiments.networks import init_members
from theory.architecture import Convolutional, activation
from theory.kernels import empirical_ntk
from theory.kernels.layerwise import Dense, layerwise_ntk
from theory.kernels.layerwise_convolutional import _kernel, layerwise_convolutional_ntk
from theory.kernels.layerwise_plan import Convolution, Plan, block_sizes, cheaper, check


def layers(net, params):
    made = [
        (layer["weight"], layer.get("bias"), weight.multiplier, bias.multiplier)
        for layer, (weight, bias) in zip(params, net.scales(), strict=True)
    ]
    return [Convolution(*parts) for parts in made[:-1]], Dense(*made[-1])


WAYS = [("positions", True), ("gradients", False), ("positions", False), ("gradients", True)]
CASES = [
    # Axes of space 1 and 2, odd and even filters, every padding, both readouts, with biases and without.
    ((3,), "circular", "pool", (5, 2), 0.3, WAYS[:2]),
    ((2, 3), "same", "flatten", (3, 4, 2), 0.3, WAYS),
    ((2, 2), "valid", "pool", (4, 3, 1), 0.0, WAYS[2:]),
]


@pytest.mark.parametrize(("filter_", "padding", "readout", "shape", "bias", "ways"), CASES)
def test_is_the_contraction_of_jacobians(filter_, padding, readout, shape, bias, ways, getkey, rng):
    architecture = Convolutional(2, "gelu", 1.7, bias, filter=filter_, padding=padding, readout=readout)
    net = convolutional_network(architecture, width=(5, 4), space=shape[:-1], channels=shape[-1], outputs=3)
    params = init_members(net, getkey(), 1, jnp.float64)
    params = jax.tree.map(lambda leaf: leaf[0], params)
    x1, x2 = rng.normal(size=(4, *shape)), rng.normal(size=(3, *shape))
    blocks = empirical_ntk(OnRows(net), params, x1.reshape(4, -1), x2.reshape(3, -1), full=True, method="jacobians")
    for method, full in ways:
        expected = blocks if full else np.trace(blocks, axis1=2, axis2=3) / 3
        # At once, and image by image.
        for memory in (1e9, 1.0) if (method, full) == ("gradients", True) else (1e9,):
            found = layerwise_convolutional_ntk(
                "gelu",
                *layers(net, params),
                x1,
                x2,
                padding=padding,
                readout=readout,
                full=full,
                method=method,
                memory=memory,
            )
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("memory", [1e9, 3e4])
def test_one_set_of_images_gives_a_symmetric_kernel(memory, getkey, rng):
    """As a whole, or in blocks, of which the last one is not full."""
    architecture = Convolutional(2, "relu", 1.7, 0.2, filter=(3,), readout="flatten")
    net = convolutional_network(architecture, width=6, space=(4,), channels=1, outputs=2)
    params, x = net.init(getkey(), jnp.float64), rng.normal(size=(7, 4, 1))
    found = layerwise_convolutional_ntk(
        "relu", *layers(net, params), x, padding="circular", readout="flatten", full=True, memory=memory
    )
    np.testing.assert_array_equal(found, np.transpose(found, (1, 0, 3, 2)))
    np.testing.assert_allclose(
        found, empirical_ntk(OnRows(net), params, x.reshape(7, -1), full=True), rtol=1e-10, atol=1e-12
    )


def test_one_position_is_a_dense_network(getkey, rng):
    keys = jax.random.split(getkey(), 3)
    w, v, b = (jax.random.normal(key, shape) for key, shape in zip(keys, [(3, 5), (5, 2), (5,)], strict=True))
    x = rng.normal(size=(4, 3))
    dense = layerwise_ntk("tanh", [Dense(w, b, 0.5, 0.3), Dense(v, None, 0.4)], x)
    found = layerwise_convolutional_ntk(
        "tanh",
        [Convolution(w[None], b, 0.5, 0.3)],
        Dense(v, None, 0.4),
        x[:, None],
        padding="valid",
        readout="flatten",
    )
    np.testing.assert_allclose(found, dense, rtol=1e-12)


def test_the_cheaper_way_depends_on_positions_and_channels():
    wide, narrow = (3, 3, 256, 256), (3, 3, 8, 8)
    assert cheaper(wide, [(4, 4), (4, 4)], (50, 50), 1, False) == "positions"
    assert cheaper(narrow, [(16, 16), (16, 16)], (50, 50), 1, False) == "gradients"
    # Images of 3 channels have few gradients in their first layer.
    assert cheaper((3, 3, 3, 256), [(32, 32), (32, 32)], (50, 50), 1, False) == "gradients"


@pytest.mark.parametrize("method", ["positions", "gradients"])
def test_memory_is_bounded(method):
    """What the compiled program sets aside for 200 images, which do not fit at once."""
    convolutions = [Convolution(jnp.ones((3, 3, 3, 8)), None), Convolution(jnp.ones((3, 3, 8, 8)), None)]
    last, x, memory = Dense(jnp.ones((8, 1)), None), jnp.ones((200, 8, 8, 3)), 1e6 if method == "gradients" else 2e7
    sizes, counts = check(convolutions, last, x.shape[1:], "same", "pool"), (200, 200)
    blocks = block_sizes(convolutions, sizes, 1, False, (method,) * 2, memory / 8, counts)
    plan = Plan(activation("relu"), "same", "pool", False, (method,) * 2, blocks)
    assert blocks[0] < 200
    analysis: Any = _kernel.lower(plan, tuple(convolutions), last, x, None).compile().memory_analysis()
    assert 0.1 * memory < analysis.temp_size_in_bytes < 1.2 * memory


IMAGES = np.ones((2, 4, 3))
ONE = Convolution(jnp.ones((2, 3, 5)), None)


@pytest.mark.parametrize(
    ("convolutions", "last", "options", "message"),
    [
        ([], (20, 1), {}, "convolutions must have at least one layer"),
        ([Convolution(jnp.ones((2, 4, 5)), None)], (20, 1), {}, r"convolutions\[0\].weight must have 1 axes and \(3,"),
        ([Convolution(jnp.ones((3, 5)), None)], (20, 1), {}, r"convolutions\[0\].weight must have shape \(\*filter"),
        ([Convolution(jnp.ones((5, 3, 5)), None)], (20, 1), {}, r"no larger than its input \(4,\), got \(5,\)"),
        ([Convolution(jnp.ones((2, 3, 5)), jnp.ones(4))], (20, 1), {}, r"convolutions\[0\].bias must have shape \(5,"),
        ([ONE], (15, 1), {}, r"last.weight must have shape \(20, k\), got \(15, 1\)"),
        ([ONE], (15, 1), {"readout": "pool"}, r"last.weight must have shape \(5, k\), got \(15, 1\)"),
        ([ONE], (20, 1), {"padding": "zero"}, "padding must be one of circular, same, valid, got 'zero'"),
        ([ONE], (20, 1), {"readout": "mean"}, "readout must be one of flatten, pool, got 'mean'"),
        ([ONE], (20, 1), {"method": "jacobians"}, "method must be one of auto, positions, gradients"),
        ([ONE], (20, 1), {"memory": 0}, "memory must be positive, a number of bytes, got 0"),
        ([ONE], (20, 1), {"x2": np.ones((2, 5, 3))}, "images of one shape"),
        ([ONE], (20, 1), {"x2": np.ones((2, 12))}, r"x2 must have 3 axes, \(examples, \*space, channels\)"),
        ([ONE], (20, 1), {"x2": np.full((2, 4, 3), np.nan)}, "x2 must be finite"),
    ],
)
def test_wrong_arguments_are_named(convolutions, last, options, message):
    options = {"padding": "same", "readout": "flatten", **options}
    with pytest.raises(ValueError, match=message):
        layerwise_convolutional_ntk("relu", convolutions, Dense(jnp.ones(last), None), IMAGES, **options)
