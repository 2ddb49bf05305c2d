"""A claim: one falsifiable statement about deep learning, with the theory and the experiment that test it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from experiments.verdict.status import Status, Verdict

if TYPE_CHECKING:
    import jax
    import xarray as xr
    from matplotlib.figure import Figure

Kind = Literal["identity", "theorem", "limit", "heuristic", "empirical"]
KINDS: tuple[str, ...] = get_args(Kind)
TIERS = ("smoke", "paper", "scale")

Scalar = int | float | str
Cell = Mapping[str, Scalar]


@dataclass(frozen=True)
class Assumption:
    """A named condition under which the theory speaks, and whether a configuration meets it.

    Attributes:
        name: the condition, as a reader would say it.
        holds: whether it is met.
        detail: the numbers behind that.
    """

    name: str
    holds: bool
    detail: str = ""


@dataclass(frozen=True)
class Evidence:
    """What a figure is drawn from."""

    config: Any
    prediction: xr.Dataset
    measurement: xr.Dataset
    verdict: Verdict


Predict = Callable[[Any], "xr.Dataset"]
Measure = Callable[[Any, Cell, "jax.Array"], "xr.Dataset"]
Judge = Callable[["xr.Dataset", "xr.Dataset"], Verdict]


@dataclass(frozen=True)
class Rival:
    """A wrong version of a claim: the same machinery must refute it, or the claim proves nothing.

    Attributes:
        name: short, of lower-case words joined by dashes.
        statement: what it says.
        predict, measure, judge: what it puts in place of the claim's own; at least one of them.
    """

    name: str
    statement: str
    predict: Predict | None = None
    measure: Measure | None = None
    judge: Judge | None = None

    def __post_init__(self) -> None:
        if not (self.predict or self.measure or self.judge):
            raise ValueError(f"rival '{self.name}' replaces nothing: give it predict, measure or judge")
        if self.measure is not None and "<" in getattr(self.measure, "__qualname__", "<"):
            # Its name is how the code behind it is found, for the cells' keys.
            raise ValueError(f"measure of rival '{self.name}' must be a function at the top level of the claim's file")


def _no_datasets(config: Any) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Claim:
    """One claim file's contents.

    Attributes:
        id: `area/name`.
        kind: how strong the theory is: identity (exact at any size), theorem (a proven bound), limit (exact as a
            size grows), heuristic, empirical (a law with no closed form).
        expected: the verdict that the literature and we stand by. Folklore that is false is expected `refuted`; its
            rivals then are the truth, and must come out supported.
        sources: BibTeX keys.
        tiers: a configuration (frozen dataclass) for each tier.
        assumptions: configuration → the conditions under which the theory speaks.
        predict: configuration → predictions, margins included, in float64.
        cells: configuration → the independent parts of the measurement; together a full grid.
        measure: (configuration, cell, key) → one cell's measurement, without the cell's own dimensions.
        judge: (prediction, measurement) → verdict.
        draw: (figure, evidence) → None.
        rivals: wrong versions that must lose.
        datasets: configuration → names of the data sets that `measure` reads (their checksums enter the cells' keys).
    """

    id: str
    kind: Kind
    expected: Literal["supported", "refuted"]
    sources: tuple[str, ...]
    tiers: Mapping[str, Any]
    assumptions: Callable[[Any], Sequence[Assumption]]
    predict: Predict
    cells: Callable[[Any], Sequence[Cell]]
    measure: Measure
    judge: Judge
    draw: Callable[[Figure, Evidence], None]
    rivals: tuple[Rival, ...]
    datasets: Callable[[Any], Sequence[str]] = field(default=_no_datasets)

    def __post_init__(self) -> None:
        area, _, name = self.id.partition("/")
        if not (area and name) or "/" in name:
            raise ValueError(f"id must have the form 'area/name', got '{self.id}'")
        if self.kind not in KINDS:
            raise ValueError(f"kind of {self.id} must be one of {', '.join(KINDS)}, got '{self.kind}'")
        if self.expected not in (Status.SUPPORTED, Status.REFUTED):
            raise ValueError(f"expected of {self.id} must be 'supported' or 'refuted', got '{self.expected}'")
        unknown = sorted(set(self.tiers) - set(TIERS))
        if unknown or not self.tiers:
            raise ValueError(f"tiers of {self.id} must be among {', '.join(TIERS)}, got {', '.join(unknown) or 'none'}")
        if not self.rivals:
            raise ValueError(f"{self.id} has no rival: a claim that nothing contradicts proves nothing")
        if not self.sources:
            raise ValueError(f"{self.id} names no source: give the BibTeX key of the theory's paper")

    @property
    def rival_verdict(self) -> Status:
        """What every rival must come out as."""
        return Status.REFUTED if self.expected == Status.SUPPORTED else Status.SUPPORTED
