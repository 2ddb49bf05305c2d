"""Risk against the number of features N peaks at N = n, the number of examples, and falls again beyond: regression on
random ReLU features follows the closed form of Mei & Montanari in the proportional limit, and regression on some of the
inputs has the exact risk of Belkin, Hsu & Xu at every n.

Sources: Mei & Montanari 2022, Theorem 2; Belkin, Hsu & Xu 2020, Theorem 1.

*Random features*: N directions of length √d, Gaussian inputs in d dimensions, ridge regression with a small and a large
penalty. Two targets share their linear part; one has label noise, the other in place of it a quadratic part
(⟨β, x⟩² − 1)/√2 of the same variance, which the theory says acts as noise at n ~ d, though it is a function. The risk
over inputs is exact for each draw: the features' second moments are the arc-cosine kernel, and their covariances with
the target follow by Stein's lemma. The theory's error is O(1/d): each risk is measured at d and 2d with equal N/d and
n/d and extrapolated, 2R(2d) − R(d), which leaves O(1/d²). Pilot runs put the first order at up to 4/d of the risk, and
what is left at up to 4 % from d = 16 and 32, hence 2 % from 24 and 48, and less than 0.1 % from 128 and 256. The peak
is tested by itself: with the small penalty the risk at N = n exceeds that at every other N.

*Chosen features*: p of D Gaussian inputs, with equal coefficients or the largest first (β_j² ∝ 1/j), with and without
label noise.

Margins: half the distance to the nearest rival's prediction, and at most a fixed part of the risk: for random features
four times that remainder or more (8 % at the smoke tier, 4 % at the paper tier), a tenth for chosen ones, whose law is
exact. The peak's orderings have no margin.

Assumptions: isotropic Gaussian inputs; for chosen features |n − p| ≥ 8, where the fourth moment of one risk is finite.
What a frozen first layer cannot show, whether a peak sits at the number of parameters or where training interpolates,
is the claim in `trained_peak.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key
from threadpoolctl import threadpool_limits

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.verdict import Comparison, Verdict, decide, equivalence, ordering
from theory.regression.random_features import (
    chosen_features_risk,
    chosen_features_variance,
    random_features_risk,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANDOM, CHOSEN = "random features", "chosen features"
TARGETS = ("noise", "quadratic")
ORDERS = ("equal", "largest first")
# Entries of an array that still fits into the cache, and rows of a kernel worked on together.
ENTRIES = 2**18
ROWS = 512
TAME = 8


@dataclass(frozen=True)
class Config:
    """Sizes of both sweeps.

    Attributes:
        dimension: d, the smaller of the two, d and 2d.
        samples: n/d.
        ratios: N/d; one of them is n/d.
        members: draws of features and inputs at each ratio, for either dimension.
        labels: targets and label noises drawn for each of them.
        tolerance: the largest margin for random features, as a part of the risk.
        penalties: λ; the mean square over examples plus λ (N/d) |c|².
        variance: of the label noise, and of the quadratic part; the linear part has variance 1.
        examples, inputs: n and D of chosen features.
        chosen: p.
        training_sets: drawn for each p.
    """

    dimension: int
    ratios: tuple[float, ...]
    members: tuple[int, ...]
    tolerance: float
    chosen: tuple[int, ...]
    training_sets: tuple[int, ...]
    samples: float = 2.0
    labels: int = 32
    penalties: tuple[float, ...] = (0.001, 0.1)
    variance: float = 0.5
    examples: int = 16
    inputs: int = 64


SMOKE = Config(
    dimension=24,
    ratios=(1.0, 2.0, 4.0),
    members=(450, 420, 260),
    tolerance=0.08,
    chosen=(2, 4, 8, 28, 32, 64),
    training_sets=(3_000, 3_000, 8_000, 12_000, 6_000, 1_000),
    labels=64,
)
PAPER = Config(
    dimension=128,
    ratios=(0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0),
    members=(240, 140, 200, 200, 130, 80, 100, 80),
    tolerance=0.04,
    chosen=(2, 4, 8, 16, 24, 48, 64, 96, 128),
    training_sets=(4_000, 4_000, 4_000, 5_000, 12_000, 24_000, 5_000, 20_000, 2_000),
    examples=32,
    inputs=128,
)


def worlds(config: Config) -> dict[str, tuple[str, int, float]]:
    """Name → kind, dimension, and ratio N/d or number of chosen inputs."""
    random = {
        f"{RANDOM}, d = {d}, N = {round(d * ratio)}": (RANDOM, d, ratio)
        for d in (config.dimension, 2 * config.dimension)
        for ratio in config.ratios
    }
    return random | {f"{CHOSEN}, p = {p}": (CHOSEN, config.inputs, p) for p in config.chosen}


def assumptions(config: Config) -> list[Assumption]:
    """Whole numbers of features and examples, tame risks, and enough training sets for the chosen features."""
    numbers = [config.dimension * ratio for ratio in (*config.ratios, config.samples)]
    whole = all(float(number).is_integer() for number in numbers)
    listed = {config.samples / 2, config.samples, 2 * config.samples} <= set(config.ratios)
    closest = min(abs(config.examples - p) for p in config.chosen)
    prediction = predict(config)
    least = float((prediction["chosen_margin"] / prediction["chosen_error"]).min())
    return [
        Assumption("N and n are whole numbers, and N is n/2, n and 2n among others", whole and listed),
        Assumption(
            f"chosen features have |n − p| ≥ {TAME}, where the fourth moment of the risk is finite",
            closest >= TAME,
            f"closest {closest}",
        ),
        Assumption("their margin is at least 12 exact standard errors", least >= 12, f"least {least:.1f}"),
    ]


def predict(config: Config) -> xr.Dataset:
    """Risks and margins of random and of chosen features, and the exact standard errors of the latter."""
    random, chosen = _random(config), _chosen(config)
    nearest = [
        np.min([np.where(np.abs(rival - truth) > 1e-9, np.abs(rival - truth), np.inf) for rival in rivals], axis=0)
        for truth, rivals in ((random, _random_rivals(config).values()), (chosen, _chosen_rivals(config).values()))
    ]
    dims, chosen_dims = ("ratio", "target", "penalty"), ("p", "order", "noisy")
    return xr.Dataset(
        {
            "risk": (dims, random),
            "margin": (dims, np.minimum(config.tolerance * random, nearest[0] / 2)),
            "chosen_risk": (chosen_dims, chosen),
            "chosen_margin": (chosen_dims, np.minimum(chosen / 10, nearest[1] / 2)),
            "chosen_error": (chosen_dims, _chosen_error(config)),
            "dimension": config.dimension,
            "samples": config.samples,
        },
        coords={"ratio": list(config.ratios), "penalty": list(config.penalties), "p": list(config.chosen)},
    )


def _random(config: Config, *, stretch: float = 1.0, inert: bool = False) -> Float[np.ndarray, "ratio target penalty"]:
    """Risks in the limit; with N stretched by a factor, or with a quadratic part that only adds its own variance."""

    def risk(ratio: float, target: str, penalty: float) -> float:
        quadratic = config.variance * (target == "quadratic")
        noise = config.variance * (target == "noise")
        spoils = 0.0 if inert else quadratic
        risk = random_features_risk(
            ratio * stretch, config.samples, penalty=penalty, linear=1.0, nonlinear=spoils, noise=noise
        )
        return risk + quadratic - spoils

    return np.array([[[risk(r, t, penalty) for penalty in config.penalties] for t in TARGETS] for r in config.ratios])


def _random_rivals(config: Config) -> dict[str, Float[np.ndarray, "ratio target penalty"]]:
    return {
        "peak-at-2n": _random(config, stretch=0.5),
        "inert-quadratic": _random(config, inert=True),
    }


def _chosen(config: Config, risk=chosen_features_risk) -> Float[np.ndarray, "p order noisy"]:
    """risk(n, |β_T|², |β_U|², p, σ²) for each number of inputs and order, without and with noise."""
    powers = {"equal": np.ones(config.inputs), "largest first": 1 / np.arange(1, config.inputs + 1.0)}
    shares = {order: np.cumsum(power) / power.sum() for order, power in powers.items()}

    def one(p: int, order: str, noise: float) -> float:
        # All of them make 1 up to rounding.
        used = min(float(shares[order][p - 1]), 1.0)
        return risk(config.examples, used, 1 - used, p, noise=noise)

    noises = (0.0, config.variance)
    return np.array([[[one(p, order, noise) for noise in noises] for order in ORDERS] for p in config.chosen])


def _chosen_error(config: Config) -> Float[np.ndarray, "p order noisy"]:
    variances = _chosen(config, chosen_features_variance)
    # Least squares on all inputs without noise is exact; everything else scatters.
    return np.sqrt(variances / np.array(config.training_sets)[:, None, None])


def _chosen_rivals(config: Config) -> dict[str, Float[np.ndarray, "p order noisy"]]:
    def harmless(n: int, used: float, rest: float, p: int, *, noise: float) -> float:
        return rest + chosen_features_risk(n, used, 0.0, p, noise=noise)

    def nothing_learned(n: int, used: float, rest: float, p: int, *, noise: float) -> float:
        return chosen_features_risk(n, used, rest, p, noise=noise) + used * min(n / p, 1.0) * (p > n)

    return {"left-out-harmless": _chosen(config, harmless), "nothing-learned": _chosen(config, nothing_learned)}


def _replaced(config: Config, name: str) -> xr.Dataset:
    """The prediction with a rival's risks, and the claim's own margins."""
    prediction = predict(config)
    random, chosen = _random_rivals(config), _chosen_rivals(config)
    if name in random:
        return prediction.assign(risk=(prediction["risk"].dims, random[name]))
    return prediction.assign(chosen_risk=(prediction["chosen_risk"].dims, chosen[name]))


def peak_at_twice_n(config: Config) -> xr.Dataset:
    """Rival: the risk that the theory gives for N features is that of 2N."""
    return _replaced(config, "peak-at-2n")


def inert_quadratic(config: Config) -> xr.Dataset:
    """Rival: a part of the target that is not learned costs its own variance and does no other harm."""
    return _replaced(config, "inert-quadratic")


def left_out_is_harmless(config: Config) -> xr.Dataset:
    """Rival: inputs that are left out cost their own variance and do no other harm."""
    return _replaced(config, "left-out-harmless")


def nothing_learned_beyond(config: Config) -> xr.Dataset:
    """Rival: beyond interpolation nothing of the signal is learned."""
    return _replaced(config, "nothing-learned")


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Each world."""
    return [{"world": name} for name in worlds(config)]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Mean excess risk and its standard error in double precision, for two cases by two.

    The cases are target and penalty for random features, order and label noise for chosen ones.
    """
    kind, dimension, size = worlds(config)[str(cell["world"])]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    # Most matrices are too small for threads, which would only wait for each other.
    with threadpool_limits(1, "blas"):
        if kind == RANDOM:
            members = config.members[config.ratios.index(size)]
            found = _random_features(config, dimension, round(dimension * size), members, rng)
        else:
            members = config.training_sets[config.chosen.index(int(size))]
            found = _chosen_features(config, int(size), members, rng)
    dims = ("case", "other")
    return xr.Dataset(
        {
            "risk": (dims, found.mean(axis=0)),
            "error": (dims, found.std(axis=0, ddof=1) / np.sqrt(members)),
            "members": members,
        }
    )


def _chunks(members: int, entries: int) -> Iterator[int]:
    """Numbers of members that fit into memory together."""
    chunk = max(1, ENTRIES // entries)
    yield from (min(chunk, members - start) for start in range(0, members, chunk))


def _random_features(
    config: Config, d: int, features: int, members: int, rng: np.random.Generator
) -> Float[np.ndarray, "members target penalty"]:
    """Excess risk of each draw of directions and inputs, averaged over targets and label noises."""
    n, k = round(config.samples * d), config.labels
    scale = np.sqrt(config.variance)
    risks = []
    for size in _chunks(members, max(features, n) * max(min(features, ROWS), n)):
        directions = rng.standard_normal((size, features, d))
        # Cosines with the inputs' coordinates: w/√d has length 1.
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        x = rng.standard_normal((size, n, d))
        beta = rng.standard_normal((size, d, k))
        beta /= np.linalg.norm(beta, axis=1, keepdims=True)
        linear, cosine = x @ beta, directions @ beta
        labels = np.concatenate(
            [linear + scale * rng.standard_normal(linear.shape), linear + scale * (linear**2 - 1) / np.sqrt(2)], axis=-1
        )
        # E φ(z)u = c/2 and E φ(z)(u²−1)/√2 = c²/2√π for normal z, u with correlation c.
        moments = np.concatenate([cosine / 2, cosine / 2 + scale * cosine**2 / (2 * np.sqrt(np.pi))], axis=-1)
        hidden = np.maximum(x @ directions.transpose(0, 2, 1), 0.0)
        solutions = [_ridge(hidden, labels, n * features / d * penalty) for penalty in config.penalties]
        coefficients = np.concatenate(solutions, axis=-1)
        moments = np.concatenate([moments] * len(solutions), axis=-1)
        excess = _quadratic_form(directions, coefficients) - 2 * np.sum(coefficients * moments, axis=1)
        risks.append(excess.reshape(size, len(config.penalties), len(TARGETS), k).mean(axis=-1))
    # Var f of each target: the linear part has variance 1.
    variance = np.array([1.0, 1.0 + config.variance])
    return np.concatenate(risks).transpose(0, 2, 1) + variance[:, None]


def _ridge(
    hidden: Float[np.ndarray, "m n N"], labels: Float[np.ndarray, "m n k"], penalty: float
) -> Float[np.ndarray, "m N k"]:
    """(HᵀH + δ)⁻¹ Hᵀ y, through the smaller Gram matrix."""
    transposed = hidden.transpose(0, 2, 1)
    if hidden.shape[2] <= hidden.shape[1]:
        gram = transposed @ hidden + penalty * np.eye(hidden.shape[2])
        return np.linalg.solve(gram, transposed @ labels)
    return transposed @ np.linalg.solve(hidden @ transposed + penalty * np.eye(hidden.shape[1]), labels)


def _quadratic_form(
    directions: Float[np.ndarray, "m N d"], coefficients: Float[np.ndarray, "m N k"]
) -> Float[np.ndarray, "m k"]:
    """E f² over Gaussian inputs: cᵀKc with the arc-cosine kernel K = E φ(z)φ(z') of unit directions.

    2πK = sin θ + (π − θ) cos θ for an angle θ (Cho & Saul 2009).
    """
    total = np.zeros((coefficients.shape[0], coefficients.shape[2]))
    for start in range(0, directions.shape[1], ROWS):
        rows = slice(start, start + ROWS)
        cosine = directions[:, rows] @ directions.transpose(0, 2, 1)
        np.clip(cosine, -1.0, 1.0, out=cosine)
        kernel = np.pi - np.arccos(cosine)
        kernel *= cosine
        # sin θ, in place: this is where the time goes.
        np.multiply(cosine, cosine, out=cosine)
        np.subtract(1.0, cosine, out=cosine)
        kernel += np.sqrt(cosine, out=cosine)
        total += np.sum(coefficients[:, rows] * (kernel @ coefficients), axis=1)
    return total / (2 * np.pi)


def _chosen_features(
    config: Config, p: int, members: int, rng: np.random.Generator
) -> Float[np.ndarray, "members order noisy"]:
    """Excess risk of each training set, for both orders and without and with noise, on the same inputs."""
    n, inputs = config.examples, config.inputs
    betas = np.stack([np.ones(inputs), np.arange(1.0, inputs + 1) ** -0.5], axis=-1)
    betas /= np.linalg.norm(betas, axis=0)
    risks = []
    for size in _chunks(members, n * inputs):
        x = rng.standard_normal((size, n, inputs))
        noise = np.sqrt(config.variance) * rng.standard_normal((size, n, 1))
        signal = x @ betas
        labels = np.concatenate([signal, signal + noise], axis=-1)
        solution = _ridge(x[..., :p], labels, 0.0)
        errors = np.sum((solution - np.tile(betas[:p], 2)) ** 2, axis=1).reshape(size, 2, len(ORDERS))
        risks.append(errors + np.sum(betas[p:] ** 2, axis=0))
    return np.concatenate(risks).transpose(0, 2, 1)


def extrapolated(prediction: xr.Dataset, measurement: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """2R(2d) − R(d), its standard error, and the number of members, each (ratio, target, penalty)."""
    d = int(prediction["dimension"])
    risk, error, members = (
        np.array(
            [
                [
                    np.broadcast_to(measurement[name].sel(world=_random_name(size, ratio)).values, (2, 2))
                    for ratio in prediction["ratio"].values
                ]
                for size in (d, 2 * d)
            ]
        )
        for name in ("risk", "error", "members")
    )
    return 2 * risk[1] - risk[0], np.sqrt(4 * error[1] ** 2 + error[0] ** 2), members[0]


def _random_name(d: int, ratio: float) -> str:
    return f"{RANDOM}, d = {d}, N = {round(d * ratio)}"


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Equivalence of all risks, and a peak at N = n."""
    return decide(
        [
            *random_agrees(prediction, measurement),
            *chosen_agrees(prediction, measurement),
            *peak(prediction, measurement, float(prediction["samples"])),
        ],
        margin_source=(
            "half the distance to the nearest rival, and at most a fixed part of the risk: a few times the O(1/d²) "
            "left by the extrapolation for random features, a tenth for chosen ones; orderings have none"
        ),
    )


def random_agrees(prediction: xr.Dataset, measurement: xr.Dataset) -> list[Comparison]:
    """Extrapolated risks against the closed form."""
    risk, error, members = extrapolated(prediction, measurement)
    labels = [
        f"random features, N/n = {ratio / float(prediction['samples']):g}, {target}, λ = {penalty:g}"
        for ratio in prediction["ratio"].values
        for target in TARGETS
        for penalty in prediction["penalty"].values
    ]
    margin = prediction["margin"].values
    return equivalence(labels, risk, prediction["risk"].values, margin, standard_error=error, sample_size=members)


def chosen_agrees(prediction: xr.Dataset, measurement: xr.Dataset) -> list[Comparison]:
    """Measured against exact risks of chosen features, with exact standard errors."""
    here = measurement.sel(world=[f"{CHOSEN}, p = {p}" for p in prediction["p"].values])
    labels = [
        f"chosen features, p = {p}, {order}, {noise}"
        for p in prediction["p"].values
        for order in ORDERS
        for noise in ("no noise", "noise")
    ]
    return equivalence(
        labels,
        here["risk"].values,
        prediction["chosen_risk"].values,
        prediction["chosen_margin"].values,
        standard_error=prediction["chosen_error"].values,
        sample_size=here["members"].values[:, None, None],
    )


def peak(prediction: xr.Dataset, measurement: xr.Dataset, top: float) -> list[Comparison]:
    """With the small penalty the risk at N/d = top exceeds that at every other N, for both targets."""
    risk, error, members = (array[..., 0] for array in extrapolated(prediction, measurement))
    ratios, n = prediction["ratio"].values, float(prediction["samples"])
    (place,) = np.flatnonzero(ratios == top)
    others = np.flatnonzero(ratios != top)
    labels = [
        f"risk at N/n = {top / n:g} above that at {ratios[i] / n:g}, {target}" for i in others for target in TARGETS
    ]
    return ordering(
        labels,
        risk[place] - risk[others],
        standard_error=np.hypot(error[place], error[others]),
        sample_size=np.minimum(members[place], members[others]),
    )


def peak_elsewhere(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: the largest of all risks is that at N = 2n."""
    return decide(
        peak(prediction, measurement, 2 * float(prediction["samples"])), margin_source="an ordering has no margin"
    )


def fewest_best(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: with the small penalty the risk at the largest N exceeds that at N = n/2."""
    risk, error, members = (array[..., 0] for array in extrapolated(prediction, measurement))
    (half,) = np.flatnonzero(prediction["ratio"].values == float(prediction["samples"]) / 2)
    comparisons = ordering(
        [f"risk at the largest N above that at n/2, {target}" for target in TARGETS],
        risk[-1] - risk[half],
        standard_error=np.hypot(error[-1], error[half]),
        sample_size=np.minimum(members[-1], members[half]),
    )
    return decide(comparisons, margin_source="an ordering has no margin")


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: random features against N/n; right: chosen features against p."""
    from experiments.report.style import HEIGHT, WIDTH

    figure.set_size_inches(WIDTH, 1.2 * HEIGHT)
    left, right = figure.subplots(1, 2)
    draw_random(left, evidence)
    draw_chosen(right, evidence)


def draw_random(axes: Axes, evidence: Evidence) -> None:
    """Extrapolated risks and the closed form, with the peak at 2n dotted."""
    from experiments.report.style import COLOURS, MARKERS

    config, n = evidence.config, evidence.config.samples
    risk, error, _ = extrapolated(evidence.prediction, evidence.measurement)
    smooth = np.geomspace(config.ratios[0], config.ratios[-1], 120)
    dense = Config(**{**vars(config), "ratios": tuple(smooth)})
    curves, shifted = _random(dense), _random(dense, stretch=0.5)
    ratios = np.array(config.ratios)
    for i, target in enumerate(TARGETS):
        for j, penalty in enumerate(config.penalties):
            colour, style = COLOURS[2 * i + j], ("-", "--")[j]
            axes.plot(smooth / n, curves[:, i, j], style, color=colour)
            axes.errorbar(
                ratios / n,
                risk[:, i, j],
                2.576 * error[:, i, j],
                fmt=MARKERS[2 * i + j],
                color=colour,
                label=f"{target} part, $\\lambda = {penalty:g}$",
            )
    axes.plot(smooth / n, shifted[:, 0, 0], ":", color=COLOURS[0], linewidth=0.8, label="peak at $2n$")
    axes.axvline(1, color="0.6", linewidth=0.6)
    axes.set(xscale="log", yscale="log", xlabel="features over examples $N/n$", ylabel="excess risk")
    axes.set_title("random ReLU features")
    axes.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"])
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8) if config.ratios[0] / n <= tick <= config.ratios[-1] / n]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="x-small")


def draw_chosen(axes: Axes, evidence: Evidence) -> None:
    """Measured and exact risks of chosen features with noise and without."""
    from experiments.report.style import COLOURS, MARKERS

    config, prediction = evidence.config, evidence.prediction
    here = evidence.measurement.sel(world=[f"{CHOSEN}, p = {p}" for p in prediction["p"].values])
    n = config.examples
    sides = [[p for p in range(1, config.inputs + 1) if p < n - 1], list(range(n + 2, config.inputs + 1))]
    for i, order in enumerate(ORDERS):
        for j, noise in enumerate((f"noise {config.variance:g}", "no noise")):
            colour, style = COLOURS[2 * i + j], ("-", "--")[j]
            for side in sides:
                dense = Config(**{**vars(config), "chosen": tuple(side)})
                axes.plot(side, _chosen(dense)[:, i, 1 - j], style, color=colour)
            axes.errorbar(
                prediction["p"].values,
                here["risk"].values[:, i, 1 - j],
                2.576 * prediction["chosen_error"].values[:, i, 1 - j],
                fmt=MARKERS[2 * i + j],
                color=colour,
                label=f"{order}, {noise}",
            )
    axes.axvline(n, color="0.6", linewidth=0.6)
    top = 2.5 * float(prediction["chosen_risk"].max())
    bottom = 0.6 * float(prediction["chosen_risk"].min())
    axes.set(yscale="log", ylim=(bottom, top))
    axes.set(xlabel=f"chosen inputs $p$ of {config.inputs}, $n = {n}$", title="chosen inputs")
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5) if bottom < tick < top]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="x-small")


claim = Claim(
    id="ntk/random-features",
    kind="limit",
    expected="supported",
    sources=("mei2022generalization", "belkin2020two"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("peak-at-2n", "the curve is that of half as many features: it peaks at N = 2n", predict=peak_at_twice_n),
        Rival("largest-at-2n", "the largest of the measured risks is that at N = 2n", judge=peak_elsewhere),
        Rival("fewest-best", "with a small penalty no number of features beyond n beats n/2", judge=fewest_best),
        Rival(
            "inert-quadratic", "what is not learned of the target costs its own variance only", predict=inert_quadratic
        ),
        Rival(
            "left-out-harmless", "inputs that are left out cost their own variance only", predict=left_out_is_harmless
        ),
        Rival("nothing-learned", "beyond interpolation nothing is learned", predict=nothing_learned_beyond),
    ),
)
