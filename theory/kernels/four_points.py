r"""Fourth moments of one unit at several inputs: E ∏ of φ or φ' at four inputs, z ~ N(0, K).

Three rules, for each set of distinct inputs among the four:

    activation                  distinct inputs   rule                                            relative error
    piecewise linear or sign    any               exact recursion (`theory.kernels.orthants`)     1e-11
    any other                   1 or 2            polar, in sectors between the lines z_a = 0     1e-12
    any other                   3, 4              iterated Gauss–Legendre, split at every z_a=0   1e-12, 1e-9

The errors are those of tanh, erf, GELU and the like at variances up to 3; at 10 they are 1e-9 with three inputs and
1e-7 with four. Functions that grow as e^|z| lose three digits in the tails at variance 1. Kinks or jumps elsewhere than
at zero leave two to four digits; so do kinks at zero where three inputs lie in a plane and φ is not piecewise linear.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement, permutations, product
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from theory.activations import Activation, PiecewiseLinear
from theory.kernels.gaussian_tensors import legendre, polar_rule, triangular_root
from theory.kernels.orthants import step_moment
from theory.kernels.pair_moments import in_double

# By the number of distinct inputs: nodes on either side of a kink, and where the line is cut, in standard deviations.
_NESTED = {1: (32, 8.5), 2: (32, 8.5), 3: (32, 8.5), 4: (24, 7.5)}


class FourPoints(NamedTuple):
    """Moments at inputs a, b, c, d, each of shape (N, N, N, N).

    `values`: E φ_a φ_b φ_c φ_d. `mixed`: E φ_a φ_b φ'_c φ'_d. `slopes`: E φ'_a φ'_b φ'_c φ'_d.
    """

    values: Float[np.ndarray, "a b c d"]
    mixed: Float[np.ndarray, "a b c d"]
    slopes: Float[np.ndarray, "a b c d"]


def four_points(activation: Activation, covariance: Float[np.ndarray, "n n"]) -> FourPoints:
    """All fourth moments of φ and φ' with an even number of either.

    Args:
        activation: φ; accuracy by its kind in the docstring of the module.
        covariance: K (N, N) of the pre-activations, with positive diagonal; singular is fine, parallel inputs only
            where φ is smooth. The cost grows as N⁴: a second for each four distinct inputs, where φ is not piecewise
            linear.

    Returns:
        The three tensors.
    """
    n = len(covariance)
    tensors = FourPoints(*(np.zeros((n,) * 4) for _ in range(3)))
    for quadruple in combinations_with_replacement(range(n), 4):
        points = sorted(set(quadruple))
        counts = tuple(quadruple.count(point) for point in points)
        table = _table(activation, covariance[np.ix_(points, points)], counts)
        for order in set(permutations(quadruple)):
            for tensor, primed in zip(tensors, (order[4:], order[2:], order), strict=True):
                tensor[order] = table[tuple(primed.count(point) for point in points)]
    return tensors


def _table(
    activation: Activation, covariance: Float[np.ndarray, "point point"], counts: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """E ∏_i φ_i^(k_i − j_i) φ'_i^(j_i) for multiplicities k_i, with an axis j_i = 0, …, k_i for each distinct input.

    Entries with an odd number of derivatives may be zero: nobody asks for them.
    """
    function = activation.function
    if isinstance(function, PiecewiseLinear) or function is jnp.sign:
        table = np.zeros([count + 1 for count in counts])
        for primes in product(*(range(count + 1) for count in counts)):
            if sum(primes) % 2 == 0:
                table[primes] = _step_entry(function, covariance, counts, primes)
        return table
    evaluate = in_double(activation)
    if len(counts) <= 2:
        nodes, weights = polar_rule(covariance)
        value, slope = evaluate(nodes)
        tables = [_powers(value[:, i], slope[:, i], count) for i, count in enumerate(counts)]
        return np.einsum("jz,z->j" if len(counts) == 1 else "jz,kz,z->jk", *tables, weights)
    return _nested(evaluate, triangular_root(covariance), counts)


def _step_entry(
    function: Callable, covariance: Float[np.ndarray, "point point"], counts: tuple[int, ...], primes: tuple[int, ...]
) -> float:
    if isinstance(function, PiecewiseLinear):
        # φ = z s(z) and φ' = s(z) with s constant on either side, and so are the powers of s.
        left, right = (tuple(side**k for k in counts) for side in (function.negative, function.positive))
        return step_moment(covariance, tuple(k - j for k, j in zip(counts, primes, strict=True)), left, right)
    if any(primes):
        return 0.0
    return step_moment(covariance, (0,) * len(counts), tuple((-1.0) ** k for k in counts), (1.0,) * len(counts))


def _powers(value: np.ndarray, slope: np.ndarray, count: int) -> np.ndarray:
    """φ^(k−j) φ'^j for j = 0, …, k, stacked in front."""
    return np.stack([value ** (count - j) * slope**j for j in range(count + 1)])


def _nested(
    evaluate: Callable[[np.ndarray], list[np.ndarray]], root: Float[np.ndarray, "point point"], counts: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """z_i = Σ_j T_ij u_j, integrated over the last u first."""
    order, reach = _NESTED[len(counts)]

    def given(level: int, known: Float[np.ndarray, "row later"]) -> Float[np.ndarray, "row entry"]:
        """Expectations over u_level, …, with the part of z_level, … that earlier u determine."""
        kink = -known[:, 0] / max(root[level, level], 1e-300)
        u, weights = _split(np.clip(kink, -reach, reach), order, reach)
        value, slope = evaluate(known[:, :1] + root[level, level] * u)
        own = _powers(value, slope, counts[level]) * weights
        if level == len(counts) - 1:
            return own.sum(axis=2).T
        later = known[:, None, 1:] + u[:, :, None] * root[level + 1 :, level]
        if level == 0 and len(counts) == 4:
            # One node of the first at a time: the others have 10⁵.
            inner = np.stack([given(1, row[None]) for row in later[0]], axis=1)
        else:
            inner = given(level + 1, later.reshape(-1, later.shape[2])).reshape(*u.shape, -1)
        return np.einsum("jru,rue->rje", own, inner).reshape(len(known), -1)

    return given(0, np.zeros((1, len(counts))))[0].reshape([count + 1 for count in counts])


def _split(
    kink: Float[np.ndarray, " row"], order: int, reach: float
) -> tuple[Float[np.ndarray, "row node"], Float[np.ndarray, "row node"]]:
    """Nodes and weights of N(0, 1) on (−reach, kink) and (kink, reach), for each row."""
    nodes, base = legendre(order)
    centre, half = 0.5 * np.stack([kink - reach, kink + reach]), 0.5 * np.stack([kink + reach, reach - kink])
    u = np.concatenate([c[:, None] + h[:, None] * nodes for c, h in zip(centre, half, strict=True)], axis=1)
    weights = np.concatenate([h[:, None] * base for h in half], axis=1)
    return u, weights * np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)
