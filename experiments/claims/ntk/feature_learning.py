"""A few steps of gradient descent change hidden features and the tangent kernel by amounts that do not depend on the
width n in μP and the mean-field parametrisation; in the NTK parametrisation features change as n^-½, the kernel as 1/n.
The best learning rate is independent of the width in μP and the NTK parametrisation, and falls as 1/n in the standard
one.

Source: Yang & Hu 2021, section 3, for the changes of features; Yang et al. 2022 for the transfer of learning rates. The
exponents, those of the kernel included, are derived from the powers of n in each parametrisation (`theory.scaling`).

Measured are the root mean square change of a unit's activation in both hidden layers and the relative change of the
tangent kernel (layers weighed by their rates, Frobenius norm), after some steps at one rate for all widths, divided by
the root mean square residual at the start, whose scatter they would otherwise follow; and the rate with the least
geometric mean loss after these steps, on a grid fixed for all widths, and between its points by the parabola through
three losses on logarithmic scales.

Margin: half the distance to the nearest rival, ¼ for features (exponents 0 and ½) and ½ for kernels (0 and 1); for best
rates ¼ as well. That the kernel moves as 1/n and not as n^-½ is tested with this precision in `ntk/drift-smooth`. Fits
model the next order, relatively 1/n: terms of relative order n^-½ are odd in the random signs of the output's weights
and have zero mean. In the standard parametrisation the input layer, whose rate is not scaled with n, adds d/n of the
kernel: images are averaged to 4 by 4 pixels, so that d = 16 stays below all widths. The parabola for the best rate has
its right point where runs diverge: it lies up to an octave low, at each width alike. Without biases the mean-field
parametrisation at the rate η is μP at the rate σ_w² η: its lines are another rate, not another theory.

Assumptions: two hidden layers of erf units, σ_w² = 2, no biases, full-batch gradient descent on ½ mean (f − y)², one
output, |x|² = d, targets ±1 (odd and even digits). Networks are float32; members share their random numbers between
parametrisations and rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.data import load, normalise
from experiments.networks import init_members, network
from experiments.verdict import Verdict, decide, exponent
from experiments.wide_descent import descend
from theory.architecture import MLP
from theory.scaling import scaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARCHITECTURE = MLP(2, "erf", weight_variance=2.0)
PIXELS = 4
# Where features are looked at, with the rate; and where the best rate is looked for.
CHECKS = (("mup", 2.0), ("mean-field", 0.75), ("ntk", 1.0))
GRIDS = ("mup", "ntk", "standard")
QUANTITIES = ("first layer", "second layer", "kernel")
# Parts of the ensemble that the error of a best rate comes from, and weights drawn at once.
GROUPS, DRAWS = 16, 2**26


@dataclass(frozen=True)
class Config:
    """Data and sizes.

    Attributes:
        dataset: name of a set of images of ten digits.
        images: number of images of each digit.
        widths: n of both hidden layers.
        members: networks at each width.
        steps: of gradient descent.
        lowest, highest: log₂ of the ends of the grid of rates for each of `GRIDS`, the same at all widths.
        spacing: of the grids, in log₂.
    """

    dataset: str
    images: int
    widths: tuple[int, ...]
    members: tuple[int, ...]
    steps: int
    lowest: tuple[int, ...]
    highest: tuple[int, ...]
    spacing: float


SMOKE = Config(
    "digits",
    2,
    widths=(32, 96, 512),
    members=(256, 128, 32),
    steps=4,
    lowest=(-1, -1, -8),
    highest=(2, 2, -2),
    spacing=0.5,
)
PAPER = Config(
    "mnist",
    2,
    widths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    members=(256, 256, 128, 128, 64, 64, 32, 32),
    steps=4,
    lowest=(-1, -1, -12),
    highest=(3, 3, -1),
    spacing=1.0,
)


def datasets(config: Config) -> tuple[str, ...]:
    """Sets that `measure` reads."""
    return (config.dataset,)


def task(config: Config) -> tuple[Float[np.ndarray, "m 16"], Float[np.ndarray, " m"]]:
    """The first images of each digit, averaged to 4 by 4 pixels, with |x|² = 16; targets 1 for odd digits, −1 else."""
    data = load(config.dataset)
    rows = np.concatenate([np.flatnonzero(data.y_train == digit)[: config.images] for digit in range(10)])
    side = {"digits": 8, "mnist": 28}[config.dataset]
    blocks = data.x_train[rows].reshape(len(rows), PIXELS, side // PIXELS, PIXELS, side // PIXELS)
    small = blocks.mean(axis=(2, 4)).reshape(len(rows), -1)
    return normalise(small - small.mean(axis=0)), np.where(data.y_train[rows] % 2, 1.0, -1.0)


def assumptions(config: Config) -> list[Assumption]:
    """Enough widths for the fits, inputs narrower than all of them, and members in equal groups."""
    x, _ = task(config)
    return [
        Assumption("members form equal groups", not any(m % GROUPS for m in config.members), f"{config.members}"),
        Assumption("inputs have fewer dimensions than any width", x.shape[1] < min(config.widths), f"{x.shape[1]}"),
        Assumption("a fit has no more unknowns than widths", len(config.widths) >= 3, f"{len(config.widths)} widths"),
    ]


def predict(config: Config) -> xr.Dataset:
    """Exponents of the changes in each parametrisation of `CHECKS`, and of the best rate in each of `GRIDS`."""
    laws = {scheme: scaling(scheme) for scheme in ("mup", "mean-field", "ntk", "standard")}
    changes = [[laws[scheme].first, laws[scheme].later, laws[scheme].kernel] for scheme, _ in CHECKS]
    return _prediction(changes, [laws[scheme].rate for scheme in GRIDS])


def _prediction(changes: list[list[float]], rates: list[float]) -> xr.Dataset:
    return xr.Dataset(
        {
            "change": (("check", "quantity"), changes),
            "rate": ("scheme", rates),
            "change_margin": ("quantity", [0.25, 0.25, 0.5]),
            "rate_margin": 0.25,
        },
        coords={
            "check": [scheme for scheme, _ in CHECKS],
            "scheme": list(GRIDS),
            "quantity": list(QUANTITIES),
        },
    )


LAZY, RICH = [0.5, 0.5, 1.0], [0.0, 0.0, 0.0]


def transfer_everywhere(config: Config) -> xr.Dataset:
    """Rival: the best rate is independent of the width in the standard parametrisation too."""
    return _prediction([RICH, RICH, LAZY], [0.0, 0.0, 0.0])


def no_transfer(config: Config) -> xr.Dataset:
    """Rival: wider networks want smaller rates, 1/n, in every parametrisation."""
    return _prediction([RICH, RICH, LAZY], [1.0, 1.0, 1.0])


def ntk_learns_features(config: Config) -> xr.Dataset:
    """Rival: the NTK parametrisation learns features as μP does."""
    return _prediction([RICH, RICH, RICH], [0.0, 0.0, 1.0])


def always_lazy(config: Config) -> xr.Dataset:
    """Rival: every wide network is a kernel machine, whatever its parametrisation."""
    return _prediction([LAZY, LAZY, LAZY], [0.0, 0.0, 1.0])


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Each width."""
    return [{"width": width} for width in config.widths]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Trains float32 networks from the same random numbers in every parametrisation and at every rate.

    Returns:
        For the checks means over members of the changes, for the grids those of log₂ of the best rate, with standard
        errors.
    """
    x, y = task(config)
    width = int(cell["width"])
    members = config.members[config.widths.index(width)]
    ends = zip(config.lowest, config.highest, strict=True)
    powers = [np.arange(low, high + config.spacing / 2, config.spacing) for low, high in ends]
    grids = [(scheme, 2.0**power) for scheme, part in zip(GRIDS, powers, strict=True) for power in part]
    schemes, rates = zip(*CHECKS, *grids, strict=True)
    nets = {
        scheme: network(ARCHITECTURE, width=width, inputs=x.shape[1], parametrisation=scheme, bias=False)
        for scheme in {*schemes, "ntk"}
    }
    together = min(members, max(1, DRAWS // nets["ntk"].parameters))
    together = max(size for size in range(1, together + 1) if members % size == 0)
    changes, losses = [], []
    for batch in range(members // together):
        # In the NTK parametrisation parameters are standard normals.
        normals = init_members(nets["ntk"], jax.random.fold_in(key, batch), together)
        found = descend([nets[scheme] for scheme in schemes], rates, normals, x, y, config.steps)
        residual = np.sqrt(2 * found.loss[:, : len(CHECKS), :1])
        changes.append(np.stack([found.first, found.second, found.kernel], axis=-1)[:, : len(CHECKS)] / residual)
        losses.append(found.loss[:, len(CHECKS) :, -1])
    change, loss = np.concatenate(changes).astype(np.float64), np.concatenate(losses).astype(np.float64)
    # A run that diverges is as bad as any loss can be.
    log_loss = np.log(np.clip(np.nan_to_num(loss, nan=np.inf), None, 1e6))
    parts = np.split(log_loss, np.cumsum([len(part) for part in powers])[:-1], axis=1)
    best, error = zip(*(best_rate(part, powers[i]) for i, part in enumerate(parts)), strict=True)
    return xr.Dataset(
        {
            "change": (("check", "quantity"), change.mean(axis=0)),
            "change_error": (("check", "quantity"), change.std(axis=0, ddof=1) / np.sqrt(members)),
            "best": ("scheme", list(best)),
            "best_error": ("scheme", list(error)),
            "members": members,
        }
    )


def best_rate(log_loss: Float[np.ndarray, "members rates"], powers: Float[np.ndarray, " rates"]) -> tuple[float, float]:
    """log₂ of the rate with the least mean logarithm of the loss, and its standard error by the jackknife over groups.

    The vertex of the parabola through the grid's least loss and its neighbours. NaN where the least loss lies at an end
    of the grid, which fails the verdict: nothing is known beyond.
    """
    groups = log_loss.reshape(GROUPS, -1, log_loss.shape[1]).mean(axis=1)
    # All networks first, then all without one group.
    curves = np.concatenate([groups.mean(axis=0)[None], (groups.sum(axis=0) - groups) / (GROUPS - 1)])
    at = np.argmin(curves, axis=1)
    inside = (at > 0) & (at < curves.shape[1] - 1)
    middle = np.clip(at, 1, curves.shape[1] - 2)
    left, centre, right = (np.take_along_axis(curves, (middle + i)[:, None], axis=1)[:, 0] for i in (-1, 0, 1))
    shift = 0.5 * (left - right) / np.where(inside, left - 2 * centre + right, 1.0)
    best, *others = np.where(inside, powers[middle] + shift * (powers[1] - powers[0]), np.nan)
    return float(best), float(np.sqrt(GROUPS - 1) * np.std(others))


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The exponents of all changes and best rates."""
    widths, members = measurement["width"].values, measurement["members"].values
    margins = prediction["change_margin"].values
    rows = []
    for i, scheme in enumerate(prediction["check"].values):
        for j, what in enumerate(QUANTITIES):
            law = float(prediction["change"][i, j]), float(margins[j]), members.min() - 1
            rows.append((f"{scheme}: change of the {what}", *law, *_series(measurement, "change", i, j)))
    for i, scheme in enumerate(prediction["scheme"].values):
        best, error = _series(measurement, "best", i)
        predicted, margin = prediction["rate"].values[i], float(prediction["rate_margin"])
        rows.append((f"{scheme}: best rate", predicted, margin, GROUPS - 1, 2**best, np.log(2) * error * 2**best))
    comparisons = [
        comparison
        for label, predicted, margin, dof, values, errors in rows
        for comparison in exponent(
            label,
            widths,
            values,
            errors,
            prediction=float(predicted),
            margin=float(margin),
            correction=1.0,
            sample_size=int(members.sum()),
            dof=float(dof),
        )
    ]
    return decide(comparisons, margin_source="at most half the distance between rival exponents: 0, ½ and 1")


def _series(measurement: xr.Dataset, name: str, *index: int) -> tuple[np.ndarray, np.ndarray]:
    """A quantity and its standard error at each width."""
    values, errors = (measurement[key].transpose("width", ...).values for key in (name, f"{name}_error"))
    return values[(slice(None), *index)], errors[(slice(None), *index)]


NAMES = {"mup": r"$\mu$P", "mean-field": "mean field", "ntk": "NTK", "standard": "standard"}


def draw(figure: Figure, evidence: Evidence) -> None:
    """Changes of the second layer and of the kernel, and the best rates, against width: one panel each."""
    from experiments.report.style import COLOURS, MARKERS
    from experiments.verdict.rates import fit_amplitude

    prediction, measurement = evidence.prediction, evidence.measurement
    widths = measurement["width"].values.astype(float)
    smooth = np.geomspace(widths[0], widths[-1], 50)
    panels = figure.subplots(1, 3)
    colour = {scheme: i for i, scheme in enumerate(NAMES)}
    handles = {}

    def plot(axis, scheme: str, predicted: float, values: np.ndarray, errors: np.ndarray) -> None:
        i = colour[scheme]
        fit = fit_amplitude(widths, values, errors, exponent=predicted, correction=1.0)
        axis.plot(smooth, float(fit.estimate) * smooth**-predicted, color=COLOURS[i], linewidth=0.9)
        handles[NAMES[scheme]] = axis.errorbar(widths, values, 2.576 * errors, fmt=MARKERS[i], color=COLOURS[i])

    titles = ("change of second layer", "change of kernel", "best learning rate")
    for axis, quantity in zip(panels, (1, 2), strict=False):
        for i, scheme in enumerate(prediction["check"].values):
            plot(axis, scheme, float(prediction["change"][i, quantity]), *_series(measurement, "change", i, quantity))
    for i, scheme in enumerate(prediction["scheme"].values):
        best, error = _series(measurement, "best", i)
        plot(panels[2], scheme, float(prediction["rate"][i]), 2**best, np.log(2) * error * 2**best)
    for axis, title in zip(panels, titles, strict=True):
        axis.set(xscale="log", yscale="log", xlabel="width $n$", ylabel=title)
        ticks = widths[:: 2 if len(widths) > 5 else 1]
        axis.set_xticks(ticks, [f"{width:.0f}" for width in ticks], rotation=45)
        axis.set_xticks([], minor=True)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)


claim = Claim(
    id="ntk/feature-learning",
    kind="limit",
    expected="supported",
    sources=("yang2021tensor", "yang2022tensor"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival(
            "transfer-everywhere",
            "the best rate is independent of the width in the standard parametrisation too",
            predict=transfer_everywhere,
        ),
        Rival("no-transfer", "the best rate falls as 1/n in every parametrisation", predict=no_transfer),
        Rival("ntk-learns-features", "the NTK parametrisation learns features as μP does", predict=ntk_learns_features),
        Rival("always-lazy", "features change as n^-½ and kernels as 1/n in μP as well", predict=always_lazy),
    ),
    datasets=datasets,
)
