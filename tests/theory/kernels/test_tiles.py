"""Kernels by tiles in single precision, against the same kernels in double precision and against neural-tangents."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from theory.activations import hermite
from theory.architecture import MLP, leaky_relu
from theory.arctangent import arctangent, inverse_root, square_root
from theory.kernels import kernels_by_depth, nngp, ntk, tile_layers, tiles

# What single precision is held to, relative to the geometric mean of the two diagonal entries.
SINGLE = 2e-6


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, several chunks of near pairs and one whole tile in double precision, from a few inputs."""
    monkeypatch.setattr(tiles, "SIDE", 64)
    monkeypatch.setattr(tiles, "PAIRS", 16)
    monkeypatch.setattr(tiles, "MOST", 600)


def difficult(rng: np.random.Generator, d: int) -> np.ndarray:
    """Duplicates, near-duplicates, antipodes, pairs at every angle, other lengths, a zero and a dense cluster."""
    x = rng.standard_normal((30, d))
    levels = [x + rng.standard_normal((30, d)) * level for level in (1e-5, 1e-3, 0.02, 0.2, 0.35, 0.5, 1.0)]
    cluster = x[:1] + 0.1 * rng.standard_normal((60, d))
    every = np.concatenate([x, x, -x, *levels, 30 * x[:10], 0.01 * x[:10], np.zeros((1, d)), cluster])
    return every.astype(np.float32)


def relative(single, double) -> float:
    root = np.sqrt(np.diag(double))
    root = np.where(root > 0, root, 1.0)
    return float(np.max(np.abs(np.asarray(single, np.float64) - double) / np.outer(root, root)))


@pytest.mark.parametrize(
    ("activation", "depth", "weight_variance", "bias_variance"),
    [
        ("relu", 10, 2.0, 0.0),
        (leaky_relu(-0.7), 3, 1.0, 0.1),
        ("erf", 10, 2.0, 0.0),
        ("gelu", 3, 2.0, 0.1),
        ("erf", 2, 2.0, 1e4),
    ],
)
def test_single_precision_is_exact_to_two_parts_in_a_million(activation, depth, weight_variance, bias_variance, rng):
    x = difficult(rng, 200)
    architecture = MLP(depth, activation, weight_variance, bias_variance)
    assert tiles.is_tiled(architecture, jnp.asarray(x), None)
    double = np.asarray(ntk(architecture, x.astype(np.float64)))
    single = ntk(architecture, x)
    assert single.dtype == jnp.float32
    assert relative(single, double) < SINGLE
    np.testing.assert_array_equal(single, single.T)


@pytest.mark.parametrize(
    ("activation", "depth", "weight_variance"),
    [
        ("relu", 10, 2.0),
        ("erf", 5, 1.5),
        ("erf", 3, 2.0),
        ("erf", 3, 3.0),
        ("gelu", 3, 1.5),
        ("gelu", 3, 8.0),
        ("gelu", 5, 2.0),
        ("erf", 7, 1.7),
        ("gelu", 7, 2.0),
        ("erf", 20, 1.5),
        ("exp", 1, 8.0),
        (hermite(21), 1, 0.3),
    ],
)
def test_angles_just_wide_enough_for_single_precision(activation, depth, weight_variance, rng):
    """Hundreds of thousands of pairs with ρ around 0.9, where a rounding of ρ moves the kernel most."""
    features, count = 784, 600
    x = rng.standard_normal(features) + np.linspace(0.24, 0.5, count)[:, None] * rng.standard_normal((count, features))
    x = x.astype(np.float32)
    architecture = MLP(depth, activation, weight_variance, 0.05)
    assert relative(ntk(architecture, x), np.asarray(ntk(architecture, x.astype(np.float64)))) < SINGLE


@pytest.mark.parametrize(
    ("activation", "depth", "weight_variance"), [("relu", 10, 2.0), ("erf", 3, 3.0), ("erf", 5, 1.5), ("gelu", 3, 1.5)]
)
@pytest.mark.parametrize("d", [250, 784])
@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.0, 1.0)])
def test_inputs_of_two_values_round_no_worse(activation, depth, weight_variance, d, values, rng):
    """All terms of such an inner product are alike, and would round in one direction."""
    few, many = values
    x = np.where(rng.random((520, d)) < (0.04 if few < 0 else 0.1), few, many).astype(np.float32)
    architecture = MLP(depth, activation, weight_variance, 0.01)
    assert relative(ntk(architecture, x), np.asarray(ntk(architecture, x.astype(np.float64)))) < SINGLE


@pytest.mark.parametrize(("activation", "weight_variance"), [("relu", 2.0), ("erf", 3.0), ("gelu", 2.0)])
@pytest.mark.parametrize("d", [785, 3136])
def test_inputs_with_a_feature_that_outweighs_all_others(activation, weight_variance, d, rng):
    """Sums that begin near their end would round every later term at full size."""
    x = 0.3 * rng.standard_normal((520, d))
    x[:, 0] = np.sqrt(0.91 * d)
    x = x.astype(np.float32)
    architecture = MLP(3, activation, weight_variance, 0.0)
    assert relative(ntk(architecture, x), np.asarray(ntk(architecture, x.astype(np.float64)))) < SINGLE


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "sin"])
@pytest.mark.parametrize(("scale", "bias_variance"), [(1e-16, 0.0), (1e10, 0.0), (1e15, 0.1)])
def test_lengths_whose_squares_leave_single_precision(activation, scale, bias_variance, rng):
    x = rng.standard_normal((130, 20)).astype(np.float32)
    x[[3, 77]] *= np.float32(scale)
    architecture = MLP(2, activation, 2.0, bias_variance)
    assert relative(ntk(architecture, x), np.asarray(ntk(architecture, x.astype(np.float64)))) < SINGLE


@pytest.mark.parametrize("d", [3, 16, 17, 100])
def test_mixed_features_keep_inner_products(d, rng):
    x = rng.standard_normal((9, d))
    mixed = np.asarray(jax.vmap(tiles._mixed)(jnp.asarray(x)))
    # Rounding of double precision, in sums of d terms.
    np.testing.assert_allclose(mixed @ mixed.T, x @ x.T, rtol=0, atol=1e-13 * d)
    # 17 features fill a rectangle of 5 × 4, and 100 one of 10 × 10.
    assert mixed.shape[1] == {17: 20}.get(d, d)


@pytest.mark.parametrize("name", ["first", "single", "equal", "alternating"])
def test_every_mixed_feature_carries_its_share(name):
    rows = {
        "first": np.eye(784)[0],
        "single": np.eye(784)[400],
        "equal": np.full(784, 1 / 28),
        "alternating": np.resize([1, -1], 784) / 28,
    }
    mixed = np.asarray(tiles._mixed(jnp.asarray(rows[name])))
    assert np.sum(mixed**2) == pytest.approx(1.0, abs=1e-13)
    assert max(np.sum(part**2) for part in np.array_split(mixed, 5)) < 0.25
    # The largest of 784 squares of a Gaussian of variance 1/784 is 10/784.
    assert np.max(mixed**2) < 20 / 784


@pytest.mark.parametrize(("activation", "scale"), [("erf", 2.0), ("gelu", 1.0)])
def test_both_ways_to_the_arcsine_give_one_kernel(activation, scale, rng, monkeypatch):
    """Where all variances are moderate; one larger input in a tile, and the other way is taken.

    They differ by a few roundings of single precision; against double precision both are tested above.
    """
    architecture = MLP(3, activation, 1.0, 0.1)
    x = jnp.asarray(rng.standard_normal((40, 50)), jnp.float32)
    limit = tile_layers._MODERATE / (1 - tile_layers._MODERATE) / scale

    def taken(inputs):
        points, _ = tiles._points(architecture, inputs, True, False)
        left, right = (points.tile(jnp.int32(start), 20) for start in (0, 20))
        cosine = left.unit @ right.unit.T
        largest = float(max(left.roots[:-1].max(), right.roots[:-1].max())) ** 2
        return np.asarray(tile_layers.smooth_layers(architecture, left, right, cosine, True, False)), largest

    fast, largest = taken(x)
    assert largest < limit
    monkeypatch.setattr(tile_layers, "_MODERATE", 0.0)
    slow, _ = taken(x)
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-6 * np.abs(slow).max())
    assert np.any(fast != slow)
    monkeypatch.undo()
    stretched = x.at[25].multiply(10.0)
    found, largest = taken(stretched)
    assert largest > limit
    np.testing.assert_array_equal(np.delete(found, 5, axis=1), np.delete(slow, 5, axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_under_a_jump_are_duplicates_at_any_depth(dtype, rng):
    """sign makes of an angle θ one of 2√(θ/π), so that rounding of ρ would grow to 1e-2 in three layers."""
    x = difficult(rng, 20).astype(dtype)
    architecture = MLP(4, "sign", 1.3, 0.05)
    kernel = np.asarray(nngp(architecture, x, x), np.float64)
    own = np.arange(30)
    # One rounding of single precision; a duplicate that is none would be off by 1e-2.
    np.testing.assert_allclose(kernel[own, own + 30], 1.35, rtol=2e-7)
    assert relative(np.asarray(nngp(architecture, x)), np.asarray(nngp(architecture, x.astype(np.float64)))) < SINGLE


def test_nngp_two_sets_and_what_the_tiles_do_not_divide(rng):
    x = difficult(rng, 20)
    architecture = MLP(2, "relu", 2.0, 0.1)
    double = np.asarray(nngp(architecture, x.astype(np.float64)))
    assert relative(nngp(architecture, x), double) < SINGLE
    across = np.asarray(nngp(architecture, x[:90], x))
    assert across.shape == (90, len(x))
    root = np.sqrt(np.diag(double))
    assert np.max(np.abs(across - double[:90]) / np.outer(root[:90], root)) < SINGLE


def test_derivatives_are_those_of_the_kernel_in_double_precision(rng):
    x = difficult(rng, 5)[:130]

    def total(architecture, inputs):
        return jnp.sum(jnp.sin(ntk(architecture, inputs)))

    single = jax.grad(total, argnums=(0, 1))(MLP(1, "relu", 1.5, 0.1), x)
    double = jax.grad(total, argnums=(0, 1))(MLP(1, "relu", 1.5, 0.1), x.astype(np.float64))
    for one, other in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        # sin of the kernel in single precision: rounding of 1e-7, summed over 130 pairs of size 1.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("count", [5, 128])
@pytest.mark.parametrize("setting", [False, True])
@pytest.mark.parametrize("name", ["relu", "erf"])
def test_variances_can_be_mapped(name, setting, count, rng):
    """With and without JAX's double precision switched on, in which the kernels are partly computed."""
    x = difficult(rng, 5)[:count]
    with jax.enable_x64(setting):
        variances = jnp.asarray([0.5, 2.0], jnp.float32)
        mapped = jax.vmap(lambda v: ntk(MLP(1, name, v, 0.1), x))(variances)
        assert mapped.dtype == jnp.float32
        # Rounded in another order: under vmap a tile takes all its branches, and few points a program of their own.
        for one, variance in zip(mapped, variances, strict=True):
            np.testing.assert_allclose(one, ntk(MLP(1, name, float(variance), 0.1), x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [3, 300])
def test_variances_keep_their_digits(count, rng):
    """2.1 in single precision is off by 2e-8, which a hundred layers make 4e-6 of."""
    x = rng.standard_normal((count, 50)).astype(np.float32)
    architecture = MLP(100, "relu", 2.1, 0.1)
    with jax.enable_x64(False):
        single = ntk(architecture, x)
    assert relative(single, np.asarray(ntk(architecture, x.astype(np.float64)))) < SINGLE


def test_small_sets_are_taken_in_double_precision(rng):
    x = difficult(rng, 20)[::9]
    architecture = MLP(10, "relu", 2.0, 0.0)
    assert not tiles.is_tiled(architecture, jnp.asarray(x), None)
    with_depths = kernels_by_depth(architecture, x)
    double = np.asarray(ntk(architecture, x.astype(np.float64)))
    # Rounded once, at the end.
    assert relative(ntk(architecture, x), double) < 1e-7
    assert relative(with_depths.ntk[-1], double) < 1e-7
    assert with_depths.ntk.dtype == jnp.float32


@pytest.mark.parametrize("count", [20, 80])
def test_double_precision_within_needs_no_setting(count, rng):
    x = difficult(rng, 20)[:count]
    architecture = MLP(1, "relu", 2.0, 0.1)
    double = np.asarray(ntk(architecture, x.astype(np.float64)))
    with jax.enable_x64(False):
        single = ntk(architecture, x)
    assert relative(single, double) < SINGLE


def test_polynomials_of_the_angle_against_mpmath():
    versines = np.concatenate([[0.0], np.geomspace(1e-12, 1.0, 40)])

    def arc(w):
        return mpmath.asin(mpmath.sqrt(w / 2)) / mpmath.sqrt(w / 2) if w else mpmath.mpf(1)

    def segment(w):
        if not w:
            return mpmath.mpf(1) / 3
        psi = 2 * mpmath.asin(mpmath.sqrt(w / 2))
        return (mpmath.sin(psi) - psi * mpmath.cos(psi)) / (2 * w) ** mpmath.mpf(1.5)

    def arcsine(square):
        z = mpmath.sqrt(square)
        return (mpmath.asin(z) / z - 1) / square if square else mpmath.mpf(1) / 6

    with mpmath.workdps(40):
        squares = 0.7 * versines
        exact = np.array([float(arcsine(mpmath.mpf(t))) for t in squares])
        found = np.polyval(tile_layers._ARCSINE[::-1], squares)
        # What counts is the error in the arcsine itself, to which it contributes z³.
        assert np.max(np.abs(found - exact) * squares**1.5) < 1e-8
        for coefficients, function, error in ((tile_layers._ARC, arc, 3e-8), (tile_layers._SEGMENT, segment, 1e-8)):
            exact = np.array([float(function(mpmath.mpf(w))) for w in versines])
            np.testing.assert_allclose(np.polyval(coefficients[::-1], versines), exact, rtol=0, atol=error)


def test_the_arctangent_and_its_derivative(rng):
    y = np.concatenate([rng.standard_normal(200) * 10.0 ** rng.integers(-6, 6, 200), [0.0, 0.0, 1.0, -1.0]])
    x = np.concatenate([np.abs(rng.standard_normal(200)), [0.0, 1.0, 0.0, 0.0]])
    exact = np.arctan2(y.astype(np.float32).astype(float), x.astype(np.float32).astype(float))
    np.testing.assert_allclose(arctangent(jnp.float32(y), jnp.float32(x)), exact, rtol=0, atol=2e-7)
    np.testing.assert_array_equal(arctangent(jnp.asarray(y), jnp.asarray(x)), jnp.arctan2(y, x))
    slopes = jax.vmap(jax.grad(arctangent, argnums=(0, 1)))(jnp.asarray(y[:200]), jnp.asarray(x[:200]))
    square = x[:200] ** 2 + y[:200] ** 2
    np.testing.assert_allclose(slopes[0], x[:200] / square, rtol=1e-12)
    np.testing.assert_allclose(slopes[1], -y[:200] / square, rtol=1e-12)
    zero = jnp.zeros(())
    assert jax.grad(arctangent, argnums=(0, 1))(zero, zero) == (0.0, 0.0)


def test_roots_of_single_precision(rng):
    x = np.concatenate([rng.uniform(0, 4, 4000), np.geomspace(1e-30, 1e30, 4000)]).astype(np.float32)
    exact = np.sqrt(x.astype(np.float64))
    for compiled in (False, True):
        root, inverse = (jax.jit(f)(x) if compiled else f(jnp.asarray(x)) for f in (square_root, inverse_root))
        np.testing.assert_allclose(root, exact, rtol=3e-7)
        np.testing.assert_allclose(inverse, 1 / exact, rtol=2.5e-7)
    np.testing.assert_array_equal(square_root(jnp.float32([0.0, -1e-7])), 0.0)
    assert square_root(jnp.float32(2.0)).dtype == jnp.float32
