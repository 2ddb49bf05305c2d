r"""Exact moments of the empirical tangent kernel Θ(x, x) of a bias-free finite network at initialisation.

With L weight matrices in the NTK parametrisation, hidden widths n_1 … n_{L−1}, and |x|²/d = 1,

    Θ(x, x) = Σ_{ℓ=1}^{L} T_ℓ,    T_ℓ = (σ_w²/n_{ℓ−1}) |h_{ℓ−1}|² |∂f/∂z_ℓ|²,

the contribution of weight matrix ℓ. For linear units T_ℓ is a product of Gaussian matrices. For ReLU it is the same
with a fair coin at each unit: unit i is on or off whatever its size, and turning the signs of its incoming and outgoing
weights together makes the weights of the units that are on Gaussian again, so that the pattern of active units is
independent of everything else (Hanin & Nica 2020). A layer of n ReLU units is a linear layer of Binomial(n, ½) units.

Two routes, which share nothing:

* Second moments in closed form. Between weight matrices ℓ < m the two contributions run through the same product M
  of matrices, in opposite directions, and E T_ℓ T_m needs E (tr MMᵀ)². In the zonal polynomials of degree 2 each
  layer multiplies by a number: 1 + 5/n and 1 − 1/n (ReLU), 1 + 2/n and 1 − 1/n (linear), with weights ⅓ and ⅔.
* Moments up to the fourth by Wick's theorem: E ∏ T is a sum over chains π_1 … π_L of perfect matchings, one for each
  weight matrix, and a layer of n units between two matchings contributes n^(loops of both together).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

ACTIVATIONS = ("relu", "linear")

# n times (eigenvalue − 1) of a layer on the symmetric zonal polynomial C_(2) of degree 2; on C_(1,1) it is −1 for both.
_SYMMETRIC = {"relu": 5.0, "linear": 2.0}
# Highest moment by matchings: (2k − 1)!! of them, 105 for k = 4.
HIGHEST = 4
# Stirling numbers of the second kind: E K^c = Σ_j S(c, j) E K(K−1)…(K−j+1).
_STIRLING = ((1,), (0, 1), (0, 1, 1), (0, 1, 3, 1), (0, 1, 7, 6, 1))


def _check(activation: str, widths: Sequence[int]) -> tuple[int, ...]:
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}; only for these are forward and "
            "backward norms products of Gaussian matrices"
        )
    hidden = tuple(int(width) for width in widths)
    if any(width < 1 for width in hidden):
        raise ValueError(f"widths must be at least 1 unit each, got {tuple(widths)}")
    return hidden


def layer_second_moment(activation: str, widths: Sequence[int], first: int, second: int) -> float:
    r"""E T_ℓ T_m / (E T_ℓ E T_m) of the contributions of weight matrices ℓ and m to Θ(x, x), exactly.

    With c = 5 for ReLU and 2 for linear units, and the hidden layers j from min(ℓ, m) to max(ℓ, m) − 1 between them,

        ⅓ ∏_{all j} (1 + c/n_j) + ⅔ ∏_{j outside} (1 + c/n_j) ∏_{j between} (1 − 1/n_j).

    Outside, both contributions contain the same norm. Between, they contain |M g|² and |Mᵀ g'|² with independent
    Gaussian g, g', whose mean is (tr S)², S = MMᵀ. (tr S)² = C_(2)(S) + C_(1,1)(S), and a layer WSWᵀ of K columns
    multiplies these by K(K + 2) and K(K − 1) (Muirhead 1982, section 7.2).

    Args:
        activation: "relu" or "linear".
        widths: n_1, …, n_{L−1} of the hidden layers.
        first, second: ℓ and m, from 1 to L.

    Returns:
        The normalised moment; 1 without hidden layers.

    Raises:
        ValueError: another activation, a width below 1, or a matrix that is not there.

    Source: derived here.
    """
    hidden = _check(activation, widths)
    for name, matrix in (("first", first), ("second", second)):
        if not 1 <= matrix <= len(hidden) + 1:
            raise ValueError(f"{name} must be a weight matrix from 1 to {len(hidden) + 1}, got {matrix}")
    low, high = sorted((first, second))
    inverse = 1 / np.array(hidden, dtype=np.float64)
    symmetric, between = 1 + _SYMMETRIC[activation] * inverse, 1 - inverse[low - 1 : high - 1]
    outside = np.prod(symmetric[: low - 1]) * np.prod(symmetric[high - 1 :])
    return float(np.prod(symmetric) / 3 + 2 / 3 * outside * np.prod(between))


def ntk_second_moment(activation: str, widths: Sequence[int]) -> float:
    r"""E Θ² / (E Θ)² for Θ(x, x): the mean over ℓ, m of `layer_second_moment`, since all E T_ℓ are equal.

    For equal widths, with s = 1 + 5/n (ReLU) or 1 + 2/n (linear) and r = (1 − 1/n)/s,

        E Θ² / (E Θ)² = s^(L−1) [⅓ + ⅔ · mean_{ℓ,m} r^|ℓ−m|],

    which is 1 + 3/n (ReLU) and 1 + 1/n (linear) for L = 2, and, at fixed τ = L/n, tends to
    e^(5τ) [⅓ + ⅔ · 2(6τ − 1 + e^(−6τ))/(6τ)²] for ReLU as n grows. Hanin & Nica 2020, Theorem 1, has e^(5τ) up to
    unspecified constants; for deep networks the constant is ⅓.

    Args:
        activation: "relu" or "linear".
        widths: n_1, …, n_{L−1} of the hidden layers.

    Returns:
        The ratio, exact at every width and depth.

    Raises:
        ValueError: another activation, or a width below 1.

    Source: derived here; cf. Hanin & Nica 2020, Theorem 1.
    """
    matrices = range(1, len(widths) + 2)
    return float(np.mean([[layer_second_moment(activation, widths, i, j) for j in matrices] for i in matrices]))


def layer_moment(activation: str, widths: Sequence[int], matrices: Sequence[int]) -> float:
    """E ∏_i T_{ℓ_i} / ∏_i E T_{ℓ_i} of up to four contributions, by sums over matchings.

    Args:
        activation: "relu" or "linear".
        widths: n_1, …, n_{L−1} of the hidden layers.
        matrices: ℓ_1, …, ℓ_k from 1 to L, with k ≤ 4; repeated for powers.

    Returns:
        The normalised mixed moment, exact at every width.

    Raises:
        ValueError: another activation, a width below 1, more than four factors, or a matrix that is not there.

    Source: derived here (Wick's theorem).
    """
    hidden = _check(activation, widths)
    if any(not 1 <= matrix <= len(hidden) + 1 for matrix in matrices):
        raise ValueError(f"matrices must lie between 1 and {len(hidden) + 1}, got {tuple(matrices)}")
    return _chain(activation, hidden, len(matrices), tuple(int(matrix) for matrix in matrices))


def ntk_moment(activation: str, widths: Sequence[int], order: int) -> float:
    """E Θ^k / (E Θ)^k for k ≤ 4, by sums over matchings.

    Args:
        activation: "relu" or "linear".
        widths: n_1, …, n_{L−1} of the hidden layers.
        order: k from 0 to 4.

    Returns:
        The normalised moment, exact at every width.

    Raises:
        ValueError: another activation, a width below 1, or an order outside 0…4.

    Source: derived here (Wick's theorem).
    """
    hidden = _check(activation, widths)
    return _chain(activation, hidden, order, None) / (len(hidden) + 1) ** order


@dataclass(frozen=True)
class MomentPlan:
    """Exact sampling variance of a ratio of moments over members, relative to the ratio.

    Attributes:
        ratio: the exact ratio.
        variance: M · Var(estimate) / ratio², to leading order in 1/M for M members.
    """

    ratio: float
    variance: float

    def standard_error(self, members: int) -> float:
        """Standard error of the estimated ratio from this many independent members."""
        return self.ratio * float(np.sqrt(self.variance / members))


def ntk_plan(activation: str, widths: Sequence[int]) -> MomentPlan:
    """What the estimate mean Θ² / (mean Θ)² of `ntk_second_moment` has to reckon with.

    By the delta method M Var(R)/R² = Var(Θ²/m₂ − 2Θ) = m₄/m₂² − 4 m₃/m₂ + 4 m₂ − 1 in units of E Θ = 1.

    Raises:
        ValueError: another activation, or a width below 1.

    Source: derived here.
    """
    second, third, fourth = (ntk_moment(activation, widths, order) for order in (2, 3, 4))
    return MomentPlan(second, fourth / second**2 - 4 * third / second + 4 * second - 1)


def ends_plan(activation: str, widths: Sequence[int]) -> MomentPlan:
    """What the estimate mean(T_1 T_L) / (mean T_1 · mean T_L) has to reckon with, first and last weight matrix.

    By the delta method M Var(R)/R² = Var(T_1 T_L/m − T_1 − T_L) with m = E T_1 T_L, in units of E T = 1.

    Raises:
        ValueError: another activation, or a width below 1.

    Source: derived here.
    """
    last = len(widths) + 1
    m, m1l, mll, m11l, m1ll, m11ll = (
        layer_moment(activation, widths, matrices)
        for matrices in ((1, last), (1, 1), (last, last), (1, 1, last), (1, last, last), (1, 1, last, last))
    )
    return MomentPlan(m, m11ll / m**2 - 2 * (m11l + m1ll) / m + m1l + mll + 2 * m - 1)


@cache
def _matchings(pairs: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """All perfect matchings of 2k points; pair i of the contributions is (2i, 2i + 1)."""

    def complete(points: tuple[int, ...]):
        if not points:
            yield ()
            return
        head, *rest = points
        for partner in rest:
            for others in complete(tuple(p for p in rest if p != partner)):
                yield ((head, partner), *others)

    return tuple(complete(tuple(range(2 * pairs))))


@cache
def _loops(pairs: int) -> Int[np.ndarray, "matching matching"]:
    """Number of closed loops that each two matchings form together."""
    tables = []
    for matching in _matchings(pairs):
        partner = np.empty(2 * pairs, int)
        for a, b in matching:
            partner[a], partner[b] = b, a
        tables.append(partner)

    def count(first: np.ndarray, second: np.ndarray) -> int:
        seen, loops = set(), 0
        for start in range(2 * pairs):
            if start in seen:
                continue
            loops, point = loops + 1, start
            while point not in seen:
                seen.add(point)
                point = int(first[point])
                seen.add(point)
                point = int(second[point])
        return loops

    return np.array([[count(a, b) for b in tables] for a in tables])


def _powers(activation: str, width: int, order: int) -> Float[np.ndarray, " order"]:
    """E K^c for c = 0 … order over the normalisation (n/2)^order or n^order; K counts the units that are on."""
    on = 0.5 if activation == "relu" else 1.0
    if activation == "linear":
        return np.array([float(width) ** (c - order) for c in range(order + 1)])
    falling = np.cumprod([1.0, *(on * (width - j) for j in range(order))])
    moments = np.array([sum(s * falling[j] for j, s in enumerate(_STIRLING[c])) for c in range(order + 1)])
    return moments / (on * width) ** order


@lru_cache(maxsize=4096)
def _chain(activation: str, hidden: tuple[int, ...], order: int, matrices: tuple[int, ...] | None) -> float:
    """E ∏_i T_{ℓ_i} with fixed ℓ_i, or summed over all of them; in units of E T = 1.

    The state is (matching of the last weight matrix, set of contributions whose own matrix has been passed). At its own
    matrix a contribution has the norms of both sides in place of the weights: its pair is matched with itself.
    """
    if not 0 <= order <= HIGHEST:
        raise ValueError(f"order must be between 0 and {HIGHEST}, got {order}")
    matchings, sets = _matchings(order), 2**order
    own = np.array([sum(1 << a // 2 for a, b in matching if a % 2 == 0 and b == a + 1) for matching in matchings])
    state = np.zeros((len(matchings), sets))
    state[:, 0] = 1.0
    for matrix in range(1, len(hidden) + 2):
        if matrix > 1:
            state = _powers(activation, hidden[matrix - 2], order)[_loops(order)] @ state
        cut = np.zeros_like(state)
        for done in range(sets):
            for size in range(order + 1):
                for chosen in combinations([i for i in range(order) if not done >> i & 1], size):
                    if matrices is not None and set(chosen) != {i for i in range(order) if matrices[i] == matrix}:
                        continue
                    bits = sum(1 << i for i in chosen)
                    allowed = (own & bits) == bits
                    cut[allowed, done | bits] += state[allowed, done]
        state = cut
    return float(state[:, -1].sum())
