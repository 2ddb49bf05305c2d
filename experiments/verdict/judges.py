"""The judges: each turns estimates into comparisons with a region of agreement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.verdict.intervals import Interval, clopper_pearson, dkw, student
from experiments.verdict.status import Comparison

Label = str | Sequence[str]


def equivalence(
    label: Label,
    estimate: ArrayLike,
    prediction: ArrayLike,
    margin: ArrayLike,
    *,
    standard_error: ArrayLike,
    sample_size: ArrayLike,
    dof: ArrayLike = np.inf,
) -> list[Comparison]:
    """Theory and measurement agree within a margin: |estimate − prediction| < margin.

    Two one-sided tests (Schuirmann 1987), in the form of an interval inside the margin.

    Args:
        label: one name, or one for each element; a single name for several elements gets their index.
        estimate, prediction, margin, standard_error, sample_size: broadcast against each other.
        dof: degrees of freedom behind the standard error; infinite for a normal interval.

    Raises:
        ValueError: a margin is not positive, or a standard error is negative.
    """
    margin = _positive("margin", margin)
    deviation = np.asarray(estimate, dtype=np.float64) - np.asarray(prediction, dtype=np.float64)
    error = _error(standard_error, sample_size)
    return _compare(
        label,
        prediction,
        deviation,
        student(deviation, error, -margin, margin, dof),
        -margin,
        margin,
        error,
        sample_size,
    )


def identity(label: Label, value: ArrayLike, exact: ArrayLike, *, tolerance: ArrayLike) -> list[Comparison]:
    """Two computations of one number agree to rounding: |value/exact − 1| ≤ tolerance (absolute where exact is 0)."""
    tolerance = _positive("tolerance", tolerance)
    value, exact = np.asarray(value, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    deviation = (value - exact) / np.where(exact == 0, 1.0, np.abs(exact))
    return _compare(
        label, 0.0, deviation, student(deviation, 0.0, -tolerance, tolerance), -tolerance, tolerance, 0.0, 0
    )


def ordering(
    label: Label,
    difference: ArrayLike,
    *,
    standard_error: ArrayLike,
    sample_size: ArrayLike,
    margin: ArrayLike = 0.0,
    dof: ArrayLike = np.inf,
) -> list[Comparison]:
    """One quantity exceeds another by more than the margin: difference > margin. Pair the measurements if you can."""
    difference, margin = np.asarray(difference, dtype=np.float64), np.asarray(margin, dtype=np.float64)
    error = _error(standard_error, sample_size)
    return _compare(
        label, 0.0, difference, student(difference, error, margin, np.inf, dof), margin, np.inf, error, sample_size
    )


def violation_rate(
    label: Label, violations: ArrayLike, trials: ArrayLike, *, delta: ArrayLike, margin: ArrayLike
) -> list[Comparison]:
    """A bound that may fail with probability δ fails no more often: rate < δ + margin.

    The margin is needed because a tight bound sits at δ, where no sample ever puts an interval below δ itself.
    The effect is rate − δ.
    """
    margin = _positive("margin", margin)
    k, n, delta = (np.asarray(a, dtype=np.float64) for a in (violations, trials, delta))
    edge = delta + margin
    if np.any(edge >= 1):
        raise ValueError(f"delta + margin must be below 1, got {np.max(edge)}: no rate could ever exceed it")
    return _binomial(label, k, n, delta, -np.inf, edge)


def coverage(
    label: Label, hits: ArrayLike, trials: ArrayLike, *, nominal: ArrayLike, margin: ArrayLike
) -> list[Comparison]:
    """An event has its nominal probability: |rate − nominal| < margin. The effect is rate − nominal."""
    margin = _positive("margin", margin)
    k, n, nominal = (np.asarray(a, dtype=np.float64) for a in (hits, trials, nominal))
    return _binomial(label, k, n, nominal, nominal - margin, nominal + margin)


def exact_rate(label: Label, rate: ArrayLike, *, delta: ArrayLike) -> list[Comparison]:
    """A probability found by enumeration is at most δ, up to rounding. The effect is rate − δ."""
    rate, delta = np.asarray(rate, dtype=np.float64), np.asarray(delta, dtype=np.float64)
    # A sum of at most millions of positive terms is good to 1e-12 relative.
    margin = 1e-12 * delta
    return _compare(label, delta, rate - delta, student(rate - delta, 0.0, -np.inf, margin), -np.inf, margin, 0.0, 0)


def distribution(
    label: str, sample: ArrayLike, cdf: Callable[[NDArray[np.float64]], ArrayLike], *, margin: float
) -> list[Comparison]:
    """A sample follows a law: sup|F − F₀| < margin, by the Dvoretzky–Kiefer–Wolfowitz band around the sample's F_n.

    Args:
        sample: `[n]` independent draws.
        cdf: the predicted F₀, continuous.
        margin: the largest distance that still counts as agreement.
    """
    margin_ = _positive("margin", margin)
    ordered = np.sort(np.asarray(sample, dtype=np.float64).ravel())
    n = ordered.size
    if n == 0:
        raise ValueError("sample is empty: give at least one draw")
    expected = np.asarray(cdf(ordered), dtype=np.float64)
    steps = np.arange(n + 1) / n
    distance = np.maximum(np.max(steps[1:] - expected), np.max(expected - steps[:-1]))
    interval = dkw(distance, n, margin_)
    # The empirical process has a standard deviation of at most ½ a root-n at any one point.
    return _compare(label, 0.0, distance, interval, -np.inf, margin_, 0.5 / np.sqrt(n), n)


def _binomial(
    label: Label, k: NDArray, n: NDArray, centre: NDArray, region_low: ArrayLike, region_high: ArrayLike
) -> list[Comparison]:
    if np.any(n < 1) or np.any(k < 0) or np.any(k > n):
        raise ValueError("counts must satisfy 0 ≤ count ≤ trials with trials ≥ 1")
    interval = clopper_pearson(k, n, region_low, region_high)
    shifted = Interval(interval.low - centre, interval.high - centre, interval.p_value)
    # An empty count has no spread of its own: take that of the rate one up (Laplace), or at the edge, which decides.
    laplace, edge = (k + 1) / (n + 2), np.clip(np.asarray(region_high), 0.0, 1.0)
    error = np.sqrt(np.maximum(laplace * (1 - laplace), edge * (1 - edge)) / n)
    return _compare(label, centre, k / n - centre, shifted, region_low - centre, region_high - centre, error, n)


def _compare(
    label: Label,
    prediction: ArrayLike,
    effect: ArrayLike,
    interval: Interval,
    region_low: ArrayLike,
    region_high: ArrayLike,
    standard_error: ArrayLike,
    sample_size: ArrayLike,
) -> list[Comparison]:
    columns = np.broadcast_arrays(
        prediction, effect, *interval[:2], region_low, region_high, standard_error, interval.p_value, sample_size
    )
    rows = list(zip(*(np.ravel(c) for c in columns), strict=True))
    if isinstance(label, str):
        labels = [label] if len(rows) == 1 else [f"{label} [{i}]" for i in range(len(rows))]
    else:
        labels = list(label)
    if len(labels) != len(rows):
        raise ValueError(
            f"label has {len(labels)} names for {len(rows)} comparisons: give one for each, or a single string"
        )
    return [
        Comparison(
            label=name,
            prediction=float(prediction_),
            effect=float(effect_),
            low=float(low),
            high=float(high),
            region_low=float(region_low_),
            region_high=float(region_high_),
            standard_error=float(error),
            p_value=float(p_value),
            sample_size=int(size),
        )
        for name, (prediction_, effect_, low, high, region_low_, region_high_, error, p_value, size) in zip(
            labels, rows, strict=True
        )
    ]


def _positive(name: str, value: ArrayLike) -> NDArray[np.float64]:
    value = np.asarray(value, dtype=np.float64)
    wrong = ~((value > 0) & np.isfinite(value))
    if np.any(wrong):
        raise ValueError(
            f"{name} must be positive and finite, got {value[wrong][0]}: derive it from the theory and the rivals"
        )
    return value


def _error(value: ArrayLike, sample_size: ArrayLike) -> NDArray[np.float64]:
    value = np.asarray(value, dtype=np.float64)
    if np.any((value == 0) & (np.asarray(sample_size) > 0)):
        # A sample without spread tells nothing of its error; only a computation without a sample is exact.
        raise ValueError("standard_error is 0 for a sample: measure more, or say sample_size=0 if the value is exact")
    if np.any(value < 0):
        raise ValueError(f"standard_error must not be negative, got {np.min(value)}")
    return value
