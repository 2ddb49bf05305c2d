"""An ensemble trained by `experiments.training.members` against a Python loop over members and jitted steps.

    python -m experiments.benchmarks.training [--repetitions 5] [--widths 32 128 1024] [--many 10000]

Both train the same networks on the same data by full-batch gradient descent in float32, taking turns in one process.
Times are medians after a first run that compiles. A second table has very many networks of one hidden layer, of which
the loop trains the first 32; its time grows with their number.

With one hidden layer the gain at width 32 is that of leaving Python out of the step. With two hidden layers the matrix
products rule: on 2 cores XLA's batched products of a step alone, of 32 × 32 matrices without anything else, take 4.5 µs
a member where the whole step takes 6.5 µs and the loop's 49 µs, so that no more than about 11 times can be had.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.networks import Network, init_members, network
from experiments.training import GradientDescent, SquaredError, members
from theory.architecture import MLP

WIDTHS = (32, 64, 128, 256, 512, 1024)
DEPTHS = (1, 2)
MEMBERS, POINTS, INPUTS, RATE = 32, 32, 10, 0.01
# Widths and steps of very many networks.
MANY_WIDTHS, MANY_STEPS = (32, 128), 1000
# Flops that one repetition takes in each of the ways where the limits on its steps allow: long enough to be timed.
WORK, FEWEST, MOST = 2e10, 50, 1000


class Row(NamedTuple):
    """One size: networks and steps a repetition, and median seconds a member and step."""

    depth: int
    width: int
    members: int
    steps: int
    loop: float
    ensemble: float

    @property
    def ratio(self) -> float:
        """How many times faster the ensemble is."""
        return self.loop / self.ensemble


@partial(jax.jit, static_argnums=0)
def _step(net: Network, params: Any, data: Any) -> Any:
    slope = jax.grad(SquaredError(net))(params, data)
    return jax.tree.map(lambda p, g: p - RATE * g, params, slope)


def _loop(net: Network, params: list[Any], data: Any, steps: int) -> Any:
    """What one writes first: jitted steps, called one after the other."""
    trained = []
    for member in params:
        for _ in range(steps):
            member = _step(net, member, data)
        trained.append(member)
    return jax.block_until_ready(trained)


def _ensemble(net: Network, params: Any, data: Any, steps: int) -> Any:
    result = members(SquaredError(net), params, data, method=GradientDescent(RATE), records=[steps])
    return jax.block_until_ready(result.params)


def compare(depth: int, width: int, repetitions: int, count: int = MEMBERS, steps: int | None = None) -> Row:
    """Times both ways at one size, in turns: so many members, of which the loop has at most the first `MEMBERS`.

    Raises:
        RuntimeError: they do not end at the same parameters.
    """
    net = network(MLP(depth, "tanh", weight_variance=2.0, bias_variance=0.1), width=width, inputs=INPUTS)
    if steps is None:
        steps = max(FEWEST, min(MOST, int(WORK / (6 * net.parameters * POINTS * count))))
    params = init_members(net, jax.random.key(0), count)
    apart = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(min(MEMBERS, count))]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(POINTS, INPUTS)).astype(np.float32)
    data = jax.device_put((x, np.sign(x[:, :1])))
    last = np.asarray(_ensemble(net, params, data, steps)[-1]["weight"])[: len(apart)]
    first = np.stack([member[-1]["weight"] for member in _loop(net, apart, data, steps)])
    # The same sums in another order; differences grow with the steps but stay far below the parameters' size of 1.
    if not np.allclose(last, first, atol=1e-3):
        raise RuntimeError(f"the two ways disagree at width {width} by {np.abs(last - first).max():.2g}")
    times: dict[str, list[float]] = {"loop": [], "ensemble": []}
    ways: dict[str, Callable[[], Any]] = {
        "loop": lambda: _loop(net, apart, data, steps),
        "ensemble": lambda: _ensemble(net, params, data, steps),
    }
    for _ in range(repetitions):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append((time.perf_counter() - began) / (steps * (len(apart) if name == "loop" else count)))
    return Row(depth, width, count, steps, statistics.median(times["loop"]), statistics.median(times["ensemble"]))


def main() -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--many", type=int, default=10_000, help="networks of the second table")
    options = parser.parse_args()
    few = [compare(depth, width, options.repetitions) for depth in DEPTHS for width in options.widths]
    # One repetition takes long enough.
    many = [compare(1, width, 1, options.many, MANY_STEPS) for width in MANY_WIDTHS]
    for title, rows in ((f"{MEMBERS} members", few), (f"{options.many} members", many)):
        table = Table("hidden layers", "width", "steps", "loop, µs", "ensemble, µs", "ratio", title=title)
        for row in rows:
            loop, ensemble = f"{row.loop * 1e6:.1f}", f"{row.ensemble * 1e6:.1f}"
            table.add_row(str(row.depth), str(row.width), str(row.steps), loop, ensemble, f"{row.ratio:.2f}")
        table.caption = f"time of a member's step on {POINTS} points, on {jax.devices()[0].device_kind}"
        Console().print(table)


if __name__ == "__main__":
    main()
