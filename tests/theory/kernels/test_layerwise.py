"""The layer-wise tangent kernel against the contraction of Jacobians, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.networks import network
from theory.architecture import MLP
from theory.kernels import empirical_ntk
from theory.kernels.layerwise import Dense, layerwise_ntk


def dense_layers(net, params):
    return [
        Dense(layer["weight"], layer.get("bias"), weight.multiplier, bias.multiplier)
        for layer, (weight, bias) in zip(params, net.scales(), strict=True)
    ]


@pytest.mark.parametrize("parametrisation", ["ntk", "mup"])
@pytest.mark.parametrize("full", [False, True])
def test_is_the_contraction_of_jacobians(parametrisation, full, rng):
    bias_variance = 0.3 if parametrisation == "ntk" else 0.0
    architecture = MLP(2, "gelu", 1.7, bias_variance)
    net = network(architecture, width=(9, 7), inputs=4, outputs=3, parametrisation=parametrisation)
    params = net.init(jax.random.key(0), jnp.float64)
    layers = dense_layers(net, params)
    x1, x2 = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    ours = layerwise_ntk("gelu", layers, x1, x2, full=full)
    np.testing.assert_allclose(ours, empirical_ntk(net.apply, params, x1, x2, full=full), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        layerwise_ntk("gelu", layers, x1, full=full), layerwise_ntk("gelu", layers, x1, x1, full=full), rtol=1e-10
    )


def test_a_linear_model_is_its_gram_matrix(rng):
    x = rng.standard_normal((5, 3))
    kernel = layerwise_ntk("relu", [Dense(jnp.ones((3, 2)), None, 0.5)], x)
    np.testing.assert_allclose(kernel, 0.25 * x @ x.T, rtol=1e-12)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "at least one layer"),
        ([Dense(jnp.ones((4, 2)), None)], r"layers\[0\].weight must have shape \(3, fan_out\), got \(4, 2\)"),
        ([Dense(jnp.ones((3, 2)), jnp.ones(3))], r"layers\[0\].bias must have shape \(2,\), got \(3,\)"),
    ],
)
def test_layers_that_do_not_fit_are_named(layers, message):
    with pytest.raises(ValueError, match=message):
        layerwise_ntk("relu", layers, np.ones((2, 3)))
