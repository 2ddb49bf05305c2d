r"""E φφ and E φ'φ' of one or two inputs, with their derivatives in the covariance and other such expectations.

Three routes to E ∂_e … ∂_f [φ(z_a) φ(z_b)], z ~ N(0, G), of up to the fourth order:

* Piecewise linear φ = mz + h|z|: closed forms, from E|z_a z_b| = (2/π)(D + c asin ρ), D² = ab − c².
* Smooth φ: quadrature of derivatives of φ up to the fifth, by automatic differentiation. Parallel inputs are fine.
* Any other, with kinks or jumps: quadrature with Hermite tensors in place of derivatives, which loses digits where
  inputs are nearly parallel (`theory.kernels.gaussian_tensors`).

φ counts as smooth where it obeys Stein's lemma E (z − μ) φ^(k) = q E φ^(k+1) in numbers, for k up to 4. A slope that is
too steep for the nodes fails as a kink does. Errors are a few roundings at variances up to 3; the fourth derivatives of
tanh have 1e-10 at 10, and 1e-6 at 30.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from math import comb
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.activations import Activation, PiecewiseLinear
from theory.kernels.gaussian_tensors import gaussian_rule, hermite_tensors, pairs, polar_rule

# E ∂_axes [φ^(i)(z_0) φ^(j)(z_−1)] as a function of i, j and the axes.
Derivative = Callable[[int, int, Sequence[int]], float]

ORDERS = 6


class PairMoments(NamedTuple):
    """Expectations at z ~ N(0, G) of one input, or of two, the first 0 and the last −1; g, h are entries of G.

    `v`, `v1`, `v2`: E φ_0 φ_−1 and its derivatives in G, [g] and [g, h]; `t`, `t1`, `t2`: the same of E φ'_0 φ'_−1.
    `bend` [e, f]: E ∂_e ∂_f (φ'_0 φ'_−1). `tilt` [2, e]: E ∂_e (φ_0 φ'_−1) and E ∂_e (φ_−1 φ'_0).
    """

    v: float
    v1: Float[np.ndarray, " g"]
    v2: Float[np.ndarray, "g g"]
    t: float
    t1: Float[np.ndarray, " g"]
    t2: Float[np.ndarray, "g g"]
    bend: Float[np.ndarray, "e e"]
    tilt: Float[np.ndarray, "2 e"]


@lru_cache(maxsize=64)
def in_double(activation: Activation, orders: int = 2) -> Callable[[np.ndarray], list[np.ndarray]]:
    """φ, φ', … of NumPy arrays, the first `orders` of them, in double precision whatever JAX's default is."""
    functions = [activation, activation.derivative]
    while len(functions) < orders:
        functions.append(_differentiated(functions[-1]))
    together = jax.jit(lambda z: [function(z) for function in functions])

    def evaluate(z: np.ndarray) -> list[np.ndarray]:
        with jax.enable_x64(True):
            return [np.asarray(value) for value in together(jnp.asarray(z, jnp.float64))]

    return evaluate


def _differentiated(function: Callable) -> Callable:
    return lambda z: jax.jvp(function, (z,), (jnp.ones_like(z),))[1]


def is_smooth(activation: Activation, variance: float) -> bool:
    """Whether φ and its first five derivatives obey Stein's lemma under N(μ, q), to nine digits."""
    rule = gaussian_rule(np.array([[variance]]))
    z, scale = rule.nodes[:, 0], np.sqrt(variance)
    # Off centre, lest kinks on either side of zero cancel.
    values = in_double(activation, ORDERS)(z + 0.37 * scale)
    for value, slope in pairwise(values):
        sides = np.array([np.sum(rule.weights * z * value), variance * np.sum(rule.weights * slope)])
        size = scale * np.sqrt(np.sum(rule.weights * (value**2 + variance * slope**2)))
        if not abs(sides[0] - sides[1]) <= 1e-9 * size:
            return False
    return True


def pair_moments(activation: Activation, covariance: Float[np.ndarray, "e e"], smooth: bool) -> PairMoments:
    """The expectations for one or two inputs, by the first of the three routes that is open.

    Args:
        activation: φ.
        covariance: G of one or two inputs with positive variances. Parallel ones are for smooth φ only.
        smooth: what `is_smooth` says.
    """
    if isinstance(activation.function, PiecewiseLinear):
        return _piecewise_linear(activation.function, covariance)
    return _assemble(
        _by_calculus(activation, covariance) if smooth else _by_hermite(activation, covariance), covariance
    )


def _assemble(derivative: Derivative, covariance: Float[np.ndarray, "e e"]) -> PairMoments:
    axes = range(len(covariance))
    # ∂/∂G_ab of E F is E ∂_a ∂_b F, halved for a = b.
    entries = [(ab, 0.5 if ab[0] == ab[1] else 1.0) for ab in pairs(len(covariance))]

    def expanded(i: int) -> tuple[float, np.ndarray, np.ndarray]:
        first = np.array([half * derivative(i, i, ab) for ab, half in entries])
        second = np.array([[h1 * h2 * derivative(i, i, (*ab, *cd)) for cd, h2 in entries] for ab, h1 in entries])
        return derivative(i, i, ()), first, second

    bend = np.array([[derivative(1, 1, (e, f)) for f in axes] for e in axes])
    tilt = np.array([[derivative(i, 1 - i, (e,)) for e in axes] for i in (0, 1)])
    return PairMoments(*expanded(0), *expanded(1), bend, tilt)


def _by_calculus(activation: Activation, covariance: Float[np.ndarray, "e e"]) -> Derivative:
    nodes, weights = polar_rule(covariance)
    d = in_double(activation, ORDERS)(nodes)

    def derivative(i: int, j: int, axes: Sequence[int]) -> float:
        count = Counter(axes)
        if len(covariance) == 2:
            return float(np.sum(weights * d[i + count[0]][:, 0] * d[j + count[1]][:, 1]))
        n = count[0]
        return float(sum(comb(n, k) * np.sum(weights * (d[i + k] * d[j + n - k])[:, 0]) for k in range(n + 1)))

    return derivative


def _by_hermite(activation: Activation, covariance: Float[np.ndarray, "e e"]) -> Derivative:
    nodes, weights = polar_rule(covariance)
    d = in_double(activation)(nodes)
    tensors = hermite_tensors(covariance, nodes)

    def derivative(i: int, j: int, axes: Sequence[int]) -> float:
        weighted = weights * tensors[len(axes)][tuple(axes)] if axes else weights
        return float(np.sum(weighted * d[i][:, 0] * d[j][:, -1]))

    return derivative


def _piecewise_linear(function: PiecewiseLinear, covariance: Float[np.ndarray, "e e"]) -> PairMoments:
    """Closed forms, with W = D + c asin ρ and A = asin ρ differentiated in (a, c, b)."""
    m, h = 0.5 * (function.positive + function.negative), 0.5 * (function.positive - function.negative)
    a, b, c = covariance[0, 0], covariance[-1, -1], covariance[0, -1]
    if len(covariance) == 1:
        square, zero = m * m + h * h, np.zeros(1)
        flat = zero[:, None]
        return PairMoments(square * a, zero + square, flat, square, zero, flat, flat, np.full((2, 1), square))
    if h == 0:
        nothing, mirror = np.zeros((3, 3)), np.eye(2)
        return PairMoments(
            m * m * c, np.array([0, m * m, 0]), nothing, m * m, np.zeros(3), nothing, np.zeros((2, 2)), m * m * mirror
        )
    d, angle = np.sqrt(a * b - c * c), np.arcsin(c / np.sqrt(a * b))
    w1 = np.array([d / (2 * a), angle, d / (2 * b)])
    w2 = np.array(
        [
            [b / (4 * a * d) - d / (2 * a * a), -c / (2 * a * d), 1 / (4 * d)],
            [-c / (2 * a * d), 1 / d, -c / (2 * b * d)],
            [1 / (4 * d), -c / (2 * b * d), a / (4 * b * d) - d / (2 * b * b)],
        ]
    )
    a1 = np.array([-c / (2 * a), 1, -c / (2 * b)]) / d
    a2 = (
        np.array(
            [
                [c * d * d / (2 * a * a) + c * b / (4 * a), -b / 2, c / 4],
                [-b / 2, c, -a / 2],
                [c / 4, -a / 2, c * d * d / (2 * b * b) + c * a / (4 * b)],
            ]
        )
        / d**3
    )
    k = 2 / np.pi * h * h
    slope = m * m + k * angle
    bend = k * np.array([[2 * a1[0], a1[1]], [a1[1], 2 * a1[2]]])
    # E ∂_0 (φ_0 φ'_1) is E φ'φ', and E φ_0 φ'_1' is from the kink, 2h E |hz_0| δ(z_1).
    tilt = np.array([[slope, k * d / b], [k * d / a, slope]])
    v1 = k * w1 + np.array([0, m * m, 0])
    return PairMoments(m * m * c + k * (d + c * angle), v1, k * w2, slope, k * a1, k * a2, bend, tilt)
