"""Verdicts: what a comparison of theory and measurement allows one to say.

A judge turns estimates into `Comparison`s, each an interval for a deviation beside the region in which theory and
measurement agree; `decide` turns comparisons into a `Verdict`.
"""

from experiments.verdict.decision import decide
from experiments.verdict.judges import (
    coverage,
    distribution,
    equivalence,
    exact_rate,
    identity,
    ordering,
    violation_rate,
)
from experiments.verdict.rates import amplitude, exponent
from experiments.verdict.status import Comparison, Status, Verdict

__all__ = [
    "Comparison",
    "Status",
    "Verdict",
    "amplitude",
    "coverage",
    "decide",
    "distribution",
    "equivalence",
    "exact_rate",
    "exponent",
    "identity",
    "ordering",
    "violation_rate",
]
