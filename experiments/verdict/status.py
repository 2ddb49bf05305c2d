"""The five verdicts, and the records that carry them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """What can be said of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    OUT_OF_DOMAIN = "out-of-domain"
    FAILED = "failed"


@dataclass(frozen=True)
class Comparison:
    """One deviation of a measurement from a prediction, with all that a decision needs.

    Attributes:
        label: what is compared.
        prediction: what the deviation is counted from; prediction + effect is the measured value.
        effect: the estimated deviation.
        low, high: its confidence interval, at `intervals.CONFIDENCE`.
        region_low, region_high: where a deviation still counts as agreement: (−m, m) for an equivalence with
            margin m, (−∞, m) for a bound, (m, ∞) for an ordering.
        standard_error: of the effect; 0 for an exact computation.
        p_value: two-sided probability of data at least this far outside, were the truth inside the region.
        sample_size: independent repetitions behind the estimate; 0 for an exact computation.
    """

    label: str
    prediction: float
    effect: float
    low: float
    high: float
    region_low: float
    region_high: float
    standard_error: float
    p_value: float
    sample_size: int

    @property
    def inside(self) -> bool:
        return self.region_low <= self.low and self.high <= self.region_high

    @property
    def margin(self) -> float:
        """The largest deviation that still counts as agreement."""
        return self.region_high if math.isfinite(self.region_high) else self.region_low

    def distance(self, value: float) -> float:
        """How far a deviation lies inside the region (negative: outside)."""
        return min(value - self.region_low, self.region_high - value)

    def in_standard_errors(self, length: float) -> float:
        """A length over the standard error; without noise every non-zero length is infinitely long."""
        if self.standard_error > 0:
            return length / self.standard_error
        return 0.0 if length == 0 else math.copysign(math.inf, length)


@dataclass(frozen=True)
class Verdict:
    """A decision on a claim.

    Attributes:
        status: the decision.
        comparisons: what it rests on.
        clearance: distance from the decision's edge in standard errors of the decisive comparison.
        decisive: index of that comparison, or −1 when there is none.
        margin_source: where the margins come from.
        reason: one sentence for the reader; always given for `failed` and `out-of-domain`.
    """

    status: Status
    comparisons: tuple[Comparison, ...] = ()
    clearance: float = math.nan
    decisive: int = -1
    margin_source: str = ""
    reason: str = ""

    @property
    def decisive_comparison(self) -> Comparison | None:
        return self.comparisons[self.decisive] if self.decisive >= 0 else None

    def as_json(self) -> dict[str, Any]:
        """Plain data; non-finite numbers become strings, since JSON has none."""
        return _encode({**asdict(self), "status": str(self.status)})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of `as_json`."""
        comparisons = tuple(
            Comparison(**{k: _decode(v) if k != "label" else v for k, v in c.items()}) for c in data["comparisons"]
        )
        return cls(
            status=Status(data["status"]),
            comparisons=comparisons,
            clearance=_decode(data["clearance"]),
            decisive=data["decisive"],
            margin_source=data["margin_source"],
            reason=data["reason"],
        )


def failed(reason: str) -> Verdict:
    """A run that gave no usable measurement, and why."""
    return Verdict(Status.FAILED, reason=reason)


def out_of_domain(reason: str) -> Verdict:
    """A configuration on which the theory does not speak, and the assumption that does not hold."""
    return Verdict(Status.OUT_OF_DOMAIN, reason=reason)


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value
