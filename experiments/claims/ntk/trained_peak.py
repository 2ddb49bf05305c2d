"""Networks trained in all layers peak in test risk where training first interpolates the labels, not where parameters
are as many as examples (nor, as with random features, units): with K outputs, near N* = K(n−1)/(d+K) units.

Sources: Belkin et al. 2019 (the peak, at nK parameters); Spigler et al. 2019 (it is where training first succeeds).

N* counts dimensions. N units on d inputs with biases have N(d+1+K) + K parameters, of which one a unit is idle: w and b
multiplied by c, a divided by c, change no function of ReLU units. To meet nK labels with noise, which have a density,
a smooth piece of the parameters needs as many dimensions, N(d+K) + K ≥ nK: below N* no network interpolates but with
probability 0. That training finds an interpolant right above is no theorem. N* differs from nK parameters by 5 to 7 %
here, which the place of a peak is not sharp enough to tell.

Measured, on training sets and teachers that all widths share, and networks drawn anew: the geometric mean of the
training loss, which passes a thousandth of the noise variance at the width of interpolation (a hundredth some 10 %
before, a millionth 10 to 20 % beyond); and that of the excess risk, whose peak is the vertex of the parabola in ln N
through the logarithms of the largest and its neighbours (a quartic over all widths puts it up to 0.07 lower, but misses
the points). Errors are those of a bootstrap over training sets, and know nothing of that. No network below N* comes
below a millionth: a check of the theorem, with little power, as none does up to 1.02 N* either.

Margin: 0.35 in ln N, less than half the distance from N* to either rival, parameters = n and N = n. With one output
these and N* would be nearly the same; so K goes from 2 on. Orderings (the risk where training interpolates is above
that of the narrowest and of the widest networks) have none.

Assumptions: one hidden layer of ReLU units, NTK parametrisation, biases; Gaussian inputs; a linear teacher and label
noise, both of variance 1 for each output; full-batch Adam on the squared error with a rate that falls in three steps.
Without noise there is nothing to peak; networks that are stopped early or regularised interpolate elsewhere or nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import Network, Params, init_members, network
from experiments.training import Adam, members
from experiments.verdict import Comparison, Verdict, decide, equivalence, identity, ordering
from theory.architecture import MLP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARCHITECTURE = MLP(1, "relu", weight_variance=2.0, bias_variance=0.1)
NOISE = 1.0
# Training losses, over the noise variance: where training counts as interpolating; which no network reaches that has
# too few dimensions to; and below which rounding alone decides.
THRESHOLD, EXACT, ROUNDING = 1e-3, 1e-6, 1e-12
# Learning rates, and the part of the steps after which each ends.
RATES = ((3e-2, 1 / 2), (1e-2, 3 / 4), (3e-3, 7 / 8), (1e-3, 1.0))
FRESH = 1000
RESAMPLES = 1000
MARGIN = 0.35


@dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        examples, outputs: n and K, world by world.
        steps: of training in each world.
        ratios: N/N*, increasing; where the peak is, with steps of a fifth to a third: closer ones make it noisier.
        batches: of members; each is a cell.
        members: training sets in a batch, with a network of each width.
        dimension: d.
    """

    examples: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[int, ...]
    ratios: tuple[float, ...]
    batches: int
    members: int
    dimension: int = 12


SMOKE = Config(
    examples=(48, 48),
    outputs=(2, 4),
    steps=(6000, 6000),
    ratios=(0.3, 0.43, 0.6, 0.9, 1.2, 1.6, 3.0),
    batches=1,
    members=64,
)
PAPER = Config(
    examples=(60, 60, 60, 120, 240),
    outputs=(2, 4, 8, 4, 4),
    steps=(10_000, 10_000, 10_000, 16_000, 20_000),
    ratios=(0.35, 0.5, 0.7, 0.83, 1.0, 1.2, 1.44, 1.75, 2.4, 3.4),
    batches=4,
    members=16,
)


def worlds(config: Config) -> dict[str, int]:
    """Name → number of the world."""
    pairs = zip(config.examples, config.outputs, strict=True)
    return {f"n = {n}, K = {k}": i for i, (n, k) in enumerate(pairs)}


def threshold(config: Config) -> Float[np.ndarray, " world"]:
    """N* = K(n−1)/(d+K), below which no network interpolates labels that have a density."""
    n, k = np.array(config.examples, float), np.array(config.outputs, float)
    return k * (n - 1) / (config.dimension + k)


def as_many_parameters(config: Config) -> Float[np.ndarray, " world"]:
    """N with N(d+1+K) + K = n."""
    n, k = np.array(config.examples, float), np.array(config.outputs, float)
    return (n - k) / (config.dimension + 1 + k)


def widths(config: Config) -> np.ndarray:
    """N at each world and ratio."""
    return np.rint(threshold(config)[:, None] * np.array(config.ratios)).astype(int)


def assumptions(config: Config) -> list[Assumption]:
    """Rivals further off than two margins, and widths that differ."""
    star = threshold(config)
    distances = np.abs(np.log([as_many_parameters(config) / star, np.array(config.examples) / star]))
    grid = widths(config)
    return [
        Assumption(
            "both rivals' peaks are more than two margins away",
            bool(distances.min() > 2 * MARGIN),
            f"nearest at {distances.min():.2f} in ln N",
        ),
        Assumption(
            "widths increase, from below half of N* to beyond three times it",
            bool((np.diff(grid, axis=1) > 0).all() and config.ratios[0] < 0.5 and config.ratios[-1] >= 3),
            f"{grid.min()} to {grid.max()} units",
        ),
    ]


def predict(config: Config) -> xr.Dataset:
    """Where the peak is, as N: by counting dimensions, and as rivals have it."""
    return xr.Dataset(
        {
            "threshold": ("world", threshold(config)),
            "parameters": ("world", as_many_parameters(config)),
            "units": ("world", np.array(config.examples, float)),
            "width": (("world", "ratio"), widths(config)),
            "margin": MARGIN,
        },
        coords={"world": list(worlds(config)), "ratio": list(config.ratios)},
    )


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """One for each world and batch of training sets."""
    return [{"world": world, "batch": batch} for world in worlds(config) for batch in range(config.batches)]


def narrowed(params: Params, width: ArrayLike) -> Params:
    """Parameters that make the first `width` of the hidden units a network of their own, in NTK parametrisation.

    The output weights of the others are 0, so that they neither act nor learn; those that are left have the scale
    σ_w/√width in place of σ_w/√(all units). One compiled program so trains every width.
    """
    first, last = params
    units = last["weight"].shape[0]
    scale = jnp.where(jnp.arange(units) < width, jnp.sqrt(units / width), 0.0)
    return [first, last | {"weight": last["weight"] * scale[:, None]}]


@dataclass(frozen=True)
class Loss:
    """½ Σ |f(x) − y|² over examples and outputs of the narrowed network."""

    network: Network

    def __call__(self, params: Params, data: tuple[Array, Array, Array]) -> Float[Array, ""]:
        """The loss on (x, y, width)."""
        x, y, width = data
        return 0.5 * jnp.sum((self.network.apply(narrowed(params, width), x) - y) ** 2)


@dataclass(frozen=True)
class MeanSquares:
    """Record of the mean square residuals of the narrowed network on several sets."""

    network: Network

    def __call__(self, params: Params, probe: tuple[Array, list[tuple[Array, Array]]]) -> Float[Array, " sets"]:
        """The probe holds the width, and inputs with targets of each set."""
        width, sets = probe
        return jnp.stack([jnp.mean((self.network.apply(narrowed(params, width), x) - y) ** 2) for x, y in sets])


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Training loss over the noise variance and excess risk of a network of each width on each training set."""
    i = worlds(config)[str(cell["world"])]
    rows = trained(config, i, widths(config)[i], key)
    return xr.Dataset(
        {name: (("ratio", "member"), values) for name, values in zip(("loss", "risk"), rows, strict=True)}
    )


def trained(
    config: Config, world: int, grid: np.ndarray, key: Key[Array, ""]
) -> tuple[Float[np.ndarray, "ratio members"], Float[np.ndarray, "ratio members"]]:
    """Mean square residuals over the noise variance, and mean square distances from the teacher on fresh inputs.

    Args:
        config: its dimension and members, and the examples, outputs and steps of the world.
        world: its number.
        grid: widths N, increasing. The lower half and the rest are held in arrays as wide as their last.
        key: of everything that is drawn.
    """
    n, k, d, steps = config.examples[world], config.outputs[world], config.dimension, config.steps[world]
    count = config.members
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    x, fresh = rng.standard_normal((count, n, d)), rng.standard_normal((count, FRESH, d))
    teacher = rng.standard_normal((count, d, k)) / np.sqrt(d)
    y = x @ teacher + np.sqrt(NOISE) * rng.standard_normal((count, n, k))
    train, test = (tuple(v.astype(np.float32) for v in pair) for pair in ((x, y), (fresh, fresh @ teacher)))
    losses, risks = [], []
    for i, width in enumerate(grid):
        units = grid[-1] if i > len(grid) // 2 else grid[len(grid) // 2]
        net = network(ARCHITECTURE, width=int(units), inputs=d, outputs=k)
        kept = np.full(count, width, np.float32)
        result: Any = init_members(net, jax.random.fold_in(key, i), count)
        for rate, end in RATES:
            result = members(
                Loss(net),
                result,
                (*train, kept),
                method=Adam(rate),
                records=[round(end * steps)],
                record=MeanSquares(net),
                probe=(kept, [train, test]),
                per_member=("data", "probe"),
            )
        losses.append(result.values[:, 0, 0] / NOISE)
        risks.append(result.values[:, 0, 1])
    return np.array(losses, float), np.array(risks, float)


def peak(log_width: Float[np.ndarray, " ratio"], log_risk: Float[np.ndarray, "*b ratio"]) -> Float[np.ndarray, "*b"]:
    """ln N at the vertex of the parabola in ln N through the largest risk's logarithm and its neighbours.

    NaN where the largest lies at an end of the grid: nothing is known beyond.
    """
    at = np.argmax(log_risk, axis=-1)
    inside = (at > 0) & (at < len(log_width) - 1)
    places = np.clip(at, 1, len(log_width) - 2)[..., None] + np.arange(-1, 2)
    x, y = log_width[places], np.take_along_axis(log_risk, places, axis=-1)
    # A parabola's slope is linear, and in the middle of an interval that of the chord.
    middles, chords = (x[..., 1:] + x[..., :-1]) / 2, np.diff(y, axis=-1) / np.diff(x, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = chords[..., 0] / (chords[..., 0] - chords[..., 1])
    return np.where(inside, middles[..., 0] + share * (middles[..., 1] - middles[..., 0]), np.nan)


def interpolation(
    log_width: Float[np.ndarray, " ratio"], log_loss: Float[np.ndarray, "*b ratio"]
) -> Float[np.ndarray, "*b"]:
    """ln N where the logarithm of the loss first falls below that of `THRESHOLD`, linear between two widths.

    NaN where it does so at none or at the first of them.
    """
    below = log_loss < np.log(THRESHOLD)
    at = np.argmax(below, axis=-1)
    known = ~below[..., 0] & below.any(axis=-1)
    after = np.maximum(at, 1)
    high, low = (np.take_along_axis(log_loss, (after + i)[..., None], axis=-1)[..., 0] for i in (-1, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (high - np.log(THRESHOLD)) / (high - low)
    return np.where(known, log_width[after - 1] + share * (log_width[after] - log_width[after - 1]), np.nan)


class Place(NamedTuple):
    """Of one world: ln N of the peak and of interpolation, how both and their difference scatter.

    The logarithms of each network's risk and loss are what they are from.
    """

    peak: float
    crossing: float
    peak_error: float
    crossing_error: float
    difference_error: float
    log_risk: Float[np.ndarray, "ratio sets"]
    log_loss: Float[np.ndarray, "ratio sets"]


def places(prediction: xr.Dataset, measurement: xr.Dataset) -> dict[str, Place]:
    """Where each world has its peak and its width of interpolation."""
    rng = np.random.default_rng(0)
    found = {}
    for world in prediction["world"].values:
        log_width = np.log(prediction["width"].sel(world=world).values)
        here = measurement.sel(world=world).stack(set=("batch", "member")).transpose("ratio", "set")
        log_risk, log_loss = np.log(here["risk"].values), np.log(np.maximum(here["loss"].values, ROUNDING))
        sets = log_risk.shape[1]
        # All sets as they are, then resampled.
        weights = np.concatenate([np.ones((1, sets)), rng.multinomial(sets, np.full(sets, 1 / sets), RESAMPLES)]) / sets
        top, crossing = peak(log_width, weights @ log_risk.T), interpolation(log_width, weights @ log_loss.T)
        scatter = np.std([v[1:] for v in (top, crossing, top - crossing)], axis=1) * np.sqrt(sets / (sets - 1))
        numbers = (float(top[0]), float(crossing[0]), *map(float, scatter))
        found[str(world)] = Place(*numbers, log_risk=log_risk, log_loss=log_loss)
    return found


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The peak against the measured width of interpolation and against N*, and that it is one."""
    found = places(prediction, measurement)
    comparisons = equivalence(
        [f"peak where training interpolates, {world}" for world in found],
        [place.peak - place.crossing for place in found.values()],
        0.0,
        float(prediction["margin"]),
        standard_error=[place.difference_error for place in found.values()],
        sample_size=[place.log_risk.shape[1] for place in found.values()],
    )
    comparisons += _peak_at(prediction, found, "threshold", "N*")
    comparisons += identity(
        [f"networks below N* that interpolate, {world}" for world in found],
        [float(np.sum(_too_small(prediction, world, place) < np.log(EXACT))) for world, place in found.items()],
        0.0,
        # Of a count: less than one.
        tolerance=0.5,
    )
    for end, name in ((0, "narrowest"), (-1, "widest")):
        comparisons += _above(prediction, found, end, f"risk at interpolation above that of the {name}")
    star = dict(zip(found, prediction["threshold"].values, strict=True))
    listed = ", ".join(f"{np.exp(place.crossing) / star[world]:.2f} in {world}" for world, place in found.items())
    return decide(comparisons, margin_source=SOURCE, reason=f"training interpolates from N/N* = {listed}")


def _too_small(prediction: xr.Dataset, world: str, place: Place) -> np.ndarray:
    """Logarithms of the losses of all networks of fewer than N* units."""
    here = prediction.sel(world=world)
    return place.log_loss[here["width"].values < float(here["threshold"])]


SOURCE = "less than half the distance in ln N to parameters = n and to N = n; orderings have no margin"


def _peak_at(prediction: xr.Dataset, found: dict[str, Place], name: str, label: str) -> list[Comparison]:
    """ln N of the peak against one of the predictions."""
    return equivalence(
        [f"peak at {label}, {world}" for world in found],
        [place.peak for place in found.values()],
        np.log(prediction[name].values),
        float(prediction["margin"]),
        standard_error=[place.peak_error for place in found.values()],
        sample_size=[place.log_risk.shape[1] for place in found.values()],
    )


def _above(
    prediction: xr.Dataset, found: dict[str, Place], end: int, label: str, sign: float = 1.0
) -> list[Comparison]:
    """ln risk at the width nearest to interpolation less that at one end of the grid, times a sign; paired."""
    comparisons = []
    for world, place in found.items():
        log_width = np.log(prediction["width"].sel(world=world).values)
        # Where no width is known to interpolate this is the first, and the equivalences have failed.
        at = int(np.argmin(np.abs(log_width - place.crossing)))
        differences = place.log_risk[at] - place.log_risk[end]
        comparisons += ordering(
            f"{label}, {world}",
            sign * differences.mean(),
            standard_error=differences.std(ddof=1) / np.sqrt(differences.size),
            sample_size=differences.size,
            dof=differences.size - 1,
        )
    return comparisons


def as_many_parameters_as_examples(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: the peak is where parameters are as many as examples."""
    found = places(prediction, measurement)
    return decide(_peak_at(prediction, found, "parameters", "parameters = n"), margin_source=SOURCE)


def as_many_units_as_examples(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: the peak is where units are as many as examples, as for random features."""
    return decide(_peak_at(prediction, places(prediction, measurement), "units", "N = n"), margin_source=SOURCE)


def u_curve(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: beyond interpolation the risk only rises."""
    found = places(prediction, measurement)
    return decide(_above(prediction, found, -1, "widest worse than interpolation", -1.0), margin_source=SOURCE)


def wider_is_better(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: the risk only falls with the width."""
    found = places(prediction, measurement)
    return decide(_above(prediction, found, 0, "narrowest worse than interpolation", -1.0), margin_source=SOURCE)


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: risk against N/N*. Right: the peak against the width of interpolation, and where rivals put it."""
    from experiments.report.style import COLOURS, HEIGHT, MARKERS, WIDTH

    prediction = evidence.prediction
    found = places(prediction, evidence.measurement)
    figure.set_size_inches(WIDTH, 1.15 * HEIGHT)
    left, right = figure.subplots(1, 2)
    for i, (world, place) in enumerate(found.items()):
        here = prediction.sel(world=world)
        star, colour, log_risk = float(here["threshold"]), COLOURS[i], place.log_risk
        risk = np.exp(log_risk.mean(axis=1))
        error = 2.576 * risk * log_risk.std(axis=1, ddof=1) / np.sqrt(log_risk.shape[1])
        left.errorbar(
            here["width"] / star, risk, error, fmt=MARKERS[i] + "-", linewidth=0.8, color=colour, label=f"${world}$"
        )
        crossing, top = np.exp(place.crossing), np.exp(place.peak)
        left.axvline(crossing / star, linestyle=":", linewidth=0.8, color=colour)
        errors = 2.576 * place.peak_error * top, 2.576 * place.crossing_error * crossing
        right.errorbar(crossing, top, *errors, fmt=MARKERS[i], color=colour)
        for name, marker in (("parameters", "_"), ("units", "x")):
            right.plot(crossing, here[name], marker, color=colour, markersize=6)
    left.axvline(1, color="0.6", linewidth=0.8)
    left.plot([], [], ":", linewidth=0.8, color="0.3", label="interpolation")
    left.set(xscale="log", yscale="log", xlabel="units over $N^*$", ylabel="excess risk (geometric mean)")
    left.set_xticks([0.5, 1, 2, 3], ["0.5", "1", "2", "3"])
    left.set_yticks([1, 2, 5], ["1", "2", "5"])
    left.minorticks_off()
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="x-small")
    crossings = np.exp([place.crossing for place in found.values()])
    ends = np.array([0.8 * crossings.min(), 1.25 * crossings.max()])
    bottom, top = 0.7 * float(prediction["parameters"].min()), 1.4 * float(prediction["units"].max())
    right.plot(ends, ends, color="black", linewidth=0.8, label="peak at interpolation")
    right.plot([], [], "x", color="0.3", label="units equal $n$")
    right.plot([], [], "_", color="0.3", label="parameters equal $n$")
    right.set(xscale="log", yscale="log", xlabel="units where training interpolates", ylabel="units at the peak")
    right.set_ylim(bottom, top)
    ticks = [tick for tick in (5, 10, 20, 30, 50) if ends[0] <= tick <= ends[1]]
    right.set_xticks(ticks, [str(tick) for tick in ticks])
    ticks = [tick for tick in (2, 5, 10, 20, 50, 100) if bottom <= tick <= top]
    right.set_yticks(ticks, [str(tick) for tick in ticks])
    right.minorticks_off()
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize="x-small")


claim = Claim(
    id="ntk/trained-peak",
    kind="heuristic",
    expected="supported",
    sources=("belkin2019reconciling", "spigler2019jamming"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival(
            "parameters-n",
            "the peak is where parameters are as many as examples",
            judge=as_many_parameters_as_examples,
        ),
        Rival(
            "units-n",
            "the peak is where units are as many as examples, as for random features",
            judge=as_many_units_as_examples,
        ),
        Rival("u-curve", "beyond interpolation the risk only rises", judge=u_curve),
        Rival("wider-is-better", "the risk only falls with the width", judge=wider_is_better),
    ),
)
