"""On small data sets, in the mean over tasks, kernel regression with the tangent kernel of an infinitely wide network
classifies better than random forests, better than trained networks of the same architecture, and no worse than the
support vector machine with the Gaussian kernel.

Source: Arora et al. 2020 (90 tables of at most 5,000 examples; CIFAR-10 with 10 to 640 images). Their tables are tuned
on validation folds, ours inside each training set (Cawley & Talbot 2010); their images go through a convolutional
kernel, ours, averaged over squares of 4 pixels a side, through a fully connected one, as for all methods.

A task is a data set with a number of training examples; each is in the figure. Kernels are float64, networks float32,
and single: an ensemble of them would come closer to the kernel. Tables are split at random into four fifths and one
fifth, many times: such splits share examples, and their mean has the variance s²(1/J + 1/4), not s²/J (Nadeau & Bengio
2003). Images are plenty: training sets without a common example, of each size the first examples of the next, and test
images common to all, whose variance is that of a crossed design. Either is the error for the population that the data
set was drawn from.

Margin: no theory gives one. Better means a mean difference above 0. No worse means that at most 2 points of accuracy
are lost, one test example in fifty: less than a single one of the 35 that the smallest set has in a test.

Controls. The method twice, with other inner folds, differs by less than those 2 points. A method and itself, each
given its own half of every training set, differ at the level of 5 % in no more than 5 % of the cases, within another
5 %: the test does not take the overlap of splits for a difference. And where labels are fair coins, the accuracy is ½
within 2 points: tuning has not seen the test examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.data import load
from experiments.networks import network
from experiments.paired_tests import Estimate, average, controls, crossed, resampled
from experiments.small_data import (
    Split,
    inner_folds,
    kernel_regression,
    nested_training_sets,
    random_forest,
    regression_scores,
    split,
    support_vectors,
    tangent_kernels,
    trained_networks,
)
from experiments.verdict import Comparison, Verdict, decide, equivalence, ordering, violation_rate
from theory.architecture import MLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("NTK", "SVM", "forest", "network", "NTK again")
OTHERS = METHODS[1:]
IMAGES = ("digits", "cifar10")
# So that every training set of digits leaves at least five times as many examples to test on.
LARGEST = {"digits": 80, "cifar10": 640}
# What every classifier is tuned over; the first ones are the ordinary ones. σ_w² = 2 and σ_b² = 0.1 throughout.
BIAS_VARIANCE = 0.1
RIDGES = (1e-2, 1e-1, 1e-3, 1e-4, 1.0)
RATES, COSTS = (0.5, 0.15, 1.5), (10.0, 1.0)
FOLDS = 3
# Examples of the controls, as many as the smallest set has, and their level.
CONTROL, LEVEL = 178, 0.05
DELTA = 0.02


@dataclass(frozen=True)
class Config:
    """Data and sizes.

    Attributes:
        sets: names of data sets.
        sizes: training examples, of sets of images.
        splits: of each table.
        replicates: training sets of each size, of sets of images.
        depths: hidden layers of the kernels and of the networks, among which each is tuned.
        width: of the networks' hidden layers.
        steps: of Adam, among which the networks are tuned; `learning_rate` is that of the NTK parametrisation.
        trainings: final networks in each split, whose accuracies are averaged.
        trees, shares: of the forests, and features tried at a node in units of √d.
        assignments, draws: halvings and draws of coin labels, on each data set.
    """

    sets: tuple[str, ...]
    sizes: tuple[int, ...]
    splits: int
    replicates: int
    depths: tuple[int, ...] = (1, 2)
    width: int = 128
    steps: tuple[int, ...] = (30, 60, 120)
    learning_rate: float = 0.03
    trainings: int = 2
    trees: int = 100
    shares: tuple[float, ...] = (1.0, 2.0, 0.5)
    assignments: int = 250
    draws: int = 2000


SMOKE = Config(
    ("wine", "digits"),
    sizes=(10, 20, 30, 40, 60, 80),
    splits=30,
    replicates=10,
    width=64,
    steps=(15, 30, 60),
    trees=25,
    shares=(1.0,),
    assignments=250,
)
PAPER = Config(
    ("wine", "breast-cancer", "digits", "cifar10"),
    sizes=(10, 20, 40, 80, 160, 320, 640),
    splits=24,
    replicates=12,
)


def datasets(config: Config) -> tuple[str, ...]:
    """Sets that `measure` reads."""
    return config.sets


def assumptions(config: Config) -> list[Assumption]:
    """The data are small, of both kinds, and there are enough splits for a test with their degrees of freedom."""
    largest = max(config.sizes)
    tables = [name for name in config.sets if name not in IMAGES]
    count = min(config.splits, config.replicates)
    return [
        Assumption("no more than 640 training images", largest <= 640, f"up to {largest}"),
        Assumption(
            "tables and images", 0 < len(tables) < len(config.sets), f"{len(tables)} of {len(config.sets)} sets"
        ),
        Assumption("at least ten splits of each set", count >= 10, f"{count} splits"),
    ]


def predict(config: Config) -> xr.Dataset:
    """The statement: lower edges of the mean differences, and what the controls must show."""
    return xr.Dataset(
        {
            "floor": ("other", [-DELTA, 0.0, 0.0, -DELTA]),
            "delta": DELTA,
            "level": LEVEL,
            "level_margin": LEVEL,
            "coin": 0.5,
        },
        coords={"other": list(OTHERS)},
    )


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Each data set."""
    return [{"set": name} for name in config.sets]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Accuracies of all methods at each number of training examples, differences to the NTK, and the controls."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    name = str(cell["set"])
    x, y = _examples(name)
    if name in IMAGES:
        sizes = [size for size in config.sizes if size <= LARGEST[name]]
        each, test = nested_training_sets(y, config.replicates, sizes[-1], generator)
        pairs = [
            [(np.concatenate([rows[i, : size // len(each)] for rows in each]), test) for i in range(config.replicates)]
            for size in sizes
        ]
    else:
        held = len(y) // 5
        sizes = [len(y) - held]
        orders = [generator.permutation(len(y)) for _ in range(config.splits)]
        pairs = [[(order[held:], order[:held]) for order in orders]]
    right = []
    for some in pairs:
        splits = [split(x, y, *pair, FOLDS, generator, per_feature=name not in IMAGES) for pair in some]
        right.append(_right(config, splits, generator))
    lead = np.stack(right)[:, :1] - np.stack(right)[:, 1:]
    if name in IMAGES:
        single, pooled = crossed(lead), crossed(lead.mean(axis=0))
    else:
        single = resampled(lead.mean(axis=-1), sizes[0], len(y) - sizes[0])
        pooled = Estimate(*(values[0] for values in single))
    alarms, coin = controls(
        x,
        y,
        examples=CONTROL,
        assignments=config.assignments,
        draws=config.draws,
        splits=25,
        folds=FOLDS,
        depths=config.depths,
        ridges=RIDGES,
        bias_variance=BIAS_VARIANCE,
        level=LEVEL,
        generator=generator,
    )

    def padded(values: np.ndarray) -> np.ndarray:
        """One row for each size that any set may have, zero beyond its `tasks`: all cells have one shape."""
        full = np.zeros((len(config.sizes), *np.shape(values)[1:]))
        full[: len(values)] = values
        return full

    return xr.Dataset(
        {
            "examples": ("size", padded(np.array(sizes, np.float64))),
            "tasks": len(sizes),
            "splits": len(pairs[0]),
            "assignments": config.assignments,
            "accuracy": (("size", "method"), padded(np.mean(right, axis=(-1, -2)))),
            **{f"task_{field}": (("size", "other"), padded(values)) for field, values in single._asdict().items()},
            **{field: ("other", values) for field, values in pooled._asdict().items()},
            "alarms": ("test", alarms),
            "coin": ("tuned", coin.mean(axis=1)),
            "coin_error": ("tuned", coin.std(axis=1, ddof=1) / np.sqrt(coin.shape[1])),
            "draws": coin.shape[1],
        },
        coords={
            "method": list(METHODS),
            "other": list(OTHERS),
            "test": ["corrected", "independent"],
            "tuned": ["inside", "test"],
        },
    )


def _examples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a set, training and test ones, as rows; images of CIFAR-10 averaged over squares of pixels."""
    data = load(name)
    x = np.concatenate([data.x_train, data.x_test]).astype(np.float64)
    if name == "cifar10":
        x = x.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    return x.reshape(len(x), -1), np.concatenate([data.y_train, data.y_test]).astype(np.int64)


def _right(config: Config, splits: Sequence[Split], generator: np.random.Generator) -> np.ndarray:
    """Whether each test example is labelled correctly, `[method, split, test]`; for networks the share of trainings."""
    design = {"inputs": splits[0].x_train.shape[1], "outputs": splits[0].classes, "width": config.width}
    nets = [network(MLP(depth, "relu", 2.0, BIAS_VARIANCE), **design) for depth in config.depths]
    found = []
    for data in splits:
        kernels = tangent_kernels(data, config.depths, BIAS_VARIANCE)
        regression = kernel_regression(data, kernels, RIDGES)
        refolded = replace(data, folds=inner_folds(data.y_train, FOLDS, generator))
        again = replace(regression, scores=regression_scores(refolded, kernels, RIDGES))
        trained = trained_networks(
            data,
            nets,
            learning_rate=config.learning_rate,
            steps=config.steps,
            trainings=config.trainings,
            generator=generator,
        )
        labels = (
            regression.chosen,
            support_vectors(data, RATES, COSTS),
            random_forest(data, config.trees, config.shares, int(generator.integers(2**31))),
            trained.chosen,
            again.chosen,
        )
        found.append([np.mean(np.atleast_2d(one) == data.y_test, axis=0) for one in labels])
    return np.swapaxes(np.array(found), 0, 1)


def differences(measurement: xr.Dataset) -> Estimate:
    """Mean over tasks of the NTK's lead over each other method."""
    fields = (measurement[field].transpose("set", "other").values for field in ("mean", "error", "dof"))
    return average(Estimate(*fields), measurement["tasks"].values.astype(np.float64))


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Three orderings and three controls."""
    found, floor = differences(measurement), prediction["floor"].values
    comparisons = [
        *ordering(
            [f"NTK above {name}, mean over tasks" for name in OTHERS[:3]],
            found.mean[:3],
            margin=floor[:3],
            standard_error=found.error[:3],
            sample_size=_sample(measurement),
            dof=found.dof[:3],
        ),
        *equivalence(
            "NTK with other inner folds",
            found.mean[3],
            0.0,
            float(prediction["delta"]),
            standard_error=found.error[3],
            sample_size=_sample(measurement),
            dof=found.dof[3],
        ),
        *_false_alarms(prediction, measurement, "corrected"),
        *_coin(prediction, measurement, "inside"),
    ]
    return decide(comparisons, margin_source="2 points of accuracy; twice the level of the test")


def _sample(measurement: xr.Dataset) -> int:
    """Training sets in all."""
    return int((measurement["tasks"] * measurement["splits"]).sum())


def _false_alarms(prediction: xr.Dataset, measurement: xr.Dataset, test: str) -> list[Comparison]:
    return violation_rate(
        f"false alarms of the {test} test",
        int(measurement["alarms"].sel(test=test).sum()),
        int(measurement["assignments"].sum()),
        delta=float(prediction["level"]),
        margin=float(prediction["level_margin"]),
    )


def _coin(prediction: xr.Dataset, measurement: xr.Dataset, tuned: str) -> list[Comparison]:
    where = "inside the training set" if tuned == "inside" else "on the test examples"
    error = measurement["coin_error"].sel(tuned=tuned).values
    return equivalence(
        f"accuracy on coin labels, tuned {where}",
        float(measurement["coin"].sel(tuned=tuned).mean()),
        float(prediction["coin"]),
        float(prediction["delta"]),
        standard_error=float(np.sqrt(np.sum(error**2)) / len(error)),
        sample_size=int(measurement["draws"].sum()),
    )


def forests_first(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: random forests are the best classifier of small data sets."""
    return _reversed(measurement, "forest")


def features_win(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: trained networks learn features, and so beat the kernel of their own limit."""
    return _reversed(measurement, "network")


def _reversed(measurement: xr.Dataset, other: str) -> Verdict:
    found, i = differences(measurement), OTHERS.index(other)
    label, sample = f"{other} above NTK, mean over tasks", _sample(measurement)
    comparisons = ordering(label, -found.mean[i], standard_error=found.error[i], sample_size=sample, dof=found.dof[i])
    return decide(comparisons, margin_source="none: the sign decides")


def all_alike(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: tuned with care, all methods are alike on small data."""
    found = differences(measurement)
    comparisons = equivalence(
        [f"NTK less {name}, mean over tasks" for name in OTHERS[:3]],
        found.mean[:3],
        0.0,
        float(prediction["delta"]),
        standard_error=found.error[:3],
        sample_size=_sample(measurement),
        dof=found.dof[:3],
    )
    return decide(comparisons, margin_source="2 points of accuracy")


def independent_splits(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: random splits are as good as independent, and Student's test of their differences keeps its level."""
    return decide(_false_alarms(prediction, measurement, "independent"), margin_source="twice the level of the test")


def tuned_on_test(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: choosing among a few settings by the accuracy on the test examples does no harm."""
    return decide(_coin(prediction, measurement, "test"), margin_source="2 points of accuracy")


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: accuracy of each method on each task. Right: the NTK's lead over each of them."""
    from experiments.report.style import COLOURS, MARKERS
    from experiments.verdict.intervals import student

    data = evidence.measurement.transpose("set", "size", ...)
    figure.set_size_inches(5.5, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    rows = [(i, j) for i in range(data.sizes["set"]) for j in range(int(data["tasks"][i]))]
    names = [f"{data['set'].values[i]}, {data['examples'].values[i, j]:.0f}" for i, j in rows]
    places = -np.arange(len(rows), dtype=float)
    accuracy = data["accuracy"].values
    fields = [data[f"task_{field}"].values for field in Estimate._fields]
    pooled = differences(data)
    for k, method in enumerate(METHODS[:4]):
        left.plot(
            [100 * accuracy[i, j, k] for i, j in rows],
            places + 0.12 * (1.5 - k),
            MARKERS[k],
            color=COLOURS[k],
            label=method,
        )
    for k, other in enumerate(OTHERS):
        colour = COLOURS[k + 1] if other != "NTK again" else "0.6"
        values = [[field[i, j, k] for field in fields] for i, j in rows]
        mean, error, dof = np.array([*values, [field[k] for field in pooled]]).T
        right.errorbar(
            100 * mean,
            np.append(places, -len(rows) - 0.5) + 0.15 * (1.5 - k),
            xerr=100 * (mean - student(mean, error, -np.inf, np.inf, dof).low),
            fmt=MARKERS[k + 1],
            color=colour,
            label=other,
        )
    delta = 100 * float(evidence.prediction["delta"])
    right.axvline(0, color="0.3", linewidth=0.8)
    right.axvspan(-delta, delta, color="0.92", zorder=0)
    right.axhline(-len(rows) + 0.25, color="0.6", linewidth=0.6)
    left.set_yticks([*places, -len(rows) - 0.5], [*names, "mean over tasks"])
    left.set(xlabel="accuracy (%)", ylim=(-len(rows) - 1, 0.6))
    right.set(xlabel="NTK less the other (points)")
    for ax in (left, right):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


claim = Claim(
    id="ntk/small-data",
    kind="empirical",
    expected="supported",
    sources=("arora2020harnessing", "nadeau2003inference", "cawley2010overfitting", "fernandezdelgado2014hundreds"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("forests-first", "random forests beat the tangent kernel on small data", judge=forests_first),
        Rival(
            "features-win",
            "trained networks beat the kernel of their own limit, as they learn features",
            judge=features_win,
        ),
        Rival("all-alike", "tuned with care, all methods are within 2 points", judge=all_alike),
        Rival("independent-splits", "Student's test on random splits keeps its level", judge=independent_splits),
        Rival("tuned-on-test", "choosing settings on the test examples does no harm", judge=tuned_on_test),
    ),
    datasets=datasets,
)
