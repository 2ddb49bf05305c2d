"""Runs every claim at the smoke tier: the verdict is the expected one, with room to spare, and every rival loses.

Evidence goes to `results/` (or the folder in UNMAGIC_RESULTS), where `unmagic verify` finds it again.
"""

import math
import os
from pathlib import Path

import pytest

from experiments.executors import LocalPool
from experiments.ledger import number
from experiments.registry import registry
from experiments.runner import Observer, plan, verify
from experiments.store import Store

RESULTS = Path(os.environ.get("UNMAGIC_RESULTS", Path(__file__).parents[2] / "results"))


@pytest.mark.parametrize("claim_id", sorted(registry().entries))
def test_claim(claim_id):
    store = Store(RESULTS)
    jobs = plan([registry()[claim_id]], "smoke", [0], store, fresh=False, observer=Observer())
    (record,) = verify(jobs, store, LocalPool(), Observer())
    verdict = record["verdict"]
    assert verdict["status"] == record["expected"], verdict["reason"] or verdict["comparisons"][verdict["decisive"]]
    assert number(verdict["clearance"]) > 4
    assert record["rivals"]
    for name, rival in record["rivals"].items():
        assert rival["status"] == rival["expected"], f"rival {name}: {rival['status']} {rival['reason']}"
    # A sample that follows from the margin: a half-width of at most a third of it, where the verdict is support.
    if verdict["status"] == "supported":
        for c in verdict["comparisons"]:
            margin = (number(c["region_high"]) - number(c["region_low"])) / 2
            half_width = (number(c["high"]) - number(c["low"])) / 2
            assert math.isinf(margin) or half_width <= margin / 3 or half_width == 0, c["label"]
