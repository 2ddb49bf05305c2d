"""The relative entropy between two coins, and its inverses rounded outward.

Every tight bound on a risk goes through kl⁻¹, so an inverse that is one rounding error too small would
turn a theorem into an approximation. Here the upper inverse is never below the true one, and the
lower inverse never above it.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import rel_entr, xlog1py, xlogy

from theory.bounds.checks import Numbers, Reals, divergence, unit_interval

# Relative rounding error of `bernoulli_kl` is below 20 units in the last place; the inverses aim past their
# target by three times that, which moves them by 1e-14 of the distance to q.
_OUTWARD = 64 * np.finfo(np.float64).eps
# Newton's method from the outer side of a convex function is quadratic once near; most calls stop early.
_NEWTON_STEPS = 30
_POLISHING_STEPS = 6
# Below it the value of kl in `_newton` is lost to cancellation.
_TINY_BUDGET = 1e-10
# Temporaries of this many numbers stay in the cache, and each block stops when its own numbers have converged.
_BLOCK = 8192
# 2 r³ (1/3 + r²/5 + …) at |r| ≤ 1/4: the first term left out is below 1e-17 of the sum.
_SERIES = np.array([1.0 / (2 * k + 3) for k in range(14)])


def bernoulli_kl(q: Numbers, p: Numbers) -> Float[np.ndarray, "..."]:
    """kl(q‖p) = q ln(q/p) + (1−q) ln((1−q)/(1−p)), in nats.

    Evaluated as q h((p−q)/q) + (1−q) h((q−p)/(1−q)) with h(x) = x − ln(1+x) ≥ 0: the terms linear in p−q
    cancel exactly on paper, and their rounding errors would drown kl ≈ (p−q)²/(2p(1−p)) where p ≈ q.

    Args:
        q: probabilities in [0, 1], broadcast against p.
        p: probabilities in [0, 1].

    Returns:
        kl(q‖p) ≥ 0, accurate to some 1e-15 of its value; infinite where p is 0 or 1 and q is not.

    Raises:
        ValueError: a probability outside [0, 1].

    Source: Langford 2005, section 3 (relative entropy Chernoff bound).
    """
    return np.asarray(_bernoulli_kl(unit_interval("q", q), unit_interval("p", p)))


def kl_inverse_upper(q: Numbers, budget: Numbers) -> Float[np.ndarray, "..."]:
    """kl⁻¹(q, c) = sup{p ∈ [q, 1] : kl(q‖p) ≤ c}, rounded up.

    Args:
        q: empirical probabilities in [0, 1], broadcast against the budget.
        budget: c ≥ 0 in nats; infinity gives 1.

    Returns:
        p at or above the true inverse, by at most 1e-12 of p−q and two floats for c > 1e-9.

    Raises:
        ValueError: q outside [0, 1] or a negative budget.

    Source: Langford 2005, section 3; Maurer 2004, Theorem 5 is inverted with it.
    """
    return _in_blocks(_upper, unit_interval("q", q), divergence("budget", budget))


def _upper(q: np.ndarray, budget: np.ndarray) -> np.ndarray:
    top = np.nextafter(1.0, 0.0)
    with np.errstate(all="ignore"):
        # 1−p = e^{−t}; the first start drops q ln(1/p) ≥ 0 from kl.
        start = np.minimum((budget + _entropy(q)) / (1 - q), -np.log1p(-_quadratic_start(q, budget)))
        p = -np.expm1(-_newton(1 - q, q, -np.log1p(-q), budget, start))
        inner = q + _chi_square_distance(q, 1 - q, budget)
        p = np.where(budget < _TINY_BUDGET, inner, np.maximum(p, inner))
        p = np.minimum(np.nextafter(_polish(q, p, budget, np.nextafter(q, 2), top), 2), 1.0)
    # Past this budget the root is nearer to 1 than any float below it.
    p = np.where((budget >= _bernoulli_kl(q, np.asarray(top))) | (q == 1), 1.0, p)
    return np.where(budget == 0, q, p)


def kl_inverse_lower(q: Numbers, budget: Numbers) -> Float[np.ndarray, "..."]:
    """inf{p ∈ [0, q] : kl(q‖p) ≤ c}, rounded down; accurate relative to p, so that tiny values count.

    Args:
        q: empirical probabilities in [0, 1], broadcast against the budget.
        budget: c ≥ 0 in nats; infinity gives 0.

    Returns:
        p at or below the true inverse, by as little (where q < 1e-8 and c is far above q, by more).

    Raises:
        ValueError: q outside [0, 1] or a negative budget.

    Source: Langford 2005, section 3.
    """
    return _in_blocks(_lower, unit_interval("q", q), divergence("budget", budget))


def _lower(q: np.ndarray, budget: np.ndarray) -> np.ndarray:
    bottom = np.finfo(np.float64).tiny
    with np.errstate(all="ignore"):
        # p = e^{−t}: the mirror image of the upper inverse, without forming 1−q of a small q.
        start = np.minimum((budget + _entropy(q)) / q, -np.log1p(-_quadratic_start(1 - q, budget)))
        p = np.exp(-_newton(q, 1 - q, -np.log(q), budget, np.maximum(start, -np.log(q))))
        inner = q - _chi_square_distance(1 - q, q, budget)
        p = np.where(budget < _TINY_BUDGET, inner, np.minimum(p, inner))
        p = np.maximum(np.nextafter(_polish(q, p, budget, bottom, np.nextafter(q, -1)), -1), 0.0)
    p = np.where((budget >= _bernoulli_kl(q, np.asarray(bottom))) | (q <= bottom), 0.0, p)
    return np.where(budget == 0, q, p)


def _in_blocks(invert: Callable[[np.ndarray, np.ndarray], np.ndarray], q: np.ndarray, budget: np.ndarray) -> np.ndarray:
    q, budget = np.broadcast_arrays(q, budget)
    flat_q, flat_budget, result = q.reshape(-1), budget.reshape(-1), np.empty(q.size)
    for start in range(0, q.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        result[block] = invert(flat_q[block], flat_budget[block])
    return result.reshape(q.shape)


def _entropy(q: np.ndarray) -> np.ndarray:
    return -xlogy(q, q) - xlog1py(1 - q, -q)


def _chi_square_distance(q: np.ndarray, complement: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """The d with d²/((q+d)(1−q−d)) = c: kl ≤ χ², so p = q+d is at or inside the inverse, by at most √2."""
    tilt = budget * (complement - q)
    return (tilt + np.sqrt(tilt**2 + 4 * (1 + budget) * budget * q * complement)) / (2 * (1 + budget))


def _polish(q: np.ndarray, p: np.ndarray, budget: np.ndarray, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Newton's method in p with the accurate kl: by convexity a step from either side ends outside the root."""
    target = budget * (1 + _OUTWARD)
    for _ in range(_POLISHING_STEPS):
        p = np.clip(p, low, high)
        step = (target - _bernoulli_kl(q, p)) * p * (1 - p) / (p - q)
        p = p + step
        if not np.any(np.abs(step) > 1e-9 * np.abs(p - q)):
            break
    return np.clip(p, low, high)


def _quadratic_start(q: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """The p with (p−q)²/2p = c, at or above the inverse, capped at 1."""
    return np.minimum(q + budget + np.sqrt(budget * (budget + 2 * q)), 1.0)


def _newton(
    falling: np.ndarray, rising: np.ndarray, minimum: np.ndarray, budget: np.ndarray, t: np.ndarray
) -> np.ndarray:
    """Largest root of a ln(a/e^{−t}) + b ln(b/(1−e^{−t})) = c for a = `falling`, b = `rising`.

    The left side is convex in t with its minimum 0 at t = −ln a and slope a at infinity, so Newton's method
    from above falls monotonically onto the root, fast in the far tail where p itself would creep.
    """
    t = np.where(np.isfinite(t), t, minimum + 1.0)
    for _ in range(_NEWTON_STEPS):
        small = np.exp(-t)
        large = -np.expm1(-t)
        value = rel_entr(falling, small) + rel_entr(rising, large) - budget
        slope = falling - rising * small / large
        step = np.where(slope > 0, value / slope, 0.0)
        t = np.maximum(t - np.where(np.isfinite(step), step, 0.0), minimum)
        if not np.any(np.abs(step) > 1e-6 * (t - minimum)):
            break
    return t


def _bernoulli_kl(q: Reals, p: Reals) -> Reals:
    difference = p - q
    return _term(q, p, difference) + _term(1 - q, 1 - p, -difference)


def _term(a: Reals, b: Reals, difference: Reals) -> Reals:
    """a h((b−a)/a) for h(x) = x − ln(1+x), with the difference b−a given to full relative accuracy."""
    with np.errstate(all="ignore"):
        x = difference / a
        r = difference / (a + b)  # x/(2+x), and ln(1+x) = 2 artanh r, x − 2r = r x
        near = np.abs(r) <= 0.25
        square = np.where(near, r * r, 0.0)
        series = np.polynomial.polynomial.polyval(square, _SERIES)
        close = a * r * (x - 2 * r * r * series)
        return np.where(near & (a > 0), close, np.maximum(difference + rel_entr(a, b), 0.0))
