"""The MLP as a pytree, its validation, and the powers of width in the parametrisations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory.architecture import MLP, PARAMETRISATIONS, parametrisation


def test_variances_are_leaves_and_the_rest_is_static():
    mlp = MLP(3, "erf", 1.5, 0.25)
    leaves, structure = jax.tree.flatten(mlp)
    assert leaves == [1.5, 0.25]
    assert jax.tree.unflatten(structure, leaves) == mlp
    assert structure != jax.tree.structure(MLP(4, "erf", 1.5, 0.25))
    assert structure != jax.tree.structure(MLP(3, "relu", 1.5, 0.25))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(mlp)]
    assert paths == [".weight_variance", ".bias_variance"]


def test_a_sweep_over_variances_compiles_once():
    traces = []

    @jax.jit
    def total(mlp):
        traces.append(mlp.depth)
        return mlp.weight_variance + mlp.bias_variance

    assert [float(total(MLP(2, "relu", w, 1.0))) for w in (1.0, 2.0, 3.0)] == [2.0, 3.0, 4.0]
    assert traces == [2]


def test_transformations_may_put_anything_into_the_leaves():
    gradient = jax.grad(lambda mlp: -(mlp.weight_variance**2))(MLP(1, "relu", 3.0))
    assert float(gradient.weight_variance) == -6.0
    assert jax.tree.map(lambda _: None, MLP(1)).weight_variance is None
    batched = jax.vmap(lambda mlp: 2 * mlp.weight_variance, in_axes=(MLP(1, "relu", 0, 0),))
    np.testing.assert_array_equal(batched(MLP(1, "relu", jnp.arange(3.0), jnp.zeros(3))), [0, 2, 4])


def test_fields_can_be_replaced():
    assert dataclasses.replace(MLP(2, "tanh"), depth=5) == MLP(5, "tanh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth=0 with activation='linear'"),
        ({"depth": -1, "activation": "linear"}, "depth must be at least 1"),
        ({"depth": 1, "activation": "rellu"}, "relu"),
        ({"depth": 1, "weight_variance": -1.0}, "weight_variance must be finite and at least 0"),
        ({"depth": 1, "bias_variance": float("nan")}, "bias_variance must be finite"),
        ({"depth": 1, "bias_variance": np.array([0.0, -1.0])}, "bias_variance must be finite and at least 0"),
    ],
)
def test_wrong_arguments_are_refused_with_the_fix(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLP(**arguments)


def test_the_linear_model_has_no_hidden_layer():
    assert MLP(0, "linear").depth == 0


# Yang & Hu 2021, Table 1: (a, b, c) of W = n^-a w, w ~ N(0, n^-2b), learning rate η n^-c, for input, hidden
# and output layers. Mean-field is given there for one hidden layer; its hidden layers here follow from the
# shift (a, b, c) + θ(1, −1, −2) of mup by θ = ½.
ABC = {
    "ntk": ((0, 0, 0), (0.5, 0, 0), (0.5, 0, 0)),
    "standard": ((0, 0, 0), (0, 0.5, 0), (0, 0.5, 0)),
    "mean-field": ((0, 0, -1), (0.5, 0, -1), (1, 0, -1)),
    "mup": ((-0.5, 0.5, 0), (0, 0.5, 0), (0.5, 0.5, 0)),
}


@pytest.mark.parametrize("name", sorted(ABC))
def test_powers_of_width_are_those_of_yang_and_hu(name):
    scheme, wide, wider = PARAMETRISATIONS[name], 64, 256
    fans = {"input": lambda n: (7, n), "hidden": lambda n: (n, n), "output": lambda n: (n, 3)}
    for (role, fan), expected in zip(fans.items(), ABC[name], strict=True):
        scales = [np.array(scheme.layer(role, *fan(n))) for n in (wide, wider)]
        slopes = np.log(scales[1] / scales[0]) / np.log(wider / wide)
        np.testing.assert_allclose(-slopes, expected, atol=1e-12, err_msg=role)


@pytest.mark.parametrize("name", ["ntk", "standard"])
def test_kernel_regimes_start_from_one_and_the_same_law(name):
    for role, fan_in, fan_out in (("input", 7, 64), ("hidden", 64, 64), ("output", 64, 3)):
        scale = PARAMETRISATIONS[name].layer(role, fan_in, fan_out, 1.7)
        assert scale.multiplier * scale.init_std == pytest.approx((1.7 / fan_in) ** 0.5, rel=1e-14)


def test_mup_and_mean_field_learn_the_same_functions():
    """The shift symmetry: what counts is multiplier·std and multiplier²·rate, in weights and biases."""
    mup, mean_field = PARAMETRISATIONS["mup"], PARAMETRISATIONS["mean-field"]
    pairs = [
        (mup.layer(*args), mean_field.layer(*args))
        for args in (("input", 7, 64), ("hidden", 64, 64), ("output", 64, 3))
    ]
    pairs += [(mup.bias(role, 64), mean_field.bias(role, 64)) for role in ("input", "hidden", "output")]
    for left, right in pairs:
        assert left.multiplier * left.init_std == pytest.approx(right.multiplier * right.init_std, rel=1e-14)
        rates = [scale.multiplier**2 * scale.learning_rate for scale in (left, right)]
        assert rates[0] == pytest.approx(rates[1], rel=1e-14)


def test_parametrisations_are_found_by_name():
    assert parametrisation("mup") is PARAMETRISATIONS["mup"]
    assert parametrisation(PARAMETRISATIONS["ntk"]).name == "ntk"
    with pytest.raises(ValueError, match="there are ntk, standard"):
        parametrisation("np")
    with pytest.raises(ValueError, match="role must be"):
        PARAMETRISATIONS["ntk"].layer("last", 3, 3)  # pyright: ignore[reportArgumentType] # the point of the test
