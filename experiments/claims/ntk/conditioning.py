"""The condition number κ of the tangent kernel of a wide network depends on depth l by its phase: it grows as
χ₁^(−l)/l in the ordered phase, tends to 1 in the chaotic one, and to (m + 3)/3 (ReLU) or (m + 2)/2 (smooth units) for
m points at criticality.

Source: Xiao et al. 2020, section 3. The prediction is the kernel recursion itself at every depth; that it has these
limits is checked in the tests of `theory.kernels.conditioning` at depths up to 4,000.

Inputs: m orthogonal ones of equal length. The mean kernel of any width then has p on the diagonal and t beside it, and
κ = (p + (m − 1)t)/(p − t). Random networks of depth l and width n are drawn, p and t are means over networks of their
own tangent kernels, and ln κ is extrapolated to infinite width with its first correction in 1/n.

Margin: half the distance to the nearest rival at that phase and depth, and at most 0.2 (a fifth of κ); a limit at
infinite width has no error of its own there. A rival that is closer than 0.1 at some point is no neighbour there: it
has to lose elsewhere. What is judged is the recursion at the depths that are measured; the laws above are its limits.

Assumptions: l/n is at most a quarter in the narrowest network, so that the next order of the extrapolation is small.
It stops being true where l/n is not small: single networks scatter as √(l/n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import network
from experiments.tangents import tangent_kernels_by_depth
from experiments.verdict import Verdict, decide, equivalence
from experiments.verdict.rates import fit_amplitude
from theory.architecture import MLP
from theory.kernels import kernels_by_depth
from theory.kernels.conditioning import deep_limit, exchangeable_condition_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Phase(NamedTuple):
    """One kind of network."""

    name: str
    activation: str
    weight_variance: float
    bias_variance: float


# Tanh is critical at σ_w² = 1.76095 for σ_b² = 0.05; at 1.7603 χ₁ is 0.99986, which 24 layers do not tell from 1.
PHASES = (
    Phase("tanh, ordered", "tanh", 1.2, 0.05),
    Phase("tanh, critical", "tanh", 1.7603, 0.05),
    Phase("tanh, chaotic", "tanh", 4.0, 0.05),
    Phase("ReLU, critical", "relu", 2.0, 0.0),
)
POINTS = 4
# In ln κ: rivals that are closer than this are no neighbours, and no margin is larger than that.
CLOSE, LARGEST = 0.1, 0.2


@dataclass(frozen=True)
class Config:
    """Sizes of the sweep.

    Attributes:
        widths: n of every hidden layer.
        members: networks drawn at each width, shared out evenly among the batches.
        depths: numbers of hidden layers.
        batches: cells at each width.
    """

    widths: tuple[int, ...]
    members: tuple[int, ...]
    depths: tuple[int, ...]
    batches: int


SMOKE = Config(widths=(32, 64, 128), members=(1200, 600, 300), depths=(1, 2, 4, 8), batches=1)
PAPER = Config(
    widths=(96, 128, 192, 256, 384, 512, 1024),
    members=(2000, 1200, 800, 480, 240, 120, 40),
    depths=(1, 2, 4, 8, 12, 16, 24),
    batches=4,
)


def architecture(phase: Phase, depth: int) -> MLP:
    """The description that prediction and measurement share."""
    return MLP(depth, phase.activation, phase.weight_variance, phase.bias_variance)


def assumptions(config: Config) -> list[Assumption]:
    """Depth against the smallest width."""
    share = max(config.depths) / min(config.widths)
    return [Assumption("depth is at most a quarter of the smallest width", share <= 0.25, f"{share:.2f} of it")]


def predict(config: Config) -> xr.Dataset:
    """ln κ of the infinitely wide network by phase and depth, its margin, and its limit in depth."""
    return _tabulate(config, "tangent")


def depth_independent(config: Config) -> xr.Dataset:
    """Rival: the condition number is that of one hidden layer at every depth."""
    return _tabulate(config, "shallow")


def last_layer(config: Config) -> xr.Dataset:
    """Rival: the condition number is that of the covariance of outputs (NNGP)."""
    return _tabulate(config, "covariance")


def swapped(config: Config) -> xr.Dataset:
    """Rival: the ordered phase is the well-conditioned one, the chaotic one loses all differences."""
    return _tabulate(config, "swapped")


def _tabulate(config: Config, which: str) -> xr.Dataset:
    depths = list(config.depths)
    inputs = np.sqrt(POINTS) * np.eye(POINTS)
    tangent, covariance = np.empty((2, len(PHASES), max(depths) + 1))
    for i, phase in enumerate(PHASES):
        kernels = kernels_by_depth(architecture(phase, max(depths)), inputs)
        # A prediction needs double precision: differences of nearly equal entries are its subject.
        p, t = (np.stack([k[:, 0, j] for k in map(np.asarray, kernels)]) for j in (0, 1))
        covariance[i], tangent[i] = np.log(exchangeable_condition_number(p, t, POINTS))
    values = {
        "tangent": tangent[:, depths],
        "shallow": np.broadcast_to(tangent[:, [1]], (len(PHASES), len(depths))),
        "covariance": covariance[:, depths],
        "swapped": tangent[[2, 1, 0, 3]][:, depths],
    }
    distances = np.stack([np.abs(values[rival] - values["tangent"]) for rival in ("shallow", "covariance", "swapped")])
    nearest = np.min(np.where(distances < CLOSE, np.inf, distances), axis=0)
    dims = ("phase", "depth")
    return xr.Dataset(
        {
            "log_condition": (dims, values[which]),
            # The margin is the claim's, whichever rival is judged by it.
            "margin": (dims, np.minimum(nearest / 2, LARGEST)),
            "limit": ("phase", [deep_limit(architecture(phase, 1), POINTS) for phase in PHASES]),
        },
        coords={"depth": depths},
    )


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members at each width."""
    return [{"width": width, "batch": batch} for width in config.widths for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Sums over members of p, t, p², pt, t²: means over the entries on the diagonal and beside it. float32 networks."""
    width = int(cell["width"])
    members = config.members[config.widths.index(width)] // config.batches
    networks = tuple(network(architecture(p, max(config.depths)), width=width, inputs=POINTS) for p in PHASES)
    inputs = np.sqrt(POINTS) * np.eye(POINTS, dtype=np.float32)
    beside = ~np.eye(POINTS, dtype=bool)
    sums, count = np.zeros((5, len(PHASES), len(config.depths))), 0
    for kernels in tangent_kernels_by_depth(networks, key, inputs, config.depths, members):
        p = np.mean(np.diagonal(kernels, axis1=-2, axis2=-1), axis=-1, dtype=np.float64)
        t = np.mean(kernels[..., beside], axis=-1, dtype=np.float64)
        sums += np.stack([p, t, p * p, p * t, t * t]).sum(axis=1)
        count += len(kernels)
    return xr.Dataset({"sums": (("moment", "phase", "depth"), sums), "members": ((), count)})


def log_condition(
    sums: Float[np.ndarray, "5 ..."], members: Float[np.ndarray, ...]
) -> tuple[Float[np.ndarray, ...], Float[np.ndarray, ...]]:
    """ln κ of the mean kernel, and its standard error over members by the delta method."""
    p, t, pp, pt, tt = sums / members
    largest, rest = p + (POINTS - 1) * t, p - t
    # d ln κ = a dp + b dt.
    a, b = 1 / largest - 1 / rest, (POINTS - 1) / largest + 1 / rest
    variance = a * a * (pp - p * p) + 2 * a * b * (pt - p * t) + b * b * (tt - t * t)
    return np.log(largest / rest), np.sqrt(np.maximum(variance, 0.0) / members)


def curves(measurement: xr.Dataset) -> tuple[np.ndarray, np.ndarray, int]:
    """ln κ and standard errors, (phase, depth, width), and the number of all members."""
    sums = measurement["sums"].sum("batch").transpose("moment", "phase", "depth", "width").values
    members = measurement["members"].sum("batch").values
    value, error = log_condition(sums, members.astype(float))
    return value, error, int(members.sum())


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """ln κ at infinite width, by phase and depth."""
    value, error, members = curves(measurement)
    fit = fit_amplitude(measurement["width"].values, value, error, exponent=0.0, correction=1.0)
    comparisons = equivalence(
        [f"{phase.name}, {depth} hidden" for phase in PHASES for depth in prediction["depth"].values],
        fit.estimate,
        prediction["log_condition"].values,
        prediction["margin"].values,
        standard_error=fit.standard_error,
        sample_size=members,
    )
    return decide(
        comparisons, margin_source="half the distance to the nearest rival at that phase and depth, at most 0.2"
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: κ against depth by phase, extrapolated in width. Right: the extrapolation at the greatest depth."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    value, error, _ = curves(measurement)
    widths, depths = measurement["width"].values.astype(float), prediction["depth"].values
    fit = fit_amplitude(widths, value, error, exponent=0.0, correction=1.0)
    left, right = figure.subplots(1, 2)
    for i, phase in enumerate(PHASES):
        colour, marker = COLOURS[i], MARKERS[i]
        theory = prediction["log_condition"].values[i]
        left.plot(depths, theory, color=colour, linewidth=1)
        left.errorbar(
            depths, fit.estimate[i], 2.576 * fit.standard_error[i], fmt=marker, color=colour, label=phase.name
        )
        limit = float(prediction["limit"][i])
        if 1 < limit < np.inf:
            left.axhline(np.log(limit), color=colour, linestyle=":", linewidth=0.8)
        slope = (value[i, -1] - fit.estimate[i, -1]) @ (1 / widths) / np.sum(widths**-2.0)
        ends = np.array([0.0, 1 / widths[0]])
        right.plot(ends, fit.estimate[i, -1] + slope * ends, color=colour, linewidth=0.6, linestyle="--")
        right.plot(0, theory[-1], marker="_", markersize=14, color=colour, clip_on=False)
        right.errorbar(1 / widths, value[i, -1], 2.576 * error[i, -1], fmt=marker, color=colour)
    left.plot([], [], color="black", linewidth=1, label="theory")
    left.plot([], [], ":", color="black", linewidth=0.8, label="its deep limit")
    left.set(xlabel="hidden layers $l$", ylabel=r"$\ln\,\kappa$ at infinite width")
    left.legend()
    right.set(xlabel="$1/n$", ylabel=rf"$\ln\,\kappa$ at $l = {depths[-1]}$", xlim=(0, None))


claim = Claim(
    id="ntk/conditioning",
    kind="limit",
    expected="supported",
    sources=("xiao2020disentangling",),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("depth-independent", "the condition number does not depend on depth", predict=depth_independent),
        Rival("last-layer", "it is the condition number of the NNGP kernel", predict=last_layer),
        Rival("phases-swapped", "order keeps inputs apart and chaos merges them", predict=swapped),
    ),
)
