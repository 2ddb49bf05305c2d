"""From stored evidence to verdicts: always made anew, for the claim and for each of its rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from experiments.claim import Assumption, Cell, Claim, Evidence
from experiments.verdict.status import Verdict, failed, out_of_domain
from experiments.worker import describe

if TYPE_CHECKING:
    import xarray as xr


@dataclass
class Theory:
    """A claim's theoretical side in one configuration, computed once and used for every seed."""

    claim: Claim
    config: Any
    _assumptions: Sequence[Assumption] | None = None
    _predictions: dict[str, Any] = field(default_factory=dict)

    @property
    def assumptions(self) -> Sequence[Assumption]:
        if self._assumptions is None:
            self._assumptions = tuple(self.claim.assumptions(self.config))
        return self._assumptions

    def prediction(self, variant: str = "") -> xr.Dataset:
        """The claim's prediction, or that of a rival which has its own."""
        if variant not in self._predictions:
            rival = next((r for r in self.claim.rivals if r.name == variant), None)
            predict = rival.predict if rival is not None and rival.predict is not None else self.claim.predict
            self._predictions[variant] = _checked(predict(self.config))
        return self._predictions[variant]

    def unmet(self) -> Verdict | None:
        """The out-of-domain verdict when an assumption does not hold."""
        broken = [a for a in self.assumptions if not a.holds]
        if not broken:
            return None
        return out_of_domain("; ".join(f"{a.name} does not hold ({a.detail})" if a.detail else a.name for a in broken))


def judge(theory: Theory, evidence: Mapping[str, xr.Dataset]) -> tuple[Verdict, dict[str, Verdict]]:
    """The claim's verdict and those of its rivals; out of domain, without rivals, where an assumption does not hold.

    Args:
        evidence: measurements by variant; the empty name is the claim's own.
    """
    claim = theory.claim
    unmet = theory.unmet()
    if unmet is not None:
        return unmet, {}
    verdict = _guarded(lambda: claim.judge(theory.prediction(), evidence[""]))
    rivals = {}
    for rival in claim.rivals:
        judge_with = rival.judge or claim.judge
        variant = rival.name if rival.measure else ""
        predicted_by = rival.name if rival.predict else ""
        rivals[rival.name] = _guarded(
            lambda j=judge_with, v=variant, p=predicted_by: j(theory.prediction(p), evidence[v])
        )
    return verdict, rivals


def as_expected(claim: Claim, verdict: Verdict, rivals: Mapping[str, Verdict]) -> bool:
    """Whether the claim came out as the literature has it, and every rival lost."""
    return verdict.status == claim.expected and all(v.status is claim.rival_verdict for v in rivals.values())


def assemble(cells: Sequence[Cell], data: Sequence[xr.Dataset]) -> xr.Dataset:
    """One data set from the cells' results, with the cells' names as its leading dimensions.

    Raises:
        ValueError: the cells do not form a full grid.
    """
    import pandas as pd
    import xarray as xr

    names = list(cells[0])
    axes = {name: list(dict.fromkeys(cell[name] for cell in cells)) for name in names}
    by_position = {tuple(cell[name] for name in names): d for cell, d in zip(cells, data, strict=True)}
    count = 1
    for values in axes.values():
        count *= len(values)
    if count != len(cells) or len(by_position) != len(cells) or any(list(cell) != names for cell in cells):
        raise ValueError(f"cells must form a full grid over {', '.join(names)}: {len(cells)} cells, {count} places")

    def build(position: tuple[Any, ...]) -> xr.Dataset:
        if len(position) == len(names):
            return by_position[position]
        name = names[len(position)]
        return xr.concat(
            [build((*position, value)) for value in axes[name]],
            dim=pd.Index(axes[name], name=name),
            data_vars="all",
            coords="minimal",
            compat="override",
            join="exact",
            combine_attrs="override",
        )

    return build(())


def draw(theory: Theory, measurement: xr.Dataset, verdict: Verdict) -> dict[str, bytes]:
    """The figure, as SVG and PDF."""
    import io

    import matplotlib as mpl

    from experiments.report.style import new_figure, settings

    files: dict[str, bytes] = {}
    with mpl.rc_context(settings()):
        figure = new_figure()
        theory.claim.draw(figure, Evidence(theory.config, theory.prediction(), measurement, verdict))
        # Without their dates, equal figures are equal files.
        for suffix, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, metadata=metadata)
            files[suffix] = buffer.getvalue()
    return files


def _guarded(decide: Callable[[], Verdict]) -> Verdict:
    try:
        return decide()
    except Exception as error:  # a judge that raises is a failed claim, and the others go on
        return failed(describe(error))


def _checked(prediction: Any) -> xr.Dataset:
    import numpy as np
    import xarray as xr

    if not isinstance(prediction, xr.Dataset):
        raise TypeError(f"predict must return an xarray.Dataset, got {type(prediction).__name__}")
    for name, variable in prediction.variables.items():
        if variable.dtype.kind == "f" and bool(np.isnan(variable.values).any()):
            raise FloatingPointError(f"the prediction '{name}' holds NaN")
    return prediction.load()
