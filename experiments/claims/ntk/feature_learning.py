"""A few steps of gradient descent change hidden features and the tangent kernel by amounts that do not depend on the
width n in μP and the mean-field parametrisation; in the NTK parametrisation features change as n^-½, the kernel as 1/n.
The best learning rate is independent of the width in μP and the NTK parametrisation, and falls as 1/n in the standard
one.

Source: Yang & Hu 2021, section 3, for the changes of features; Yang et al. 2022 for the transfer of learning rates. The
exponents, those of the kernel included, are derived from the powers of n in each parametrisation (`theory.scaling`).

Measured are the root mean square change of a unit's activation in both hidden layers and the relative change of the
tangent kernel (layers weighed by their rates, Frobenius norm), after some steps at one rate for all widths, divided by
the root mean square residual at the start, whose scatter they would otherwise follow; and the rate with the least
geometric mean loss after these steps, found in two passes: on octaves that are the same at all widths, with few of the
networks, then with many on quarters of an octave around the best of these, and between these by the parabola through
three losses on logarithmic scales. Its error is that of a bootstrap over members; a quartic through five losses gives
rates larger by 0.02 octaves, at all widths alike.

Margin: ¼, half the distance between rival exponents of features and rates (0, ½ and 1) and of kernels, where n^-½ is a
rival of 1/n. Fits model the next order, relatively 1/n: terms of relative order n^-½ are odd in the random signs of the
output's weights and have zero mean. In the standard parametrisation the input layer, whose rate is not scaled with n,
adds d/n of the kernel: images are averaged to 4 by 4 pixels, so that d = 16 stays below all widths. Without biases the
mean-field parametrisation at the rate η is μP at the rate σ_w² η: its lines are another rate, not another theory.

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
# Octaves of the first pass, and quarters of an octave of the second; as many, so that one program does both.
POINTS, SPACING = 13, 0.25
# Networks of the first pass (fewer where not as many are drawn at once), draws of the bootstrap, weights drawn at once.
SCOUTS, RESAMPLES, DRAWS = 16, 400, 2**26


@dataclass(frozen=True)
class Config:
    """Data and sizes.

    Attributes:
        dataset: name of a set of images of ten digits.
        images: number of images of each digit.
        widths: n of both hidden layers.
        members: networks at each width whose features and kernels are looked at.
        tuned: those of them that look for the best rate.
        steps: of gradient descent.
        lowest: log₂ of the least rate of the first pass for each of `GRIDS`, the same at all widths.
    """

    dataset: str
    images: int
    widths: tuple[int, ...]
    members: tuple[int, ...]
    tuned: tuple[int, ...]
    steps: int = 4
    lowest: tuple[int, ...] = (-6, -6, -13)


SMOKE = Config("digits", 2, widths=(32, 96, 512), members=(1536, 768, 192), tuned=(256, 256, 96))
PAPER = Config(
    "mnist",
    2,
    widths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    members=(1024, 1024, 512, 256, 128, 64, 32, 32),
    tuned=(256, 256, 128, 128, 64, 64, 32, 32),
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
        Assumption(
            "those that look for a rate are among the members, and no fewer than those of the first pass",
            all(SCOUTS <= t <= m for t, m in zip(config.tuned, config.members, strict=True)),
            f"{config.tuned} of {config.members}",
        ),
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
            "margin": 0.25,
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


def slow_kernel(config: Config) -> xr.Dataset:
    """Rival: in the NTK parametrisation the kernel changes as features do, as n^-½."""
    return _prediction([RICH, RICH, [0.5, 0.5, 0.5]], [0.0, 0.0, 1.0])


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
    at = config.widths.index(width)
    members, tuned = config.members[at], config.tuned[at]
    nets = {
        scheme: network(ARCHITECTURE, width=width, inputs=x.shape[1], parametrisation=scheme, bias=False)
        for scheme in {*(scheme for scheme, _ in CHECKS), *GRIDS}
    }
    octaves = np.add.outer(np.array(config.lowest, float), np.arange(POINTS))
    powers = octaves
    most = max(1, DRAWS // nets["ntk"].parameters)
    changes, losses = [], []
    for first in range(0, members, most):
        count = min(most, members - first)
        # In the NTK parametrisation parameters are standard normals.
        normals = init_members(nets["ntk"], jax.random.fold_in(key, first), count)
        checks = descend([nets[scheme] for scheme, _ in CHECKS], [r for _, r in CHECKS], normals, x, y, config.steps)
        residual = np.sqrt(2 * checks.loss[:, :, :1])
        changes.append(np.stack([checks.first, checks.second, checks.kernel], axis=-1) / residual)

        def tune(powers: np.ndarray, upto: int, normals=normals) -> np.ndarray:
            """Logarithms of the losses at the end (members, schemes, rates)."""
            runs = [nets[scheme] for scheme in GRIDS for _ in range(POINTS)]
            some = jax.tree.map(lambda array: array[:upto], normals)
            loss = descend(runs, list(2.0 ** powers.ravel()), some, x, y, config.steps).loss[:, :, -1]
            # A run that diverges is as bad as any loss can be.
            finite = np.clip(np.nan_to_num(loss.astype(np.float64), nan=np.inf), None, 1e6)
            return np.log(finite).reshape(-1, len(GRIDS), POINTS)

        if first == 0:
            scouted = np.argmin(tune(octaves, min(SCOUTS, count)).mean(axis=0), axis=1)
            # Where the best octave is the first or the last, nothing is known beyond.
            powers = np.take_along_axis(octaves, scouted[:, None], axis=1) + SPACING * (np.arange(POINTS) - POINTS // 2)
            powers[(scouted == 0) | (scouted == POINTS - 1)] = np.nan
        if first < tuned:
            losses.append(tune(np.nan_to_num(powers), min(count, tuned - first)))
    change, log_loss = np.concatenate(changes).astype(np.float64), np.concatenate(losses)
    rng = np.random.default_rng(int(jax.random.randint(jax.random.fold_in(key, members), (), 0, 2**31 - 1)))
    best, error = zip(*(best_rate(log_loss[:, i], row, rng) for i, row in enumerate(powers)), strict=True)
    return xr.Dataset(
        {
            "change": (("check", "quantity"), change.mean(axis=0)),
            "change_error": (("check", "quantity"), change.std(axis=0, ddof=1) / np.sqrt(members)),
            "best": ("scheme", list(best)),
            "best_error": ("scheme", list(error)),
            "log_loss": (("scheme", "point"), log_loss.mean(axis=0)),
            "power": (("scheme", "point"), np.nan_to_num(powers)),
            "members": members,
            "tuned": tuned,
        }
    )


def best_rate(
    log_loss: Float[np.ndarray, "members rates"], powers: Float[np.ndarray, " rates"], rng: np.random.Generator
) -> tuple[float, float]:
    """log₂ of the rate with the least mean logarithm of the loss, and its standard error by a bootstrap over members.

    The vertex of the parabola through the grid's least loss and its neighbours. NaN where the least loss lies at an end
    of the grid, which fails the verdict: nothing is known beyond.
    """
    members = len(log_loss)
    weights = rng.multinomial(members, np.full(members, 1 / members), RESAMPLES) / members
    # All networks as they are, then resampled.
    curves = np.concatenate([np.full((1, members), 1 / members), weights]) @ log_loss
    at = np.argmin(curves, axis=1)
    inside = (at > 0) & (at < curves.shape[1] - 1)
    middle = np.clip(at, 1, curves.shape[1] - 2)
    left, centre, right = (np.take_along_axis(curves, (middle + i)[:, None], axis=1)[:, 0] for i in (-1, 0, 1))
    shift = 0.5 * (left - right) / np.where(inside, left - 2 * centre + right, 1.0)
    best, *others = np.where(inside, powers[middle] + shift * (powers[1] - powers[0]), np.nan)
    return float(best), float(np.std(others) * np.sqrt(members / (members - 1)))


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The exponents of all changes and best rates."""
    widths, margin = measurement["width"].values, float(prediction["margin"])
    members, tuned = measurement["members"].values, measurement["tuned"].values
    rows = []
    for i, scheme in enumerate(prediction["check"].values):
        for j, what in enumerate(QUANTITIES):
            law = float(prediction["change"][i, j])
            rows.append((f"{scheme}: change of the {what}", law, members, *_series(measurement, "change", i, j)))
    for i, scheme in enumerate(prediction["scheme"].values):
        best, error = _series(measurement, "best", i)
        law = float(prediction["rate"][i])
        rows.append((f"{scheme}: best rate", law, tuned, 2**best, np.log(2) * error * 2**best))
    comparisons = [
        comparison
        for label, law, networks, values, errors in rows
        for comparison in exponent(
            label,
            widths,
            values,
            errors,
            prediction=law,
            margin=margin,
            correction=1.0,
            sample_size=int(networks.sum()),
            dof=float(networks.min() - 1),
        )
    ]
    return decide(comparisons, margin_source="half the distance between rival exponents: 0, ½ and 1")


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
        Rival("slow-kernel", "in the NTK parametrisation the kernel changes as n^-½", predict=slow_kernel),
        Rival("always-lazy", "features change as n^-½ and kernels as 1/n in μP as well", predict=always_lazy),
    ),
    datasets=datasets,
)
