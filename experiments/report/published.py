"""Published evidence, judged anew: what the paper, the README and CI say rests on this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import ledger
from experiments.data import available
from experiments.errors import UsageError
from experiments.judging import Theory, draw, judge
from experiments.provenance import fingerprint, set_precision
from experiments.registry import load, registry
from experiments.store import AlteredError, Store, read_json
from experiments.stored import stored_config
from experiments.verdict.status import Verdict

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Published:
    """One claim's evidence from a results folder, with the verdict that today's code gives it.

    Attributes:
        record: a verdict record as in `verdict.json`, judged anew.
        verdict: the same as an object.
        figure: the figure as PDF, drawn anew.
        measurement: what the claim's own `measure` found.
        older: whether the code that measured it has changed since.
        missing: data sets that the prediction needs and that are not at hand; then verdict and figure are the
            stored ones.
    """

    record: dict[str, Any]
    verdict: Verdict
    figure: bytes
    measurement: xr.Dataset
    older: bool
    missing: tuple[str, ...]


def judged_anew(root: Path, tier: str = "paper", seed: int = 0) -> list[Published]:
    """All evidence of one tier and seed in a results folder, judged by today's code, by claim.

    Raises:
        UsageError: a file was altered, or evidence belongs to no claim or to another.
    """
    set_precision()
    store = Store(root, write=False)
    known = registry()
    out = []
    for path in sorted((root / tier).glob(f"*/*/seed-{seed}/provenance.json")):
        entry = known["/".join(path.parts[-4:-2])]
        try:
            stored = store.load_evidence(path.parent)
            old = read_json(path.parent / "verdict.json")
        except (AlteredError, FileNotFoundError) as error:
            raise UsageError(f"{error}; measure {entry.id} again") from None
        if stored is None:
            continue
        evidence, provenance = stored
        place = (provenance["claim"], provenance["tier"], provenance["seed"])
        if place != (entry.id, tier, seed):
            found = f"{place[0]} at the {place[1]} tier, seed {place[2]}"
            raise UsageError(f"{path.parent} holds evidence of {found}: it was put in the wrong folder")
        claim = load(entry)
        theory = Theory(claim, stored_config(claim.tiers[tier], provenance["config"]))
        older = fingerprint(entry.module).code != provenance["code"]
        missing = [name for name in claim.datasets(theory.config) if not available(name)]
        if missing:
            drawn = (path.parent / "figure.pdf").read_bytes()
            out.append(Published(old, Verdict.from_json(old["verdict"]), drawn, evidence[""], older, tuple(missing)))
            continue
        verdict, rivals = judge(theory, evidence)
        record = ledger.verdict_record(
            claim_id=entry.id,
            kind=entry.kind,
            expected=entry.expected,
            tier=tier,
            seed=seed,
            verdict=verdict,
            rivals=rivals,
            rival_statements={r.name: r.statement for r in claim.rivals},
            expected_of_rivals=str(claim.rival_verdict),
            provenance=provenance,
            run=old["run"],
        )
        drawn = draw(theory, evidence[""], verdict)["pdf"]
        out.append(Published(record, verdict, drawn, evidence[""], older, ()))
    return out
