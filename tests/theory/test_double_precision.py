"""Double precision within single: values, every kind of derivative, and the kernels that rest on it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory.architecture import MLP, Attention, Convolutional, LayerNorm, Residual, StandardBiases
from theory.double_precision import in_double
from theory.kernels import kernels_by_depth, nngp, ntk


@pytest.fixture(autouse=True)
def _single():
    """As JAX is by default; nothing may fall back from double precision with a warning."""
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def small_rest(x, y):
    """Σ sin(x_i + δ) − sin(x_i) over δ = 1e-9, and products whose parts cancel: nothing is left in single precision."""
    wide, other = x.astype(jnp.float64), y.astype(jnp.float64)
    rest = (jnp.sin(wide + 1e-9) - jnp.sin(wide)) * 1e9
    # Slices and products at places that are not known beforehand, as in images and sequences.
    moved = jax.lax.fori_loop(0, 2, lambda i, total: total + jax.lax.dynamic_index_in_dim(wide, i, 0), 0 * wide[:1])
    square = (1e6 * wide[:, None] + other) @ other - 1e6 * wide * jnp.sum(other)
    return {"rest": rest.astype(x.dtype), "square": (square + moved).astype(x.dtype)}


def exact(x, y):
    rest = jnp.cos(x)
    return {"rest": rest, "square": jnp.sum(y * y) + x[0] + x[1] + 0 * x}


def double(x, y):
    return in_double(small_rest, x, y)


X, Y = np.array([0.3, -1.1, 0.7], np.float32), np.array([0.5, 1.5, -0.2], np.float32)


def close(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.float32
        # Rounded to single precision once or twice more than what they are compared with, which is in it throughout.
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)


def scalar(function):
    return lambda x, y: jnp.sum(function(x, y)["rest"] ** 2) + jnp.sum(jnp.sin(function(x, y)["square"]))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_values_and_derivatives(wrap):
    x, y = jnp.asarray(X), jnp.asarray(Y)
    close(wrap(double)(x, y), exact(x, y))
    close(wrap(jax.grad(scalar(double), (0, 1)))(x, y), jax.grad(scalar(exact), (0, 1))(x, y))
    tangents = (jnp.ones(3), jnp.arange(3.0))
    close(wrap(lambda *a: jax.jvp(double, a, tangents))(x, y), jax.jvp(exact, (x, y), tangents))


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
def test_derivatives_of_second_order(outer, inner):
    x, y = jnp.asarray(X), jnp.asarray(Y)
    found = jax.jit(outer(inner(scalar(double), 1), (0, 1)))(x, y)
    close(found, jax.jacfwd(jax.jacfwd(scalar(exact), 1), (0, 1))(x, y))


def summed(function, axes):
    return lambda *arguments: jnp.sum(jax.vmap(scalar(function), axes)(*arguments))


def test_batches():
    many = jnp.stack([jnp.asarray(X), 2 * jnp.asarray(X), jnp.asarray(Y)])
    y = jnp.asarray(Y)
    for axes in ((0, None), (0, 0), (None, 1)):
        arguments = (many if axes[0] == 0 else y, many if axes[1] is not None else y)
        close(jax.vmap(double, axes)(*arguments), jax.vmap(exact, axes)(*arguments))
        close(*(jax.vmap(jax.grad(scalar(f)), axes)(*arguments) for f in (double, exact)))
        close(*(jax.grad(summed(f, axes))(*arguments) for f in (double, exact)))


def test_numbers_keep_their_digits():
    def shifted(scale, x):
        return ((1.0 + scale - 1.0) * x.astype(jnp.float64)).astype(x.dtype)

    x = jnp.ones(2)
    for found in (in_double(shifted, 1e-12, x), jax.jit(lambda a: in_double(shifted, 1e-12, a))(x)):
        # 1 + 1e-12 in double precision keeps four digits of it; in single precision none would be left.
        np.testing.assert_allclose(found, 1e-12, rtol=1e-3)
    with jax.enable_x64(True):
        assert in_double(lambda a: 2 * a, jnp.ones(2, jnp.float64)).dtype == jnp.float64


def test_whole_numbers_and_masks_beside_what_is_differentiated():
    def chosen(count, mask, x):
        wide = jnp.where(mask, x.astype(jnp.float64), 0.0)
        return ((jnp.sin(wide + 1e-9) - jnp.sin(wide)) * 1e9 * count).astype(x.dtype)

    def total(count, mask, x):
        return jnp.sum(in_double(chosen, count, mask, x) ** 2)

    mask, x = jnp.asarray([True, False, True]), jnp.asarray(X)
    found = jax.jit(jax.grad(total, 2))(3, mask, x)
    close(found, jnp.where(mask, -9 * jnp.sin(2 * x), 0.0))
    each = jax.jit(jax.vmap(jax.grad(total, 2), (0, None, None)))(jnp.arange(3), mask, x)
    close(each, found * jnp.arange(3.0)[:, None] ** 2 / 9)
    weighed = jax.jit(jax.grad(lambda v, a: jnp.sum(ntk(MLP(1, "relu", v, 0.1), a)), 1))(2, x[None])
    close(weighed, jax.grad(lambda a: jnp.sum(ntk(MLP(1, "relu", 2.0, 0.1), a)))(x[None]))


def test_traced_numbers_stay_in_single_precision():
    double_it = jax.jit(lambda s: in_double(lambda t: t + 1.0, s))
    assert double_it(1.0).dtype == jnp.float32
    assert jax.jit(jax.grad(lambda s: in_double(lambda t: t * t, s)))(3.0) == 6.0
    with jax.checking_leaks():
        jax.jit(lambda a: nngp(MLP(1, "erf", 1.5, 0.1), a))(jnp.ones((2, 3)))


def near(rng, *shape):
    """Examples among which two are equal, two nearly so, and two nearly opposite."""
    x = rng.normal(size=(5, *shape))
    x[1:4] = x[0], x[0] + 1e-5 * rng.normal(size=shape), -x[0] + 1e-5 * rng.normal(size=shape)
    return x


CASES = {
    "relu": (MLP(3, "relu", 1.5, 0.1), (8,)),
    "tanh": (MLP(2, "tanh", 1.5, 0.1), (8,)),
    "standard biases": (StandardBiases(MLP(1, "abs", 1.5, 0.1)), (4,)),
    "residual": (Residual(1, "relu", 1.5, 0.1), (4,)),
    "normalised": (LayerNorm(MLP(1, "gelu", 1.5, 0.1)), (4,)),
    "convolution": (Convolutional(2, "erf", 1.5, 0.1, filter=(2,), readout="pool"), (3, 2)),
    "attention": (Attention(1, "erf", 1.5, 0.1), (3, 2)),
}


@pytest.mark.parametrize("name", list(CASES))
def test_gradients_of_kernels_have_the_digits_of_their_inputs(name, rng):
    """By inputs and by variances, next to inputs that are equal, near or opposite, against double precision."""
    architecture, shape = CASES[name]
    x, weights = near(rng, *shape).astype(np.float32), rng.normal(size=(5, 5))
    leaves, tree = jax.tree.flatten(architecture)

    def loss(numbers, inputs):
        return jnp.sum(jnp.asarray(weights, inputs.dtype) * ntk(jax.tree.unflatten(tree, numbers), inputs))

    found = jax.grad(loss, (0, 1))([jnp.float32(v) for v in leaves], jnp.asarray(x))
    with jax.enable_x64(True):
        expected = jax.grad(loss, (0, 1))([jnp.float64(np.float32(v)) for v in leaves], jnp.asarray(x, jnp.float64))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.float32
        found_here, exact_here = np.asarray(one, np.float64), np.asarray(other)
        # The result is rounded to single precision once (6e-8), the sum over pairs in it a few times more.
        assert np.max(np.abs(found_here - exact_here)) < 5e-7 * np.max(np.abs(exact_here))


def test_both_modes_agree_on_kernels(rng):
    # What is summed here is in single precision: slopes of size 1, of 25 pairs, rounded in another order.
    x, z = (jnp.asarray(near(rng, 4), jnp.float32) for _ in range(2))
    net = MLP(2, "relu", 1.5, 0.1)
    for function in (lambda a: nngp(net, a, z), lambda a: kernels_by_depth(net, a, z).ntk):
        forward, backward = jax.jacfwd(function)(x), jax.jacrev(function)(x)
        np.testing.assert_allclose(forward, backward, rtol=1e-5, atol=1e-5)
    each = jax.vmap(jax.grad(lambda a: jnp.sum(nngp(net, a[None], z))))(x)
    np.testing.assert_allclose(each, jax.grad(lambda a: jnp.sum(nngp(net, a, z)))(x), rtol=1e-5, atol=1e-6)
