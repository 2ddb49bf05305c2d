"""Training an ensemble: one compiled program, called in pieces that stay short whatever the length of the training.

The program goes from record to record; between them an inner loop takes a traced number of steps, so that any record
times (spaced logarithmically, say) share one compilation. The host calls it for a stretch of steps at a time, and
measures each call to choose the next stretch: a call lasts seconds, so that Ctrl-C and progress work. Members go
through `jax.lax.map` in batches chosen by size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.training.cost import Cost, cost
from experiments.training.methods import Method, Objective, State
from experiments.training.schedule import drive, plan

Record = Callable[[Any, Any], Any]
Records = Sequence[int] | Sequence[float] | np.ndarray | Array


class Diverged(RuntimeError):
    """The loss or a parameter was not finite any more.

    Attributes:
        member: number of the first member that diverged (0 for `train`).
        clock: the step (or time, for a flow) at which that was seen.
    """

    def __init__(self, member: int, clock: float, unit: str) -> None:
        super().__init__(
            f"training diverged: the loss or a parameter of member {member} was not finite at {unit} {clock:g}; "
            "lower the learning rate, or ask for on_divergence='flag' to keep the other members"
        )
        self.member, self.clock, self.unit = member, clock, unit

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, float, str]]:
        # Exceptions cross process boundaries by their arguments, which here are not the message.
        return Diverged, (self.member, self.clock, self.unit)


@dataclass(frozen=True)
class Result:
    """What a training recorded, and where it ended.

    Attributes:
        records: steps or times of the records, (r,).
        values: what `record` returned, each array with leading axes (members, r); without the first for `train`.
        report: the method's own scalars at each record (a flow: its `error` and `steps`).
        diverged: step or time at which each member diverged, −1 where it did not.
        state: parameters, optimiser variables and keys at the last record; give the result to `members` or
            `train` in place of the parameters to go on.
    """

    records: np.ndarray
    values: Any
    report: dict[str, Any]
    diverged: np.ndarray
    state: State

    @property
    def params(self) -> Any:
        """Parameters at the last record."""
        return self.state.params


def train(
    objective: Objective,
    params: Any,
    data: Any,
    *,
    method: Method,
    records: Records,
    record: Record | None = None,
    probe: Any = None,
    key: Array | None = None,
    on_divergence: Literal["raise", "flag"] = "raise",
    call_seconds: float = 5.0,
    progress: Callable[[float], None] | None = None,
) -> Result:
    """Train one network: `members` with a single member, whose axis is left out of the result."""
    start = params if isinstance(params, Result) else None
    if start is not None:
        params = replace(start, state=_stack(start.state), diverged=start.diverged[None])
    else:
        params = _stack(params)
    result = members(
        objective,
        params,
        data,
        method=method,
        records=records,
        record=record,
        probe=probe,
        key=None if key is None else key[None],
        on_divergence=on_divergence,
        call_seconds=call_seconds,
        progress=progress,
    )
    values, report, diverged, state = jax.tree.map(
        lambda leaf: leaf[0], (result.values, result.report, result.diverged, result.state)
    )
    return Result(result.records, values, report, np.asarray(diverged), state)


def members(
    objective: Objective,
    params: Any,
    data: Any,
    *,
    method: Method,
    records: Records,
    record: Record | None = None,
    probe: Any = None,
    key: Array | None = None,
    per_member: Sequence[Literal["data", "probe"]] = (),
    on_divergence: Literal["raise", "flag"] = "raise",
    call_seconds: float = 5.0,
    progress: Callable[[float], None] | None = None,
) -> Result:
    """Train an ensemble of networks of one shape.

    A second call with arguments of the same shapes compiles nothing, provided that `objective` and `record` are
    equal to the first's: module-level functions or frozen dataclasses (as in `experiments.training.objectives`),
    not fresh lambdas.

    Args:
        objective: hashable, objective(params, data) → scalar loss of one member.
        params: tree of arrays with a leading axis of members, `jax.vmap(network.init)(keys)`; or the `Result` of
            an earlier call, to go on from its last record.
        data: tree of arrays (the examples along the leading axis where the method draws minibatches).
        method: a method of this package; each of its numbers may also be an array, one for each member.
        records: increasing steps (integers) or times (for `GradientFlow`) to record at; the last one is the end.
        record: hashable, record(params, probe) → tree of arrays; by default the loss on `data`.
        probe: second argument of `record`, such as test inputs.
        key: one typed key, folded with the member's number, or one for each member; only methods that draw random
            numbers need it, and a continued training keeps the keys it had.
        per_member: which of "data" and "probe" have a leading axis of members too; otherwise they are shared.
        on_divergence: raise `Diverged`, or train on and flag the members in the result.
        call_seconds: what one compiled call aims at.
        progress: called after each with the fraction done.

    Returns:
        the records as NumPy arrays, and the final state.

    Raises:
        ValueError: records do not increase or lie before the start, an array's leading axis is not the number of
            members, the batch size exceeds the examples, or a key is missing.
        Diverged: a loss or parameter is not finite, under on_divergence="raise".
    """
    clock, state = _start(method, params, data, key, per_member)
    schedule = _schedule(method, records, clock)
    count = len(state.diverged)
    if record is None:
        record, probe = objective, data
        per_member = ("data", "probe") if "data" in per_member else ()
    inputs = {"method": _spread(method, count), "data": data, "probe": probe}
    mapped = {name: value for name, value in inputs.items() if name == "method" or name in per_member}
    shared = {name: value for name, value in inputs.items() if name not in mapped}
    for name in per_member:
        _check_members(name, inputs[name], count)

    leaves = jax.tree.leaves(state.params)
    size = sum(leaf.size for leaf in leaves) // count
    loss = _loss_cost(objective, state.params, data, method.batch_size, "data" in per_member)
    group, batch, step_seconds = plan(size, leaves[0].dtype.itemsize, loss, count, call_seconds)

    def train_group(first: int) -> tuple[State, Any]:
        part_state, part = _rows((state, mapped), first, min(group, count - first), count)

        def call(carry: Any, slot: int, now: Any, stop: Any) -> Any:
            part_state, history = carry
            return _advance(
                objective, record, batch, part_state, history, part, shared, schedule, np.int32(slot), now, stop
            )

        def first_stretch(carry: Any) -> float:
            if not method.continuous:
                return min(call_seconds, 1.0) / step_seconds
            # A continued flow knows its step; a new one feels its way, sixteenfold a call.
            return 4 * float(np.min(carry[0].memory["step"])) or 1e-9 * float(schedule[-1] - clock)

        def after(carry: Any, fraction: float) -> None:
            broken = np.asarray(carry[0].diverged)
            if on_divergence == "raise" and (broken >= 0).any():
                member = int(np.argmax(broken >= 0))
                raise Diverged(first + member, float(broken[member]), "time" if method.continuous else "step")
            if progress is not None:
                progress((first + fraction * len(broken)) / count)

        carry = (part_state, _blank_history(record, part_state, part, shared, len(schedule)))
        return drive(call, carry, schedule, clock, first_stretch, call_seconds, after)

    done = [train_group(first) for first in range(0, count, group)]
    state, history = done[0] if len(done) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *done)
    values, report = jax.tree.map(np.asarray, history)
    return Result(schedule, values, report, np.asarray(state.diverged), state)


# Without it XLA copies every weight matrix in every step of a loop on CPUs, for fear that the update of its place comes
# before the last product with it.
_OPTIONS = {"xla_cpu_copy_insertion_use_region_analysis": True}


@partial(jax.jit, static_argnames=("objective", "record", "batch"), compiler_options=_OPTIONS)
def _advance(
    objective: Objective,
    record: Record,
    batch: int,
    state: State,
    history: Any,
    mapped: dict[str, Any],
    shared: dict[str, Any],
    schedule: Array,
    slot: Array,
    clock: Array,
    stop: Array,
) -> tuple[State, Any]:
    """Train a group of members from `clock` to `stop`, filling the records from number `slot` on."""

    def one(member: Any) -> tuple[State, Any]:
        state, history, own = member
        inputs = {**shared, **own}
        method: Method = inputs["method"]

        # Slot and clock are the same for all members, so that under vmap the loops and the branch stay what they are.
        def unfinished(carry: Any) -> Array:
            slot, clock, _, _ = carry
            due = schedule[jnp.minimum(slot, len(schedule) - 1)] <= stop
            return (slot < len(schedule)) & (due | (clock < stop))

        def to_next(carry: Any) -> Any:
            slot, clock, state, history = carry
            target = jnp.minimum(schedule[slot], stop)
            state = method.advance(objective, state, inputs["data"], clock, target)
            arrived = target == schedule[slot]
            state, history = jax.lax.cond(
                arrived, note, lambda slot, clock, state, history: (state, history), slot, target, state, history
            )
            return slot + arrived, target, state, history

        def note(slot: Array, clock: Array, state: State, history: Any) -> tuple[State, Any]:
            finite = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda p: jnp.isfinite(p).all(), state.params))
            diverged = jnp.where((state.diverged < 0) & ~finite, clock, state.diverged)
            entry = (record(state.params, inputs["probe"]), method.report(state.memory))
            history = jax.tree.map(lambda rows, row: rows.at[slot].set(row), history, entry)
            return State(state.params, state.memory, state.key, diverged), history

        _, _, state, history = jax.lax.while_loop(unfinished, to_next, (slot, clock, state, history))
        return state, history

    # A batch of one is no batch: products with a leading axis of length 1 take a slower path on CPUs.
    return jax.lax.map(one, (state, history, mapped), batch_size=batch if batch > 1 else None)


def _start(method: Method, params: Any, data: Any, key: Array | None, per_member: Sequence[str]) -> tuple[float, State]:
    """The clock and the state to start from, new or of an earlier result."""
    if isinstance(params, Result):
        return float(params.records[-1]), params.state
    leaves = jax.tree.leaves(params)
    if not leaves or any(np.ndim(leaf) == 0 for leaf in leaves):
        raise ValueError("params must be a tree of arrays with a leading axis of members; for one network use train")
    count = leaves[0].shape[0]
    _check_members("params", params, count)
    if method.batch_size is not None:
        examples = _examples(data, "data" in per_member)
        if not 1 <= method.batch_size <= examples:
            raise ValueError(f"batch_size must be between 1 and the {examples} examples, got {method.batch_size}")
    if key is None:
        if method.random:
            raise ValueError(
                f"key must be given: {type(method).__name__} draws random numbers; pass jax.random.key(seed)"
            )
        key = jax.random.key(0)
    if key.ndim == 0:
        key = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, np.arange(count))
    elif key.shape != (count,):
        raise ValueError(f"key must be one key or {count} (one for each member), got shape {key.shape}")
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
    memory = jax.eval_shape(lambda p: method.memory(p, _examples(data, "data" in per_member)), one)
    zeros = jax.tree.map(lambda leaf: np.zeros((count, *leaf.shape), leaf.dtype), memory)
    return 0.0, State(params, zeros, key, np.full(count, -1, _clock_dtype(method)))


def _loss_cost(objective: Objective, params: Any, data: Any, batch_size: int | None, per_member: bool) -> Cost:
    """Cost of one member's loss on the examples of one step."""

    def like(leaf: Any, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        # A Python number takes the type of what it meets, here as in the training.
        return jax.ShapeDtypeStruct(shape, jnp.result_type(leaf), weak_type=jax.typeof(leaf).weak_type)

    def in_step(leaf: Any) -> jax.ShapeDtypeStruct:
        shape = jnp.shape(leaf)[per_member:]
        examples = shape[:1] if batch_size is None or not shape else (batch_size,)
        return like(leaf, (*examples, *shape[1:]))

    one = jax.tree.map(lambda leaf: like(leaf, jnp.shape(leaf)[1:]), params)
    return cost(objective, one, jax.tree.map(in_step, data))


def _clock_dtype(method: Method) -> np.dtype:
    # As JAX will have it: float32 unless 64-bit numbers are enabled.
    return np.dtype(jax.dtypes.canonicalize_dtype(float)) if method.continuous else np.dtype(np.int32)


def _schedule(method: Method, records: Records, clock: float) -> np.ndarray:
    """The records as an increasing array of the clock's type."""
    given = np.atleast_1d(np.asarray(records))
    unit = "times" if method.continuous else "steps"
    if given.ndim != 1 or given.size == 0 or not np.isfinite(given).all() or (np.diff(given) <= 0).any():
        raise ValueError(f"records must be strictly increasing {unit}, got {given}; np.unique sorts and merges them")
    if given[0] < clock:
        raise ValueError(f"records must not lie before the start, {unit[:-1]} {clock:g}, got {given[0]:g}")
    if not method.continuous and (given != np.round(given)).any():
        raise ValueError(f"records must be whole steps for {type(method).__name__}, got {given}; round them")
    return given.astype(_clock_dtype(method))


def _spread(method: Method, count: int) -> Method:
    """Every number of the method as one number a member."""

    def spread(path: Any, leaf: Any) -> np.ndarray:
        value = np.asarray(leaf, np.float64)
        if value.shape not in ((), (count,)):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"{type(method).__name__}{name} must be a number or {count} numbers, got shape {value.shape}"
            )
        if not (value >= 0).all():
            raise ValueError(f"{type(method).__name__}{jax.tree_util.keystr(path)} must be at least 0, got {leaf}")
        return np.broadcast_to(value, (count,))

    return jax.tree_util.tree_map_with_path(spread, method)


def _check_members(name: str, tree: Any, count: int) -> None:
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if lengths - {(count,)}:
        raise ValueError(f"{name} must have a leading axis of {count} members in every array, got lengths {lengths}")


def _examples(data: Any, per_member: bool) -> int:
    """Number of examples: the length of the data's leading axis, after that of members."""
    shapes = [np.shape(leaf)[per_member:] for leaf in jax.tree.leaves(data)]
    return next((shape[0] for shape in shapes if shape), 1)


def _blank_history(record: Record, state: State, mapped: Any, shared: Any, length: int) -> Any:
    """Zeros in the shape of all records and reports."""

    def entry(state: State, own: Any) -> Any:
        inputs = {**shared, **own}
        return record(state.params, inputs["probe"]), inputs["method"].report(state.memory)

    shapes = jax.eval_shape(jax.vmap(entry), state, mapped)
    return jax.tree.map(lambda leaf: np.zeros((leaf.shape[0], length, *leaf.shape[1:]), leaf.dtype), shapes)


def _rows(tree: Any, first: int, length: int, count: int) -> Any:
    """Members number `first` and on; the start is no constant of the operation, which would compile for each."""
    if length == count:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, length), tree)


def _stack(tree: Any) -> Any:
    """A leading axis of one member."""
    return jax.tree.map(lambda leaf: leaf[None], tree)
