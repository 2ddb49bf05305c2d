"""On the sphere in d dimensions kernel regression with a tangent kernel learns a target degree by degree: its risk
falls in steps at n ~ d^ℓ, where degree ℓ is half learned, and at n = d^(ℓ+½), between two steps, degree ℓ is learned
and degree ℓ + 1 unlearned but for d^-½, so that the risk tends to the power of the degrees above ℓ.

Source: Ghorbani et al. 2021 for d^(ℓ+ε) ≤ n ≤ d^(ℓ+1−ε) as d → ∞. Positions and distances from that limit come from
the eigenlearning equations (`theory.kernels.learning_curves`): a share L_ℓ = ½ of degree ℓ needs κ = λ_ℓ, hence
n_ℓ = Σ_i λ_i/(λ_i + λ_ℓ), which is c d^ℓ (1 + O(1/d)) because N(d, ℓ) ~ d^ℓ/ℓ! harmonics share a trace that does not
vanish; and at n = d^(3/2), 1 − L_1 = κ/(λ_1 + κ) and L_2 = λ_2/(λ_2 + κ) are both c d^-½ (1 + O(d^-½)).

Margin: 0.25 for exponents, half the distance between 0 and ½ and a quarter of that between whole numbers; 6 % for the
height of the plateau, from which the power law through the risks 1 at d^½ and 1/3 at d^(5/2) is 13 % away. Fits model
the next order; what they leave out is found by fitting the equations' exact values in the same way, and `assumptions`
wants it below a fifth of the margin.

At dimensions that can be reached the risk itself shows no flat treads: a step (shares of 0.1 to 0.9) is a factor of 40
wide in n, a tread ends
after a factor of d. What can be tested is how steps and treads scale. Targets are products of ℓ different coordinates,
which are harmonics; the risk is that of a target with equal powers in degrees 1, 2 and 3, averaged over the signs of
these parts. There is no noise and no ridge.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.regression import adjusted_mean, relu_ntk, sphere_points, versines
from experiments.verdict import Comparison, Verdict, amplitude, decide, exponent
from theory.architecture import MLP
from theory.kernels.learning_curves import learning_curve
from theory.kernels.network_spectra import network_spectrum
from theory.kernels.spectra import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETWORK = MLP(2, "relu", weight_variance=2.0, bias_variance=0.1)
DEGREES = (1, 2, 3)
TREAD = "tread"
# Near n_ℓ/d^ℓ, for ℓ = 1, 2, 3; the position itself comes from the two measurements on either side.
NEAR, SIDE = {1: 1.75, 2: 0.9, 3: 0.7}, 1.25
# At most so many kernel entries at once.
ENTRIES = 2**20


@dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        steps: the degrees whose steps are looked for, among 1, 2 and 3.
        linear, quadratic, cubic: dimensions d for the steps of degree 1, 2 and 3, and
        tread: for the tread between the steps of degree 1 and 2; all of one length.
        labels: n · trials for each of the steps, and last for the tread: the higher the degree, the wider the step.
        least: data sets at least.
        targets: at most so many targets of each degree on a data set.
    """

    steps: tuple[int, ...]
    linear: tuple[int, ...]
    quadratic: tuple[int, ...]
    cubic: tuple[int, ...]
    tread: tuple[int, ...]
    labels: tuple[int, ...]
    least: int
    targets: int = 128


SMOKE = Config(
    steps=(1, 2),
    linear=(8, 14, 24, 40),
    quadratic=(6, 8, 11, 16),
    cubic=(),
    tread=(8, 16, 32, 64),
    labels=(2_000, 8_000, 6_000),
    least=12,
)
PAPER = Config(
    steps=(1, 2, 3),
    linear=(8, 12, 16, 24, 32, 64, 128),
    quadratic=(8, 10, 13, 18, 24, 32, 40),
    cubic=(6, 7, 8, 9, 10, 12, 14),
    tread=(16, 24, 32, 48, 64, 96, 128),
    labels=(8_000, 20_000, 40_000, 30_000),
    least=16,
)


def dimensions(config: Config) -> dict[str, tuple[int, ...]]:
    """Place → dimensions."""
    of_degree = {1: config.linear, 2: config.quadratic, 3: config.cubic}
    return {f"step {degree}": of_degree[degree] for degree in config.steps} | {TREAD: config.tread}


def assumptions(config: Config) -> list[Assumption]:
    """Fits of the equations' own values against the predicted exponents and height."""
    prediction = predict(config)
    # Errors of one relative size weigh all dimensions alike.
    worst = max(
        abs(c.effect) / c.margin
        for c in _comparisons(prediction, prediction["value"], 1e-3 * prediction["value"], trials=10**6)
    )
    return [Assumption("what the fits leave out is below a fifth of the margin", worst < 0.2, f"{worst:.2f} of it")]


def predict(config: Config) -> xr.Dataset:
    """Exponents, height of the tread, margins; and what the equations say at the sizes of the measurement."""
    places = dimensions(config)
    values = np.array([[_exact(config, place, d) for d in sizes] for place, sizes in places.items()])
    names = [f"position of step {degree}" for degree in config.steps]
    names += ["unlearned part of degree 1 on the tread", "learned part of degree 2 on the tread"]
    return xr.Dataset(
        {
            # A position grows as d^ℓ; the judge's exponents are those of decay.
            "exponent": ("law", [*(-float(degree) for degree in config.steps), 0.5, 0.5]),
            "exponent_margin": 0.25,
            "height": 2 / 3,
            "height_margin": 0.06,
            "value": (("place", "size", "quantity"), values),
            "dimension": (("place", "size"), list(places.values())),
        },
        coords={"place": list(places), "law": names},
    )


def one_scale(config: Config) -> xr.Dataset:
    """Rival: every degree is learned at n ~ d."""
    return _with_steps(config, [1.0] * len(config.steps))


def degree_more(config: Config) -> xr.Dataset:
    """Rival: n ~ d^ℓ brings degree ℓ + 1, which is the law for d^ℓ neurons with unlimited examples."""
    return _with_steps(config, [degree - 1.0 for degree in config.steps])


def no_treads(config: Config) -> xr.Dataset:
    """Rival: steps stay as broad as they are, so that what is learned between them does not depend on d."""
    found = predict(config)
    exponents = found["exponent"].values.copy()
    exponents[-2:] = 0.0
    return found.assign(exponent=("law", exponents))


def power_law(config: Config) -> xr.Dataset:
    """Rival: the risk is a power of n from 1 at d^½ to 1/3 at d^(5/2), so that it is 1/√3 half-way."""
    return predict(config).assign(height=3**-0.5)


def _with_steps(config: Config, powers: list[float]) -> xr.Dataset:
    found = predict(config)
    exponents = found["exponent"].values.copy()
    exponents[: len(powers)] = [-power for power in powers]
    return found.assign(exponent=("law", exponents))


def _exact(config: Config, place: str, dimension: int) -> list[float]:
    """The equations' values of what `measure` returns."""
    spectrum = _spectrum(dimension)
    power = np.zeros(len(spectrum.eigenvalues))
    power[list(DEGREES)] = 1 / len(DEGREES)
    curve = learning_curve(spectrum, power, examples(place, dimension))
    if place == TREAD:
        return [float(curve.test_error[0]), 1 - float(curve.learnabilities[0, 1]), float(curve.learnabilities[0, 2])]
    degree = degree_of(place)
    values = np.where(spectrum.eigenvalues > spectrum.accuracy, spectrum.eigenvalues, 0.0)
    position = spectrum.multiplicities @ (values / (values + values[degree])) + spectrum.tail / values[degree]
    return [float(position), *curve.learnabilities[:, degree].tolist()]


@cache
def _spectrum(dimension: int) -> Spectrum:
    # In high dimension a degree's many tiny eigenvalues are lost to rounding, and matter together as a ridge only.
    return network_spectrum(NETWORK, dimension, 16 if dimension < 20 else 8)


def examples(place: str, dimension: int) -> tuple[int, ...]:
    """Numbers of training examples: one on the tread, two around a step."""
    if place == TREAD:
        return (round(dimension**1.5),)
    centre = NEAR[degree_of(place)] * dimension ** degree_of(place)
    return round(centre / SIDE), round(centre * SIDE)


def degree_of(place: str) -> int:
    """Of the step's name."""
    return int(place.rpartition(" ")[2])


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """One for each place and dimension."""
    return [{"place": place, "size": i} for place in dimensions(config) for i in range(len(config.tread))]


def measure(config: Config, cell: Cell, key: jax.Array) -> xr.Dataset:
    """Around a step: its position n_ℓ and the learned share L on either side; on the tread: risk, 1 − L_1 and L_2."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    place = str(cell["place"])
    d = dimensions(config)[place][int(cell["size"])]
    sizes = examples(place, d)
    degrees = DEGREES if place == TREAD else (degree_of(place),)
    trials = max(config.least, config.labels[list(dimensions(config)).index(place)] // max(sizes))
    # Threads of BLAS cost more than they bring on matrices of this size, and much more beside other processes.
    with threadpool_limits(1, "blas"):
        found = [regressions(config, d, n, degrees, trials, rng) for n in sizes]
    if place == TREAD:
        learned, missed, powers = found[0]
        risk = adjusted_mean(missed.mean(axis=1), powers.mean(axis=1), 1.0)
        shares = [adjusted_mean(learned[:, k], powers[:, k], 1.0) for k in (0, 1)]
        pairs = [risk, (1 - shares[0][0], shares[0][1]), shares[1]]
    else:
        shares = [adjusted_mean(learned[:, 0], powers[:, 0], 1.0) for learned, _, powers in found]
        pairs = [crossing(sizes, shares), *shares]
    value, error = np.array(pairs).T
    return xr.Dataset({"value": ("quantity", value), "error": ("quantity", error), "trials": trials})


def crossing(sizes: tuple[int, ...], shares: list[tuple[float, float]]) -> tuple[float, float]:
    """Where the share is one half, and the error of that: ln(L/(1−L)) is taken as linear in ln n between two sizes."""
    (x1, x2), (y1, y2) = np.log(sizes), (np.log(share / (1 - share)) for share, _ in shares)
    errors = [error / (share * (1 - share)) for share, error in shares]
    slope = (y2 - y1) / (x2 - x1)
    position = np.exp(x1 - y1 / slope)
    along = (np.log(position) - x1) / (x2 - x1)
    return float(position), float(position * np.hypot((1 - along) * errors[0], along * errors[1]) / slope)


def regressions(
    config: Config, d: int, n: int, degrees: tuple[int, ...], trials: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Interpolation without a ridge of targets of each degree, from n examples; tested on n more, at least 256.

    Returns:
        means over targets and test points of f f̂, (f − f̂)² and f², (trials, degrees).
    """
    fresh_points = max(n, 256)
    chunk = max(1, ENTRIES // (n * (n + fresh_points)))
    parts = []
    for start in range(0, trials, chunk):
        count = min(chunk, trials - start)
        x, fresh = (sphere_points(rng, (count, m), d) for m in (n, fresh_points))
        gap = versines(x, x)
        gap[:, np.arange(n), np.arange(n)] = 0.0
        subsets = [choose(config.targets, d, degree, rng) for degree in degrees]
        labels = np.concatenate([products(x, chosen) for chosen in subsets], axis=-1)
        dual = np.linalg.solve(relu_ntk(NETWORK, gap), labels)
        fitted = relu_ntk(NETWORK, versines(fresh, x)) @ dual
        ends = np.cumsum([len(chosen) for chosen in subsets])
        rows = []
        for chosen, f_hat in zip(subsets, np.split(fitted, ends[:-1], axis=-1), strict=True):
            f = products(fresh, chosen)
            rows.append([np.mean(a, axis=(1, 2)) for a in (f * f_hat, (f - f_hat) ** 2, f**2)])
        parts.append(np.array(rows))
    whole = np.concatenate(parts, axis=2)
    return whole[:, 0].T, whole[:, 1].T, whole[:, 2].T


def choose(targets: int, d: int, degree: int, rng: np.random.Generator) -> np.ndarray:
    """Different sets of `degree` of the d coordinates, (targets, degree), or all of them if they are fewer."""
    if comb(d, degree) <= 4 * targets:
        every = np.array(list(itertools.combinations(range(d), degree)))
        return rng.permutation(every)[:targets]
    drawn = np.sort(np.argsort(rng.random((2 * targets, d)), axis=1)[:, :degree], axis=1)
    return np.unique(drawn, axis=0)[:targets]


def products(x: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """Products of the chosen coordinates of unit vectors (..., d), of mean square 1: (..., targets).

    They are orthogonal harmonics; E x_1² … x_ℓ² = 1/(d(d+2)…(d+2ℓ−2)).
    """
    norm = np.prod(x.shape[-1] + 2.0 * np.arange(subsets.shape[1]))
    return np.sqrt(norm) * x[..., subsets].prod(axis=-1)


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Exponents of the positions and of what is left on the tread, with the next order; the height of the tread."""
    measurement = measurement.sel(place=prediction["place"].values)
    order = ("place", "size", "quantity")
    value, error = (measurement[name].transpose(*order) for name in ("value", "error"))
    comparisons = _comparisons(prediction, value, error, trials=int(measurement["trials"].min()))
    return decide(comparisons, margin_source="half the distance between exponents 0 and ½, and between the heights")


def _comparisons(prediction: xr.Dataset, value: xr.DataArray, error: xr.DataArray, *, trials: int) -> list[Comparison]:
    steps = [place for place in prediction["place"].values if place != TREAD]
    # A step's position, relatively 1/d from its power law; shares on the tread, relatively d^-½.
    series = [(place, 0, 1.0) for place in steps] + [(TREAD, 1, 0.5), (TREAD, 2, 0.5)]
    comparisons = []
    for (place, quantity, correction), law in zip(series, prediction["law"].values, strict=True):
        comparisons += exponent(
            f"exponent of the {law}",
            prediction["dimension"].sel(place=place).values,
            value.sel(place=place).values[:, quantity],
            error.sel(place=place).values[:, quantity],
            prediction=float(prediction["exponent"].sel(law=law)),
            margin=float(prediction["exponent_margin"]),
            correction=correction,
            sample_size=trials * prediction.sizes["size"],
            dof=trials - 2,
        )
    return comparisons + amplitude(
        "height of the tread over its prediction",
        prediction["dimension"].sel(place=TREAD).values,
        value.sel(place=TREAD).values[:, 0],
        error.sel(place=TREAD).values[:, 0],
        exponent=0.0,
        prediction=float(prediction["height"]),
        margin=float(prediction["height_margin"]),
        correction=0.5,
        sample_size=trials * prediction.sizes["size"],
        dof=trials - 2,
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: positions of the steps against d. Right: what is left to learn, and learned too early, at n = d^(3/2)."""
    left, right = figure.subplots(1, 2)
    steps = [str(place) for place in evidence.prediction["place"].values if place != TREAD]
    names = {place: rf"degree {degree_of(place)}: $n_{degree_of(place)} \sim d^{degree_of(place)}$" for place in steps}
    for i, place in enumerate(steps):
        _series(left, evidence, place, 0, i, names[place])
    left.set(ylabel="examples for half of a degree")
    for i, (quantity, name) in enumerate(((1, "degree 1, unlearned"), (2, "degree 2, learned"))):
        _series(right, evidence, TREAD, quantity, i, name)
    _series(right, evidence, TREAD, 0, 2, "risk less $2/3$", less=float(evidence.prediction["height"]))
    sizes = evidence.prediction["dimension"].sel(place=TREAD).values.astype(float)
    start = 0.75 * float(evidence.prediction["value"].sel(place=TREAD)[0, 0] - evidence.prediction["height"])
    right.plot(sizes, start * (sizes / sizes[0]) ** -0.5, ":", color="black", linewidth=0.8, label="$d^{-1/2}$")
    right.set(ylabel="at $n = d^{3/2}$")
    for axis, columns in ((left, 2), (right, 2)):
        axis.set(xscale="log", yscale="log", xlabel="dimension $d$")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, handlelength=1.2)
    ticks = sizes[:: -(-len(sizes) // 4)]
    right.set_xticks(ticks, [f"{d:.0f}" for d in ticks])
    right.set_xticks([], minor=True)
    widest = max(int(evidence.prediction["dimension"].sel(place=place).max()) for place in steps)
    ticks = [d for d in (8, 16, 32, 64, 128) if d <= widest]
    left.set_xticks(ticks, [str(d) for d in ticks])
    left.set_xticks([], minor=True)
    for axis, values in ((left, (10, 30, 100, 300, 1000)), (right, (0.03, 0.1, 0.3))):
        low, high = axis.get_ylim()
        inside = [value for value in values if low < value < high]
        axis.set_yticks(inside, [f"{value:g}" for value in inside])
        axis.set_yticks([], minor=True)


def _series(
    axis: Axes, evidence: Evidence, place: str, quantity: int, number: int, name: str, less: float = 0.0
) -> None:
    from experiments.report.style import COLOURS, MARKERS

    predicted, found = (side.sel(place=place) for side in (evidence.prediction, evidence.measurement))
    sizes = predicted["dimension"].values
    axis.plot(sizes, predicted["value"].values[:, quantity] - less, color=COLOURS[number], linewidth=1)
    axis.errorbar(
        sizes,
        found["value"].values[:, quantity] - less,
        2.576 * found["error"].values[:, quantity],
        fmt=MARKERS[number],
        color=COLOURS[number],
        label=name,
    )


claim = Claim(
    id="ntk/staircase",
    kind="limit",
    expected="supported",
    sources=("ghorbani2021linearized", "simon2023eigenlearning"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("one-scale", "every degree is learned at n ~ d", predict=one_scale),
        Rival("degree-more", "n ~ d^ℓ examples bring degree ℓ + 1, as d^ℓ neurons do", predict=degree_more),
        Rival("no-treads", "between two steps the same shares are learned at every d", predict=no_treads),
        Rival("power-law", "the risk is one power of n from d^½ to d^(5/2)", predict=power_law),
    ),
)
