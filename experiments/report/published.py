"""Published evidence, judged anew: what the paper, the README and CI say rests on this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import ledger
from experiments.errors import UsageError
from experiments.judging import Theory, judge
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
        theory, measurement, verdict: what a figure is drawn from.
        older: whether the code that measured it has changed since.
    """

    record: dict[str, Any]
    theory: Theory
    measurement: xr.Dataset
    verdict: Verdict
    older: bool


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
        older = fingerprint(entry.module).code != provenance["code"]
        out.append(Published(record, theory, evidence[""], verdict, older))
    return out
