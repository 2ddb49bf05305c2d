"""Confidence intervals and p-values, vectorised over repetitions.

Every judge and every test of a judge goes through these functions, so that what is tested on 10⁵ synthetic
repetitions is what decides a claim. A p-value is two-sided and refers to the hypothesis that the truth lies in the
region of agreement: it is at most α exactly when the 1−α interval lies wholly outside the region.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# SciPy's special functions, for `scipy.stats` takes as long to load as all the rest of a short command.
from scipy.special import betainc, betaincc, betaincinv, ndtr, ndtri, stdtr, stdtrit

# With 99 % a truth on the very edge of the margin is supported once in 200 runs and refuted as rarely.
CONFIDENCE = 0.99
ALPHA = 1.0 - CONFIDENCE


class Interval(NamedTuple):
    """Interval ends and the p-value of lying in the region of agreement."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    p_value: NDArray[np.float64]


def student(
    effect: ArrayLike,
    standard_error: ArrayLike,
    region_low: ArrayLike,
    region_high: ArrayLike,
    dof: ArrayLike = np.inf,
) -> Interval:
    """Student's t interval (normal for infinite `dof`); a standard error of 0 is an exact value."""
    effect, error, dof = (np.asarray(a, dtype=np.float64) for a in (effect, standard_error, dof))
    half_width = _quantile(dof) * error
    outside = np.maximum(np.asarray(region_low) - effect, effect - np.asarray(region_high))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, outside / error, np.where(outside > 0, np.inf, -np.inf))
    # A NaN must stay one: it becomes a `failed` verdict, never a silent p-value.
    t = np.where(np.isnan(effect) | np.isnan(error) | np.isnan(dof), np.nan, t)
    p_value = np.minimum(1.0, 2.0 * np.where(np.isinf(dof), ndtr(-t), stdtr(np.minimum(dof, 1e12), -t)))
    return Interval(effect - half_width, effect + half_width, p_value)


def clopper_pearson(successes: ArrayLike, trials: ArrayLike, region_low: ArrayLike, region_high: ArrayLike) -> Interval:
    """Exact interval of a binomial rate (Clopper & Pearson 1934)."""
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    p_high, p_low = np.clip(region_high, 0.0, 1.0), np.clip(region_low, 0.0, 1.0)
    with np.errstate(invalid="ignore"):
        low = np.where(k > 0, betaincinv(k, n - k + 1, ALPHA / 2), 0.0)
        high = np.where(k < n, betaincinv(k + 1, n - k, 1 - ALPHA / 2), 1.0)
        # P(K ≥ k) at the region's upper end and P(K ≤ k) at its lower one.
        above = np.where(k > 0, betainc(k, n - k + 1, p_high), 1.0)
        below = np.where(k < n, betaincc(k + 1, n - k, p_low), 1.0)
    return Interval(low, high, np.minimum(1.0, 2.0 * np.minimum(above, below)))


def dkw(distance: ArrayLike, sample_size: ArrayLike, margin: ArrayLike) -> Interval:
    """Interval of sup|F − F₀| around the empirical sup|F_n − F₀| (Dvoretzky–Kiefer–Wolfowitz, Massart 1990)."""
    d, n = np.asarray(distance, dtype=np.float64), np.asarray(sample_size, dtype=np.float64)
    half_width = np.sqrt(np.log(2.0 / ALPHA) / (2.0 * n))
    excess = np.maximum(d - np.asarray(margin), 0.0)
    return Interval(
        np.maximum(d - half_width, 0.0), d + half_width, np.minimum(1.0, 2.0 * np.exp(-2.0 * n * excess**2))
    )


def _quantile(dof: NDArray[np.float64]) -> NDArray[np.float64]:
    tail = ALPHA / 2
    return np.where(np.isinf(dof), -ndtri(tail), -stdtrit(np.minimum(dof, 1e12), tail))
