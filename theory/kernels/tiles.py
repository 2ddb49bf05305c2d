"""Kernels of many inputs in single precision, tile by tile: fast where angles are wide, in double precision elsewhere.

A tile stays in the cache, symmetric tiles are computed once, and nothing but the result is as large as the result. For
kinked activations layers pass on 1 − ρ, from which polynomials give what is needed, without a trigonometric function;
nor is there a root that would keep the compiler from making one loop of several layers.

A product of single-precision vectors resolves ρ to 10⁻⁷, and so an angle θ to 10⁻⁷/sin θ. Pairs of inputs with
|ρ| above `NEAR` are therefore taken out and computed from their inputs in double precision.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from theory.activations import PiecewiseLinear, activation
from theory.architecture import MLP
from theory.arctangent import horner, inverse_root, square_root
from theory.duals import closed_form
from theory.gaussian import derivative_second_moment, dual_at, dual_derivative_at, second_moment
from theory.kernels.zero_variance import slope_with_zeros

# Side of a tile: four of them fit into a core's second-level cache.
SIDE = 512
# Features in one product of single precision, and |ρ| of the inputs (and of what enters smooth units) from which on a
# pair is near. Below 0.93 a sum of 128 terms errs by 4e-7, one of 400 by 9e-7. Kinked activations make of it at most
# 1.4e-6 of the diagonal of Θ at any depth. Smooth ones round more in each layer: 128 terms and `DEEP` layers leave
# 1.6e-6, and 20 layers of erf (σ_w² = 1.5) would leave 3.5e-6, so that deeper networks go to double precision.
FEATURES = {"kinked": 400, "smooth": 128}
NEAR = 0.93
DEEP = 7
# √K(x, x) below which Θ/√(K(x, x) K(x', x')) may overflow.
LEAST = 1e-15
# Layers that are one loop over the entries of a tile.
UNROLL = 12
# Near pairs are computed so many at once; a tile with more than `MOST` of them goes to double precision as a whole.
PAIRS, MOST = 256, 4096

# arcsin(x)/x and (sin ψ − ψ cos ψ)/(2w)^(3/2), with x² = w/2 and w = 1 − cos ψ, as polynomials in w on [0, 1]:
# minimax, of errors 2e-8 and 7e-9, constant term first.
_ARC = (
    0.999999989,
    0.0833347734,
    0.0187202861,
    0.00581010618,
    0.00104571181,
    0.00236061731,
    -0.00140759714,
    0.000856827994,
)
_SEGMENT = (
    0.333333337,
    0.0166662928,
    0.00268443093,
    0.00058629218,
    0.000262429238,
    -6.22962329e-05,
    8.28981466e-05,
)

Exact = Callable[[Float[Array, "m d"], Float[Array, "n d"]], Float[Array, "m n"]]


class _Points(NamedTuple):
    """Inputs with what does not depend on their partner.

    `unit`: x/|x|. `start`: σ_w|x|/√d. `roots`: √K(x, x) before the first hidden layer and after each, layers first.
    """

    unit: Float[Array, "n d"]
    start: Float[Array, " n"]
    roots: Float[Array, "layers n"]

    def tile(self, start: Int[Array, ""], side: int) -> "_Points":
        """The points from `start` on."""
        parts = zip(self, (0, 0, 1), strict=True)
        return _Points(*(jax.lax.dynamic_slice_in_dim(part, start, side, axis) for part, axis in parts))


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
) -> tuple[_Points, Float[Array, " n"]]:
    """The inputs prepared, and the kernel of each with itself."""
    with jax.enable_x64(True):
        weight = jnp.asarray(architecture.weight_variance, jnp.float64)
        bias = jnp.asarray(architecture.bias_variance, jnp.float64)
        learned = 1.0 - bias if standard else 0.0
        activation = architecture.activation
        wide = x.astype(jnp.float64)
        square = jnp.mean(wide * wide, axis=1)

        def layer(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            variance, theta = carry
            after = weight * second_moment(activation, variance) + bias
            own = derivative_second_moment(activation, variance)
            slope = weight * slope_with_zeros(activation, variance, variance, own)
            return (after, after + learned + slope * theta), variance

        start = weight * square + bias
        (variance, theta), before = jax.lax.scan(layer, (start, start + learned), None, length=architecture.depth)
        variances = jnp.concatenate([before, variance[None]])
        norm = jnp.sqrt(jnp.where(square > 0, square, 1.0) * x.shape[1])
        unit = (wide / norm[:, None]).astype(jnp.float32)
        first = jnp.sqrt(weight * square).astype(jnp.float32)
        roots = jnp.sqrt(variances).astype(jnp.float32)
        diagonal = (theta if tangent else variance).astype(jnp.float32)
    return _Points(unit, first, roots), diagonal


def _tile(
    architecture: MLP,
    left: _Points,
    right: _Points,
    inputs: Callable[[], tuple[Float[Array, "m d"], Float[Array, "n d"]]],
    offset: Int[Array, ""],
    same: bool,
    exact: Exact,
    tangent: bool,
    standard: bool,
) -> Float[Array, "m n"]:
    """The kernel of one tile; `offset` is how many rows the right inputs start before the left ones."""
    kinked = isinstance(architecture.activation.function, PiecewiseLinear)
    if not kinked and architecture.depth > DEEP:
        return _wide(exact, *inputs())
    cosine = _product(left.unit, right.unit, FEATURES["kinked" if kinked else "smooth"])
    rows, columns = jnp.arange(cosine.shape[0])[:, None] + offset, jnp.arange(cosine.shape[1])[None]

    def is_near(left: _Points, right: _Points, cosine: Array) -> Bool[Array, "m n"]:
        near = jnp.abs(cosine) > NEAR
        if not kinked:
            # Behind a large bias pairs are near whatever their angle, and only 1 − ρ as a sum of its own would keep
            # digits.
            bias = jnp.asarray(architecture.bias_variance, jnp.float32)
            scale1, scale2 = _inverse(left.roots[0]), _inverse(right.roots[0])
            first = (left.start * scale1)[:, None] * (right.start * scale2)[None] * cosine
            near = near | (jnp.abs(first + bias * (scale1[:, None] * scale2[None])) > NEAR)
        elif standard:
            # Where nothing but learned biases is left, there is no √K(x, x) to divide by.
            gone1, gone2 = (jnp.min(points.roots, axis=0) < LEAST for points in (left, right))
            near = near | gone1[:, None] | gone2[None]
        # An input and itself are no pair: the diagonal is known.
        return near & (rows != columns) if same else near

    layers = _kinked if kinked else _smooth

    def fast(left: _Points, right: _Points, cosine: Array) -> Array:
        return layers(architecture, left, right, cosine, tangent, standard)

    def mixed(left: _Points, right: _Points, cosine: Array) -> Array:
        return _with_pairs(fast(left, right, cosine), is_near(left, right, cosine), *inputs(), exact)

    def wide(left: _Points, right: _Points, cosine: Array) -> Array:
        return _wide(exact, *inputs())

    # All layers inside a branch, which is given the tile's rows: outside, each entry would look them up in those of all
    # tiles, and loops over entries would not be vectorised. The inputs themselves are only cut out where they are
    # needed: as arguments they would be copied for each tile, which takes a tenth of the time.
    count = jnp.sum(is_near(left, right, cosine))
    case = (count > 0).astype(jnp.int32) + (count > MOST)
    return jax.lax.switch(case, (fast, mixed, wide), left, right, cosine)


def _product(left: Float[Array, "m d"], right: Float[Array, "n d"], features: int) -> Float[Array, "m n"]:
    """Inner products, as a sum of products of at most so many features."""
    d = left.shape[1]
    edges = np.linspace(0, d, -(-d // features) + 1).astype(int)
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


def _kinked(
    architecture: MLP, left: _Points, right: _Points, cosine: Float[Array, "m n"], tangent: bool, standard: bool
) -> Float[Array, "m n"]:
    """Piecewise linear activations, by 1 − ρ and 1 + ρ from layer to layer.

    With slopes α, β, g = σ_w²(α² + β²)/2 and η = (β − α)²/(α² + β²), a layer makes of cos θ = ρ

        J(ρ) = ρ + (η/π)(sin θ − θ cos θ),    a' = ga + σ_b²,    √(a'b') ρ' = g√(ab) J + σ_b².

    With u = √(ga/a') and v = σ_b/√a', where u² + v² = 1, that is ρ' = u₁u₂ J + v₁v₂, and

        1 − ρ' = u₁u₂(1 − J) + ½[(u₁ − u₂)² + (v₁ − v₂)²]

    is a sum of positive terms, all digits of which last as angles close with depth. 1 + ρ needs none: J ≥ ρ, so that
    it stays above 1 − `NEAR`. The tangent kernel is carried as Θ/√(ab).
    """
    slopes = architecture.activation.function
    assert isinstance(slopes, PiecewiseLinear)
    squares = slopes.negative**2 + slopes.positive**2
    difference = (slopes.positive - slopes.negative) ** 2
    eta = difference / squares if squares else 0.0
    weight = jnp.sqrt(jnp.asarray(architecture.weight_variance, jnp.float32))
    bias = jnp.sqrt(jnp.asarray(architecture.bias_variance, jnp.float32))

    def dense(fraction1: Array, fraction2: Array, root1: Array, root2: Array, minus: Array) -> Array:
        u1, u2 = fraction1[:, None], fraction2[None]
        v1, v2 = (bias * _inverse(root1))[:, None], (bias * _inverse(root2))[None]
        return u1 * u2 * minus + 0.5 * ((u1 - u2) ** 2 + (v1 - v2) ** 2)

    def counted(minus: Array, root1: Array, root2: Array) -> Array:
        """What a dense layer's own weights and biases contribute."""
        if not standard:
            return 1.0 - minus
        return (1.0 - minus) + (1.0 - bias * bias) * (_inverse(root1)[:, None] * _inverse(root2)[None])

    def layer(carry: tuple[Array, Array], roots: tuple[Array, Array, Array, Array]):
        minus, theta = carry
        root1, root2, next1, next2 = roots
        acute = minus < 1.0
        versine = jnp.where(acute, minus, 2.0 - minus)
        double = 2.0 * versine
        chord = square_root(double)
        psi = chord * horner(_ARC, versine)  # the acute one of θ and π − θ
        bend = (eta / math.pi) * (chord * double) * horner(_SEGMENT, versine)
        minus = jnp.where(acute, versine - bend, (2.0 - eta) + (eta - 1.0) * versine - bend)
        kept1, kept2 = weight * root1 * _inverse(next1), weight * root2 * _inverse(next2)
        half = math.sqrt(0.5 * squares)
        minus = dense(half * kept1, half * kept2, next1, next2, minus)
        if tangent:
            # E[φ'φ'] = [(α² + β²)(π − θ) + 2αβ θ]/2π.
            turned = difference / (2.0 * math.pi) * psi
            slope = jnp.where(acute, 0.5 * squares - turned, slopes.negative * slopes.positive + turned)
            theta = counted(minus, next1, next2) + slope * theta * (kept1[:, None] * kept2[None])
        return (minus, theta), None

    # The first dense layer: J = ρ and g = σ_w², with the inputs' own lengths in place of √a.
    first1, first2 = (p.start * _inverse(p.roots[0]) for p in (left, right))
    minus = dense(first1, first2, left.roots[0], right.roots[0], 1.0 - cosine)
    steps = left.roots[:-1], right.roots[:-1], left.roots[1:], right.roots[1:]
    start = minus, counted(minus, left.roots[0], right.roots[0])
    (minus, theta), _ = jax.lax.scan(layer, start, steps, unroll=min(max(architecture.depth, 1), UNROLL))
    return (theta if tangent else 1.0 - minus) * (left.roots[-1][:, None] * right.roots[-1][None])


def _inverse(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.where(x > 0, 1.0 / jnp.where(x > 0, x, 1.0), 0.0)


def _smooth(
    architecture: MLP, left: _Points, right: _Points, cosine: Float[Array, "m n"], tangent: bool, standard: bool
) -> Float[Array, "m n"]:
    """Any other activation with a dual in closed form, by its covariances."""
    function = architecture.activation
    weight = jnp.asarray(architecture.weight_variance, jnp.float32)
    bias = jnp.asarray(architecture.bias_variance, jnp.float32)
    learned = 1.0 - bias if standard else jnp.zeros_like(bias)
    duals = _DUALS.get(function.function)

    def layer(carry: tuple[Array, Array], roots: tuple[Array, Array]):
        covariance, theta = carry
        root1, root2 = roots
        rho = covariance * (_inverse(root1)[:, None] * _inverse(root2)[None])
        r = jnp.maximum((1.0 - rho) * (1.0 + rho), 0.0)
        a, b, c = (root1 * root1)[:, None], (root2 * root2)[None], covariance
        if duals is None:
            a, b = (jnp.broadcast_to(part, c.shape) for part in (a, b))
            dual, slope = dual_at(function, a, b, c, r), dual_derivative_at(function, a, b, c, r)
        else:
            dual, slope = duals(a, b, c, r)
        after = weight * dual + bias
        return (after, after + learned + weight * slope * theta if tangent else theta), None

    start = left.start[:, None] * right.start[None] * cosine + bias
    (covariance, theta), _ = jax.lax.scan(
        layer,
        (start, start + learned),
        (left.roots[:-1], right.roots[:-1]),
        unroll=min(max(architecture.depth, 1), UNROLL),
    )
    return theta if tangent else covariance


def _erf(a: Float[Array, "m 1"], b: Float[Array, "1 n"], c: Float[Array, "m n"], r: Float[Array, "m n"]):
    """E[φ(u)φ(v)] = (2/π) arcsin 2c/√((1+2a)(1+2b)) and E[φ'(u)φ'(v)] = 4/(π√D), D = (1+2a)(1+2b) − 4c²."""
    i, j = 1.0 + 2.0 * a, 1.0 + 2.0 * b
    determinant = 1.0 + 2.0 * (a + b) + 4.0 * a * b * r
    return (2.0 / math.pi) * _arcsine(2.0 * c, i, j, determinant), (4.0 / math.pi) * inverse_root(determinant)


def _gelu(a: Float[Array, "m 1"], b: Float[Array, "1 n"], c: Float[Array, "m n"], r: Float[Array, "m n"]):
    """The same two for GELU, as `theory.duals` has them, with D = (1+a)(1+b) − c²."""
    i, j = 1.0 + a, 1.0 + b
    minor = a * b * r
    determinant = 1.0 + a + b + minor
    y = inverse_root(determinant)
    density = (0.5 / math.pi) * y
    orthant = 0.25 + (0.5 / math.pi) * _arcsine(c, i, j, determinant)
    s = 1.0 / i + 1.0 / j
    dual = density * (minor + c * c * s) + c * orthant
    return dual, orthant + c * density * (2.0 * s + (c * c * s - 1.0 - a - b) * (y * y))


def _arcsine(
    c: Float[Array, "m n"], i: Float[Array, "m 1"], j: Float[Array, "1 n"], determinant: Float[Array, "m n"]
) -> Float[Array, "m n"]:
    """ψ = arcsin z, z = c/√(ij), where ij − c² = determinant; from the sine of ψ or of (π/2 − ψ)/2, the smaller one."""
    inverse = jax.lax.rsqrt(i) * jax.lax.rsqrt(j)
    z = jnp.abs(c) * inverse
    y = inverse_root(1.0 + z)
    versine = determinant * (inverse * inverse) * (y * y)  # (1 − z²)/(1 + z)
    low = z < math.sqrt(0.5)
    angle = jnp.where(low, z, square_root(2.0 * versine)) * horner(_ARC, jnp.where(low, 2.0 * z * z, versine))
    angle = jnp.where(low, angle, 0.5 * math.pi - angle)
    return jnp.where(c < 0, -angle, angle)


# Both duals at once, of pairs that are not near, from operations that the compiler makes one loop of.
_DUALS = {activation("erf").function: _erf, activation("gelu").function: _gelu}
