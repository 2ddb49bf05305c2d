"""Biases in standard parametrisation: neural-tangents, finite networks, and the share of σ_b² that they replace."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.family_networks import family_network
from experiments.networks import network
from theory.activations import leaky_relu
from theory.architecture import MLP, Attention, Convolutional, LayerNorm, Residual, StandardBiases
from theory.kernels import kernels_by_depth, maximal_learning_rate, nngp, ntk, predict
from theory.kernels.layerwise import Dense, layerwise_ntk
from theory.kernels.neural_tangents import nt


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(5).normal(size=(5, 4))


def test_agrees_with_neural_tangents(x):
    """With σ_w = 1, where its standard parametrisation at base widths equal to the widths has the same weights."""
    layers = []
    for _ in range(3):
        first = x.shape[1] if not layers else 1
        layers += [nt.stax.Dense(1, W_std=1.0, b_std=np.sqrt(0.3), parameterization="standard", s=(first, 1))]
        layers += [nt.stax.Erf()]
    reference: Any = nt.stax.serial(*layers[:-1])[2](x, None, ("nngp", "ntk"))
    net = StandardBiases(MLP(2, "erf", 1.0, 0.3))
    np.testing.assert_allclose(nngp(net, x), reference.nngp, rtol=1e-10)
    np.testing.assert_allclose(ntk(net, x), reference.ntk, rtol=1e-10)


def test_agrees_with_finite_networks(x):
    """The mean over 64 networks of width 1024, biases counted by their own gradients."""
    mlp, width, members = MLP(2, "erf", 1.7, 0.3), 1024, 64
    net = network(mlp, width=width, inputs=x.shape[1])
    scales = net.scales()

    def one(key):
        layers = [
            Dense(layer["weight"], np.sqrt(0.3) * layer["bias"], weight.multiplier, 1.0)
            for layer, (weight, _) in zip(net.init(key, jnp.float64), scales, strict=True)
        ]
        return layerwise_ntk("erf", layers, x)

    kernels = np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(3), members)))
    error = kernels.std(axis=0, ddof=1) / np.sqrt(members)
    deviation = kernels.mean(axis=0) - np.asarray(ntk(StandardBiases(mlp), x))
    # Beside the scatter, the mean shifts by about Θ/n.
    assert np.all(np.abs(deviation) < 4 * error + 3 * np.max(kernels) / width)
    assert np.max(np.abs(np.asarray(ntk(StandardBiases(mlp), x)) - np.asarray(ntk(mlp, x)))) > 20 * np.max(error)


IMAGES = np.random.default_rng(6).normal(size=(3, 4, 4, 2))
FAMILIES = (
    (MLP, (2, "relu"), {}, None),
    (Residual, (2, "relu"), {"branch_scale": 0.6}, None),
    (Convolutional, (2, "relu"), {"readout": "pool"}, IMAGES),
    (Attention, (1, "erf"), {}, IMAGES[:, 0]),
)


@pytest.mark.parametrize(("family", "shape", "settings", "inputs"), FAMILIES)
def test_a_bias_counts_one(family, shape, settings, inputs, x):
    """Θ is linear in what biases count. At σ_b² = 1 both parametrisations are one; K is the same throughout."""
    inputs = x if inputs is None else inputs
    one = family(*shape, 1.7, 1.0, **settings)
    np.testing.assert_allclose(ntk(StandardBiases(one), inputs), ntk(one, inputs), rtol=1e-13)
    for bias_variance in (0.0, 0.3):
        net = family(*shape, 1.7, bias_variance, **settings)
        np.testing.assert_array_equal(nngp(StandardBiases(net), inputs), nngp(net, inputs))
        extra = np.asarray(ntk(StandardBiases(net), inputs) - ntk(net, inputs))
        # The bias of the readout alone adds 1 − σ_b²; the layers below add to it where units agree.
        assert np.all(extra > (1 - bias_variance) * (1 - 1e-9))
        assert np.all(np.diag(extra) > 1.2 * (1 - bias_variance))


@pytest.mark.parametrize(
    ("architecture", "inputs", "width"),
    [
        (Residual(2, "relu", 1.7, 0.3, branch_scale=0.6), IMAGES[:, 0, :, 0], 256),
        (LayerNorm(Residual(2, "erf", 1.7, 0.3, branch_scale=0.6)), IMAGES[:, 0, :, 0], 256),
        (Convolutional(2, "relu", 1.7, 0.3, readout="pool"), IMAGES, 96),
        (Convolutional(2, "erf", 1.7, 0.3, padding="valid", filter=(2, 2)), IMAGES, 96),
        (Attention(2, "erf", 1.7, 0.3), IMAGES[:, 0], 64),
    ],
)
def test_the_share_of_biases_in_finite_networks(architecture, inputs, width):
    """The gradients by the biases themselves, in every layer: 32 networks of a few hundred units."""
    members = 32
    heads = 16 if isinstance(architecture, Attention) else None
    net = family_network(architecture, width=width, shape=inputs.shape[1:], heads=heads)

    def share(key):
        params = net.init(key, jnp.float64)

        def outputs(biases):
            layers = [layer | ({"bias": b} if "bias" in layer else {}) for layer, b in zip(params, biases, strict=True)]
            return net.apply(layers, inputs)[:, 0]

        slopes = jax.jacrev(outputs)([layer.get("bias") for layer in params])
        flat = jnp.concatenate([slope.reshape(len(inputs), -1) for slope in jax.tree.leaves(slopes)], axis=1)
        return flat @ flat.T / 0.3

    found = np.asarray(jax.lax.map(share, jax.random.split(jax.random.key(4), members)))
    expected = np.asarray(ntk(StandardBiases(architecture), inputs) - ntk(architecture, inputs)) / 0.7
    error = found.std(axis=0, ddof=1) / np.sqrt(members)
    assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * error + 3 * expected.max() / width)
    assert np.max(error + 3 * expected.max() / width) < 0.1 * expected.max()


def test_biases_that_start_at_zero_under_inputs_of_zeros():
    """φ'(0) is the slope on the left in a finite network: below the readout ReLU learns nothing from a zero input."""
    x = np.zeros((3, 2))
    x[1], x[2] = (0.6, -0.3), (-0.6, 0.3)
    np.testing.assert_allclose(ntk(StandardBiases(MLP(1, "relu", 2.0, 0.0)), x)[0], [1, 1, 1], rtol=1e-12)
    images = np.zeros((2, 5, 5, 1))
    images[:, 2, 2, 0] = (0.7, -0.4)
    pooled = Convolutional(1, "relu", 2.0, 0.0, padding="same", readout="pool")
    for architecture, inputs in ((MLP(2, leaky_relu(0.1), 2.0, 0.0), x), (pooled, images)):
        width, members = 512, 48
        net = family_network(architecture, width=width, shape=inputs.shape[1:], parametrisation="standard")
        net = replace(net, bias=True)

        def kernel(key, net=net, inputs=inputs):
            params = net.init(key, jnp.float64)
            slopes = jax.jacrev(lambda p: net.apply(p, inputs)[:, 0])(params)
            total = jnp.zeros((len(inputs), len(inputs)))
            for layer, slope in zip(params, slopes, strict=True):
                # Weights at the rate σ_w²/fan_in of the NTK parametrisation, biases at 1.
                rates = {"weight": net.weight_variance / np.prod(layer["weight"].shape[:-1]), "bias": 1.0}
                for name, rate in rates.items():
                    flat = slope[name].reshape(len(inputs), -1)
                    total = total + rate * flat @ flat.T
            return total

        found = np.asarray(jax.lax.map(kernel, jax.random.split(jax.random.key(6), members)))
        error = found.std(axis=0, ddof=1) / np.sqrt(members)
        expected = np.asarray(ntk(StandardBiases(architecture), inputs))
        assert np.all(np.abs(found.mean(axis=0) - expected) < 4 * error + 3 * expected.max() / width)


def test_depths(x):
    every = kernels_by_depth(StandardBiases(MLP(3, "relu", 1.7, 0.3)), x)
    for depth in range(1, 4):
        np.testing.assert_allclose(every.ntk[depth], ntk(StandardBiases(MLP(depth, "relu", 1.7, 0.3)), x), rtol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_tiles_in_single_precision(activation):
    """Within 2e-6 of the double-precision kernel; an input of zeros under biases that start at zero included."""
    rng = np.random.default_rng(8)
    inputs = rng.normal(size=(520, 30))
    inputs[1], inputs[2], inputs[3] = inputs[0], -inputs[0], 0.0
    for bias_variance in (0.0, 0.3):
        net = StandardBiases(MLP(3, activation, 1.7, bias_variance))
        single, double = (np.asarray(ntk(net, inputs.astype(dtype)), np.float64) for dtype in (np.float32, np.float64))
        assert single.shape == (520, 520)
        scale = np.sqrt(np.outer(np.diag(double), np.diag(double)))
        assert np.max(np.abs(single - double) / scale) < 2e-6


def test_tiles_where_variances_vanish_with_depth():
    """K falls below what single precision has: Θ is that of the learned biases alone."""
    inputs = np.random.default_rng(9).normal(size=(520, 6)).astype(np.float32)
    for depth, weight_variance in ((30, 0.1), (140, 1.0)):
        net = StandardBiases(MLP(depth, "relu", weight_variance, 0.0))
        single, double = (np.asarray(ntk(net, inputs.astype(t)), np.float64) for t in (np.float32, np.float64))
        np.testing.assert_allclose(single, double, rtol=2e-6)


def test_predictions_take_them(x):
    y, net = np.arange(5.0), MLP(1, "erf", 1.7, 0.3)
    ours = predict(StandardBiases(net), x, y, x[:2] + 0.1, time=0.7)
    assert np.max(np.abs(np.asarray(ours.mean - predict(net, x, y, x[:2] + 0.1, time=0.7).mean))) > 1e-3
    expected = 2 / np.linalg.eigvalsh(np.asarray(ntk(StandardBiases(net), x)))[-1]
    np.testing.assert_allclose(maximal_learning_rate(StandardBiases(net), x), expected, rtol=1e-12)


def test_depths_are_those_of_an_mlp():
    with pytest.raises(ValueError, match="architecture must be an MLP, got Residual"):
        kernels_by_depth(StandardBiases(Residual(1)), np.ones((2, 3)))
