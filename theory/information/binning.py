"""Entropy and mutual information of a layer's activity, seen through bins.

Every unit's activity is put into one of `bins` equal bins on [low, high], and a layer's state T̂ is the tuple of its
units' bins. A deterministic network makes T a function of X, so H(T̂|X) = 0 and

    I(X;T̂) = H(T̂),    I(T̂;Y) = H(T̂) + H(Y) − H(T̂,Y).

These are properties of the bins as much as of the network: without them I(X;T) is H(X), or infinite, for any injective
network (Goldfeld et al. 2019). So both the number of bins and their range are explicit everywhere.

Source: Shwartz-Ziv & Tishby 2017, section 3.1 (30 bins on [−1, 1]); Saxe et al. 2018, sections 2 and 3; Miller 1955
for the correction.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Int

from theory.arrays import ArrayLike
from theory.information.estimate import Estimate

Correction = Literal["none", "miller-madow"]

# Codes stay below this, so that int64 never wraps.
_LARGEST_CODE = 2**62


def bin_codes(activity: ArrayLike, *, bins: int, low: ArrayLike, high: ArrayLike) -> Int[np.ndarray, "*batch n"]:
    """One integer for each joint state of a layer's bins: equal integers if and only if all units' bins are equal.

    Bin i of a unit is [low + iΔ, low + (i+1)Δ) with Δ = (high − low)/bins; `high` itself belongs to the last bin.

    Args:
        activity: `[..., n, units]`, the layer's activity on n inputs.
        bins: number of bins of each unit, at least 1.
        low, high: range of the bins, broadcast against the leading axes `[...]`.

    Returns:
        Codes, `[..., n]`, comparable within the last axis only.

    Raises:
        ValueError: the range is empty, or some activity lies outside it (clipping it into the outermost bins would
            make saturation where there is none).
    """
    values = np.asarray(activity)
    if values.ndim < 2:
        raise ValueError(f"activity must have shape [..., inputs, units], got shape {values.shape}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    low_, high_ = (np.asarray(end, dtype=values.dtype)[..., None, None] for end in (low, high))
    if not np.all(high_ > low_):
        raise ValueError("high must exceed low; a layer that never leaves 0 needs some range of its own")
    if not np.all((low_ <= values) & (values <= high_)):
        raise ValueError(
            f"activity must lie within the bins' range, but goes from {values.min():.6g} to {values.max():.6g}; "
            "widen low and high, or clip it knowingly"
        )
    index = np.minimum(((values - low_) * (bins / (high_ - low_))).astype(np.int64), bins - 1)
    codes, count = index[..., 0], bins
    for unit in range(1, values.shape[-1]):
        codes, count = _pair(codes, count, index[..., unit], bins)
    return codes


def entropy(
    codes: Int[np.ndarray, "*batch n"], *, correction: Correction = "none", enumerated: bool = False
) -> Estimate:
    """Entropy in nats of a discrete variable, from n draws or from n equally likely states.

        plug-in: Ĥ = −Σ p̂ ln p̂,    Miller–Madow: Ĥ + (K − 1)/2n,   K the number of values that occur.

    The plug-in estimate of a sample is biased by −(K − 1)/2n + O(n⁻²); its variance is Var(ln p)/n + O(n⁻²).

    Args:
        codes: `[..., n]`, one integer a draw; only which are equal matters.
        correction: "none" or "miller-madow".
        enumerated: the n rows are all there is, each equally likely, and the entropy is exact.

    Raises:
        ValueError: a correction of something exact is asked for, or the correction is unknown.
    """
    if correction not in ("none", "miller-madow"):
        raise ValueError(f"correction must be 'none' or 'miller-madow', got '{correction}'")
    if enumerated and correction != "none":
        raise ValueError("an enumerated entropy has no bias: use correction='none', or enumerated=False for a sample")
    n = codes.shape[-1]
    counts, _, rows = _runs(np.sort(codes, axis=-1))
    value, error = _mean(np.log(n / counts), counts / n, rows, n, enumerated)
    if correction == "miller-madow":
        value = value + (np.diff(rows, append=counts.size) - 1) / (2 * n)
    return _estimate(value, error, codes.shape[:-1], "entropy of a discrete variable")


def mutual_information(
    codes: Int[np.ndarray, "*batch n"], labels: Int[np.ndarray, " labels"], *, enumerated: bool = False
) -> Estimate:
    """Mutual information in nats of a discrete variable with a label, Σ p̂(t,y) ln[p̂(t,y) / p̂(t)p̂(y)].

    Args:
        codes: `[..., n]`, one non-negative integer a draw, as `bin_codes` gives.
        labels: class of each draw, from 0.
        enumerated: the n draws are all there is, each equally likely, and the information is exact.

    Raises:
        ValueError: labels are negative or not one for each draw.
    """
    if labels.shape != codes.shape[-1:] or labels.min() < 0:
        raise ValueError(f"labels must be {codes.shape[-1]} classes from 0, one for each input")
    n, classes = labels.size, int(labels.max()) + 1
    joint = np.sort(_pair(codes, int(codes.max()) + 1, labels, classes)[0], axis=-1)
    counts, values, rows = _runs(joint)
    # Runs of the joint lie inside runs of the code, since the label is its last digit.
    of_code, _, _ = _runs(joint // classes)
    starts = np.cumsum(of_code) - of_code
    containing = np.searchsorted(starts, np.cumsum(counts) - counts, side="right") - 1
    gain = np.log(counts * n / (of_code[containing] * np.bincount(labels)[values % classes]))
    value, error = _mean(gain, counts / n, rows, n, enumerated)
    return _estimate(value, error, codes.shape[:-1], "information of a discrete variable about a label")


def information_with_input(
    activity: ArrayLike, *, bins: int, low: ArrayLike, high: ArrayLike, enumerated: bool = True
) -> Estimate:
    """I(X;T̂) = H(T̂) in nats of a deterministic layer, X uniform on the n inputs given.

    It is at most min(ln n, units · ln bins), whatever the network does.

    Args:
        activity: `[..., n, units]`.
        bins, low, high: as for `bin_codes`.
        enumerated: the n inputs are all there are; else they are a sample, and the value is a plug-in estimate.

    Raises:
        ValueError: as for `bin_codes`.
    """
    found = entropy(bin_codes(activity, bins=bins, low=low, high=high), enumerated=enumerated)
    return Estimate(found.value, found.standard_error, f"I(X;T) = H(T) of activity in {bins} equal bins a unit")


def information_with_label(
    activity: ArrayLike,
    labels: Int[np.ndarray, " labels"],
    *,
    bins: int,
    low: ArrayLike,
    high: ArrayLike,
    enumerated: bool = True,
) -> Estimate:
    """I(T̂;Y) = H(T̂) + H(Y) − H(T̂,Y) in nats of a deterministic layer with its inputs' labels.

    Args:
        activity: `[..., n, units]`.
        labels: class of each input, from 0.
        bins, low, high, enumerated: as for `information_with_input`.

    Raises:
        ValueError: as for `bin_codes` and `mutual_information`.
    """
    found = mutual_information(bin_codes(activity, bins=bins, low=low, high=high), labels, enumerated=enumerated)
    return Estimate(found.value, found.standard_error, f"I(T;Y) of activity in {bins} equal bins a unit")


def _pair(first: np.ndarray, first_count: int, second: np.ndarray, second_count: int) -> tuple[np.ndarray, int]:
    """One integer for each pair of integers, and a bound on it."""
    if first_count * second_count > _LARGEST_CODE:
        # Only which codes are equal matters, so their ranks do as well; there are at most n of them.
        first, first_count = _ranks(first), first.shape[-1]
    return first * second_count + second, first_count * second_count


def _ranks(codes: Int[np.ndarray, "*batch n"]) -> Int[np.ndarray, "*batch n"]:
    """Replaces codes by 0, 1, 2, … along the last axis, in their order."""
    order = np.argsort(codes, axis=-1)
    ordered = np.take_along_axis(codes, order, axis=-1)
    steps = np.zeros_like(ordered)
    steps[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    ranks = np.empty_like(codes)
    np.put_along_axis(ranks, order, np.cumsum(steps, axis=-1), axis=-1)
    return ranks


def _runs(ordered: Int[np.ndarray, "*batch n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths and values of the runs of equal numbers in sorted rows, and the first run of each row."""
    starts = np.ones(ordered.shape, dtype=bool)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    # Every row starts a run, so that all rows can go through as one.
    positions = np.flatnonzero(starts)
    rows = np.searchsorted(positions, np.arange(0, ordered.size, ordered.shape[-1]))
    return np.diff(positions, append=ordered.size), ordered.ravel()[positions], rows


def _mean(
    terms: np.ndarray, weights: np.ndarray, rows: np.ndarray, n: int, enumerated: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean of each row's terms, and its standard error over n draws."""
    mean = np.add.reduceat(weights * terms, rows)
    if enumerated:
        return mean, np.zeros_like(mean)
    spread = np.add.reduceat(weights * terms**2, rows) - mean**2
    return mean, np.sqrt(np.maximum(spread, 0.0) / n)


def _estimate(value: np.ndarray, error: np.ndarray, shape: tuple[int, ...], measures: str) -> Estimate:
    return Estimate(value.reshape(shape), error.reshape(shape), measures)
