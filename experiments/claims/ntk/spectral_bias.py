"""A wide two-layer ReLU network learns the Fourier modes of a target on the circle at rates of their own: on an even
grid of m points, gradient descent with rate η/m on ½ Σ (f − y)² leaves (1 − η c_k)^t, and the flow e^{−η c_k t}, of the
residual in mode k, with c_k the eigenvalue of the infinite network's tangent kernel. Without biases the odd modes from
3 on have c_k = 0 and are never learnt, at any width. Each network's distance from this falls as n^-½.

Source: Basri et al. 2019 (the hidden layer trained alone; bias-free odd modes in their section 3). The rates for both
layers, c_k = σ_w⁴ (k² + 3)/(π (k² − 1))² for even k and σ_w⁴/4 for k = 1 without biases, and the exact eigenvalues on
the grid, where modes k + pm have one rate, are derived in `theory.kernels.circle`. For the odd modes no limit is
needed: the odd part of Σ a_u max(0, w_u·x) is ½ Σ a_u w_u·x at all times, which has no mode beyond the first.

Measured is what is left of the residual, Σ r_k(t) r_k(0)*/Σ |r_k(0)|² over networks, extrapolated to infinite width.
Its first correction is of order n^-½, since units cross their kinks (cf. ntk/drift-relu), which all but the fastest
modes feel as a brake; the next one, 1/n, is fitted as well. What that leaves out, n^-3/2, is one to three hundredths in
the slowest modes late in training; with biases, fits without the narrowest widths come nearer. The rate n^-½ is that of
the root mean square distance over networks, modes and steps.

Margin: 0.1 of the residual at the start, half of 0.2: a mode is compared at those steps where some rival is further
away than that, and between 5 and 95 % should be left. Rivals that are nearer there do not count there, and lose where
they are not. For the exponent 0.25, half the distance to 0 and 1. The odd
modes without biases are an identity up to the rounding of float32: 1e-3, where networks with biases have learnt tens
of percents.

Assumptions: NTK parametrisation, standard normal start, m even (else odd modes share the rates of even ones); targets
of order 1, with the same amplitude in every mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import init_members, network
from experiments.two_layer import train_two_layer
from experiments.verdict import Verdict, decide, equivalence, exponent, identity
from experiments.verdict.rates import weighted_fit
from theory.architecture import MLP
from theory.kernels import nngp, ntk
from theory.kernels.circle import decay, grid_eigenvalues, relu_eigenvalues

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BIAS_VARIANCES = {"bias-free": 0.0, "biased": 0.3}
MARGIN, ROUNDING = 0.1, 1e-3
# Members are averaged in so many groups a call; their scatter gives the errors.
GROUPS = 4


@dataclass(frozen=True)
class Config:
    """Grid, target and sizes.

    Attributes:
        points: m, even.
        modes: k = 0, …, modes − 1 are in the target.
        amplitude: of each of them.
        steps: of gradient descent, at which residuals are compared.
        learning_rate: η; a number, because a measurement that took it from the predicted rates would not be
            independent of the prediction.
        widths: n.
        units: hidden units trained in one call; members times width.
        calls: in one cell.
        batches: cells of each width.
    """

    points: int
    widths: tuple[int, ...]
    steps: tuple[int, ...]
    units: int
    calls: int
    batches: int
    modes: int = 7
    amplitude: float = 0.5
    learning_rate: float = 0.5


SMOKE = Config(16, widths=(32, 128, 512, 2048), steps=(1, 2, 4, 8, 16, 32, 64), units=2**14, calls=8, batches=1)
PAPER = Config(
    32,
    widths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    steps=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    units=2**14,
    calls=4,
    batches=4,
)


def assumptions(config: Config) -> list[Assumption]:
    """The grid, the step, and that several modes are followed for long enough."""
    rates = _rates(config)
    free = rates["bias-free"]
    circle = relu_eigenvalues(np.arange(config.modes)).ntk
    excess = float(np.max((free / np.where(circle > 0, circle, 1) - 1)[circle > 0]))
    fastest = config.learning_rate * max(float(c.max()) for c in rates.values())
    learnt = [int(np.sum(config.learning_rate * config.steps[-1] * c > 2)) for c in rates.values()]
    return [
        Assumption(
            "the grid is even and resolves all modes",
            config.points % 2 == 0 and config.modes <= config.points / 2,
            f"{config.points} points, {config.modes} modes; bias-free rates up to {excess:.1%} above the circle's",
        ),
        # Narrow networks have kernels of half as much again.
        Assumption("the learning rate is below half of the critical one", fastest < 1, f"η c_0 = {fastest:.2f}"),
        Assumption("three modes are followed for two of their times", min(learnt) >= 3, f"{learnt} modes of each"),
    ]


def _rates(config: Config, kernel=ntk) -> dict[str, Float[np.ndarray, " mode"]]:
    """c_k on the grid, for both networks; what is rounding of a zero is 0, so that never means never."""
    found = {}
    for name, variance in BIAS_VARIANCES.items():
        rates = grid_eigenvalues(lambda a, b, v=variance: kernel(MLP(1, "relu", 2.0, v), a, b), config.points)
        found[name] = np.where(np.abs(rates) < 1e-12, 0.0, rates)[: config.modes]
    return found


def _one_rate(config: Config) -> dict[str, np.ndarray]:
    return {name: np.full(config.modes, c[1]) for name, c in _rates(config).items()}


def _no_bias(config: Config) -> dict[str, np.ndarray]:
    return dict.fromkeys(BIAS_VARIANCES, _rates(config)["bias-free"])


def _last_layer(config: Config) -> dict[str, np.ndarray]:
    return _rates(config, nngp)


def predict(config: Config) -> xr.Dataset:
    """What is left of each mode after each number of steps, where it is compared, and the exponent of the distance."""
    return _prediction(config, _rates(config))


def _prediction(config: Config, rates: dict[str, np.ndarray], rate: float = 0.5) -> xr.Dataset:
    def left(rates: dict[str, np.ndarray]) -> np.ndarray:
        return np.stack([decay(np.abs(c), config.steps, config.learning_rate) for c in rates.values()])

    truth = left(_rates(config))
    furthest = np.max([np.abs(left(rival(config)) - truth) for rival in (_one_rate, _no_bias, _last_layer)], axis=0)
    return xr.Dataset(
        {
            "left": (("net", "mode", "step"), left(rates)),
            "compared": (("net", "mode", "step"), (furthest > 2 * MARGIN) & (truth > 0.05) & (truth < 0.95)),
            "never": (("net", "mode"), np.stack([c == 0 for c in _rates(config).values()])),
            "exponent": ((), rate),
            "margin": ((), MARGIN),
            "exponent_margin": ((), 0.25),
        },
        coords={"net": list(BIAS_VARIANCES), "mode": np.arange(config.modes), "step": list(config.steps)},
    )


def one_rate(config: Config) -> xr.Dataset:
    """Rival: all modes are learnt at one rate, that of mode 1."""
    return _prediction(config, _one_rate(config))


def no_bias_effect(config: Config) -> xr.Dataset:
    """Rival: biases change nothing, and the bias-free rates hold for both networks."""
    return _prediction(config, _no_bias(config))


def last_layer_only(config: Config) -> xr.Dataset:
    """Rival: the eigenvalues are the NNGP's, as if only the last layer learned."""
    return _prediction(config, _last_layer(config))


def as_the_width(config: Config) -> xr.Dataset:
    """Rival: each network's distance falls as 1/n."""
    return _prediction(config, _rates(config), rate=1.0)


def no_limit(config: Config) -> xr.Dataset:
    """Rival: networks keep their distance at any width."""
    return _prediction(config, _rates(config), rate=0.0)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members of each width and network."""
    return [
        {"net": net, "width": width, "batch": batch}
        for net in BIAS_VARIANCES
        for width in config.widths
        for batch in range(config.batches)
    ]


def target(config: Config) -> Float[np.ndarray, " m"]:
    """Σ_k A cos(kγ + φ_k) on the grid, with phases that leave no symmetry."""
    k, j = np.arange(config.modes)[:, None], np.arange(config.points)
    # Squares of the golden section's multiples: any phases but multiples of π/2 at k = 0 do.
    return config.amplitude * np.cos(2 * np.pi * (k * j / config.points + 0.618 * k**2)).sum(axis=0)


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Trains members, and averages over groups of them the squares and products of their residuals r_k.

    "now": |r_k(t)|², "overlap": Re r_k(t) r_k(0)*, "start": |r_k(0)|²; "moved": |r_k(t) − r_k(0)|/|r_k(0)|, the largest
    of all members.
    """
    width = int(cell["width"])
    net = network(MLP(1, "relu", 2.0, BIAS_VARIANCES[str(cell["net"])]), width=width, inputs=2)
    angle, y = 2 * np.pi * np.arange(config.points) / config.points, target(config)
    # |x|² = d = 2.
    x = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    waves = np.exp(-1j * np.arange(config.modes)[:, None] * angle) / config.points
    now, overlap, start, moved = [], [], [], []
    for call in range(config.calls):
        params = init_members(net, jax.random.fold_in(key, call), config.units // width, np.float32)
        outputs = train_two_layer(
            net, params, x, y, learning_rate=config.learning_rate / config.points, steps=(0, *config.steps)
        )
        r = np.einsum("kj,itj->ikt", waves, outputs.astype(np.float64) - y)
        first, r = r[..., :1], r[..., 1:]
        moved.append(np.abs(r / first - 1).max(axis=0))
        for products, values in (
            (now, np.abs(r) ** 2),
            (overlap, (r * first.conj()).real),
            (start, np.abs(first) ** 2),
        ):
            products.append(values.reshape(GROUPS, -1, *values.shape[1:]).mean(axis=1))
    return xr.Dataset(
        {
            "now": (("group", "mode", "step"), np.concatenate(now)),
            "overlap": (("group", "mode", "step"), np.concatenate(overlap)),
            "start": (("group", "mode"), np.concatenate(start)[..., 0]),
            "moved": (("mode", "step"), np.max(moved, axis=0)),
        },
        coords={"mode": np.arange(config.modes), "step": list(config.steps)},
    )


def grouped(measurement: xr.Dataset, name: str) -> np.ndarray:
    """A variable with axes (net, width, mode, step, group), all batches' groups together."""
    data = measurement[name]
    if "step" not in data.dims:
        data = data.expand_dims(step=1)
    values = data.sel(net=list(BIAS_VARIANCES)).transpose("net", "width", "mode", "step", "batch", "group").values
    return values.reshape(*values.shape[:4], -1)


def remaining(measurement: xr.Dataset) -> tuple[np.ndarray, np.ndarray, int]:
    """Σ r(t) r(0)*/Σ |r(0)|² at each width, its standard error, (net, width, mode, step), and the number of groups."""
    overlap, start = grouped(measurement, "overlap"), grouped(measurement, "start")
    count, mean = overlap.shape[-1], start.mean(axis=-1)
    ratio = overlap.mean(axis=-1) / mean
    # The ratio's error to first order; never below the rounding of float32.
    error = (overlap - ratio[..., None] * start).std(axis=-1, ddof=1) / mean / np.sqrt(count)
    return ratio, np.hypot(error, 1e-6), count


def limit(widths: np.ndarray, ratio: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extrapolated to infinite width with terms n^-½ and 1/n, from axis 1; and the standard error."""
    design = np.stack([widths**-p for p in (0.0, 0.5, 1.0)], axis=-1)
    fit = weighted_fit(design, np.moveaxis(ratio, 1, -1), np.moveaxis(error, 1, -1), 0)
    return fit.estimate, fit.standard_error


def distances(prediction: xr.Dataset, measurement: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Distance of r(t) from left · r(0), relative to the size of r(0) in the mode, and its standard error.

    A root mean square over networks, modes and recorded steps; both (net, width).
    """
    now, overlap, start = (grouped(measurement, name) for name in ("now", "overlap", "start"))
    left = prediction["left"].values[:, None, :, :, None]
    squares = (now - 2 * left * overlap + left**2 * start) / start.mean(axis=-1, keepdims=True)
    squares = squares.mean(axis=(2, 3))
    root = np.sqrt(squares.mean(axis=-1))
    return root, squares.std(axis=-1, ddof=1) / np.sqrt(squares.shape[-1]) / (2 * root)


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """What is left of the modes at infinite width, those never learnt, and the exponent of the distance."""
    widths, steps = measurement["width"].values.astype(float), prediction["step"].values
    ratio, error, count = remaining(measurement)
    estimate, uncertainty = limit(widths, ratio, error)
    size = count * len(widths)
    chosen = np.argwhere(prediction["compared"].values)
    rows = tuple(chosen.T)
    nets = list(BIAS_VARIANCES)
    comparisons = equivalence(
        [f"{nets[i]}, mode {k}, step {steps[t]}" for i, k, t in chosen],
        estimate[rows],
        prediction["left"].values[rows],
        float(prediction["margin"]),
        standard_error=uncertainty[rows],
        sample_size=size,
        dof=count - 1,
    )
    moved = measurement["moved"].max(("width", "batch")).sel(net=nets).transpose("net", "mode", "step").values
    for i, k in np.argwhere(prediction["never"].values):
        comparisons += identity(
            f"{nets[i]}, mode {k}, largest change",
            moved[i, k].max(),
            float(1 - prediction["left"].values[i, k, -1]),
            tolerance=ROUNDING,
        )
    distance, spread = distances(prediction, measurement)
    for i, net in enumerate(nets):
        comparisons += exponent(
            f"{net}, exponent of the distance",
            widths,
            distance[i],
            spread[i],
            prediction=float(prediction["exponent"]),
            margin=float(prediction["exponent_margin"]),
            correction=0.5,
            sample_size=size,
            dof=count - 1,
        )
    return decide(
        comparisons,
        margin_source="half of 0.2, where nearer rivals do not count; half the distance between exponents 0, ½ and 1",
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """What is left of each mode in both networks, extrapolated to infinite width, and the distance against width."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement, config = evidence.prediction, evidence.measurement, evidence.config
    widths, steps = measurement["width"].values.astype(float), prediction["step"].values
    estimate, uncertainty = limit(widths, *remaining(measurement)[:2])
    smooth = np.geomspace(steps[0], steps[-1], 60)
    axes = figure.subplots(1, 3)
    for i, (net, rates) in enumerate(_rates(config).items()):
        for k in range(config.modes):
            colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
            axes[i].plot(smooth, decay(np.abs(rates[k]), smooth, config.learning_rate), color=colour, linewidth=1)
            axes[i].errorbar(
                steps, estimate[i, k], 2.576 * uncertainty[i, k], fmt=marker, color=colour, label=f"{k}", markersize=3
            )
        axes[i].set(xscale="log", xlabel="steps", title=net, ylim=(-0.05, 1.08))
        axes[i].set_xscale("log", base=2)
    axes[0].set_ylabel("left of the residual")
    never = [str(k) for k in np.flatnonzero(prediction["never"].values[0])]
    axes[0].annotate("modes " + ", ".join(never), (steps[0], 1.025), fontsize="small")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, title="mode $k$ (lines: theory; points: networks)", loc="outside lower center", ncols=7
    )
    distance, spread = distances(prediction, measurement)
    for i, net in enumerate(BIAS_VARIANCES):
        axes[2].errorbar(widths, distance[i], 2.576 * spread[i], fmt=MARKERS[i], color=COLOURS[i], label=net)
    axes[2].plot(widths, distance[0][-1] * (widths / widths[-1]) ** -0.5, "--", color="black", label="$n^{-1/2}$")
    axes[2].set(xscale="log", yscale="log", xlabel="width $n$", title="relative distance")
    axes[2].set_yticks([0.02, 0.05, 0.1], ["0.02", "0.05", "0.1"])
    axes[2].set_yticks([], minor=True)
    axes[2].legend(loc="upper right")


claim = Claim(
    id="ntk/spectral-bias",
    kind="limit",
    expected="supported",
    sources=("basri2019convergence", "jacot2018neural"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("one-rate", "all modes are learnt at one rate, that of mode 1", predict=one_rate),
        Rival("no-bias-effect", "the bias-free rates hold with biases too", predict=no_bias_effect),
        Rival("last-layer-only", "the eigenvalues are the NNGP's: only the last layer learns", predict=last_layer_only),
        Rival("as-the-width", "each network's distance from the law falls as 1/n", predict=as_the_width),
        Rival("no-limit", "networks keep their distance from the law at any width", predict=no_limit),
    ),
)
