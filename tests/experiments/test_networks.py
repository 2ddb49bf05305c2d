"""Finite networks against a forward pass written in NumPy and against the symmetries of parametrisations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from experiments.networks import DRAW, Network, init_members, network
from theory.architecture import MLP, PARAMETRISATIONS

ARCHITECTURE = MLP(2, "erf", weight_variance=1.5, bias_variance=0.3)


def _equivalent(source: Network, target: Network, params):
    """Parameters of `target` that give every layer the same effective weights as `params` give `source`."""
    mapped = []
    for layer, old, new in zip(params, source.scales(), target.scales(), strict=True):
        mapped.append(
            {
                "weight": layer["weight"] * old[0].multiplier / new[0].multiplier,
                "bias": layer["bias"] * old[1].multiplier / new[1].multiplier,
            }
        )
    return mapped


def test_ntk_forward_pass_matches_the_written_convention(getkey, rng):
    net = network(ARCHITECTURE, width=7, inputs=3, outputs=2)
    params = net.init(getkey(), jnp.float64)
    x = rng.normal(size=(5, 3))
    w = [np.asarray(layer["weight"]) for layer in params]
    b = [np.asarray(layer["bias"]) for layer in params]
    z1 = np.sqrt(1.5 / 3) * x @ w[0] + np.sqrt(0.3) * b[0]
    z2 = np.sqrt(1.5 / 7) * erf(z1) @ w[1] + np.sqrt(0.3) * b[1]
    z3 = np.sqrt(1.5 / 7) * erf(z2) @ w[2] + np.sqrt(0.3) * b[2]
    for ours, theirs in zip(net.preactivations(params, x), (z1, z2, z3), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_allclose(net.apply(params, x), z3, rtol=1e-12)


@pytest.mark.parametrize("name", ["ntk", "standard"])
def test_variance_of_the_first_layer_at_the_start(name, getkey):
    """Var z_1 = σ_w²|x|²/d + σ_b² in both; 20,000 draws have a relative standard error of 1%."""
    net = network(MLP(1, "linear", 2.0, 0.5), width=20_000, inputs=4, parametrisation=name)
    z = net.preactivations(net.init(getkey(), jnp.float64), jnp.asarray([[1.0, 2.0, 0.0, 1.0]]))[0]
    np.testing.assert_allclose(np.var(z), 2.0 * 6 / 4 + 0.5, rtol=0.04)


@pytest.mark.parametrize("name", list(PARAMETRISATIONS))
def test_every_parametrisation_draws_the_function_that_it_states(name):
    """Effective weights: σ_w²/fan_in, but for the output layer 1/n smaller in variance (mean-field, μP)."""
    n, d = 16, 9
    net = network(ARCHITECTURE, width=n, inputs=d, parametrisation=name)
    small = 1 / n if name in ("mean-field", "mup") else 1.0
    expected = [1.5 / d, 1.5 / n, 1.5 / n * small]
    # The first layer of μP is drawn with variance σ_w²/n and multiplied by √(n/d).
    ours = [(weight.multiplier * weight.init_std) ** 2 for weight, _ in net.scales()]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    np.testing.assert_allclose([(b.multiplier * b.init_std) ** 2 for _, b in net.scales()], 0.3, rtol=1e-12)


def test_mean_field_and_mup_train_the_same_function(getkey, rng):
    """At σ_w = 1 they differ by a symmetry of abc-parametrisations, learning rates included."""
    architecture = MLP(2, "tanh", weight_variance=1.0, bias_variance=1.0)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 1))
    first = network(architecture, width=6, inputs=3, parametrisation="mean-field")
    second = network(architecture, width=6, inputs=3, parametrisation="mup")
    params = first.init(getkey(), jnp.float64)
    outputs = []
    for net, theta in ((first, params), (second, _equivalent(first, second, params))):

        def loss(theta, net=net):
            return 0.5 * jnp.sum((net.apply(theta, x) - y) ** 2)

        for _ in range(3):
            slope = jax.grad(loss)(theta)
            theta = jax.tree.map(lambda p, r, g: p - r * g, theta, net.learning_rates(0.1), slope)
        outputs.append(net.apply(theta, x))
    assert float(jnp.max(jnp.abs(outputs[0] - first.apply(params, x)))) > 1e-3
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-10)


def test_the_dtype_of_the_parameters_rules(getkey):
    net = network(ARCHITECTURE, width=5, inputs=3)
    x = np.ones((2, 3), np.float64)
    assert net.apply(net.init(getkey()), x).dtype == jnp.float32
    assert net.apply(net.init(getkey(), jnp.float64), x.astype(np.float32)).dtype == jnp.float64


def test_networks_are_equal_by_value_so_that_jit_compiles_once():
    first, second = (network(MLP(2, "erf", jnp.asarray(1.5), 0.3), width=5, inputs=3) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first.parameters == 4 * 5 + 6 * 5 + 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"width": (3, 4, 5)}, "width must be one number or 2"),
        ({"inputs": 0}, "inputs must be at least 1"),
        ({"parametrisation": "tnk"}, "tnk"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        network(ARCHITECTURE, **{"width": 4, "inputs": 3, **options})


def test_dead_biases_and_traced_variances_are_refused(getkey):
    with pytest.raises(ValueError, match="multiply every bias by zero"):
        network(MLP(1, "relu"), width=4, inputs=3, bias=True)
    assert "bias" in network(MLP(1, "relu"), width=4, inputs=3, bias=True, parametrisation="mup").init(getkey())[0]
    with pytest.raises(ValueError, match="plain numbers"):
        jax.jit(lambda v: network(MLP(1, "relu", v), width=4, inputs=3).parameters)(2.0)
    net = network(ARCHITECTURE, width=4, inputs=3)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3\)"):
        net.apply(net.init(getkey()), np.ones((2, 4)))


def test_members_are_drawn_independently_by_one_program(getkey):
    """More numbers than one draw gives: all parameters are standard normal and none occurs twice."""
    net = network(MLP(1, "relu", 2.0), width=500, inputs=99, parametrisation="standard")
    members = 30
    assert members * net.parameters > DRAW
    params = init_members(net, getkey(), members)
    assert params[0]["weight"].shape == (members, 99, 500)
    first, last = (np.asarray(layer["weight"]).ravel() for layer in params)
    # Four standard errors of a sample variance.
    for sample, variance in ((first, 2 / 99), (last, 2 / 500)):
        np.testing.assert_allclose(sample.var(), variance, rtol=4 * np.sqrt(2 / sample.size))
    # A float32 normal repeats now and then by chance; a repeated block would repeat all of it.
    assert len(np.unique(first)) > 0.9 * first.size
    again = init_members(network(MLP(1, "relu", 2.0), width=500, inputs=99), getkey(), 1)
    assert again[0]["weight"].dtype == jnp.float32
