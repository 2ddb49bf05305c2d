"""In a wide random network the lengths of pre-activations and the correlation of two inputs follow the mean-field
maps from layer to layer; deep in the network they relax at the rates 1/ξ_q = −ln(χ₁ + σ_w² E[φφ'']) and
1/ξ_c = −ln σ_w² E[φ'(u)φ'(v)] at c*, for tanh in the ordered and the chaotic phase, and as a power for critical ReLU.

Source: Poole et al. 2016, section 2, for the maps; Schoenholz et al. 2017, section 3, for the depth scales;
Hayou et al. 2019 for ReLU, where ξ_c = ∞ and 1 − c ≈ 9π²/(2l²).

Margin: the statement is about one wide network, so that what it admits as agreement is the scatter of one network
about the maps, of order n^-½ and derived in `theory.mean_field.finite_width`, as is the shift of the mean, which is
O(1/n) and at most a third of it. The mean over networks must lie within that scatter (no standard error: more
networks do not change it) and within half the distance to the nearest rival at that very point. Points where the
rivals agree, or where the scatter is not small against the value, decide nothing and are not compared. A decay rate
is read off between two layers and predicted from the map between these layers; the fixed point's 1/ξ, which it
approaches, is what the rivals change.

Assumptions: Gaussian weights; the 1/n shift is small against the margin, which for ReLU asks for depth/width ≪ 1;
lengths are compared only where the predicted scatter is below half of the length (for ReLU their variance grows as
5l/n and their law becomes log-normal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import network
from experiments.propagation import observe
from experiments.verdict import Verdict, decide, equivalence
from theory.architecture import MLP
from theory.mean_field import corrections, fixed_point, propagate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Phase(NamedTuple):
    """One kind of network, and the two layers between which each of its decay rates is read off."""

    name: str
    activation: str
    weight_variance: float
    bias_variance: float
    length_window: tuple[int, int]
    correlation_window: tuple[int, int]


# Tanh is critical at σ_w² = 1.76 for σ_b² = 0.05 and at 2.29 for 0.2. Windows: late enough for the asymptotic rate,
# early enough for the decaying difference to stand above the scatter of one network.
PHASES = (
    Phase("tanh, ordered", "tanh", 1.3, 0.05, (2, 5), (8, 20)),
    Phase("tanh, chaotic", "tanh", 5.0, 0.2, (1, 4), (5, 12)),
    Phase("ReLU, critical", "relu", 2.0, 0.0, (2, 5), (8, 20)),
)
# (|x|²/d, cosine) of two families of input pairs, on either side of both fixed points: the difference of the two
# families decays at the asymptotic rate without any estimate of q* or c*.
FAMILIES = ((0.7, 0.7), (0.1, -0.7))
# What is measured, and what it is called.
NAMES = {"length": "length", "gap": "correlation"}


@dataclass(frozen=True)
class Config:
    """Sizes of the ensemble.

    Attributes:
        widths: n of every hidden layer.
        members: networks at each width, shared out evenly among batches and units.
        depth: number of layers of pre-activations that are looked at.
        layers: those whose lengths and correlations are compared.
        pairs: pairs of inputs in each family, in orthogonal planes, that see the same network.
        batches: cells at each width.
        units: means over members kept from each cell; `batches · units` of them carry the standard error.
    """

    widths: tuple[int, ...]
    members: tuple[int, ...]
    depth: int
    layers: tuple[int, ...]
    pairs: int
    batches: int
    units: int


SMOKE = Config(
    widths=(64, 128),
    members=(384, 192),
    depth=20,
    layers=(1, 2, 3, 5, 8, 12, 16, 20),
    pairs=12,
    batches=1,
    units=64,
)
PAPER = Config(
    widths=(256, 1024),
    members=(640, 160),
    depth=100,
    layers=(1, 2, 3, 5, 8, 12, 16, 24, 36, 50, 70, 100),
    pairs=16,
    batches=40,
    units=1,
)


def assumptions(config: Config) -> list[Assumption]:
    """The theory's own mean error, and the planned noise, against the margins that are compared."""
    prediction = predict(config)
    shift = max(_worst(prediction, name) for name in ("length", "gap"))
    noise = min(_margin_over_noise(prediction, config, name) for name in ("length", "gap"))
    last = max(max(phase.correlation_window) for phase in PHASES)
    return [
        Assumption(
            "the 1/n shift is at most a third of the margin", bool(shift <= 1 / 3), f"at most {shift:.2f} of it"
        ),
        Assumption(
            "the margin is at least 4 planned standard errors, were the pairs of inputs in a network wholly dependent",
            noise >= 4,
            f"at least {noise:.1f}; pairs in orthogonal planes are nearly independent in the first layers",
        ),
        Assumption("every window lies inside the network", last <= config.depth, f"{last} of {config.depth} layers"),
    ]


def _worst(prediction: xr.Dataset, name: str) -> float:
    """Largest ratio of shift to margin among the comparisons."""
    chosen = prediction[f"{name}_compared"].values == 1
    return float(
        np.max(np.abs(prediction[f"{name}_shift"].values[chosen]) / prediction[f"{name}_margin"].values[chosen])
    )


def _margin_over_noise(prediction: xr.Dataset, config: Config, name: str) -> float:
    """Smallest ratio of margin to the standard error of a mean over members, among points and rates."""
    chosen = prediction[f"{name}_compared"].values == 1
    members = np.sqrt(config.members)
    points = prediction[f"{name}_margin"].values / prediction[f"{name}_scatter"].values * members[:, None, None, None]
    rates = prediction[f"{name}_rate_margin"].values / prediction[f"{name}_rate_scatter"].values * members[:, None]
    return float(min(points[chosen].min(), rates.min()))


class Curves(NamedTuple):
    """Mean-field values: [phase, family, layer] for lengths and gaps 1 − c, [phase] for decay rates a layer.

    A rate is the map's own between the two layers of its window, where it is not yet the asymptotic 1/ξ. What a rival
    says of ξ changes it by as much as it changes 1/ξ.
    """

    length: np.ndarray
    gap: np.ndarray
    length_rate: np.ndarray
    gap_rate: np.ndarray


def _curves(config: Config, architectures: list[MLP]) -> Curves:
    """What the maps and their fixed points say."""
    tracks = [[propagate(a, r, r, cosine) for r, cosine in FAMILIES] for a in architectures]
    length = np.array([[t.length1[: config.depth] for t in row] for row in tracks])
    gap = 1 - np.array([[t.correlation[: config.depth] for t in row] for row in tracks])
    return Curves(length, gap, *_window_rates(length, gap))


def _window_rates(length: np.ndarray, gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """−d ln D/dl of the difference D of the two families, between the two layers of each phase's window."""
    rates = []
    for values, windows in ((length, [p.length_window for p in PHASES]), (gap, [p.correlation_window for p in PHASES])):
        difference = np.abs(values[:, 0] - values[:, 1])
        rates.append(
            np.array([np.log(d[a - 1] / d[b - 1]) / (b - a) for d, (a, b) in zip(difference, windows, strict=True)])
        )
    return rates[0], rates[1]


def _architectures(config: Config) -> list[MLP]:
    return [MLP(config.depth, p.activation, p.weight_variance, p.bias_variance) for p in PHASES]


def _truth(config: Config) -> Curves:
    return _curves(config, _architectures(config))


def _scale_from_chi1(config: Config) -> Curves:
    truth, rests = _truth(config), [fixed_point(a) for a in _architectures(config)]
    # At criticality both scales are infinite.
    change = np.array([abs(np.log(r.chi_1)) - 1 / r.correlation_scale for r in rests])
    return truth._replace(gap_rate=truth.gap_rate + np.where(np.abs(change) > 1e-9, change, 0.0))


def _length_scale_from_chi1(config: Config) -> Curves:
    truth, rests = _truth(config), [fixed_point(a) for a in _architectures(config)]
    change = np.array([-np.log(r.chi_1) - 1 / r.length_scale for r in rests])
    return truth._replace(length_rate=truth.length_rate + change)


def _forgotten_bias(config: Config) -> Curves:
    return _curves(config, [MLP(config.depth, p.activation, p.weight_variance, 0.0) for p in PHASES])


def _linear_map(config: Config) -> Curves:
    return _curves(config, [MLP(config.depth, "linear", p.weight_variance, p.bias_variance) for p in PHASES])


def _no_relaxation(config: Config) -> Curves:
    truth = _truth(config)
    return truth._replace(length_rate=0 * truth.length_rate, gap_rate=0 * truth.gap_rate)


def _caps(config: Config, truth: Curves) -> Curves:
    """Half the distance to the nearest rival: rival maps for each point of the curves, rival scales for the rates."""
    maps = [_forgotten_bias(config), _linear_map(config)]
    scales = [_scale_from_chi1(config), _length_scale_from_chi1(config), _no_relaxation(config)]
    near = {name: scales if name.endswith("rate") else maps for name in Curves._fields}
    return Curves(*(_half_distance(truth, near[name], name) for name in Curves._fields))


def predict(config: Config) -> xr.Dataset:
    """Lengths, gaps 1 − c and decay rates at infinite width, with their margins at each width."""
    truth = _truth(config)
    caps = _caps(config, truth)
    # [phase, family, ...] at first order: shift · n and covariance · n of (q, q, c).
    expansions = [[corrections(a, r, r, cosine) for r, cosine in FAMILIES] for a in _architectures(config)]
    shift = np.array([[e.shift for e in row] for row in expansions])
    covariance = np.array([[e.covariance for e in row] for row in expansions])
    variance = np.einsum("pfllij->pflij", covariance)
    layers = np.arange(1, config.depth + 1)
    root_n = np.sqrt(np.array(config.widths, dtype=np.float64))

    data = {}
    for name, k in (("length", 0), ("gap", 2)):
        scatter = np.sqrt(variance[..., k, k]) / root_n[:, None, None, None]
        value, cap = truth._asdict()[name], caps._asdict()[name]
        # A shift of c is the opposite shift of 1 − c.
        sign = -1 if name == "gap" else 1
        data[name] = (("phase", "family", "layer"), value)
        data[f"{name}_margin"] = (("width", "phase", "family", "layer"), np.minimum(scatter, cap))
        data[f"{name}_scatter"] = (("width", "phase", "family", "layer"), scatter)
        data[f"{name}_shift"] = (
            ("width", "phase", "family", "layer"),
            sign * shift[..., k] / root_n[:, None, None, None] ** 2,
        )
        # First order in 1/n needs a small scatter, and a point on which the rivals agree decides nothing.
        compared = np.isin(layers, config.layers) & (scatter < 0.5 * np.abs(value)) & (cap > 0.75 * scatter)
        data[f"{name}_compared"] = (("width", "phase", "family", "layer"), compared.astype(np.int64))
        rate, rate_cap = truth._asdict()[f"{name}_rate"], caps._asdict()[f"{name}_rate"]
        spread = _rate_scatter(value, covariance[..., k, k], name)
        data[f"{name}_rate"] = ("phase", rate)
        data[f"{name}_rate_scatter"] = (("width", "phase"), spread / root_n[:, None])
        data[f"{name}_rate_margin"] = (("width", "phase"), np.minimum(spread / root_n[:, None], rate_cap))
    # For the figure: the asymptotic slope, and the one that a rival takes its depth scale from.
    rests = [fixed_point(a) for a in _architectures(config)]
    data["inverse_xi_c"] = ("phase", [1 / r.correlation_scale for r in rests])
    data["chi_1"] = ("phase", [r.chi_1 for r in rests])
    return xr.Dataset(data, coords={"width": list(config.widths), "layer": layers})


def _half_distance(truth: Curves, rivals: list[Curves], name: str) -> np.ndarray:
    """Half the distance to the nearest rival that differs in this phase (ReLU has no bias to forget)."""
    here = truth._asdict()[name]
    with np.errstate(over="ignore"):
        distances = np.array([np.abs(rival._asdict()[name] - here) for rival in rivals])
    everywhere = distances.reshape(*distances.shape[:2], -1).max(axis=-1)
    differs = (everywhere > 1e-9).reshape(*everywhere.shape, *(1,) * (here.ndim - 1))
    return 0.5 * np.where(differs, distances, np.inf).min(axis=0)


def _rate_scatter(value: np.ndarray, covariance: np.ndarray, name: str) -> np.ndarray:
    """√n times the scatter of a decay rate read off one network; families count as independent."""
    out = []
    for i, phase in enumerate(PHASES):
        first, last = phase.length_window if name == "length" else phase.correlation_window
        difference = (value[i, 0] - value[i, 1])[[first - 1, last - 1]]
        joint = covariance[i].sum(axis=0)[np.ix_([first - 1, last - 1], [first - 1, last - 1])]
        gradient = np.array([1.0, -1.0]) / difference / (last - first)
        out.append(np.sqrt(gradient @ joint @ gradient))
    return np.array(out)


def _instead(config: Config, curves: Curves) -> xr.Dataset:
    """A rival's values, with the claim's own margins."""
    prediction = predict(config)
    return prediction.assign({name: (prediction[name].dims, curves._asdict()[name]) for name in Curves._fields})


def scale_from_chi1(config: Config) -> xr.Dataset:
    """Rival: ξ_c = 1/|ln χ₁| on both sides of the edge of chaos."""
    return _instead(config, _scale_from_chi1(config))


def length_scale_from_chi1(config: Config) -> xr.Dataset:
    """Rival: ξ_q = −1/ln χ₁, without the term of the curvature of φ."""
    return _instead(config, _length_scale_from_chi1(config))


def forgotten_bias(config: Config) -> xr.Dataset:
    """Rival: σ_b² left out of the maps."""
    return _instead(config, _forgotten_bias(config))


def linear_map(config: Config) -> xr.Dataset:
    """Rival: the maps of a linear network."""
    return _instead(config, _linear_map(config))


def no_relaxation(config: Config) -> xr.Dataset:
    """Rival: inputs keep the difference they have."""
    return _instead(config, _no_relaxation(config))


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members at each width."""
    return [{"width": width, "batch": batch} for width in config.widths for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Lengths |z|²/n and gaps 1 − cos(z, z') of pre-activations, as means over pairs and over a unit's members."""
    width = int(cell["width"])
    members = config.members[config.widths.index(width)] // config.batches
    inputs = input_pairs(config.pairs)
    networks = tuple(
        network(architecture, width=width, inputs=inputs.shape[-1]) for architecture in _architectures(config)
    )
    data = {}
    for name, values in zip(NAMES, observe(networks, key, inputs, members=members), strict=True):
        units = values.reshape(config.units, -1, *values.shape[1:]).mean(axis=1)
        data[name] = (("unit", "phase", "family", "layer"), units)
    return xr.Dataset(data)


def input_pairs(pairs: int) -> Float[Array, "family pairs 2 inputs"]:
    """Pairs of inputs with the families' lengths |x|²/d and cosines, every pair in a plane of its own."""
    inputs = 2 * pairs * len(FAMILIES)
    axes = np.eye(inputs).reshape(len(FAMILIES), pairs, 2, inputs)
    x = np.empty_like(axes)
    for i, (length, cosine) in enumerate(FAMILIES):
        first, second = axes[i, :, 0], axes[i, :, 1]
        x[i, :, 0] = np.sqrt(length * inputs) * first
        x[i, :, 1] = np.sqrt(length * inputs) * (cosine * first + np.sqrt(1 - cosine**2) * second)
    return jnp.asarray(x, jnp.float32)


def samples(measurement: xr.Dataset, name: str) -> np.ndarray:
    """Unit means as [width, phase, family, layer, sample], in double precision."""
    array = measurement[name].stack(sample=("batch", "unit"))
    return array.transpose("width", "phase", "family", "layer", "sample").values.astype(np.float64)


def decay_rates(values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decay rates between the layers of each phase's window, with standard errors over the samples.

    Args:
        values: unit means of length or gap, [width, phase, family, layer, sample].
        name: "length" or "gap", whose windows are taken.

    Returns:
        Rates and their standard errors, [width, phase].
    """
    rates, errors = np.empty(values.shape[:2]), np.empty(values.shape[:2])
    for i, phase in enumerate(PHASES):
        first, last = phase.length_window if name == "length" else phase.correlation_window
        difference = values[:, i, 0] - values[:, i, 1]
        start, end = difference[:, first - 1], difference[:, last - 1]
        start_mean, end_mean = start.mean(axis=-1, keepdims=True), end.mean(axis=-1, keepdims=True)
        rates[:, i] = np.log(start_mean / end_mean)[:, 0] / (last - first)
        # The delta method: a sample's influence on the logarithm of the ratio of means.
        influence = (start / start_mean - end / end_mean) / (last - first)
        errors[:, i] = influence.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
    return rates, errors


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Equivalence of measured means with the maps in the chosen layers, and of the decay rates."""
    comparisons = []
    widths = prediction["width"].values
    for name, word in NAMES.items():
        values = samples(measurement, name)
        size = values.shape[-1]
        chosen = prediction[f"{name}_compared"].values == 1
        mean, error = values.mean(axis=-1), values.std(axis=-1, ddof=1) / np.sqrt(size)
        labels = [
            f"{word}, {PHASES[phase].name}, family {family + 1}, layer {layer + 1}, width {widths[i]}"
            for i, phase, family, layer in np.argwhere(chosen)
        ]
        comparisons += equivalence(
            labels,
            mean[chosen],
            np.broadcast_to(prediction[name].values, mean.shape)[chosen],
            prediction[f"{name}_margin"].values[chosen],
            standard_error=error[chosen],
            sample_size=size,
            dof=size - 1,
        )
        rate, rate_error = decay_rates(values, name)
        comparisons += equivalence(
            [f"decay rate of the {word}, {phase.name}, width {width}" for width in widths for phase in PHASES],
            rate,
            prediction[f"{name}_rate"].values,
            prediction[f"{name}_rate_margin"].values,
            standard_error=rate_error,
            sample_size=size,
            dof=size - 1,
        )
    return decide(
        comparisons,
        margin_source="derived scatter of one network at order n^-1/2, at most half the distance to the nearest rival",
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """Lengths, correlations, and how the difference of two families decays: a column for each phase."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    layers, widths = prediction["layer"].values, prediction["width"].values
    shown = np.unique(np.round(np.geomspace(1, layers[-1], 13)).astype(int)) - 1
    measured = {name: samples(measurement, name) for name in NAMES}
    figure.set_size_inches(5.5, 4.9)
    axes = figure.subplots(3, 3)

    def points(axis, values: np.ndarray, where: np.ndarray, width: int, colour: str) -> None:
        error = values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
        axis.errorbar(
            layers[where],
            values.mean(axis=-1)[where],
            yerr=2.576 * error[where],
            fmt=MARKERS[width],
            color=colour,
            markerfacecolor="white" if width == 0 else colour,
            markersize=3.4 if width == 0 else 2.4,
            linewidth=0.7,
            zorder=2 + width,
        )

    for j, phase in enumerate(PHASES):
        for row, name in enumerate(NAMES):
            axis, curves, values = axes[row, j], prediction[name].values[j], measured[name][:, j]
            for family, colour in enumerate(COLOURS[: len(FAMILIES)]):
                flip = (lambda x: 1 - x) if name == "gap" else (lambda x: x)
                axis.plot(layers, flip(curves[family]), color=colour, linewidth=1)
                for i in range(len(widths)):
                    points(axis, flip(values[i, family]), shown, i, colour)
            axis.set_xscale("log")
            # The upper rows share their layers; the lowest has its own.
            axis.xaxis.set_major_formatter(NullFormatter() if row == 0 else FormatStrFormatter("%g"))
        axes[0, j].set_title(phase.name)
        _draw_decay(axes[2, j], prediction, measured["gap"][:, j], j, shown, points)
    axes[0, 2].set_yscale("log")
    axes[0, 2].yaxis.set_minor_formatter(NullFormatter())
    axes[0, 2].set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
    for row, label in enumerate(("length $q^l$", "correlation $c^l$", "difference $c_1^l - c_2^l$")):
        axes[row, 0].set_ylabel(label)
    families = [Line2D([], [], color=colour, linewidth=1) for colour in COLOURS[: len(FAMILIES)]]
    ensembles = [
        Line2D([], [], linestyle="", marker=MARKERS[i], color="black", markersize=3, fillstyle=("none", "full")[i])
        for i in range(len(widths))
    ]
    names = [rf"mean field, $|x|^2/d = {length:g}$, $\cos = {cosine:g}$" for length, cosine in FAMILIES]
    figure.legend(
        [*families, *ensembles], [*names, *(f"$n = {n}$" for n in widths)], loc="outside lower center", ncols=4
    )


def _draw_decay(axis, prediction: xr.Dataset, values: np.ndarray, j: int, shown: np.ndarray, points) -> None:
    """Difference of the two families on a logarithmic axis, with the slopes of the theory and of its rival."""
    from experiments.report.style import COLOURS

    layers, widths = prediction["layer"].values, prediction["width"].values
    theory = prediction["gap"].values[j, 1] - prediction["gap"].values[j, 0]
    power = PHASES[j].activation == "relu"
    # As far as the difference stands out of the scatter of a mean over the ensemble.
    seen = len(layers) if power else int(np.max(np.argwhere(theory > 0.02), initial=1)) + 1
    axis.plot(layers[:seen], theory[:seen], color=COLOURS[2], linewidth=1)
    where = shown if power else np.arange(0, seen, 2)
    for i in range(len(widths)):
        points(axis, values[i, 1] - values[i, 0], where, i, COLOURS[2])
    start, end = PHASES[j].correlation_window
    line = np.array([start, min(seen, 2 * end)])
    if not power:
        rate = float(prediction["inverse_xi_c"][j])
        axis.plot(
            line,
            theory[end - 1] * np.exp(-rate * (line - end)),
            "--",
            color="black",
            linewidth=0.9,
            label=rf"$\xi_c = {1 / rate:.2f}$",
        )
        rival = float(prediction["chi_1"][j])
        if abs(abs(np.log(rival)) - rate) > 1e-6:
            axis.plot(
                line,
                theory[start - 1] * np.exp(-abs(np.log(rival)) * (line - start)),
                ":",
                color="black",
                linewidth=0.9,
                label=r"$1/|\ln \chi_1|" + f" = {1 / abs(np.log(rival)):.2f}$",
            )
        axis.set(xlim=(0, seen + 1))
        axis.legend(loc="lower left", handlelength=1.4)
    else:
        axis.set(xscale="log")
    axis.set(yscale="log", xlabel="layer $l$")


claim = Claim(
    id="mean-field/correlation",
    kind="limit",
    expected="supported",
    sources=("schoenholz2017deep", "poole2016exponential", "hayou2019impact", "roberts2022principles"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("xi-from-chi1", "ξ_c = 1/|ln χ₁| in the chaotic phase too", predict=scale_from_chi1),
        Rival("length-scale-from-chi1", "ξ_q = −1/ln χ₁", predict=length_scale_from_chi1),
        Rival("no-relaxation", "neither lengths nor correlations relax: both rates are 0", predict=no_relaxation),
        Rival("forgotten-bias", "the maps have no bias variance", predict=forgotten_bias),
        Rival("linear-map", "the maps are those of a linear network", predict=linear_map),
    ),
)
