"""Finite networks of every family: the formulas in NumPy, exact invariances, training, what they refuse.

Equalities are exact, and tolerances of 1e-10 to 1e-13 the rounding of double precision in sums over units and layers.
"""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import experiments.family_networks
from experiments.attention_networks import AttentionNetwork, attention_network
from experiments.family_networks import OnRows, family_network
from experiments.networks import init_members, network
from experiments.normalised_networks import normalise, normalised_network
from experiments.residual_networks import residual_network
from experiments.training import GradientDescent, Outputs, SquaredError, members
from theory.architecture import MLP, PARAMETRISATIONS, Attention, Convolutional, LayerNorm, Residual, StandardBiases
from theory.kernels import empirical_ntk

WEIGHT, BIAS, SCALE, SHARPNESS = 1.7, 0.3, 0.7, 2.5
RESIDUAL = Residual(2, "erf", WEIGHT, BIAS, branch_scale=SCALE)
CONVOLUTION = Convolutional(2, "erf", WEIGHT, BIAS, filter=(2,), padding="same", readout="pool")
ATTENTION = Attention(2, "erf", WEIGHT, BIAS, sharpness=SHARPNESS, readout="pool")
FAMILIES = {
    "residual": (RESIDUAL, (3,)),
    "normalised MLP": (LayerNorm(MLP(2, "erf", WEIGHT, BIAS)), (3,)),
    "normalised residual": (LayerNorm(RESIDUAL), (3,)),
    "normalised convolution": (LayerNorm(CONVOLUTION), (4, 2)),
    "attention, pooled": (ATTENTION, (3, 2)),
}
SOME = pytest.mark.parametrize("name", ["normalised residual", "normalised convolution", "attention, pooled"])


def build(name, width, outputs=1, heads=4, **options):
    architecture, shape = FAMILIES[name]
    heads = heads if isinstance(architecture, Attention) else None
    return family_network(architecture, width=width, shape=shape, outputs=outputs, heads=heads, **options)


def evaluate(net, params, x):
    # One compilation; op by op each shape would be compiled by itself.
    return jax.jit(net.apply)(params, x)


def test_residual_network_follows_the_formula(getkey, rng):
    net = residual_network(RESIDUAL, width=5, inputs=3, outputs=2)
    params, x = net.init(getkey(), jnp.float64), rng.normal(size=(4, 3))
    w, b = ([np.asarray(layer[part]) for layer in params] for part in ("weight", "bias"))
    z = [(WEIGHT / 3) ** 0.5 * x @ w[0] + BIAS**0.5 * b[0]]
    for i in (1, 2):
        z.append(z[-1] + SCALE * ((WEIGHT / 5) ** 0.5 * erf(z[-1]) @ w[i] + BIAS**0.5 * b[i]))
    z.append((WEIGHT / 5) ** 0.5 * erf(z[-1]) @ w[3] + BIAS**0.5 * b[3])
    for ours, theirs in zip(jax.jit(net.preactivations)(params, x), z, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_attention_network_follows_the_formula(getkey, rng):
    """Position by position and head by head, in the symbols of `Attention`."""
    n, heads = 5, 3
    architecture = Attention(1, "erf", WEIGHT, BIAS, sharpness=SHARPNESS)
    net = attention_network(architecture, width=n, heads=heads, positions=4, channels=2, outputs=2)
    params, x = net.init(getkey(), jnp.float64), rng.normal(size=(4, 2))
    first, keys, values, outputs, last = ({k: np.asarray(v) for k, v in layer.items()} for layer in params)
    h = erf((WEIGHT / 2) ** 0.5 * x @ first["weight"] + BIAS**0.5 * first["bias"])
    z = np.tile(BIAS**0.5 * outputs["bias"], (4, 1))
    for i in range(heads):
        key, value, output = (part["weight"][i].T for part in (keys, values, outputs))
        for alpha in range(4):
            logits = np.array([SHARPNESS * (key @ h[alpha]) @ (key @ h[beta]) / n**2 for beta in range(4)])
            a = np.exp(logits) / np.exp(logits).sum()
            np.testing.assert_allclose(net.attention(params, x[None])[0][0, i, alpha], a, rtol=1e-12)
            z[alpha] += WEIGHT**0.5 / n / heads**0.5 * output @ value @ (a @ h)
    f = (WEIGHT / (4 * n)) ** 0.5 * erf(z).reshape(-1) @ last["weight"] + BIAS**0.5 * last["bias"]
    np.testing.assert_allclose(net.preactivations(params, x[None])[1][0], z, rtol=1e-12)
    np.testing.assert_allclose(evaluate(net, params, x[None])[0], f, rtol=1e-12)
    assert net.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_without_branches_a_residual_network_has_one_hidden_layer(getkey, rng):
    x = rng.normal(size=(4, 3))
    net = residual_network(Residual(3, "relu", WEIGHT, BIAS, branch_scale=0.0), width=6, inputs=3)
    shallow = network(MLP(1, "relu", WEIGHT, BIAS), width=6, inputs=3)
    params = net.init(getkey(), jnp.float64)
    np.testing.assert_allclose(evaluate(net, params, x), evaluate(shallow, [params[0], params[-1]], x), rtol=1e-12)


def test_without_sharpness_each_position_takes_the_mean_and_order_does_not_matter(getkey, rng):
    x, order = rng.normal(size=(2, 4, 2)), np.array([2, 0, 3, 1])
    blunt = Attention(1, "erf", WEIGHT, BIAS, sharpness=0.0)
    net = attention_network(blunt, width=6, heads=2, positions=4, channels=2)
    params = net.init(getkey(), jnp.float64)
    np.testing.assert_allclose(net.attention(params, x)[0], 0.25, rtol=1e-12)
    after = net.preactivations(params, x)[1]
    np.testing.assert_allclose(after, after[:, :1] + np.zeros_like(after), rtol=1e-12)
    # With it positions differ, and go with their inputs; pooling forgets where they were.
    sharp = build("attention, pooled", 6)
    shuffled = jnp.asarray(x)[:, order[:3]], jnp.asarray(x)[:, np.sort(order[:3])]
    params = sharp.init(getkey(), jnp.float64)
    one, two = (jax.jit(sharp.preactivations)(params, part) for part in shuffled)
    np.testing.assert_allclose(one[2], two[2][:, np.argsort(np.argsort(order[:3]))], rtol=1e-12)
    assert float(jnp.std(one[2], axis=1).max()) > 1e-3
    np.testing.assert_allclose(one[-1], two[-1], rtol=1e-12)


@pytest.mark.parametrize("name", ["normalised MLP", "normalised convolution", "normalised residual"])
def test_a_layer_norm_hides_the_scale_of_the_layer_below(name, getkey, rng):
    """In a residual network what is scaled is all that feeds the skip connection."""
    architecture, shape = FAMILIES[name]
    net, x = build(name, 6, outputs=2), rng.normal(size=(3, *shape))
    params = net.init(getkey(), jnp.float64)
    below = len(params) - 1 if isinstance(architecture.architecture, Residual) else 1
    scaled = [jax.tree.map(lambda v: 3.0 * v, layer) for layer in params[:below]] + params[below:]
    if below > 1:
        # Branches see normalised features: tripled they are thrice as large, as is what they are added to.
        z, larger = (jax.jit(net.preactivations)(p, x) for p in (params, scaled))
        for one, other in zip(z[:-1], larger[:-1], strict=True):
            np.testing.assert_allclose(other, 3 * one, rtol=1e-11)
    np.testing.assert_allclose(evaluate(net, scaled, x), evaluate(net, params, x), rtol=1e-11)
    last = [*params[:-1], jax.tree.map(lambda v: 3.0 * v, params[-1])]
    np.testing.assert_allclose(evaluate(net, last, x), 3 * evaluate(net, params, x), rtol=1e-11)


def test_normalised_vectors_have_mean_0_and_square_1_and_constant_ones_vanish(rng):
    z = rng.normal(size=(3, 2, 7))
    found = np.asarray(jax.jit(normalise)(jnp.asarray(5.0 + 0.1 * z)))
    np.testing.assert_allclose(found.mean(axis=-1), 0.0, atol=1e-13)
    np.testing.assert_allclose((found**2).mean(axis=-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(found, (z - z.mean(-1, keepdims=True)) / z.std(-1, keepdims=True), rtol=1e-10)
    # The mean of seven times 0.1 is not 0.1 in floating point.
    constant = jnp.full((2, 7), 0.1, jnp.float32)
    np.testing.assert_array_equal(normalise(constant), 0.0)
    assert np.isfinite(np.asarray(jax.jit(jax.jacrev(normalise))(constant))).all()


def test_normalised_networks_follow_the_formula(getkey, rng):
    """The MLP's in NumPy; a convolution with one position is the same network."""
    x = rng.normal(size=(4, 3))
    net = build("normalised MLP", 5)
    params = net.init(getkey(), jnp.float64)
    h = x
    for ours, layer in zip(jax.jit(net.preactivations)(params, x), params, strict=True):
        z = (WEIGHT / h.shape[1]) ** 0.5 * h @ np.asarray(layer["weight"]) + BIAS**0.5 * np.asarray(layer["bias"])
        np.testing.assert_allclose(ours, z, rtol=1e-11)
        # The output alone has one neuron, and is not normalised.
        h = erf((z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)) if z.shape[1] > 1 else z
    pixel = LayerNorm(Convolutional(2, "erf", WEIGHT, BIAS, filter=(1, 1)))
    images = family_network(pixel, width=5, shape=(1, 1, 3))
    same = [*({**layer, "weight": layer["weight"][None, None]} for layer in params[:-1]), params[-1]]
    np.testing.assert_allclose(evaluate(images, same, x[:, None, None]), evaluate(net, params, x), rtol=1e-11)


@SOME
def test_ensembles_are_trained_as_mlps_are(name, getkey, rng):
    """Three members in single precision, 30 steps of gradient descent below the stable rate."""
    net, shape = build(name, 8, outputs=2), FAMILIES[name][1]
    x, y = rng.normal(size=(4, *shape)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32)
    start = init_members(net, getkey(), 3)
    assert sum(leaf.size for leaf in jax.tree.leaves(start)) == 3 * net.parameters
    # The loss falls to second order wherever the rate is below 2 over the largest eigenvalue of the kernel at hand.
    trained = members(
        SquaredError(net), start, (x, y), method=GradientDescent(0.005), records=[0, 30], record=Outputs(net), probe=x
    )
    losses = np.sum((trained.values - y) ** 2, axis=(2, 3))
    assert np.all(losses[:, 1] < 0.9 * losses[:, 0])
    outputs = jax.jit(net.apply)(jax.tree.map(lambda v: v[0], start), x)
    # Single precision, with sums in another order.
    np.testing.assert_allclose(trained.values[0, 0], outputs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["normalised convolution", "attention, pooled"])
def test_empirical_kernels_and_parametrisations(name, getkey, rng):
    """The standard parametrisation draws the same function; rates of learning have the parameters' structure."""
    shape = FAMILIES[name][1]
    net, standard = build(name, 5), build(name, 5, parametrisation="standard")
    assert net == build(name, 5)
    assert hash(net) == hash(build(name, 5))
    x, normals = rng.normal(size=(3, *shape)), rng.normal(size=net.parameters)
    params = net.assemble(normals)
    np.testing.assert_allclose(evaluate(net, params, x), evaluate(standard, standard.assemble(normals), x), rtol=1e-12)
    assert jax.tree.structure(net.learning_rates(0.1)) == jax.tree.structure(params)
    assert len(net.scales()) == len(params)
    kernel = empirical_ntk(OnRows(net), jax.tree.map(jnp.asarray, params), x.reshape(3, -1))
    gradients = jax.tree.leaves(jax.jit(jax.jacrev(lambda p: net.apply(p, x)[:, 0]))(params))
    expected = sum(np.asarray(g).reshape(3, -1) @ np.asarray(g).reshape(3, -1).T for g in gradients)
    np.testing.assert_allclose(kernel, expected, rtol=1e-10)


def test_mean_field_and_mup_train_the_same_residual_function(getkey, rng):
    """At σ_w = 1 they differ by a symmetry, if first layer, branches and readout have the roles that they are given."""
    architecture = Residual(1, "tanh", 1.0, 1.0, branch_scale=SCALE)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 1))
    nets = [residual_network(architecture, width=6, inputs=3, parametrisation=name) for name in ("mean-field", "mup")]
    normals, losses = jax.random.normal(getkey(), (nets[0].parameters,), jnp.float64), []
    for net in nets:
        # The same effective weights: multiplier times parameter.
        params = nets[0].assemble(normals)
        for layer, old, new in zip(params, nets[0].scales(), net.scales(), strict=True):
            for part, before, after in zip(("weight", "bias"), old, new, strict=True):
                layer[part] = layer[part] * before.multiplier / after.multiplier

        @jax.jit
        def steps(params, net=net):
            loss = SquaredError(net)
            for _ in range(3):
                slope = jax.grad(loss)(params, (x, y))
                params = jax.tree.map(lambda p, r, g: p - r * g, params, net.learning_rates(0.1), slope)
            return loss(params, (x, y))

        losses.append((float(SquaredError(net)(params, (x, y))), float(steps(params))))
    assert losses[0][1] < 0.9 * losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-10)


def test_networks_without_biases_have_no_such_parameters(getkey):
    """Weights alone: 2·4 of the input, 3 heads of 4·4 thrice, 4 of the readout."""
    net = attention_network(Attention(1, readout="pool"), width=4, heads=3, positions=2, channels=2)
    params = net.init(getkey(), jnp.float64)
    assert net.parameters == 2 * 4 + 3 * 3 * 4 * 4 + 4
    assert all(set(entry) == {"weight"} for entry in params)
    # ReLU without biases is homogeneous, but the attention weights are not: only blunt ones leave the scale alone.
    x = jnp.asarray([[[1.0, 2.0], [0.5, -1.0]]])
    blunt = attention_network(Attention(1, sharpness=0.0, readout="pool"), width=4, heads=3, positions=2, channels=2)
    np.testing.assert_allclose(evaluate(blunt, params, 2 * x), 2 * evaluate(blunt, params, x), rtol=1e-12)
    assert abs(float(evaluate(net, params, 2 * x)[0, 0] / evaluate(net, params, x)[0, 0]) - 2) > 1e-3


def test_entry_by_type():
    shapes = {MLP(1): (3,), Convolutional(1): (4, 4, 1), RESIDUAL: 3}
    for architecture, shape in shapes.items():
        net = family_network(architecture, width=4, shape=shape)
        assert OnRows(net).shape == ((shape,) if isinstance(shape, int) else shape)
    assert isinstance(build("attention, pooled", 4), AttentionNetwork)
    for scheme in PARAMETRISATIONS:
        assert family_network(RESIDUAL, width=4, shape=3, parametrisation=scheme).parametrisation.name == scheme


def test_finite_networks_know_the_architecture_and_nothing_else_of_theory():
    folder = Path(experiments.family_networks.__file__).parent
    for name in ("family_networks", "attention_networks", "residual_networks", "normalised_networks"):
        tree = ast.walk(ast.parse((folder / f"{name}.py").read_text()))
        found = {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module}
        assert {module for module in found if module.startswith("theory")} == {"theory.architecture"}


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        (ATTENTION, {"shape": (3, 2)}, "heads must be given for Attention"),
        (ATTENTION, {"shape": (3, 2), "heads": 0}, "heads must be an integer of at least 1, got 0"),
        (ATTENTION, {"shape": (3, 2), "heads": 2, "width": 2.0}, "width must be an integer of at least 1, got 2.0"),
        (
            ATTENTION,
            {"shape": (3, 2), "heads": 2, "parametrisation": "mup"},
            "parametrisation must be 'ntk' or 'standard' for attention, got 'mup'",
        ),
        (
            ATTENTION,
            {"shape": 3, "heads": 2},
            r"shape must be that of one input, with 2 axes for Attention, got \(3,\)",
        ),
        (RESIDUAL, {"shape": 3, "heads": 2}, "heads must be left out for Residual"),
        (RESIDUAL, {"shape": 3, "width": (4, 4)}, r"width must be one integer, got \(4, 4\)"),
        (RESIDUAL, {"shape": 0}, "inputs must be at least 1, got 0"),
        (RESIDUAL, {"shape": 3.5}, "shape must be whole numbers"),
        (LayerNorm(MLP(2)), {"shape": 3, "width": 8.0}, "width must be an integer of at least 1, got 8.0"),
        (LayerNorm(RESIDUAL), {"shape": 3, "width": 1}, "width must be at least 2 under a layer norm"),
        (LayerNorm(MLP(2)), {"shape": 3, "width": (4, 1)}, "width must be at least 2 under a layer norm"),
        (LayerNorm(MLP(2)), {"shape": 3, "parametrisation": "tnk"}, "tnk"),
        ("mlp", {"shape": 3}, "architecture must be MLP, Convolutional, .*, or StandardBiases of one of them, got str"),
        (
            StandardBiases(MLP(2)),
            {"shape": 3, "parametrisation": "standard"},
            "parametrisation must be 'ntk' for StandardBiases, got 'standard'",
        ),
        (StandardBiases(RESIDUAL), {"shape": 3, "heads": 2}, "heads must be left out for Residual"),
    ],
)
def test_wrong_arguments_are_named(architecture, options, message):
    with pytest.raises(ValueError, match=message):
        family_network(architecture, **{"width": 4, **options})


@pytest.mark.parametrize("name", [*FAMILIES, "MLP"])
def test_standard_biases_are_the_same_function_learned_otherwise(name, getkey, rng):
    """By normal numbers shared with the plain network: equal outputs, and biases' slopes larger by 1/σ_b."""
    architecture, shape = {**FAMILIES, "MLP": (MLP(2, "erf", WEIGHT, BIAS), (3,))}[name]
    heads = 4 if isinstance(architecture, Attention) else None
    plain, standard = (
        family_network(a, width=5, shape=shape, heads=heads) for a in (architecture, StandardBiases(architecture))
    )
    normals, x = jax.random.normal(getkey(), (plain.parameters,), jnp.float64), rng.normal(size=(4, *shape))
    assert standard.parameters == plain.parameters
    np.testing.assert_allclose(
        evaluate(standard, standard.assemble(normals), x), evaluate(plain, plain.assemble(normals), x), rtol=1e-12
    )
    slopes, expected = (jax.jit(jax.jacrev(net.apply))(net.assemble(normals), x) for net in (standard, plain))
    for layer, other, rates in zip(slopes, expected, standard.learning_rates(0.1), strict=True):
        np.testing.assert_allclose(layer["weight"], other["weight"], rtol=1e-10, atol=1e-14)
        assert layer.keys() == rates.keys()
        if "bias" in layer:
            np.testing.assert_allclose(BIAS**0.5 * layer["bias"], other["bias"], rtol=1e-10, atol=1e-14)
        assert set(rates.values()) == {0.1}
    # Without a variance they start at zero, and are there.
    zero = family_network(
        StandardBiases(MLP(1, "erf", WEIGHT, 0.0)), width=5, shape=3, outputs=2, parametrisation=PARAMETRISATIONS["ntk"]
    )
    params = zero.init(getkey())
    assert [layer["bias"].shape for layer in params] == [(5,), (2,)]
    assert not np.any(params[0]["bias"])
    assert np.all(jax.jacrev(zero.apply)(params, np.ones((1, 3)))[0]["bias"] != 0)


def test_other_families_and_inputs_are_refused():
    with pytest.raises(ValueError, match="architecture must be Residual or LayerNorm of it, got MLP"):
        residual_network(LayerNorm(MLP(1)), width=4, inputs=3)
    with pytest.raises(ValueError, match="for Residual use residual_network"):
        normalised_network(LayerNorm(RESIDUAL), width=4, inputs=3)
    with pytest.raises(ValueError, match="space must be given"):
        normalised_network(LayerNorm(CONVOLUTION), width=4, inputs=3)
    with pytest.raises(ValueError, match="inputs must be given"):
        normalised_network(LayerNorm(MLP(1)), width=4, space=(3,))
    with pytest.raises(ValueError, match="architecture must be Attention, got Residual"):
        attention_network(RESIDUAL, width=4, heads=1, positions=2, channels=2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="branch_scale must be a plain number"):
        jax.jit(lambda a: residual_network(Residual(1, branch_scale=a), width=4, inputs=3).parameters)(0.5)
    for name, shape in (("residual", "n, 3"), ("normalised MLP", "n, 3"), ("normalised convolution", "n, 4, 2")):
        net = build(name, 4)
        with pytest.raises(ValueError, match=rf"x must have shape \({shape}\)"):
            evaluate(net, net.init(jax.random.key(0)), np.ones((2, 5)))
    net = build("attention, pooled", 4)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3, 2\), got \(2, 2, 3\)"):
        evaluate(net, net.init(jax.random.key(0)), np.ones((2, 2, 3)))
