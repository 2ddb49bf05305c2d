"""In worlds of exactly known risk each bound (Hoeffding, Chernoff–kl, Clopper–Pearson, Occam, PAC-Bayes–kl, McAllester,
Catoni on a grid, quadratic) is violated by at most a fraction δ of the training sets.

Sources: Hoeffding 1963, Theorem 1; Clopper & Pearson 1934; Langford 2005 (test-set and Occam bounds); Maurer 2004,
Theorem 5; McAllester 2003, Theorem 1; Catoni 2007, Theorem 1.2.6; Pérez-Ortiz et al. 2021 (PAC-Bayes-quadratic).

Four kinds of world. *One hypothesis*: a bound U(k) on n examples fails for a risk p if U(k) < p, and its failure
probability is largest for p just above one of its n+1 values, so that the supremum over all p is a maximum over k of
P(Bin(n, p) ≤ k): exact. *Three hypotheses* with independent losses: all (n+1)³ outcomes, with risks just above the
values at which Occam's bound or the PAC-Bayes–kl bound jumps: exact. *Many hypotheses* of equal risk with independent
losses, the hardest case of selection, where Occam's union bound is nearly tight. *Perceptrons* with ternary weights,
trained by logistic regression on noisy labels of the 5-cube and rounded. The last two are Monte Carlo over fresh
training sets.

What counts as a violation is the guarantee at its strongest. Occam: any hypothesis. PAC-Bayes: any of several
posteriors, namely Gibbs posteriors at four temperatures (so that the temperature may depend on the data), the point
mass on the learner's choice, and two adversaries who know the true risks, Q ∝ P exp(n kl(p̂‖p)) over the
hypotheses that look better than they are (for it the change of measure in the proof is tight) and the point mass on the
worst of them. Test-set bounds: the learner's hypothesis on n fresh examples.

Margins, for Monte Carlo only: a theorem has no error of its own, so the margin comes from the rivals alone. It is at
most half the distance to the violation rate of the nearest one, which is known in closed form among many hypotheses of
equal risk (0.43 at δ = 0.05, 0.048 at δ = 0.001 from δ), and well below it: 0.025 and 0.006 with the few training
sets of the smoke tier, 0.01 and 0.001 with those of the paper. An enumerated rate gets no margin.

What the worlds cannot tell: they have no power over Maurer's constant. A PAC-Bayes–kl bound without its ln(2√n) would
keep δ in them too.

Assumptions: losses in {0, 1}, independent examples, a prior fixed before the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from scipy.special import rel_entr
from scipy.stats import beta, binom

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.verdict import Comparison, Verdict, coverage, decide, exact_rate, violation_rate
from experiments.violations import (
    BOUNDS,
    FAULTY,
    FITTED_PRIOR,
    NO_CONFIDENCE,
    NO_UNION,
    QUANTITIES,
    SOUND,
    evaluate,
    few_hypotheses,
    one_hypothesis,
)
from experiments.worlds import Samples, World, draw_independent, draw_perceptrons, perceptrons

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE, THREE, MANY, PERCEPTRONS = "one hypothesis", "three hypotheses", "many hypotheses", "perceptrons"
# Training sets in memory at once.
CHUNK = 1000


@dataclass(frozen=True)
class Config:
    """Confidence levels, sizes of the four kinds of world, and training sets a Monte Carlo world."""

    deltas: tuple[float, ...] = (0.05, 0.001)
    # The largest excess over each δ that still counts as δ, before the rivals have their say.
    margins: tuple[float, ...] = (0.025, 0.006)
    one: tuple[int, ...] = (5, 20, 100, 1000)
    three: tuple[int, ...] = (6,)
    three_prior: tuple[float, ...] = (0.5, 0.25, 0.25)
    many: int = 16
    many_hypotheses: int = 400
    # Just above the value of Occam's bound for no error: P(Bin(16, p) = 0) = 0.05/400.
    many_risk: float = 0.42981
    perceptrons: tuple[int, ...] = (32, 256)
    teacher: tuple[float, ...] = (1.0, 0.9, 0.6, 0.4, 0.2)
    noise: float = 0.1
    trials: int = 12_000


SMOKE = Config()
PAPER = Config(
    margins=(0.01, 0.001),
    one=(2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000),
    three=(4, 8, 12),
    perceptrons=(16, 32, 64, 128, 256, 512, 1024, 2048),
    trials=100_000,
)


def assumptions(config: Config) -> list[Assumption]:
    mass = sum(config.three_prior)
    return [
        Assumption("the prior is a sub-probability fixed before the data", mass <= 1, f"sum {mass:g}"),
        Assumption("losses lie in {0, 1} and examples are independent", 0 <= config.noise <= 1, "by construction"),
    ]


def predict(config: Config) -> xr.Dataset:
    """δ, Occam's exact rate and the rivals' exact rates among many equal hypotheses, and the margins from them.

    Of M independent hypotheses of risk p some one has at most k errors with probability 1 − (1 − P(Bin(n, p) ≤ k))^M,
    and a bound that is monotone in the errors fails up to the largest k whose tail, or whose relative entropy, is
    past the bound's budget. No bound is inverted here.
    """
    n, hypotheses, p = config.many, config.many_hypotheses, config.many_risk
    k = np.arange(n + 1)
    tail = binom.cdf(k, n, p)
    exponent = np.where(k < n * p, n * (rel_entr(k / n, p) + rel_entr(1 - k / n, 1 - p)), 0.0)
    moment = np.log(2 * np.sqrt(n))

    def rate(fails: np.ndarray) -> float:
        return -np.expm1(hypotheses * np.log1p(-tail[fails].max())) if fails.any() else 0.0

    rivals = {
        NO_UNION: [rate(tail < delta) for delta in config.deltas],
        FITTED_PRIOR: [rate(exponent > moment - np.log(delta)) for delta in config.deltas],
        NO_CONFIDENCE: [rate(exponent > moment + np.log(hypotheses))] * len(config.deltas),
    }
    delta = np.array(config.deltas)
    excess = np.array(list(rivals.values())) - delta
    # A rival that stays below δ somewhere is not refuted there, and is no neighbour.
    nearest = np.where(excess > 0.1 * delta, excess, np.inf).min(axis=0)
    return xr.Dataset(
        {
            "margin": ("delta", np.minimum(nearest / 2, config.margins)),
            "occam_rate": ("delta", [rate(tail < d / hypotheses) for d in config.deltas]),
            "rival_rate": (("rival", "delta"), list(rivals.values())),
        },
        coords={"delta": delta, "rival": list(rivals)},
    )


def worlds(config: Config) -> dict[str, tuple[str, int]]:
    """Name → kind and sample size."""
    kinds = {ONE: config.one, THREE: config.three, MANY: (config.many,), PERCEPTRONS: config.perceptrons}
    return {f"{kind}, n = {n}": (kind, n) for kind, sizes in kinds.items() for n in sizes}


def cells(config: Config) -> list[dict[str, int | float | str]]:
    return [{"world": name} for name in worlds(config)]


def measure(config: Config, cell: Cell, key: jax.Array) -> xr.Dataset:
    """Violation rate, mean bound, mean risk and fraction of vacuous bounds, for each bound and δ; trials 0 if exact."""
    kind, n = worlds(config)[str(cell["world"])]
    trials = 0
    if kind == ONE:
        table = one_hypothesis(n, config.deltas)
    elif kind == THREE:
        table = few_hypotheses(n, config.three_prior, config.deltas)
    else:
        trials = config.trials
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        table = np.zeros((len(QUANTITIES), len(BOUNDS), len(config.deltas)))
        for world, samples in monte_carlo(config, kind, n, rng):
            table += evaluate(world, samples, config.deltas).sum(axis=1) / trials
    dims = ("bound", "delta")
    return xr.Dataset(
        {name: (dims, values) for name, values in zip(QUANTITIES, table, strict=True)} | {"trials": trials},
        coords={"bound": list(BOUNDS), "delta": list(config.deltas)},
    )


def monte_carlo(config: Config, kind: str, n: int, rng: np.random.Generator) -> Iterator[tuple[World, Samples]]:
    """Fresh training sets, a chunk at a time."""
    hypotheses = config.many_hypotheses
    many = World(n, np.full(hypotheses, config.many_risk), np.full(hypotheses, -np.log(hypotheses)))
    problem = perceptrons(n, config.teacher, config.noise)
    for start in range(0, config.trials, CHUNK):
        size = min(CHUNK, config.trials - start)
        if kind == MANY:
            yield many, draw_independent(many, size, rng)
        else:
            yield problem.world, draw_perceptrons(problem, size, rng)


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    chosen = measurement.sel(bound=list(SOUND))
    return decide(
        [*violations(prediction, chosen), *occam_is_tight(prediction, chosen)],
        margin_source=(
            "a fixed excess over δ, at most half the distance to the nearest rival's exact rate among many "
            "hypotheses; enumerated rates have no margin"
        ),
        reason=slack(chosen),
    )


def rival_judge(name: str, prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The judge's own comparisons, for a faulty bound on the same training sets."""
    return decide(violations(prediction, measurement.sel(bound=[name])), margin_source="those of the claim")


def no_union(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    return rival_judge(NO_UNION, prediction, measurement)


def fitted_prior(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    return rival_judge(FITTED_PRIOR, prediction, measurement)


def no_confidence(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    return rival_judge(NO_CONFIDENCE, prediction, measurement)


def violations(prediction: xr.Dataset, measurement: xr.Dataset) -> list[Comparison]:
    """Each bound in each world at each δ: an exact rate against δ, a simulated one against δ + margin."""
    comparisons = []
    for world in measurement.world.values:
        here = measurement.sel(world=world)
        trials = int(here.trials)
        for delta in here.delta.values:
            rates = here.rate.sel(delta=delta).values
            labels = [f"{bound}, {world}, δ = {delta:g}" for bound in here.bound.values]
            if trials == 0:
                comparisons += exact_rate(labels, rates, delta=delta)
            else:
                margin = float(prediction.margin.sel(delta=delta))
                counts = np.rint(rates * trials)
                comparisons += violation_rate(labels, counts, trials, delta=delta, margin=margin)
    return comparisons


def occam_is_tight(prediction: xr.Dataset, measurement: xr.Dataset) -> list[Comparison]:
    """Among many equal hypotheses Occam's bound fails exactly as often as counting says."""
    (world,) = of_kind(measurement, MANY)
    here = measurement.sel(world=world, bound="Occam")
    trials = int(here.trials)
    return coverage(
        [f"Occam, {world}, δ = {delta:g}, against its exact rate" for delta in here.delta.values],
        np.rint(here.rate.values * trials),
        trials,
        nominal=prediction.occam_rate.values,
        margin=prediction.margin.values,
    )


def slack(measurement: xr.Dataset) -> str:
    """Mean bound minus mean risk on the trained perceptrons, and where bounds say nothing."""
    trained = of_kind(measurement, PERCEPTRONS)
    at = measurement.sel(world=trained[-1]).isel(delta=0)
    gaps = ", ".join(f"{b} {g:.3f}" for b, g in zip(at.bound.values, (at.value - at.risk).values, strict=True))
    share = measurement.vacuous.sel(world=trained).max("world").isel(delta=0)
    vacuous = ", ".join(f"{b} {v:.0%}" for b, v in zip(share.bound.values, share.values, strict=True) if v >= 0.005)
    return f"mean slack ({trained[-1]}, δ = {float(at.delta):g}): {gaps}; vacuous at worst: {vacuous or 'never'}"


def draw(figure: Figure, evidence: Evidence) -> None:
    from experiments.report.style import HEIGHT, WIDTH

    figure.set_size_inches(WIDTH, 1.3 * HEIGHT)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.2, 1.0]})
    draw_rates(left, evidence.measurement)
    draw_slack(right, evidence.measurement)


def draw_rates(axes: Axes, measured: xr.Dataset) -> None:
    """A row a bound: violation rate over δ, for each kind of world the worst sample size."""
    from experiments.report.style import COLOURS, MARKERS

    floor = 1e-4
    rows = {name: i + (0.5 if name in FAULTY else 0.0) for i, name in enumerate(BOUNDS)}
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.axhspan(rows[NO_UNION] - 0.6, rows[NO_CONFIDENCE] + 0.6, color="0.93", linewidth=0)
    axes.text(1.4 * floor, rows[NO_UNION] - 0.55, "faulty", color="0.4", va="top", fontsize="small")
    for marker, kind in zip(MARKERS, (ONE, THREE, MANY, PERCEPTRONS), strict=False):
        here = measured.sel(world=of_kind(measured, kind))
        trials = int(here.trials.max())
        for j, (colour, delta) in enumerate(zip(COLOURS, measured.delta.values, strict=False)):
            rate = here.rate.sel(delta=delta).max("world").sel(bound=list(BOUNDS)).values
            heights = np.array(list(rows.values())) + 0.32 * (j - (measured.delta.size - 1) / 2)
            if trials:
                counts = np.rint(rate * trials)
                low = np.nan_to_num(beta.ppf(0.005, counts, trials - counts + 1))
                high = np.where(counts < trials, beta.ppf(0.995, counts + 1, trials - counts), 1.0)
                ends = np.maximum(np.array([low, high]) / delta, floor)
                axes.hlines(heights, *ends, color=colour, linewidth=0.7)
            axes.plot(
                np.maximum(rate / delta, floor),
                heights,
                marker,
                color=colour,
                markerfacecolor="white" if trials else colour,
                markersize=3,
                markeredgewidth=0.7,
                clip_on=False,
                zorder=3,
            )
        style = {"color": "black", "markerfacecolor": "white" if trials else "black", "markersize": 3}
        axes.plot([], [], marker, label=f"{kind}, {'sampled' if trials else 'exact'}", **style)
    for colour, delta in zip(COLOURS, measured.delta.values, strict=False):
        axes.plot([], [], "-", color=colour, linewidth=2, label=rf"$\delta = {delta:g}$")
    axes.set(xscale="log", xlim=(floor, 1.2 / float(measured.delta.min())), ylim=(rows[NO_CONFIDENCE] + 0.6, -0.6))
    axes.set_yticks(list(rows.values()), list(rows))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(r"violation rate / $\delta$ (left edge: at most $10^{-4}$)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.5, 1.0), ncols=2, handlelength=1.2, columnspacing=0.8)


def draw_slack(axes: Axes, measured: xr.Dataset) -> None:
    """Mean bound on trained perceptrons against the number of training examples, at the largest δ."""
    from experiments.report.style import COLOURS, MARKERS

    names = of_kind(measured, PERCEPTRONS)
    here = measured.sel(world=names, delta=measured.delta.max())
    sizes = [int(name.rpartition("=")[2]) for name in names]
    shown = ("McAllester", "quadratic", "PAC-Bayes–kl", "Catoni", "Occam", "Clopper–Pearson")
    for colour, marker, name in zip(COLOURS, MARKERS, shown, strict=False):
        label = f"{name} (test set)" if name == "Clopper–Pearson" else name
        axes.plot(sizes, here.value.sel(bound=name), "-", marker=marker, color=colour, label=label)
    axes.plot(sizes, here.risk.sel(bound="Occam"), "--", color="black", label="true risk")
    axes.axhline(1.0, color="0.5", linewidth=0.8)
    axes.text(sizes[-1], 1.0, "vacuous above", color="0.4", ha="right", va="bottom", fontsize="small")
    axes.set(xscale="log", xlabel="training examples $n$", ylabel=rf"mean bound at $\delta = {float(here.delta):g}$")
    # At most four labels fit beside each other.
    labelled = sizes[:: -(-len(sizes) // 4)]
    axes.set_xticks(labelled, [str(n) for n in labelled])
    axes.minorticks_off()
    axes.legend(loc="lower left", bbox_to_anchor=(-0.1, 1.0), ncols=2, handlelength=1.6, columnspacing=0.8)


def of_kind(measured: xr.Dataset, kind: str) -> list[str]:
    """Names of the worlds of a kind, by sample size."""
    names = [str(name) for name in measured.world.values if str(name).startswith(kind)]
    return sorted(names, key=lambda name: int(name.rpartition("=")[2]))


claim = Claim(
    id="bounds/coverage",
    kind="theorem",
    expected="supported",
    sources=(
        "hoeffding1963probability",
        "clopper1934use",
        "langford2005tutorial",
        "maurer2004note",
        "mcallester2003pac",
        "catoni2007pac",
        "perezortiz2021tighter",
    ),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival(
            "no-union-bound",
            "the test-set bound holds on the training errors of the best of many hypotheses",
            judge=no_union,
        ),
        Rival("fitted-prior", "a PAC-Bayes prior may be fitted on the data, so that KL = 0", judge=fitted_prior),
        Rival("no-confidence", "ln(1/δ) may be dropped from the PAC-Bayes bound", judge=no_confidence),
    ),
)
