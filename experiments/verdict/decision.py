"""From comparisons to a verdict.

Supported: every interval inside its region. That is an intersection–union test, so it needs no correction for the
number of comparisons. Refuted: some interval wholly outside, with Holm's correction (for the question whether *any*
comparison is outside, Holm's procedure is its first step: the smallest p-value against α over their number).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from experiments.verdict.intervals import ALPHA, CONFIDENCE
from experiments.verdict.status import Comparison, Status, Verdict, failed

CODES = (Status.SUPPORTED, Status.REFUTED, Status.INCONCLUSIVE, Status.FAILED)


def combine(
    low: ArrayLike, high: ArrayLike, p_value: ArrayLike, region_low: ArrayLike, region_high: ArrayLike
) -> NDArray[np.int64]:
    """Decides many claims at once.

    Args:
        low, high, p_value: `[..., m]`, one row of m comparisons a claim.
        region_low, region_high: the regions of agreement, broadcast against them.

    Returns:
        Indices into `CODES`, `[...]`.
    """
    low, high, p_value = (np.asarray(a, dtype=np.float64) for a in (low, high, p_value))
    inside = np.all((np.asarray(region_low) <= low) & (high <= np.asarray(region_high)), axis=-1)
    outside = np.min(p_value, axis=-1) * p_value.shape[-1] <= ALPHA
    # An overflow refutes nothing and supports nothing, just as a NaN does.
    broken = np.any(~np.isfinite(low) | ~np.isfinite(high) | np.isnan(p_value), axis=-1)
    return np.where(broken, 3, np.where(inside, 0, np.where(outside, 1, 2)))


def decide(comparisons: Sequence[Comparison], *, margin_source: str, reason: str = "") -> Verdict:
    """The verdict on a claim from all its comparisons.

    Args:
        comparisons: at least one.
        margin_source: where the margins come from, in one sentence.
        reason: what the reader should know beside the numbers.

    Raises:
        ValueError: there is nothing to decide on.
    """
    comparisons = tuple(comparisons)
    if not comparisons:
        raise ValueError("comparisons is empty: a verdict needs at least one comparison")
    rows = np.array([(c.low, c.high, c.p_value, c.region_low, c.region_high) for c in comparisons]).T
    status = CODES[int(combine(*rows))]
    if status is Status.FAILED:
        broken = next(c for c in comparisons if not math.isfinite(c.low + c.high + c.p_value))
        return failed(f"the comparison '{broken.label}' is not a finite number")
    clearances = [_clearance(c, status, len(comparisons)) for c in comparisons]
    # Support ends with the weakest comparison, refutation only with the strongest.
    pick = np.argmax if status is Status.REFUTED else np.argmin
    decisive = int(pick(clearances))
    return Verdict(status, comparisons, float(clearances[decisive]), decisive, margin_source, reason)


def _clearance(c: Comparison, status: Status, count: int) -> float:
    """Standard errors by which this comparison may move before the verdict does; negative: not past the edge."""
    if status is Status.REFUTED:
        # The interval that Holm's first step looks at is wider than the one shown.
        widening = ndtri(ALPHA / 2) - ndtri(ALPHA / (2 * count)) if count > 1 else 0.0
        return float(c.in_standard_errors(max(c.region_low - c.high, c.low - c.region_high)) - widening)
    to_support = c.in_standard_errors(min(c.low - c.region_low, c.region_high - c.high))
    if status is Status.SUPPORTED or to_support >= 0:
        return to_support
    to_refute = c.in_standard_errors(max(c.region_low - c.high, c.low - c.region_high))
    return max(to_support, to_refute)


__all__ = ["ALPHA", "CODES", "CONFIDENCE", "combine", "decide"]
