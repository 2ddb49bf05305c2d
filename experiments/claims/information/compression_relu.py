"""Seen through bins of fixed range, the hidden layers of tanh networks lose information about the input during
training, and those of ReLU networks that learn as well do not: compression is saturation seen through bins.

Sources: Shwartz-Ziv & Tishby 2017, sections 3.1 and 3.3 (task, network, 30 bins on [−1, 1], the compression phase);
Saxe et al. 2018, section 2 (one unit's closed form, figure 2; ReLU networks do not compress, figure 1) and section 3
(networks that do not compress generalise all the same).

Networks 12–10–7–5–4–3–2 learn 80 % of the 4,096 inputs by stochastic gradient descent; I(X;T) of a layer is the
entropy of its joint bins over all inputs, each once, so that it has no sampling error. *Compression* of a layer is the
maximum of I(X;T) over training less its final value, in nats, averaged over the five hidden layers. The output layer
is left out: its two numbers are trained to tell the label and nothing else, whatever the activation. ReLU bins go
from 0 to the layer's largest activity over training. Networks that learn nothing (a ReLU layer silent on all inputs is
stuck for ever) are out: the statement is about those that learn, with a training accuracy past ¾, half-way between
guessing and perfection. Leaving them out selects on the outcome: a ReLU network whose last layers die during training
both learns nothing and loses what its layers knew. How many are left out is said with the verdict, and past a quarter
there is none.

What compression is is tested three times. Against the other activation. In the very same tanh networks, against the
pre-activations, put into as many bins over their own range: the same training, the same units, but before the
saturation. And in one unit T = bin(φ(wX)), X ~ N(0, 1), whose entropy has a closed form in w that rises and falls
for tanh and only rises for ReLU (bins of the same width), against samples.

Margins. By convention, as the theory gives no size: a layer that does not compress loses no bit, and one that does
loses at least one, ln 2, so half a bit separates the two and is the margin. Tanh networks must lose one whole bit more
than ReLU networks, which puts the folklore (generalisation comes of compression, so both lose the same) twice the
margin away.
"As well" is a test accuracy lower by at most 0.05, a tenth of the way from guessing to perfection. For one unit the
theory is exact, and the margin is half the distance to the nearest rival, the linear unit, at the smallest w.

What is not claimed: that no bins show ReLU networks compress. The fixed range of ReLU bins is known only after
training. Bins whose range follows the largest activity of the moment, in place of it, do show compression, by as much
as for tanh: a few large activities stretch them over the rest. Those values are measured too (`moving`) and reported
with the verdict; binned information belongs to its bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.information_planes import compression, information_planes
from experiments.networks import network
from experiments.shwartz_ziv_tishby import task
from experiments.training import SGD
from experiments.verdict import Comparison, Status, Verdict, decide, equivalence, ordering
from theory.architecture import MLP
from theory.information import bin_codes, binned_entropy, entropy, equal_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BIT = float(np.log(2))
# The least by which an entropy over 4,096 equally likely inputs changes: two of them parted, or put together. Networks
# that all lose exactly nothing have no spread, but are not known any better than this.
RESOLUTION = 2 * BIT / 4096
# Were more networks than this left out for learning nothing, the rest would no longer stand for their kind.
LEFT_OUT = 0.25
# Each activation's variance that keeps the size of signals at the start: LeCun's for tanh, He's for ReLU.
WEIGHT_VARIANCES = {"tanh": 1.0, "relu": 2.0}
MARGIN_SOURCE = (
    "half a bit, half-way from no compression to one bit; a tenth of the way from guessing to perfect accuracy; "
    "half the distance to the linear unit at the smallest weight"
)


@dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        members: networks of each activation in a batch.
        batches: cells for each activation.
        steps: of SGD; a learning rate and a number of examples a step come with it.
        records: how often the layers are measured, spaced logarithmically, start and end included.
        widths: of the hidden layers.
        train_examples: of the 4,096.
        bins: of each unit.
        weights: w of the single unit.
        draws: of X for the single unit, for each member.
    """

    members: int
    batches: int
    steps: int
    learning_rate: float
    batch_size: int
    records: int
    widths: tuple[int, ...] = (10, 7, 5, 4, 3)
    train_examples: int = 3277
    bins: int = 30
    weights: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    draws: int = 2**16


# Small batches: at this size of network a step costs what its overhead does, and noisy steps saturate tanh sooner.
SMOKE = Config(members=16, batches=1, steps=2560, learning_rate=0.3, batch_size=48, records=12)
PAPER = Config(members=8, batches=4, steps=24_000, learning_rate=0.1, batch_size=256, records=40)


def assumptions(config: Config) -> list[Assumption]:
    patterns, labels = task()
    share = labels.mean()
    return [
        Assumption("every input occurs once, so that H(T) is exact", len(np.unique(patterns, axis=0)) == 2**12),
        Assumption("labels are balanced, so that guessing scores ½", abs(share - 0.5) < 0.02, f"{share:.3f} positive"),
        # Past that the correction of the entropy's bias, of order (occupied bins)/draws, has errors of its own.
        Assumption("the single unit's bins are well filled", _unit_bins(config, "relu") <= config.draws / 32),
    ]


def predict(config: Config) -> xr.Dataset:
    """Compression of ReLU networks and the least excess of tanh, and both units' entropies in w, with margins."""
    return _prediction(config, {"tanh": "tanh", "relu": "relu"})


def unsaturated(config: Config) -> xr.Dataset:
    """Rival: a unit's information grows with ln w for ever, as that of a linear unit in bins of the same width."""
    return _prediction(config, {"tanh": "linear", "relu": "relu"})


def _prediction(config: Config, units: dict[str, str]) -> xr.Dataset:
    w = np.array(config.weights)
    edges = {name: equal_bins(_unit_bins(config, name), *_unit_range(config, name)) for name in units}
    # The linear unit's bins are those of the ReLU and their mirror image.
    edges["linear"] = np.concatenate([-edges["relu"][:0:-1], edges["relu"]])

    def curve(name: str, at: np.ndarray) -> np.ndarray:
        return binned_entropy(at, edges[name], activation=name)

    fine = np.geomspace(w.min(), w.max(), 101)
    margin = 0.5 * np.abs(curve("linear", w) - curve("tanh", w)).min()
    return xr.Dataset(
        {
            "compression": ((), 0.0),
            "compression_margin": ((), BIT / 2),
            "excess": ((), BIT),
            "accuracy_margin": ((), 0.05),
            "unit": (("activation", "weight"), np.stack([curve(unit, w) for unit in units.values()])),
            "unit_curve": (("activation", "fine_weight"), np.stack([curve(unit, fine) for unit in units.values()])),
            "unit_margin": ((), margin),
        },
        coords={"activation": list(units), "weight": w, "fine_weight": fine},
    )


def _unit_range(config: Config, name: str) -> tuple[float, float]:
    """Range of the single unit's bins; for ReLU it holds 6 standard deviations at the largest weight."""
    return (-1.0, 1.0) if name == "tanh" else (0.0, 6.0 * max(config.weights))


def _unit_bins(config: Config, name: str) -> int:
    low, high = _unit_range(config, name)
    return round(config.bins * (high - low) / 2)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    return [{"activation": name, "batch": batch} for name in WEIGHT_VARIANCES for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: jax.Array) -> xr.Dataset:
    """Accuracies, information of every layer at every record, and the entropies of single units."""
    name = str(cell["activation"])
    architecture = MLP(len(config.widths), name, WEIGHT_VARIANCES[name])
    planes_key, unit_key = jax.random.split(key)
    planes = information_planes(
        network(architecture, width=config.widths, inputs=12, outputs=2, parametrisation="standard", bias=True),
        method=SGD(config.learning_rate, batch_size=config.batch_size),
        steps=_steps(config),
        count=config.members,
        train_examples=config.train_examples,
        bins=config.bins,
        key=planes_key,
    )
    history = ("member", "step", "layer")
    return xr.Dataset(
        {
            "train_accuracy": ("member", planes.train_accuracy),
            "test_accuracy": ("member", planes.test_accuracy),
            "input_information": (history, planes.input_information.astype(np.float32)),
            "label_information": (history, planes.label_information.astype(np.float32)),
            "before": (history, planes.before.astype(np.float32)),
            "moving": (history, planes.moving.astype(np.float32)),
            "unit": (("member", "weight"), _sampled_units(config, name, unit_key)),
        },
        coords={"step": planes.steps, "layer": np.arange(1, len(config.widths) + 1), "weight": list(config.weights)},
    )


def _steps(config: Config) -> np.ndarray:
    """When to measure: 0, then equal ratios up to the end, each step at most once."""
    spaced = np.geomspace(1, config.steps, config.records - 1).round().astype(int)
    # Rounding makes the first ones equal; counting up keeps their number.
    return np.concatenate([[0], np.maximum(spaced, np.arange(1, config.records))])


def _sampled_units(config: Config, name: str, key: jax.Array) -> np.ndarray:
    """Entropy of bin(φ(wX)) from fresh draws of X for each member, `[member, weight]`."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    x = generator.standard_normal((config.members, 1, config.draws)) * np.array(config.weights)[:, None]
    low, high = _unit_range(config, name)
    activity = np.tanh(x) if name == "tanh" else np.clip(x, 0.0, high)
    codes = bin_codes(activity[..., None], bins=_unit_bins(config, name), low=low, high=high)
    return entropy(codes, correction="miller-madow").value


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """ReLU networks learn as well and do not compress; tanh networks do, but hardly before their nonlinearity."""
    tanh, relu = _learned(measurement, "tanh"), _learned(measurement, "relu")
    for name, group in (("tanh", tanh), ("ReLU", relu)):
        out, kept = int(group["left_out"][0]), group["compression"].size
        if out > LEFT_OUT * (out + kept):
            reason = f"{out} of {out + kept} {name} networks learned nothing; the statement is about those that learn"
            return Verdict(Status.OUT_OF_DOMAIN, reason=reason)
    margin = float(prediction["compression_margin"])
    comparisons = [
        _exceeds(
            "test accuracy, ReLU above tanh",
            (relu["test_accuracy"], tanh["test_accuracy"]),
            -float(prediction["accuracy_margin"]),
        ),
        _equals("compression of ReLU networks", (relu["compression"], None), float(prediction["compression"]), margin),
        _exceeds(
            "compression, tanh above ReLU",
            (tanh["compression"], relu["compression"]),
            float(prediction["excess"]),
        ),
        _exceeds("compression of tanh networks in their nonlinearity", (tanh["in_nonlinearity"], None), margin),
        *_units(prediction, measurement),
    ]
    moving = " and ".join(f"{group['moving'].mean():.2f} ({name})" for name, group in (("tanh", tanh), ("ReLU", relu)))
    lost = " and ".join(f"{int(group['left_out'][0])} {name}" for name, group in (("tanh", tanh), ("ReLU", relu)))
    return decide(
        comparisons,
        margin_source=MARGIN_SOURCE,
        reason=f"bins whose range follows the moment would show a compression of {moving} nats; "
        f"{lost} networks learned nothing and are out",
    )


def generalisation_compresses(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: networks generalise because they compress, so ReLU networks compress as much as tanh networks."""
    groups = (_learned(measurement, "tanh")["compression"], _learned(measurement, "relu")["compression"])
    margin = float(prediction["compression_margin"])
    return decide([_equals("compression, tanh above ReLU", groups, 0.0, margin)], margin_source=MARGIN_SOURCE)


def representation_compresses(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: it is the representation that loses information, so pre-activations lose as much as the activity."""
    groups = (_learned(measurement, "tanh")["in_nonlinearity"], None)
    margin = float(prediction["compression_margin"])
    return decide(
        [_equals("compression of tanh networks in their nonlinearity", groups, 0.0, margin)],
        margin_source=MARGIN_SOURCE,
    )


def _learned(measurement: xr.Dataset, name: str) -> dict[str, np.ndarray]:
    """The networks that learned: accuracy, and compression averaged over hidden layers, one value a network."""
    chosen = measurement.sel(activation=name).stack(sample=("batch", "member"))
    chosen = chosen.transpose("sample", "step", "layer", ...)
    lost = {kind: compression(chosen[kind].values).mean(axis=-1) for kind in ("input_information", "before", "moving")}
    kept = chosen["train_accuracy"].values > 0.75
    return {
        "test_accuracy": chosen["test_accuracy"].values[kept],
        "compression": lost["input_information"][kept],
        "in_nonlinearity": (lost["input_information"] - lost["before"])[kept],
        "moving": lost["moving"][kept],
        "left_out": np.array([np.sum(~kept)]),
    }


Groups = tuple[np.ndarray, np.ndarray | None]


def _difference(groups: Groups) -> dict[str, float]:
    """Difference of two groups' means with its standard error (Welch); None stands for exactly 0."""
    first, second = groups
    measured = [group for group in groups if group is not None]
    smallest = min(group.size for group in measured)
    # One network has no spread, and no network no mean: both become NaN, and the verdict `failed`.
    if smallest < 2:
        return {"mean": np.nan, "standard_error": np.nan, "sample_size": smallest, "dof": 1}
    return {
        "mean": float(first.mean() - (0.0 if second is None else second.mean())),
        "standard_error": max(float(np.sqrt(sum(group.var(ddof=1) / group.size for group in measured))), RESOLUTION),
        "sample_size": smallest,
        # The smaller group's degrees of freedom are the cautious choice between Welch's bounds.
        "dof": smallest - 1,
    }


def _exceeds(label: str, groups: Groups, margin: float) -> Comparison:
    found = _difference(groups)
    return ordering(label, found.pop("mean"), margin=margin, **found)[0]


def _equals(label: str, groups: Groups, prediction: float, margin: float) -> Comparison:
    found = _difference(groups)
    return equivalence(label, found.pop("mean"), prediction, margin, **found)[0]


def _units(prediction: xr.Dataset, measurement: xr.Dataset) -> list[Comparison]:
    """Every activation's and weight's sampled entropy against the closed form."""
    sample = measurement["unit"].stack(sample=("batch", "member")).transpose("activation", "weight", "sample")
    exact = prediction["unit"].sel(activation=sample["activation"])
    count = sample.sizes["sample"]
    names, weights = exact["activation"].values, exact["weight"].values
    return equivalence(
        [f"entropy of one {_NAMES[name]} unit, w = {w:g}" for name in names for w in weights],
        sample.mean("sample").values,
        exact.values,
        float(prediction["unit_margin"]),
        standard_error=sample.std("sample", ddof=1).values / np.sqrt(count),
        sample_size=count,
        dof=count - 1,
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """Information planes of both activations, compression layer by layer, and the single unit."""
    figure.set_size_inches(5.5, 4.6)
    axes = figure.subplots(2, 2)
    _draw_plane(axes[0, 0], evidence, "tanh")
    _draw_plane(axes[0, 1], evidence, "relu")
    _draw_compression(axes[1, 0], evidence)
    _draw_units(axes[1, 1], evidence)


def _draw_plane(ax: Axes, evidence: Evidence, name: str) -> None:
    """Mean path of each layer from its first record (open) to its last (filled)."""
    from experiments.report.style import COLOURS

    chosen = evidence.measurement.sel(activation=name).stack(sample=("batch", "member"))
    learned = chosen.isel(sample=np.flatnonzero(chosen["train_accuracy"].values > 0.75))
    for i, layer in enumerate(learned["layer"].values):
        path = learned.sel(layer=layer).mean("sample")
        x, y = path["input_information"].values, path["label_information"].values
        ax.plot(x, y, "-", color=COLOURS[i], linewidth=0.8, label=f"layer {layer}")
        ax.plot(x[1:-1], y[1:-1], ".", color=COLOURS[i], markersize=2.5)
        ax.plot(x[:1], y[:1], "o", color=COLOURS[i], markerfacecolor="white")
        ax.plot(x[-1:], y[-1:], "o", color=COLOURS[i])
    ax.axhline(BIT, color="0.6", linewidth=0.6, linestyle=":")
    ax.set(title=_NAMES[name], xlabel="$I(X;T)$ (nats)", ylabel="$I(T;Y)$ (nats)", xlim=(0, 8.9), ylim=(0, 0.75))
    if name == "relu":
        ax.legend(loc="lower right")
    else:
        ax.text(0.04, 0.06, "open: before training\nfilled: after it", transform=ax.transAxes, fontsize="small")


def _draw_compression(ax: Axes, evidence: Evidence) -> None:
    from experiments.report.style import COLOURS, MARKERS

    series = (
        ("tanh", "input_information", "tanh"),
        ("tanh", "before", "tanh, pre-activations"),
        ("relu", "input_information", "ReLU"),
    )
    for i, (name, kind, label) in enumerate(series):
        chosen = evidence.measurement.sel(activation=name).stack(sample=("batch", "member"))
        learned = chosen.isel(sample=np.flatnonzero(chosen["train_accuracy"].values > 0.75))
        lost = compression(learned[kind].transpose("sample", "step", "layer").values)
        error = lost.std(axis=0, ddof=1) / np.sqrt(len(lost))
        x = learned["layer"].values + 0.12 * (i - 1)
        ax.errorbar(x, lost.mean(axis=0), 2.58 * error, fmt=MARKERS[i], color=COLOURS[i], label=label)
    ax.axhline(0, color="0.6", linewidth=0.6)
    ax.set(title="maximum less final $I(X;T)$", xlabel="hidden layer", ylabel="compression (nats)")
    ax.set_xticks(evidence.measurement["layer"].values)
    ax.legend(loc="upper left")


def _draw_units(ax: Axes, evidence: Evidence) -> None:
    from experiments.report.style import COLOURS, MARKERS

    theory, sample = evidence.prediction, evidence.measurement["unit"].stack(sample=("batch", "member"))
    error = sample.std("sample", ddof=1) / np.sqrt(sample.sizes["sample"])
    for name, i in (("tanh", 0), ("relu", 2)):
        ax.plot(theory["fine_weight"], theory["unit_curve"].sel(activation=name), "-", color=COLOURS[i])
        ax.errorbar(
            theory["weight"],
            sample.mean("sample").sel(activation=name),
            2.58 * error.sel(activation=name),
            fmt=MARKERS[i],
            color=COLOURS[i],
            label=_NAMES[name],
        )
    ax.axhline(BIT, color="0.6", linewidth=0.6, linestyle=":")
    ax.annotate(r"$\ln 2$", (theory["fine_weight"].values[0], BIT), xytext=(0, -8), textcoords="offset points")
    ax.set(title=r"one unit, $T=\mathrm{bin}(\phi(wX))$", xscale="log", xlabel="weight $w$", ylabel="$I(X;T)$ (nats)")
    ax.set_ylim(0, 4)
    ax.legend(loc="lower left", bbox_to_anchor=(0.1, 0.17))


_NAMES = {"tanh": "tanh", "relu": "ReLU"}

claim = Claim(
    id="information/compression-relu",
    kind="empirical",
    expected="supported",
    sources=("saxe2018information", "shwartzziv2017opening"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival(
            "generalisation-compresses",
            "networks generalise because they compress: ReLU networks lose as much information as tanh networks",
            judge=generalisation_compresses,
        ),
        Rival(
            "representation-compresses",
            "the representation loses the information, so tanh pre-activations lose as much as the activity",
            judge=representation_compresses,
        ),
        Rival(
            "unsaturated-unit",
            "the information of a unit grows like the logarithm of its weight for ever",
            predict=unsaturated,
        ),
    ),
)
