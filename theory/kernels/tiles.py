"""Kernels of many inputs in single precision, tile by tile: fast where angles are wide, in double precision elsewhere.

A tile stays in the cache, symmetric tiles are computed once, and nothing but the result is as large as the result. What
layers make of a tile is in `theory.kernels.tile_layers`.

A product of single-precision vectors resolves ρ to 10⁻⁷, and so an angle θ to 10⁻⁷/sin θ. Pairs of inputs with
|ρ| above `NEAR` are therefore taken out and computed from their inputs in double precision.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from theory.activations import PiecewiseLinear, activation
from theory.architecture import MLP
from theory.determinant import safe_inverse
from theory.duals import closed_form
from theory.gaussian import derivative_second_moment, second_moment
from theory.kernels.tile_layers import Points, kinked_layers, smooth_layers
from theory.kernels.zero_variance import slope_with_zeros

# Side of a tile: four of them fit into a core's second-level cache.
SIDE = 512
# Features up to which they stay as they are. More are turned before anything is rounded to single precision, so that
# each carries its share. Sums of inputs like ±1, all of whose terms are alike, would round in one direction, by 4e-6 in
# 400 terms; and where one feature outweighs all behind it, they round at its size.
FEW = 16
# |ρ| of the inputs (and of what enters smooth units) from which on a pair is near.
NEAR = 0.93
# Inner products of d features are sums of p products of single precision, which err by about 4e-8 √d/p where ρ is just
# below `NEAR`. Largest √d/p, so that together with the rounding of the layers the kernel errs by at most 1.6e-6 of its
# diagonal: for kinked activations, for smooth ones, and for those whose first `SHALLOW` layers make less of an error.
# Smooth networks of more than `DEEP` layers go to double precision.
KINKED, SMOOTH = 10.0, 4.0
MILD = {activation("erf").function: 6.0, activation("gelu").function: 10.0}
SHALLOW, DEEP = 3, 5
# Smooth activations that single precision serves. Duals that grow as exponentials or as high powers go to double.
SINGLE = tuple(activation(name).function for name in ("erf", "gelu", "sin", "cos", "sign"))
# σ_b² in standard parametrisation from which on K − σ_b² + 1 loses digits.
LARGE = 100.0
# √K(x, x) between which squares of covariances, and Θ/√(K(x, x) K(x', x')), stay within single precision.
LEAST, LARGEST = 1e-15, 1e8
# Near pairs are computed so many at once; a tile with more than `MOST` of them goes to double precision as a whole.
PAIRS, MOST = 256, 4096

Exact = Callable[[Float[Array, "m d"], Float[Array, "n d"]], Float[Array, "m n"]]


def is_tiled(architecture: MLP, x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"] | None) -> bool:
    """Whether `tiled` serves: single precision, many pairs, and a dual activation in closed form."""
    pairs = x1.shape[0] * (x1 if x2 is None else x2).shape[0]
    return x1.dtype == jnp.float32 and pairs >= SIDE**2 and closed_form(architecture.activation.function) is not None


def tiled(
    architecture: MLP,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"] | None,
    exact: Exact,
    *,
    tangent: bool,
    standard: bool = False,
) -> Float[Array, "n1 n2"]:
    """The NNGP kernel, or the tangent kernel where `tangent`, in single precision.

    Args:
        architecture: of an activation with a dual in closed form.
        x1: inputs, float32.
        x2: inputs, float32; by default x1 again, then the diagonal is exact and the result symmetric.
        exact: the same kernel of any two sets of inputs in float64.
        tangent: which kernel.
        standard: whether biases count 1 in the tangent kernel, in place of σ_b².
    """
    n1, n2 = x1.shape[0], (x1 if x2 is None else x2).shape[0]
    first, diagonal = _points(architecture, x1, tangent, standard)
    second = first if x2 is None else _points(architecture, x2, tangent, standard)[0]
    side1, side2 = min(SIDE, n1), min(SIDE, n2)

    def tile(step: Int[Array, ""]) -> Float[Array, "m n"]:
        i, j = places[step, 0], places[step, 1]

        def inputs() -> tuple[Float[Array, "m d"], Float[Array, "n d"]]:
            own = jax.lax.dynamic_slice_in_dim(x1, i, side1)
            return own, jax.lax.dynamic_slice_in_dim(x1 if x2 is None else x2, j, side2)

        left, right = first.tile(i, side1), second.tile(j, side2)
        return _tile(architecture, left, right, inputs, i - j, x2 is None, exact, tangent, standard)

    def write(out: Float[Array, "n1 n2"], block: Float[Array, "m n"], step: Int[Array, ""]) -> Float[Array, "n1 n2"]:
        i, j = places[step, 0], places[step, 1]
        if x2 is None:
            out = jax.lax.dynamic_update_slice(out, block.T, (j, i))
        return jax.lax.dynamic_update_slice(out, block, (i, j))

    def body(step: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        """The tile before is written, by one thread, while the others compute this one."""
        out, before = carry
        return write(out, before, jnp.maximum(step - 1, 0)), tile(step)

    def on_diagonal(step: Int[Array, ""], out: Float[Array, "n1 n1"]) -> Float[Array, "n1 n1"]:
        """A tile whose rounding depends on the order of the arguments, made symmetric and exact on the diagonal."""
        i = starts[step]
        block = jax.lax.dynamic_slice(out, (i, i), (side1, side1))
        own = jax.lax.dynamic_slice_in_dim(diagonal, i, side1)
        block = jnp.where(jnp.eye(side1, dtype=bool), own[:, None], 0.5 * (block + block.T))
        return jax.lax.dynamic_update_slice(out, block, (i, i))

    # The last tile of a row reaches back over its neighbour, so that all are of one size.
    starts1, starts2 = (np.minimum(np.arange(0, n, side), n - side) for n, side in ((n1, side1), (n2, side2)))
    grid = [(i, j) for i in starts1 for j in starts2 if x2 is not None or i <= j]
    places, starts = jnp.asarray(np.array(grid, np.int32)), jnp.asarray(starts1, jnp.int32)
    nothing = jnp.zeros((n1, n2), jnp.float32), jnp.zeros((side1, side2), jnp.float32)
    out, last = jax.lax.fori_loop(0, len(grid), body, nothing)
    out = write(out, last, jnp.int32(len(grid) - 1))
    return jax.lax.fori_loop(0, len(starts1), on_diagonal, out) if x2 is None else out


def _points(
    architecture: MLP, x: Float[Array, "n d"], tangent: bool, standard: bool
) -> tuple[Points, Float[Array, " n"]]:
    """The inputs prepared, and the kernel of each with itself."""
    with jax.enable_x64(True):
        weight = jnp.asarray(architecture.weight_variance, jnp.float64)
        bias = jnp.asarray(architecture.bias_variance, jnp.float64)
        learned = 1.0 - bias if standard else 0.0
        activation = architecture.activation
        # Some rows at a time: twice as wide as the inputs, all of them would wait for memory.
        unit, square = jax.lax.map(_unit, x, batch_size=SIDE)

        def layer(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            variance, theta = carry
            after = weight * second_moment(activation, variance) + bias
            own = derivative_second_moment(activation, variance)
            slope = weight * slope_with_zeros(activation, variance, variance, own)
            return (after, after + learned + slope * theta), variance

        start = weight * square + bias
        (variance, theta), before = jax.lax.scan(layer, (start, start + learned), None, length=architecture.depth)
        variances = jnp.concatenate([before, variance[None]])
        first = jnp.sqrt(weight * square).astype(jnp.float32)
        roots = jnp.sqrt(variances).astype(jnp.float32)
        diagonal = (theta if tangent else variance).astype(jnp.float32)
    return Points(unit, first, roots), diagonal


def _unit(row: Float[Array, " d"]) -> tuple[Float[Array, " e"], Float[Array, ""]]:
    """x/|x|, its features mixed and rounded, and the mean of the squares of x."""
    wide = row.astype(jnp.float64)
    square = jnp.mean(wide * wide)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0) * row.shape[0])
    return _mixed(wide / norm).astype(jnp.float32), square


def _mixed(row: Float[Array, " d"]) -> Float[Array, " e"]:
    """A randomised Hartley transform of the features as a rectangle, filled with zeros; few features as they are.

    It spreads a single feature evenly, and random signs before it do so with features that are alike.
    """
    d = row.shape[0]
    if d <= FEW:
        return row
    height = math.isqrt(d - 1) + 1
    width = -(-d // height)
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], d), row.dtype)
    rectangle = jnp.pad(signs * row, (0, height * width - d)).reshape(height, width)
    left, right = (jnp.asarray(_hartley(side), row.dtype) for side in (height, width))
    return (left @ (rectangle @ right)).ravel()


def _hartley(side: int) -> Float[np.ndarray, "side side"]:
    phase = 2.0 * math.pi / side * np.outer(np.arange(side), np.arange(side))
    return (np.cos(phase) + np.sin(phase)) / math.sqrt(side)


def _tile(
    architecture: MLP,
    left: Points,
    right: Points,
    inputs: Callable[[], tuple[Float[Array, "m d"], Float[Array, "n d"]]],
    offset: Int[Array, ""],
    same: bool,
    exact: Exact,
    tangent: bool,
    standard: bool,
) -> Float[Array, "m n"]:
    """The kernel of one tile; `offset` is how many rows the right inputs start before the left ones."""
    kinked = isinstance(architecture.activation.function, PiecewiseLinear)
    if not kinked and (architecture.depth > DEEP or architecture.activation.function not in SINGLE):
        return _wide(exact, *inputs())
    cosine = _product(left.unit, right.unit, products(architecture, left.unit.shape[1]))
    rows, columns = jnp.arange(cosine.shape[0])[:, None] + offset, jnp.arange(cosine.shape[1])[None]

    bias = jnp.asarray(architecture.bias_variance, jnp.float32)

    def is_near(left: Points, right: Points, cosine: Array) -> Bool[Array, "m n"]:
        near = jnp.abs(cosine) > NEAR
        if not kinked:
            # Behind a large bias pairs are near whatever their angle, and only 1 − ρ as a sum of its own would keep
            # digits.
            scale1, scale2 = safe_inverse(left.roots[0]), safe_inverse(right.roots[0])
            first = (left.start * scale1)[:, None] * (right.start * scale2)[None] * cosine
            near = near | (jnp.abs(first + bias * (scale1[:, None] * scale2[None])) > NEAR)
            beyond1, beyond2 = (jnp.any(_beyond(points.roots), axis=0) for points in (left, right))
            near = near | beyond1[:, None] | beyond2[None]
        if standard:
            # Where nothing but learned biases is left, there is no √K(x, x) to divide by.
            gone1, gone2 = (jnp.min(points.roots, axis=0) < LEAST for points in (left, right))
            near = near | gone1[:, None] | gone2[None] | (bias > LARGE)
        # An input and itself are no pair: the diagonal is known.
        return near & (rows != columns) if same else near

    layers = kinked_layers if kinked else smooth_layers

    def fast(left: Points, right: Points, cosine: Array) -> Array:
        return layers(architecture, left, right, cosine, tangent, standard)

    def mixed(left: Points, right: Points, cosine: Array) -> Array:
        return _with_pairs(fast(left, right, cosine), is_near(left, right, cosine), *inputs(), exact)

    def wide(left: Points, right: Points, cosine: Array) -> Array:
        return _wide(exact, *inputs())

    # All layers inside a branch, which is given the tile's rows: outside, each entry would look them up in those of all
    # tiles, and loops over entries would not be vectorised. The inputs themselves are only cut out where they are
    # needed: as arguments they would be copied for each tile, which takes a tenth of the time.
    count = jnp.sum(is_near(left, right, cosine))
    case = (count > 0).astype(jnp.int32) + (count > MOST)
    return jax.lax.switch(case, (fast, mixed, wide), left, right, cosine)


def _beyond(roots: Float[Array, "layers n"]) -> Bool[Array, "layers n"]:
    """Where √K(x, x) leaves what single precision can square. 0 is no harm."""
    return (roots > LARGEST) | ((roots < LEAST) & (roots > 0))


def products(architecture: MLP, d: int) -> int:
    """How many products an inner product of d features is the sum of."""
    function = architecture.activation.function
    spread = MILD.get(function, SMOOTH) if architecture.depth <= SHALLOW else SMOOTH
    if isinstance(function, PiecewiseLinear):
        spread = KINKED
    return math.ceil(math.sqrt(d) / spread)


def _product(left: Float[Array, "m d"], right: Float[Array, "n d"], products: int) -> Float[Array, "m n"]:
    """Inner products, as a sum of so many products of fewer features."""
    edges = np.linspace(0, left.shape[1], products + 1).astype(int)
    parts = (
        jnp.matmul(left[:, a:b], right[:, a:b].T, precision=jax.lax.Precision.HIGHEST)
        for a, b in itertools.pairwise(edges)
    )
    return functools.reduce(operator.add, parts)


def _wide(exact: Exact, x1: Float[Array, "m d"], x2: Float[Array, "n d"]) -> Float[Array, "m n"]:
    with jax.enable_x64(True):
        return exact(x1.astype(jnp.float64), x2.astype(jnp.float64)).astype(jnp.float32)


def _with_pairs(
    block: Float[Array, "m n"], near: Bool[Array, "m n"], x1: Float[Array, "m d"], x2: Float[Array, "n d"], exact: Exact
) -> Float[Array, "m n"]:
    """The tile with its near pairs, at most `MOST` of them, computed in double precision."""
    m, n = block.shape
    places = jnp.nonzero(near.ravel(), size=MOST, fill_value=m * n)[0].astype(jnp.int32)

    def pairs(chunk: Int[Array, ""], flat: Float[Array, " mn"]) -> Float[Array, " mn"]:
        at = jax.lax.dynamic_slice_in_dim(places, chunk * PAIRS, PAIRS)
        rows, columns = jnp.minimum(at // n, m - 1), at % n
        with jax.enable_x64(True):
            pair = jax.vmap(lambda a, b: exact(a[None], b[None])[0, 0])
            values = pair(x1[rows].astype(jnp.float64), x2[columns].astype(jnp.float64)).astype(jnp.float32)
        return flat.at[at].set(values, mode="drop")

    chunks = -(-jnp.sum(near, dtype=jnp.int32) // PAIRS)
    return jax.lax.fori_loop(0, chunks, pairs, block.ravel()).reshape(m, n)
