"""A two-layer linear network that learns one example by gradient flow conserves Θ² − 4κ² f²/n, at every width n and
for every target, while both its kernel Θ and its output f move; κ² = σ_w⁴ |x|²/d, 1 in the usual convention.

Source: derived in `theory.kernels.two_layer_linear`, from the conserved differences of the two layers' Gram matrices
(Saxe et al. 2014; Du et al. 2018, Theorem 2.2). The invariant solves the flow: f(t) and Θ(t) follow in closed form
from f and Θ at the start, and are tested with it, in two regimes: y independent of n, where the kernel changes by
O(1/n), and y ∝ √n, where it is multiplied several times over (feature learning).

Margin: an identity has no error of its own. Deviations are measured in units of the effect, the largest change of Θ²
(or of f and Θ) along the run; rivals with another coefficient deviate by 0.4 of it and more in every network. The
margin is what integration may add, 10⁻⁵ of the effect: the integrator's estimate of its own error, summed over the
steps and carried over to Θ², is held to the same margin, so that the effect stands far above it.

Assumptions: gradient flow on ½ (f − y)², NTK parametrisation, no biases, one example. Networks are float64, Θ is the
squared length of the gradient of f, and the flow is integrated in the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import Network, init_members, network
from experiments.training import GradientFlow, SquaredError, members
from experiments.verdict import Verdict, decide, identity
from theory.architecture import MLP
from theory.kernels.two_layer_linear import coupling, flow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Neither σ_w² nor |x|²/d is 1, so that the formula's scales are tested too: κ² = 1.8.
WEIGHT_VARIANCE, SQUARE = 1.5, 0.8
EXACT, FIRST_ORDER = 0, 1
MARGIN = 1e-5


@dataclass(frozen=True)
class Config:
    """Sizes and times.

    Attributes:
        widths: n of the hidden layer.
        members: networks at each width.
        target: t in the targets y = t n^p; `powers`: p.
        times: recorded times, in units of 1/Θ of the infinite network at the start.
        inputs: d.
        tolerance: relative error of a step of the integrator.
    """

    widths: tuple[int, ...]
    members: int
    target: float = 6.0
    powers: tuple[float, ...] = (0.0, 0.5)
    times: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
    inputs: int = 3
    tolerance: float = 1e-10


SMOKE = Config(widths=(32, 256), members=8)
PAPER = Config(widths=(32, 64, 128, 256, 512, 1024, 2048, 4096), members=32)


def assumptions(config: Config) -> list[Assumption]:
    """Double precision, which the runner sets, and targets that make the output move at every width."""
    real = jnp.zeros(()).dtype
    # f_0 has variance κ²: a target this far out is never where a network starts.
    spreads = config.target / np.sqrt(WEIGHT_VARIANCE**2 * SQUARE)
    return [
        Assumption("numbers have 64 bits", real == np.float64, str(real)),
        Assumption("the targets are away from the outputs at the start", spreads > 4, f"{spreads:.1f} deviations"),
    ]


def targets(config: Config) -> np.ndarray:
    """y for each width and power."""
    return config.target * np.array(config.widths, float)[:, None] ** np.array(config.powers)


def predict(config: Config) -> xr.Dataset:
    """The coupling K = 4κ²/n at each width, which the law needs beside f and Θ at the start, and the margin."""
    return _prediction(config, coupling(config.widths, weight_variance=WEIGHT_VARIANCE, square=SQUARE))


def _prediction(config: Config, k: np.ndarray, law: int = EXACT) -> xr.Dataset:
    return xr.Dataset(
        {
            "coupling": ("width", k),
            "target": (("width", "power"), targets(config)),
            "law": ((), law),
            "margin": ((), MARGIN),
        },
        coords={"width": list(config.widths), "power": list(config.powers)},
    )


def kernel_conserved(config: Config) -> xr.Dataset:
    """Rival: Θ itself is conserved."""
    return _prediction(config, 0 * predict(config)["coupling"].values)


def half_coupling(config: Config) -> xr.Dataset:
    """Rival: Θ² − 2κ² f²/n."""
    return _prediction(config, predict(config)["coupling"].values / 2)


def unit_scales(config: Config) -> xr.Dataset:
    """Rival: Θ² − 4f²/n whatever σ_w and |x|."""
    return _prediction(config, coupling(config.widths))


def squared_width(config: Config) -> xr.Dataset:
    """Rival: Θ² − 4κ² f²/n²."""
    return _prediction(config, predict(config)["coupling"].values / np.array(config.widths))


def first_order(config: Config) -> xr.Dataset:
    """Rival: first order in 1/n, Θ − 2κ² f²/(n Θ_0) is conserved."""
    return _prediction(config, predict(config)["coupling"].values, law=FIRST_ORDER)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Each width with each target."""
    return [{"width": width, "power": power} for width in config.widths for power in config.powers]


@dataclass(frozen=True)
class OutputAndKernel:
    """Record: f(x) and Θ = |∇f(x)|², the gradient taken over all parameters; and the parameters' length."""

    network: Network

    def __call__(self, params: Any, x: Any) -> Any:
        f, gradient = jax.value_and_grad(lambda p: self.network.apply(p, x)[0, 0])(params)
        return {"output": f, "kernel": _squares(gradient), "length": jnp.sqrt(_squares(params))}


def _squares(tree: Any) -> Array:
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: jnp.sum(leaf**2), tree))


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Outputs and kernels along the flow, from the parameters, and the integrator's estimate of its own error."""
    width = int(cell["width"])
    net = network(MLP(1, "linear", WEIGHT_VARIANCE), width=width, inputs=config.inputs)
    x = np.full((1, config.inputs), np.sqrt(SQUARE))
    y = np.full((1, 1), config.target * width ** float(cell["power"]))
    # The infinite network's kernel, up to the factor 2: only the unit of the times recorded.
    unit = 1 / (2 * WEIGHT_VARIANCE**2 * SQUARE)
    result = members(
        SquaredError(net),
        init_members(net, key, config.members, np.float64),
        (x, y),
        method=GradientFlow(relative=config.tolerance, absolute=config.tolerance),
        records=unit * np.array((0.0, *config.times)),
        record=OutputAndKernel(net),
        probe=x,
    )
    found = result.values
    return xr.Dataset(
        {
            "output": (("member", "time"), found["output"]),
            "kernel": (("member", "time"), found["kernel"]),
            # How far a parameter may be off, in units of all parameters' length.
            "error": ("member", result.report["error"][:, -1] / found["length"][:, -1]),
            "steps": ("member", result.report["steps"][:, -1]),
        },
        coords={"time": result.records},
    )


def deviations(prediction: xr.Dataset, measurement: xr.Dataset) -> dict[str, np.ndarray]:
    """The largest deviations over time, (width, power, member), in units of the effect.

    Returns:
        "invariant": change of Θ² − K f², over the largest change of Θ² (for the rival of first order, of
        Θ − K f²/(2Θ_0) and of Θ); "solution": the distance to the closed form, of f over the largest change of f or
        of Θ over that of Θ, whichever is larger; "integration": what the integrator's own estimate of its error
        means for Θ², over the largest change of Θ².
    """
    order = ("width", "power", "member", "time")
    f, theta = (measurement[name].transpose(*order).values for name in ("output", "kernel"))
    error = measurement["error"].transpose(*order[:-1]).values
    k = prediction["coupling"].values[:, None, None, None]
    # Θ is quadratic in the parameters: an error e of their length changes Θ² by about 4e of it at most.
    integration = 4 * error * np.max(theta**2, axis=-1) / _change(theta**2).max(-1)
    if int(prediction["law"]) == FIRST_ORDER:
        conserved = theta - k * f**2 / (2 * theta[..., :1])
        return {"invariant": _change(conserved).max(-1) / _change(theta).max(-1), "integration": integration}
    y = prediction["target"].values[:, :, None, None]
    solved = flow(f[..., :1], theta[..., :1], target=y, time=measurement["time"].values, coupling=k)
    gaps = [np.abs(a - b).max(-1) / _change(a).max(-1) for a, b in ((f, solved.output), (theta, solved.kernel))]
    gap = _change(theta**2 - k * f**2).max(-1) / _change(theta**2).max(-1)
    return {"invariant": gap, "solution": np.maximum(*gaps), "integration": integration}


def _change(values: np.ndarray) -> np.ndarray:
    """Distance from the start, at each time."""
    return np.abs(values - values[..., :1])


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The worst network of each width and target: invariant, solution, and the error of the integration."""
    worst = {name: values.max(-1) for name, values in deviations(prediction, measurement).items()}
    comparisons = [
        comparison
        for i, width in enumerate(prediction["width"].values)
        for j, power in enumerate(prediction["power"].values)
        for name, values in worst.items()
        for comparison in identity(
            f"{name}, width {width}, target n^{power:g}",
            values[i, j],
            0.0,
            tolerance=float(prediction["margin"]),
        )
    ]
    return decide(comparisons, margin_source="error of the integration; rivals deviate by the effect itself")


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: changes of Θ² and of the invariant against width. Right: the kernel in time."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    widths, powers = prediction["width"].values.astype(float), prediction["power"].values
    order = ("width", "power", "member", "time")
    f, theta = (measurement[name].transpose(*order).values for name in ("output", "kernel"))
    times = measurement["time"].values
    k = prediction["coupling"].values[:, None, None, None]
    y = prediction["target"].values[:, :, None, None]
    fine = np.linspace(0, times[-1], 80)
    solved = flow(f[..., :1], theta[..., :1], target=y, time=fine, coupling=k).kernel / theta[..., :1]
    ratio = theta / theta[..., :1]
    drift = _change(theta**2 - k * f**2)[..., -1] / theta[..., 0] ** 2
    names = [_name(p) for p in powers]
    left, right = figure.subplots(1, 2)
    for j, name in enumerate(names):
        theory = (solved[:, j, :, -1] ** 2 - 1).mean(-1)
        effect = ratio[:, j, :, -1] ** 2 - 1
        left.plot(widths, theory, color=COLOURS[j], linewidth=1)
        left.errorbar(
            widths, effect.mean(-1), _bar(effect), fmt=MARKERS[j], color=COLOURS[j], label=rf"$\Theta^2$, {name}"
        )
        left.plot(
            widths,
            drift[:, j].max(-1),
            MARKERS[j],
            color=COLOURS[j],
            markerfacecolor="none",
            label=rf"invariant, {name}",
        )
    left.set(xscale="log", yscale="log", xlabel="width $n$", ylabel="relative change over the run")
    left.set_xticks(widths, [f"{width:.0f}" for width in widths], rotation=45 if len(widths) > 5 else 0)
    left.set_xticks([], minor=True)
    shown = [(0, j) for j in range(len(powers))] + [(len(widths) - 1, j) for j in range(len(powers))]
    for row, (i, j) in enumerate(shown):
        colour = COLOURS[row % len(COLOURS)]
        right.plot(fine, solved[i, j].mean(0), color=colour, linewidth=1)
        right.errorbar(
            times,
            ratio[i, j].mean(0),
            _bar(ratio[i, j].T),
            fmt=MARKERS[row % len(MARKERS)],
            color=colour,
            label=f"$n = {widths[i]:.0f}$, {names[j]}",
        )
    right.set(xlabel="time $t$", ylabel=r"kernel $\Theta(t)/\Theta(0)$")
    figure.legend(loc="outside lower center", ncols=4)


def _name(power: float) -> str:
    return {0.0: "$y$ fixed", 0.5: r"$y \propto \sqrt{n}$"}.get(power, rf"$y \propto n^{{{power:g}}}$")


def _bar(values: np.ndarray) -> np.ndarray:
    """Half of a 99 % interval for the mean over members, the last axis."""
    return 2.576 * values.std(-1, ddof=1) / np.sqrt(values.shape[-1])


claim = Claim(
    id="ntk/linear-invariant",
    kind="identity",
    expected="supported",
    sources=("saxe2014exact", "du2018algorithmic"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("kernel-conserved", "the kernel Θ itself is conserved, as at infinite width", predict=kernel_conserved),
        Rival("half-coupling", "Θ² − 2κ² f²/n is conserved", predict=half_coupling),
        Rival("unit-scales", "Θ² − 4f²/n is conserved whatever σ_w and |x|", predict=unit_scales),
        Rival("squared-width", "Θ² − 4κ² f²/n² is conserved", predict=squared_width),
        Rival("first-order", "the first order in 1/n is exact: Θ − 2κ² f²/(n Θ_0) is conserved", predict=first_order),
    ),
)
