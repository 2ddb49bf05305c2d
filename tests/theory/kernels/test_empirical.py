"""Empirical tangent kernels: by hand, by neural-tangents, in blocks, and on any pytree."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory.kernels import empirical_ntk
from theory.kernels.empirical import empirical_ntk_blocks, empirical_ntk_diagonal, empirical_ntk_product
from theory.kernels.neural_tangents import nt

N, D, WIDTH, OUTPUTS = 5, 3, 7, 2


def apply(params, x):
    """One hidden layer, two outputs, parameters in a nested pytree."""
    hidden = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    return hidden @ params["last"]


def scalar(params, x):
    return apply(params, x)[:, 0]


@pytest.fixture
def params(rng):
    first = {"w": jnp.asarray(rng.normal(size=(D, WIDTH))), "b": jnp.asarray(rng.normal(size=WIDTH))}
    return {"first": first, "last": jnp.asarray(rng.normal(size=(WIDTH, OUTPUTS)))}


@pytest.fixture
def inputs(rng):
    return rng.normal(size=(N, D)), rng.normal(size=(4, D))


def by_hand(params, x1, x2):
    """Θ_kl = h·h' δ_kl + Σ_i v_ik v_il φ'_i φ'_i' (x·x' + 1), the gradients written out."""
    w, b, v = (np.asarray(p) for p in (params["first"]["w"], params["first"]["b"], params["last"]))
    hidden = [np.tanh(x @ w + b) for x in (x1, x2)]
    slopes = [1 - h**2 for h in hidden]
    readout = np.einsum("ai,bi,kl->abkl", *hidden, np.eye(OUTPUTS))
    inner = np.einsum("ik,il,ai,bi->abkl", v, v, *slopes) * (x1 @ x2.T + 1)[:, :, None, None]
    return readout + inner


def test_agrees_with_gradients_written_out(params, inputs):
    expected = by_hand(params, *inputs)
    np.testing.assert_allclose(empirical_ntk(apply, params, *inputs, full=True), expected, rtol=1e-12)
    mean = np.trace(expected, axis1=2, axis2=3) / OUTPUTS
    np.testing.assert_allclose(empirical_ntk(apply, params, *inputs), mean, rtol=1e-12)


def test_outputs_without_an_axis_are_one_output(params, inputs):
    expected = by_hand(params, *inputs)[:, :, :1, :1]
    np.testing.assert_allclose(empirical_ntk(scalar, params, *inputs), expected[:, :, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(empirical_ntk(scalar, params, *inputs, full=True), expected, rtol=1e-12)


def test_agrees_with_neural_tangents(params, inputs):
    # Its annotations ask for argument names and options that none of its functions needs.
    reference: Any = nt.empirical_ntk_fn(cast("Any", apply), trace_axes=(), vmap_axes=0, implementation=1)
    expected = reference(*inputs, params)
    np.testing.assert_allclose(empirical_ntk(apply, params, *inputs, full=True), expected, rtol=1e-11)


@pytest.mark.parametrize("function", [apply, scalar])
@pytest.mark.parametrize("full", [False, True])
def test_products_with_unit_vectors_are_its_columns(function, full, params, inputs):
    jacobians = empirical_ntk(function, params, *inputs, full=full, method="jacobians")
    products = empirical_ntk(function, params, *inputs, full=full, method="products", memory=5000)
    np.testing.assert_allclose(products, jacobians, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(empirical_ntk(function, params, *inputs, full=full), jacobians, rtol=1e-12, atol=1e-13)


def test_products_take_parameters_and_inputs_of_different_dtypes(params, inputs):
    single = [np.float32(x) for x in inputs]
    products = empirical_ntk(apply, params, *single, full=True, method="products")
    np.testing.assert_allclose(
        products, empirical_ntk(apply, params, *single, full=True, method="jacobians"), rtol=1e-6
    )


def test_products_diagonals_and_blocks_are_those_of_the_matrix(params, inputs, rng):
    matrix = np.asarray(empirical_ntk(apply, params, *inputs, full=True))
    v = rng.normal(size=(inputs[1].shape[0], OUTPUTS))
    product = empirical_ntk_product(apply, params, inputs[0], inputs[1], v)
    np.testing.assert_allclose(product, np.einsum("abkl,bl->ak", matrix, v), rtol=1e-11, atol=1e-12)
    own = np.asarray(empirical_ntk(apply, params, inputs[0], full=True))
    diagonal = empirical_ntk_diagonal(apply, params, inputs[0], full=True, memory=1)
    np.testing.assert_allclose(diagonal, own[np.arange(N), np.arange(N)], rtol=1e-12, atol=1e-13)
    trace = np.trace(own[np.arange(N), np.arange(N)], axis1=1, axis2=2) / OUTPUTS
    np.testing.assert_allclose(empirical_ntk_diagonal(apply, params, inputs[0]), trace, rtol=1e-12)
    whole = np.full((N, N), np.nan)
    for rows, columns, block in empirical_ntk_blocks(apply, params, inputs[0], rows_in_block=2):
        whole[rows, columns], whole[columns, rows] = block, block.T
    np.testing.assert_allclose(whole, empirical_ntk(apply, params, inputs[0]), rtol=1e-12)


@pytest.mark.parametrize("examples", [0.1, 3.0, 7.0])
def test_blocks_change_nothing(params, inputs, examples):
    """Memory for so many examples' Jacobians: one at a time, blocks that do not divide, almost all."""
    bytes_each = 8 * OUTPUTS * sum(leaf.size for leaf in jax.tree.leaves(params))
    for full in (False, True):
        whole = empirical_ntk(apply, params, *inputs, full=full)
        blocks = empirical_ntk(apply, params, *inputs, full=full, memory=examples * bytes_each)
        np.testing.assert_allclose(blocks, whole, rtol=1e-13, atol=1e-13)


def test_the_symmetric_case_is_a_gram_matrix(params, inputs):
    kernel = np.asarray(empirical_ntk(apply, params, inputs[0]))
    np.testing.assert_allclose(kernel, empirical_ntk(apply, params, inputs[0], inputs[0]), rtol=1e-13)
    np.testing.assert_allclose(kernel, kernel.T, rtol=1e-13)
    assert np.linalg.eigvalsh(kernel)[0] > 0


def test_the_linear_model_has_the_inner_product_for_a_kernel(inputs):
    kernel = empirical_ntk(lambda w, x: x @ w, jnp.ones(D), *inputs)
    np.testing.assert_allclose(kernel, inputs[0] @ inputs[1].T, rtol=1e-13)


def test_single_precision_is_kept_and_good_to_its_digits(params, inputs):
    single = jax.tree.map(jnp.float32, params)
    kernel = empirical_ntk(apply, single, *(np.float32(x) for x in inputs))
    assert kernel.dtype == jnp.float32
    exact = np.trace(by_hand(params, *inputs), axis1=2, axis2=3) / OUTPUTS
    np.testing.assert_allclose(kernel, exact, atol=2e-6 * np.abs(exact).max())


def test_it_runs_under_jit_and_vmap(params, inputs):
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    kernels = jax.jit(jax.vmap(lambda p: empirical_ntk(apply, p, *inputs)))(members)
    np.testing.assert_allclose(kernels[0], empirical_ntk(apply, params, *inputs), rtol=1e-12)


def test_wrong_arguments_are_refused(params, inputs):
    with pytest.raises(ValueError, match="apply must give"):
        empirical_ntk(lambda p, x: jnp.sum(apply(p, x)), params, *inputs)
    with pytest.raises(ValueError, match="same number of features"):
        empirical_ntk(apply, params, inputs[0], np.ones((2, D + 1)))
    with pytest.raises(ValueError, match="memory must be positive"):
        empirical_ntk(apply, params, *inputs, memory=0)
    with pytest.raises(ValueError, match="method must be"):
        empirical_ntk(apply, params, *inputs, method="fast")
    with pytest.raises(ValueError, match=r"vectors must have the shape \(4, 2\)"):
        empirical_ntk_product(apply, params, inputs[0], inputs[1], np.ones(4))
    with pytest.raises(ValueError, match="rows_in_block must be at least 1"):
        empirical_ntk_blocks(apply, params, inputs[0], rows_in_block=0)
