"""At initialisation the tangent kernel Θ(x, x) of a bias-free two-layer network has the relative variance 3/n for ReLU
and 1/n for linear units, exactly and at every width n; in deeper networks the relative variance falls as 1/n.

Source: Jacot et al. 2018, Theorem 1, for the limit; the variances are derived in `theory.kernels.ntk_fluctuations`.
For two layers Θ = T_1 + T_2, T_1 ∝ Σ a_i² φ'(z_i)² and T_2 ∝ Σ φ(z_i)² with equal means; each has the relative
variance 5/n (linear: 2/n) and their correlation through the units that are on adds 2 · 1/n (linear: 0): (5 + 5 + 2)/4n
= 3/n, (2 + 2)/4n = 1/n.

Margins. Two layers: an identity, so half the distance to the nearest rival, which is the other activation's law or
that of the standard parametrisation, where T_2 outweighs T_1 as n : d and the relative variance tends to 5/n (2/n).
Deeper: the exponent is fitted with its first correction in 1/n; the margin is half the distance to n^-½, the rate of
the standard deviation. The bias of the fit, from the exact law at the widths used, is an assumption.

Assumptions: Gaussian weights, no biases, equal widths, one input, the NTK parametrisation. Standard errors follow from
the exact moments of Θ up to the fourth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import network
from experiments.random_kernels import contributions, total
from experiments.verdict import Verdict, decide, equivalence, exponent
from theory.architecture import MLP
from theory.kernels.ntk_fluctuations import ntk_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ("relu", "linear")
NAMES = {"relu": "ReLU", "linear": "linear"}
# Variances that keep E f² from layer to layer; the relative variance does not depend on them.
WEIGHT_VARIANCES = {"relu": 2.0, "linear": 1.0}
# n times the relative variance of each contribution, and of both together.
SINGLE, JOINT = {"relu": 5.0, "linear": 2.0}, {"relu": 1.0, "linear": 0.0}


@dataclass(frozen=True)
class Config:
    """Sizes of the sweep, one entry a case.

    Attributes:
        widths: n of every hidden layer.
        depths: L, the number of weight matrices; cases of 2 test the value, deeper ones the exponent.
        members: networks drawn, shared out evenly among the batches.
        batches: cells of each case.
        inputs: dimension d of the one input x, with |x|²/d = 1; Θ depends on nothing else of it.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    members: tuple[int, ...]
    batches: int
    inputs: int = 2


SMOKE = Config(
    widths=(8, 64, 8, 16, 32, 64, 128),
    depths=(2, 2, 3, 3, 3, 3, 3),
    members=(40_000, 10_000, 200_000, 100_000, 30_000, 8_000, 1_600),
    batches=1,
)
WIDE = (32, 64, 128, 256, 512, 1024, 2048, 4096)
# A network costs n² normals, and a relative error of √(2/members) is all that a Gaussian kernel needs: most of the work
# goes to the widths of a few hundred, and the widest end gets the fewest members.
PAPER = Config(
    widths=(4, 16, 64, 256, 1024, 4096, *WIDE, *WIDE),
    depths=(2,) * 6 + (3,) * 8 + (4,) * 8,
    members=(
        *(400_000, 20_000, 10_000, 10_000, 10_000, 10_000),
        *(200_000, 100_000, 30_000, 8_000, 1_600, 400, 96, 32),
        *(160_000, 60_000, 20_000, 6_000, 1_200, 240, 48, 32),
    ),
    batches=4,
)


def standard(activation: str, width: int, inputs: int) -> float:
    """Relative variance of Θ in the standard parametrisation, two layers: E T_2 : E T_1 = n : d."""
    last = width / (width + inputs)
    return (SINGLE[activation] * (last**2 + (1 - last) ** 2) + 2 * JOINT[activation] * last * (1 - last)) / width


def _table(config: Config) -> xr.Dataset:
    """Relative variance, its exact standard error and its margin (two layers only) for every case."""
    values = np.zeros((len(config.widths), len(ACTIVATIONS), 3))
    for i, (n, depth, members) in enumerate(zip(config.widths, config.depths, config.members, strict=True)):
        plans = {a: ntk_plan(a, [n] * (depth - 1)) for a in ACTIVATIONS}
        for j, (activation, other) in enumerate(zip(ACTIVATIONS, ACTIVATIONS[::-1], strict=True)):
            excess = plans[activation].ratio - 1
            rivals = (plans[other].ratio - 1, standard(activation, n, config.inputs))
            # Deeper networks are judged by their exponent; the number for them is not used.
            margin = 0.5 * min(abs(excess - rival) for rival in rivals) if depth == 2 else 1.0
            values[i, j] = excess, plans[activation].standard_error(members), margin
    dims = ("case", "activation")
    return xr.Dataset(
        {name: (dims, values[..., k]) for k, name in enumerate(("variance", "error", "margin"))}
        | {
            "width": ("case", list(config.widths)),
            "depth": ("case", list(config.depths)),
            "exponent": 1.0,
            "exponent_margin": 0.25,
        },
        coords={"case": np.arange(len(config.widths)), "activation": list(ACTIVATIONS)},
    )


def assumptions(config: Config) -> list[Assumption]:
    """Margins of at least 12 planned standard errors, and a fit that finds 1 in the exact law at these widths."""
    from experiments.verdict.rates import fit_exponent

    table = _table(config)
    power = [(table["margin"] / table["error"]).values[np.array(config.depths) == 2].min()]
    bias = []
    for depth in deep(config.depths):
        here = np.array(config.depths) == depth
        for j in range(len(ACTIVATIONS)):
            columns = (table[name].values[here, j] for name in ("variance", "error"))
            fit = fit_exponent(np.array(config.widths)[here], *columns, correction=1.0)
            power.append(0.25 / float(fit.standard_error))
            bias.append(abs(float(fit.estimate) - 1))
    return [
        Assumption(
            "margins are at least 12 planned standard errors", min(power) >= 12, f"least of all: {min(power):.1f}"
        ),
        Assumption(
            "the exponent fitted to the exact law is 1 to a tenth of the margin", max(bias) < 0.025, f"{max(bias):.4f}"
        ),
    ]


def deep(depths: tuple[int, ...] | np.ndarray) -> list[int]:
    """Depths above two, each once."""
    return sorted({int(depth) for depth in depths} - {2})


def predict(config: Config) -> xr.Dataset:
    """The exact relative variance, the exponent, margins, and the ensemble's exact standard errors."""
    return _table(config)


def standard_parametrisation(config: Config) -> xr.Dataset:
    """Rival: the law of the standard parametrisation."""
    table = _table(config)
    values = [[standard(a, n, config.inputs) for a in ACTIVATIONS] for n in config.widths]
    return table.assign(variance=(("case", "activation"), values))


def other_activation(config: Config) -> xr.Dataset:
    """Rival: 1/n for ReLU and 3/n for linear units."""
    table = _table(config)
    return table.assign(variance=(("case", "activation"), table["variance"].values[:, ::-1]))


def slope_two(config: Config) -> xr.Dataset:
    """Rival: the relative variance falls as n^-2."""
    return _table(config).assign(exponent=2.0)


def slope_half(config: Config) -> xr.Dataset:
    """Rival: the relative variance falls as n^-½, the rate of its root."""
    return _table(config).assign(exponent=0.5)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members of each case."""
    return [{"case": case, "batch": batch} for case in range(len(config.widths)) for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[jax.Array, ""]) -> xr.Dataset:
    """Sums over members of 1, Θ − c and (Θ − c)², for both activations with the same weights."""
    case = int(cell["case"])
    depth = config.depths[case]
    nets = [
        network(MLP(depth - 1, a, WEIGHT_VARIANCES[a]), width=config.widths[case], inputs=config.inputs)
        for a in ACTIVATIONS
    ]
    # |x|²/d = 1.
    x = np.ones((1, config.inputs), np.float32)
    # Any constant near Θ keeps the digits of a small variance.
    centres = [WEIGHT_VARIANCES[a] * depth for a in ACTIVATIONS]

    def sums(normals: np.ndarray) -> np.ndarray:
        kernels = [
            contributions(net, normals, x)[:, :, 0, 0].sum(axis=1) - c for net, c in zip(nets, centres, strict=True)
        ]
        return np.array([[len(theta), theta.sum(), theta @ theta] for theta in kernels])

    members = -(-config.members[case] // config.batches)
    found = total(sums, nets[0].parameters, members, key)
    return xr.Dataset({"sums": (("activation", "power"), found), "centre": ("activation", centres)})


def relative_variances(measurement: xr.Dataset) -> tuple[Float[np.ndarray, "case activation"], np.ndarray]:
    """Var Θ/(mean Θ)², with the unbiased variance, and the number of members of each case."""
    count, first, second = np.moveaxis(
        measurement["sums"].sum("batch").transpose("case", "activation", "power").values, -1, 0
    )
    mean = first / count
    variance = (second / count - mean**2) * count / (count - 1)
    centre = measurement["centre"].isel(batch=0).transpose("case", "activation").values
    return variance / (centre + mean) ** 2, count[:, 0]


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Two layers: equivalence at every width. Deeper: the exponent with its first correction."""
    variance, members = relative_variances(measurement)
    depths, widths = prediction["depth"].values, prediction["width"].values
    two = depths == 2
    comparisons = equivalence(
        [f"{NAMES[a]}, width {n}, two layers" for n in widths[two] for a in ACTIVATIONS],
        variance[two],
        prediction["variance"].values[two],
        prediction["margin"].values[two],
        standard_error=prediction["error"].values[two],
        sample_size=members[two, None],
    )
    # The exact law's relative error, so that a width does not weigh more for having come out small.
    relative = prediction["error"].values / prediction["variance"].values
    for depth in deep(depths):
        here = depths == depth
        for j, activation in enumerate(ACTIVATIONS):
            comparisons += exponent(
                f"{NAMES[activation]}, {depth} layers, exponent",
                widths[here],
                variance[here, j],
                variance[here, j] * relative[here, j],
                prediction=float(prediction["exponent"]),
                margin=float(prediction["exponent_margin"]),
                correction=1.0,
                sample_size=int(members[here].sum()),
            )
    return decide(
        comparisons,
        margin_source="two layers: half the distance to the nearest rival; exponents: half of that between 1 and ½",
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """n times the relative variance against width: one panel for each activation."""
    from matplotlib.lines import Line2D

    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    variance, _ = relative_variances(measurement)
    error = prediction["error"].values
    n, depths = prediction["width"].values, prediction["depth"].values
    smooth = np.unique(np.geomspace(n.min(), n.max(), 40).astype(int))
    axes = figure.subplots(1, 2)
    for j, (axis, activation) in enumerate(zip(axes, ACTIVATIONS, strict=True)):
        for i, depth in enumerate(np.unique(depths)):
            here, colour = depths == depth, COLOURS[i % len(COLOURS)]
            law = [w * (ntk_plan(activation, [int(w)] * (int(depth) - 1)).ratio - 1) for w in smooth]
            axis.plot(smooth, law, color=colour, linewidth=1)
            axis.errorbar(
                n[here],
                n[here] * variance[here, j],
                2.576 * n[here] * error[here, j],
                fmt=MARKERS[i % len(MARKERS)],
                color=colour,
                label=f"{depth} layers",
            )
        rival = [w * standard(activation, int(w), evidence.config.inputs) for w in smooth]
        axis.plot(smooth, rival, ":", color="black", linewidth=0.8)
        axis.set(xscale="log", xlabel="width $n$", title=NAMES[activation], ylim=(0, None))
    axes[0].set_ylabel(r"$n\,\mathrm{Var}\,\Theta/(E\,\Theta)^2$")
    handles, names = axes[0].get_legend_handles_labels()
    dotted = Line2D([], [], linestyle=":", color="black", linewidth=0.8)
    figure.legend(
        [*handles, dotted], [*names, "2 layers, standard parametrisation"], loc="outside lower center", ncols=4
    )


claim = Claim(
    id="ntk/initial-kernel",
    kind="identity",
    expected="supported",
    sources=("jacot2018neural", "hanin2020finite"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival(
            "standard-parametrisation",
            "the relative variance is that of the standard parametrisation, 5/n and 2/n for n ≫ d",
            predict=standard_parametrisation,
        ),
        Rival("other-activation", "1/n for ReLU, 3/n for linear units", predict=other_activation),
        Rival("slope-two", "the relative variance of deeper networks falls as n^-2", predict=slope_two),
        Rival("slope-half", "the relative variance of deeper networks falls as n^-½", predict=slope_half),
    ),
)
