"""How a training is cut into compiled calls: members in groups and batches, steps in stretches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.training.cost import Cost

# Bytes of parameters (on an accelerator, of pre-activations too) that one call may hold; gradients, activations,
# optimiser variables and copies come on top, some four times.
MEMORY = 2**30
# On a CPU members are vmapped only where the operations of one are small (flops in a step), so that starting them costs
# as much as doing them; else one follows the other inside the program. As many go together as have so many entries in
# the pre-activations of their widest layer: with 30 to 50 thousand the programs of XLA are fastest, with half and with
# twice as many they take half as long again. `experiments/benchmarks/training.py` shows both regimes. An accelerator
# takes a whole group at once.
SMALL_FLOPS, BATCH_ENTRIES = 2e6, 48 * 1024
# A speed that every machine reaches, to choose the first stretch before anything is measured.
SLOW_FLOPS, OVERHEAD_SECONDS = 2e9, 5e-5
# A stretch grows at most so much over the one before: a short call may have been lucky.
GROWTH = 16.0


class Plan(NamedTuple):
    """Members in one compiled call, members vmapped together in it, and a pessimistic guess of seconds a step."""

    group: int
    batch: int
    step_seconds: float


def plan(parameters: int, itemsize: int, loss: Cost, members: int, call_seconds: float) -> Plan:
    """Cut the members into groups that fit in memory and whose single step fits in one call.

    Args:
        parameters: of one member; `itemsize`: bytes of each.
        loss: cost of one member's loss on the examples of one step.
        members: how many in all.
        call_seconds: what a call aims at.
    """
    # The backward pass takes two products where the forward pass takes one.
    flops = 3.0 * loss.flops
    step_seconds = flops / SLOW_FLOPS + OVERHEAD_SECONDS
    together = jax.default_backend() != "cpu"
    held = itemsize * (parameters + (loss.entries if together else 0))
    limit = min(members, int(MEMORY / held), int(call_seconds / step_seconds))
    group = _even(members, max(limit, 1))
    batch = int(BATCH_ENTRIES / loss.widest) if flops < SMALL_FLOPS else 1
    return Plan(group, group if together else _even(group, max(batch, 1)), step_seconds * group)


def _even(total: int, limit: int) -> int:
    """A part size of at most `limit`, the largest that divides the total unless that is less than two thirds of it.

    A remainder would be a second shape to compile.
    """
    limit = min(limit, total)
    divisor = max(size for size in range(1, limit + 1) if total % size == 0)
    return divisor if 3 * divisor >= 2 * limit else limit


def drive(
    call: Callable[[Any, int, Any, Any], Any],
    carry: Any,
    schedule: np.ndarray,
    start: Any,
    first: Callable[[Any], float],
    call_seconds: float,
    after: Callable[[Any, float], None],
) -> Any:
    """Run `call` over stretches of the clock until the last record.

    Args:
        call: (carry, slot, clock, stop) → carry: trains from `clock` to `stop`, and fills the records from number
            `slot` on.
        carry: what the calls hand on.
        schedule: steps or times of the records; `start`: where the clock stands.
        first: carry → length of the first stretch, positive where there is anything to train.
        call_seconds: what a call aims at.
        after: called with the carry and the fraction done.
    """
    clock, slot, end = schedule.dtype.type(start), 0, schedule[-1]
    stretch = first(carry)
    while slot < len(schedule):
        if np.issubdtype(schedule.dtype, np.integer):
            stretch = max(stretch, 1.0)
        stop = schedule.dtype.type(min(clock + stretch, end))
        began = time.perf_counter()
        carry = jax.block_until_ready(call(carry, slot, clock, stop))
        # The first call may compile as well, which only makes the second one shorter than need be.
        seconds = time.perf_counter() - began
        slot = int(np.searchsorted(schedule, stop, side="right"))
        after(carry, 1.0 if end == start else float((stop - start) / (end - start)))
        stretch = stretch * min(call_seconds / seconds, GROWTH)
        clock = stop
    return carry
