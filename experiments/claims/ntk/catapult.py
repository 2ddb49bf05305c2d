"""A two-layer linear network with one example and target 0, trained by gradient descent with learning rate η, follows
an exact map of its output f and kernel λ at every width n: f' = (1 − ηλ + η²f²/n) f, λ' = λ + (ηf²/n)(ηλ − 4). From the
λ_0 of its own start it is lazy for ηλ_0 < 2 + η²f_0²/n (the loss falls at every step), catapults up to ηλ_0 = 4 (the
loss grows, then falls, and λ ends below 2/η), and diverges above.

Source: Lewkowycz et al. 2020, section 2, where the edges are 2 and 4 up to corrections of order 1/n. Derived in
`theory.kernels.two_layer_linear`: the lower edge has the correction η²f_0²/n exactly, the upper one has none, since a
step keeps the sign of ηλ − 4. With a target y the pair (f, λ) still obeys an exact map, tested here too; the equations
above with f − y in place of f, and the edges, are then only approximate.

Margin: an identity has no error of its own. f is measured in units of √n λ/2, which no output exceeds, λ relatively.
While the loss is large the map stretches errors threefold a step on average, and near the upper edge that may last for
some twenty steps: 3²⁰ roundings of 1e-16 are 3e-7, and 1e-4 is allowed. Wrong maps deviate by 0.1 and more at some
rate. Phases are exact statements on every network: not one exception is allowed.

Assumptions: NTK parametrisation with σ_w = 1, |x|² = d, no biases; f_0 ≠ y. Networks are float64, λ is the squared
length of the gradient of f. Rates are multiples of each network's own 1/λ_0; two lie on both sides of its own lower
edge, at 2 + c_0²/2 and 2 + 3c_0²/2 with c_0² = η²f_0²/n, and are judged where c_0² is above 1e-9, which rounding cannot
reach. The lower edge is a theorem for c_0² ≤ 1; the few networks beyond are judged only where their loss grows at once.
Whether a loss grows is judged where |f − y| is above 1e-12 √n, a thousand times its rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import Network, init_members, network
from experiments.training import GradientDescent, SquaredError, members
from experiments.verdict import Verdict, decide, identity
from theory.architecture import MLP
from theory.kernels.two_layer_linear import Motion, coupling, descent_step, edges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAZY, CATAPULT, DIVERGENT = 0, 1, 2
MARGIN = 1e-4
# Training has diverged beyond this, and the values kept end here.
HUGE = 1e30
# Shares of c_0² at which the lower edge is tested.
SHARES = (0.5, 1.5)
# The last step up to which networks with a target follow their map: with a target it can be chaotic for ever.
EARLY = 8


@dataclass(frozen=True)
class Config:
    """Sizes and rates.

    Attributes:
        widths: n of the hidden layer.
        members: networks at each width, each trained at all rates.
        rates: ηλ_0.
        steps: recorded ones; the last is the end of the training.
        target: y of further trainings, with `target_members` of the networks.
        inputs: d.
    """

    widths: tuple[int, ...]
    members: int
    target_members: int
    rates: tuple[float, ...]
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 200)
    target: float = 1.0
    inputs: int = 2


SMOKE = Config(widths=(32, 256), members=16, target_members=4, rates=(0.5, 1.9, 2.5, 3.5, 3.996, 4.004, 5.0))
PAPER = Config(
    widths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    members=32,
    target_members=8,
    rates=(0.5, 1.0, 1.5, 1.9, 2.25, 2.5, 3.0, 3.25, 3.5, 3.75, 3.9, 3.996, 4.004, 4.1, 4.5, 5.0),
)


def assumptions(config: Config) -> list[Assumption]:
    """Double precision, which the runner sets, and rates in all three phases."""
    real, rates = jnp.zeros(()).dtype, np.array(config.rates)
    counts = [int(np.sum(inside)) for inside in (rates < 2, (rates > 2) & (rates < 4), rates > 4)]
    return [
        Assumption("numbers have 64 bits", real == np.float64, str(real)),
        Assumption("each phase has two rates", min(counts) >= 2, f"{counts} rates in the three phases"),
    ]


def predict(config: Config) -> xr.Dataset:
    """The map's coupling 4/n at each width, and the edges of ηλ_0, each a constant plus a multiple of c_0²."""
    bare, corrected = edges(0.0), edges(1.0)
    return _prediction(
        config,
        coupling(config.widths),
        constants=[float(edge) for edge in bare],
        slopes=[float(b - a) for a, b in zip(bare, corrected, strict=True)],
    )


def _prediction(config: Config, k: np.ndarray, constants: list[float], slopes: list[float]) -> xr.Dataset:
    return xr.Dataset(
        {
            "coupling": ("width", k),
            "edge": ("phase", constants),
            "slope": ("phase", slopes),
            # Which of `STEPS` is the map, and whether the edges are said to hold with a target as well.
            "law": ((), 0),
            "any_target": ((), 0),
            "target": ((), config.target),
            "margin": ((), MARGIN),
        },
        coords={"width": list(config.widths), "rate": _labels(config)},
    )


def _labels(config: Config) -> list[float]:
    # The rates beside the lower edge are told by 2 + share/1000: a name, not their value.
    return [*config.rates, *(2 + share / 1000 for share in SHARES)]


def first_order_step(output: Any, kernel: Any, *, target: Any, learning_rate: Any, coupling: Any) -> Motion:
    """The map without the terms in η²: a step of Euler's method on the gradient flow."""
    residual = output - target
    return Motion(output - learning_rate * kernel * residual, kernel - learning_rate * coupling * output * residual)


def residual_step(output: Any, kernel: Any, *, target: Any, learning_rate: Any, coupling: Any) -> Motion:
    """The map of target 0 with f − y in place of f."""
    moved = descent_step(output - target, kernel, target=0.0, learning_rate=learning_rate, coupling=coupling)
    return Motion(moved.output + target, moved.kernel)


STEPS = (descent_step, first_order_step, residual_step)


def frozen_kernel(config: Config) -> xr.Dataset:
    """Rival: the kernel keeps its value, and training diverges above 2/λ_0."""
    return _prediction(config, np.zeros(len(config.widths)), [2.0, 2.0], [0.0, 0.0])


def half_coupling(config: Config) -> xr.Dataset:
    """Rival: 2/n in place of 4/n."""
    exact = predict(config)
    return exact.assign(coupling=exact["coupling"] / 2)


def no_second_order(config: Config) -> xr.Dataset:
    """Rival: no terms in η²."""
    return predict(config).assign(law=1)


def edge_at_three(config: Config) -> xr.Dataset:
    """Rival: training diverges above 3/λ_0."""
    return predict(config).assign(edge=("phase", [2.0, 3.0]))


def bare_lower_edge(config: Config) -> xr.Dataset:
    """Rival: the loss grows above 2/λ_0, with no correction."""
    return predict(config).assign(slope=("phase", [0.0, 0.0]))


def shifted_upper_edge(config: Config) -> xr.Dataset:
    """Rival: the upper edge has the lower one's correction."""
    return predict(config).assign(slope=("phase", [1.0, 1.0]))


def residual_map(config: Config) -> xr.Dataset:
    """Rival: with a target, the map with f − y in place of f."""
    return predict(config).assign(law=2)


def edges_for_any_target(config: Config) -> xr.Dataset:
    """Rival: the edges hold with a target, f − y in place of f."""
    return predict(config).assign(any_target=1)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Each width."""
    return [{"width": width} for width in config.widths]


@dataclass(frozen=True)
class OutputAndKernel:
    """Record: f(x) and λ = |∇f(x)|², the gradient taken over all parameters."""

    network: Network

    def __call__(self, params: Any, x: Any) -> tuple[Array, Array]:
        f, gradient = jax.value_and_grad(lambda p: self.network.apply(p, x)[0, 0])(params)
        return f, jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: jnp.sum(leaf**2), gradient))


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Trains each network at each rate, and keeps f and λ at some steps and what became of the loss."""
    width, count = int(cell["width"]), config.members
    net = network(MLP(1, "linear", 1.0), width=width, inputs=config.inputs)
    x = np.ones((1, config.inputs))
    start = init_members(net, key, count, np.float64)
    f, kernel = (np.asarray(a) for a in _at_start(OutputAndKernel(net), start, x))
    # First all networks with target 0, then the first few with the other: one call for all compiles once.
    who = np.concatenate([np.arange(count), np.arange(config.target_members)])
    y = np.where(np.arange(len(who)) < count, 0.0, config.target)
    square = (f[who] - y) ** 2 / width
    rates = np.stack([*(r / kernel[who] for r in config.rates), *(_at_edge(kernel[who], s * square) for s in SHARES)])
    shape = rates.T.shape
    runs = np.repeat(np.arange(len(who)), shape[1])
    result = members(
        SquaredError(net),
        jax.tree.map(lambda leaf: leaf[who[runs]], start),
        (np.broadcast_to(x, (len(runs), *x.shape)), y[runs, None, None]),
        method=GradientDescent(rates.T.ravel()),
        records=np.arange(config.steps[-1] + 1),
        record=OutputAndKernel(net),
        probe=x,
        per_member=("data",),
        on_divergence="flag",
    )
    f, kernel = (np.nan_to_num(values, nan=HUGE, posinf=HUGE).reshape(*shape, -1) for values in result.values)
    f, kernel = np.clip(f, -HUGE, HUGE), np.clip(kernel, 0, HUGE)
    size = np.abs(f - y[:, None, None])
    grew = (np.diff(size) > 0) & (size[..., :-1] > 1e-12 * np.sqrt(width))
    diverged = result.diverged.reshape(shape) >= 0
    found = {
        "learning_rate": rates.T,
        "phase": np.where(diverged, DIVERGENT, np.where(grew.any(-1), CATAPULT, LAZY)).astype(np.int8),
        "peak": (size / size[..., :1]).max(-1),
    }
    kept = [0, *config.steps]
    dataset = {}
    for prefix, rows in (("", slice(0, count)), ("target_", slice(count, None))):
        dims = (f"{prefix}member", "rate")
        dataset |= {prefix + name: (dims, values[rows]) for name, values in found.items()}
        dataset |= {
            prefix + name: ((*dims, "step"), values[rows][..., kept])
            for name, values in (("output", f), ("kernel", kernel))
        }
    return xr.Dataset(dataset, coords={"rate": _labels(config), "step": kept})


@partial(jax.jit, static_argnums=0)
def _at_start(record: OutputAndKernel, params: Any, x: Array) -> tuple[Array, Array]:
    return jax.lax.map(lambda member: record(member, x), params)


def _at_edge(kernel: np.ndarray, a: np.ndarray) -> np.ndarray:
    """η with ηλ = 2 + aη², the smaller root; 2/λ where there is none (a start that is not judged)."""
    root = kernel**2 - 8 * a
    return np.where(root > 0, 4 / (kernel + np.sqrt(np.maximum(root, 0))), 2 / kernel)


def deviations(prediction: xr.Dataset, measurement: xr.Dataset, *, prefix: str = "") -> np.ndarray:
    """Distance of f and λ from the iterated map, (width, member, rate, step): the larger, relative to λ and √n λ/2.

    Zero where the measured values have reached the largest that are kept, one where only the map's have.

    Args:
        prefix: "target_" for the networks with a target, which are followed over the early steps only.
    """
    order = ("width", f"{prefix}member", "rate")
    f, kernel = (measurement[prefix + name].transpose(*order, "step").values for name in ("output", "kernel"))
    eta = measurement[f"{prefix}learning_rate"].transpose(*order).values
    k = prediction["coupling"].values[:, None, None]
    y = float(prediction["target"]) if prefix else 0.0
    steps = [int(s) for s in measurement["step"].values if not prefix or s <= EARLY]
    step, found = STEPS[int(prediction["law"])], np.zeros((*eta.shape, len(steps)))
    # The unit of f does not follow a rival's coupling.
    unit = np.sqrt(4 / prediction["width"].values)[:, None, None]
    now = Motion(f[..., 0], kernel[..., 0])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for t in range(steps[-1] + 1):
            if t in steps:
                i = steps.index(t)
                measured = np.maximum(np.abs(f[..., i]), kernel[..., i]) < HUGE
                gap = np.maximum(unit * np.abs(now.output - f[..., i]), np.abs(now.kernel - kernel[..., i]))
                gap = np.nan_to_num(gap / kernel[..., i], nan=1.0, posinf=1.0)
                found[..., i] = np.where(measured, np.minimum(gap, 1.0), 0.0)
            now = step(*now, target=y, learning_rate=eta, coupling=k)
    return found


def exceptions(prediction: xr.Dataset, measurement: xr.Dataset, *, prefix: str = "") -> dict[str, np.ndarray]:
    """For each rate, the networks of all widths that are in another phase than predicted, and those judged.

    Returns:
        numbers of networks, (rate,). "phase" and "judged" are those; "stable": judged ones with ηλ_0 < 4, unless the
        rate is beside the lower edge, where the end takes of order n steps; "end": stable ones whose loss does not
        end below its peak with λ < 2/η.
    """
    order = ("width", f"{prefix}member", "rate")
    eta, phase, peak = (
        measurement[prefix + name].transpose(*order).values for name in ("learning_rate", "phase", "peak")
    )
    f, kernel = (measurement[prefix + name].transpose(*order, "step").values for name in ("output", "kernel"))
    size = np.abs(f - (float(prediction["target"]) if prefix else 0.0))
    square = (eta * size[..., 0]) ** 2 / measurement["width"].values[:, None, None]
    speed = eta * kernel[..., 0]
    # Beside the lower edge c_0² must stand out of rounding; and the lower edge is a theorem for c_0² ≤ 1.
    beside = np.arange(eta.shape[-1]) >= eta.shape[-1] - len(SHARES)
    judged = np.where(beside, square > 1e-9, True) & ((square <= 1) | (speed > 2 + square))
    lower, upper = (float(prediction["edge"][i]) + float(prediction["slope"][i]) * square for i in range(DIVERGENT))
    predicted = np.where(speed > upper, DIVERGENT, np.where(speed > lower, CATAPULT, LAZY))
    stable = judged & ~beside & (speed < upper)
    ended = (eta * kernel[..., -1] < 2) & (size[..., -1] < peak * size[..., 0])
    return {
        "phase": np.sum(judged & (phase != predicted), axis=(0, 1)),
        "judged": np.sum(judged, axis=(0, 1)),
        "stable": np.sum(stable, axis=(0, 1)),
        "end": np.sum(stable & ~ended, axis=(0, 1)),
    }


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The map over the whole run at each width, the early steps with a target, and the phases at each rate."""
    margin, comparisons = float(prediction["margin"]), []
    for name, prefix in (("map", ""), ("map with a target", "target_")):
        worst = deviations(prediction, measurement, prefix=prefix).max(axis=(1, 2, 3))
        comparisons += [
            comparison
            for width, value in zip(prediction["width"].values, worst, strict=True)
            for comparison in identity(f"{name}, width {width}", value, 0.0, tolerance=margin)
        ]
    for prefix in ("", "target_") if int(prediction["any_target"]) else ("",):
        found = exceptions(prediction, measurement, prefix=prefix)
        for i, rate in enumerate(measurement["rate"].values):
            place = _place(i - len(found["phase"]), rate) + (" with a target" if prefix else "")
            # Half an exception is the margin: none, or the statement is false.
            comparisons += identity(f"phase at {place}", found["phase"][i], 0.0, tolerance=0.5)
            if found["stable"][i]:
                comparisons += identity(f"end at {place}", found["end"][i], 0.0, tolerance=0.5)
    return decide(comparisons, margin_source="rounding for the map; not one exception for the phases")


def _place(position: int, rate: float) -> str:
    """The rate in words; positions from the end tell those beside the lower edge."""
    if position >= -len(SHARES):
        return f"2 + {SHARES[position]:g} c0²"
    return f"rate {rate:g}"


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: the output along runs of one network. Right: the kernel at the end against the learning rate."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    order = ("width", "member", "rate")
    eta = measurement["learning_rate"].transpose(*order).values
    f, kernel = (measurement[name].transpose(*order, "step").values for name in ("output", "kernel"))
    rates, steps = measurement["rate"].values, measurement["step"].values
    widths, k = prediction["width"].values, prediction["coupling"].values
    left, right = figure.subplots(1, 2)

    count = rates.size - len(SHARES)
    some = [int(np.argmin(np.abs(rates[:count] - rate))) for rate in (0.5, 1.9, 2.5, 3.5, 5.0)]
    early = steps[steps <= 16]
    for row, i in enumerate(some):
        run = [Motion(f[-1, 0, i, 0], kernel[-1, 0, i, 0])]
        for _ in range(early[-1]):
            run.append(descent_step(*run[-1], target=0.0, learning_rate=eta[-1, 0, i], coupling=k[-1]))
        style = {"color": COLOURS[row % len(COLOURS)]}
        left.plot(np.arange(len(run)), [abs(motion.output) for motion in run], linewidth=1, **style)
        left.plot(early, np.abs(f[-1, 0, i, : early.size]), MARKERS[row % len(MARKERS)], label=f"{rates[i]:g}", **style)
    left.set(yscale="log", xlabel="step", ylabel=f"output $|f|$, $n = {widths[-1]}$", ylim=(1e-4, 1e5))
    handles, labels = left.get_legend_handles_labels()
    labels = [rf"$\eta\lambda_0 = {label}$" for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))

    fine = np.linspace(0.25, 3.99, 180)
    for row, i in enumerate((0, -1)):
        start = Motion(f[i, :, :1, 0], kernel[i, :, :1, 0])
        now = start
        for _ in range(steps[-1]):
            now = descent_step(*now, target=0.0, learning_rate=fine / start.kernel, coupling=k[i])
        right.plot(fine, (now.kernel * fine / start.kernel).mean(0), color=COLOURS[row], linewidth=1)
        kept = [j for j in range(count) if rates[j] < 4]
        ends = eta[i][:, kept] * kernel[i][:, kept, -1]
        right.errorbar(
            rates[kept],
            ends.mean(0),
            2.576 * ends.std(0, ddof=1) / np.sqrt(len(ends)),
            fmt=MARKERS[row],
            color=COLOURS[row],
            label=f"$n = {widths[i]}$",
        )
    for edge, name in ((0.0, "lazy"), (2.0, "catapult"), (4.0, "divergent")):
        right.axvline(edge, color="black", linewidth=0.5, linestyle=":")
        right.annotate(name, (edge + 0.1, 2.12))
    right.set(xlabel=r"$\eta\lambda_0$", ylabel=r"$\eta\lambda$ at the end", xlim=(0, 5.2), ylim=(0, 2.35))
    right.legend(loc="center right")


claim = Claim(
    id="ntk/catapult",
    kind="identity",
    expected="supported",
    sources=("lewkowycz2020large",),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("frozen-kernel", "the kernel keeps its value: divergence above 2/λ_0", predict=frozen_kernel),
        Rival("half-coupling", "the kernel moves half as much: 2/n in place of 4/n", predict=half_coupling),
        Rival("no-second-order", "the terms in η² are left out (Euler's step of the flow)", predict=no_second_order),
        Rival("edge-at-three", "training diverges above 3/λ_0", predict=edge_at_three),
        Rival("bare-lower-edge", "the loss grows above 2/λ_0, without a correction", predict=bare_lower_edge),
        Rival("shifted-upper-edge", "the upper edge has the lower one's correction", predict=shifted_upper_edge),
        Rival("residual-map", "with a target, the same map with f − y in place of f", predict=residual_map),
        Rival("edges-for-any-target", "the edges hold with a target as well", predict=edges_for_any_target),
    ),
)
