"""On shift-invariant targets a convolution with global average pooling needs d times fewer examples than a fully
connected network, as kernel and, at one d, as limit of wide networks: what is quadratic takes n ~ d in place of n ~ d².

Source: Mei, Misiakiewicz & Montanari 2021, for kernels averaged over a group of size of order d, as d → ∞. Derived anew
in `theory.kernels.invariance`: circular filters as wide as the input with pooling give the fully connected kernel
averaged over shifts, which has the same eigenvalues on 1/d of the harmonics. So Σ λ/(λ+κ) = n falls by d at the same κ,
which decides what is learned. Weights shared without pooling gain nothing: that kernel is the fully connected one.

Margins: exponents of the gain in d are 1, ½ and 0 in the rivals, so 0.25; its ratio to d would be 2 with reflections,
and 0.2 is allowed. Both are fitted to the gain itself with a first correction, gain/d = 1 + O(1/d). At finite size the
gain is compared with the eigenlearning equations', within 0.2; they are off by O(1/n), about 7 % at n = 7. On images
they use the spectrum of a finite population with all its shifts, where the gain is below the 64 of the group, because
the large eigenvalues are not shared out evenly; there the margin is also at most half the distance to 64.

What is compared is the number of examples from which half of an invariant target f is learned, ⟨f, f̂⟩ = ½⟨f, f⟩
found between two numbers of examples. On the sphere the targets are all invariant harmonics of degree 2, without noise
or ridge. On images the share is one that the plain kernel learns from 600 to 2,100 examples and the pooled one from 15
or more: 0.3 for labels and 0.8 for smoothness. Networks have one hidden layer, start at f = 0 (each unit has a twin
with the opposite output weight) and are trained by gradient descent with momentum until nothing is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key
from threadpoolctl import threadpool_limits

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.invariant_learning import (
    DIAGONAL,
    NETWORK,
    RIDGE,
    Image,
    image_shares,
    sphere_shares,
    trained_shares,
)
from experiments.regression import adjusted_mean
from experiments.shifts import SIDE, small_images
from experiments.verdict import Comparison, Verdict, amplitude, decide, equivalence, exponent
from theory.kernels import ntk
from theory.kernels.invariance import cyclic_spectrum, shift_spectra
from theory.kernels.learning_curves import learning_curve
from theory.kernels.network_spectra import network_spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYMMETRIES = ("pooled", "plain")
HALF = 0.5
MARGIN = 0.2


@dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        dimensions: d of the sphere for kernel regression.
        labels: examples · data sets there, for the pooled and the plain kernel; and at least `least` data sets.
        widths: of the networks, at dimension `network_dimension`.
        networks: members at each width, for pooled and plain networks, each with a data set of its own.
        steps: of gradient descent.
        images: as `Image` has them, one for each data set and target.
    """

    dimensions: tuple[int, ...]
    labels: tuple[int, int]
    least: int
    network_dimension: int
    widths: tuple[int, ...]
    networks: tuple[int, int]
    steps: int
    images: tuple[Image, ...]


SMOKE = Config(
    dimensions=(10, 16, 24, 36),
    labels=(8_000, 16_000),
    least=12,
    network_dimension=12,
    widths=(256,),
    networks=(192, 64),
    steps=150,
    images=(("digits", "label", 200, 0.3, (15, 21), (600, 800), (300, 40)),),
)
PAPER = Config(
    dimensions=(10, 14, 20, 28, 40, 52, 64),
    labels=(12_000, 24_000),
    least=24,
    network_dimension=12,
    widths=(32, 64, 128, 256, 512, 1024, 4096),
    networks=(64, 32),
    steps=250,
    images=(
        ("digits", "label", 200, 0.3, (15, 21), (600, 800), (1200, 64)),
        # The scatter between data sets is larger here, and equations and measurement are further apart.
        ("cifar10", "smoothness", 300, 0.8, (19, 27), (740, 1040), (5000, 256)),
        ("cifar10", "label", 300, 0.3, (40, 55), (1500, 2100), (10_000, 512)),
    ),
)


def datasets(config: Config) -> tuple[str, ...]:
    """Sets that `measure` reads."""
    return tuple(dict.fromkeys(image[0] for image in config.images))


def parts(config: Config) -> list[str]:
    """Names of the parts of the measurement: spheres, networks, images."""
    return [
        *(f"sphere {d}" for d in config.dimensions),
        *(f"width {width}" for width in config.widths),
        *(f"{image[0]} {image[1]}" for image in config.images),
    ]


def picture(config: Config, part: str) -> Image:
    """The images of that name."""
    return next(image for image in config.images if part == f"{image[0]} {image[1]}")


def dimension(config: Config, part: str) -> int | None:
    """d of the sphere, or None for images."""
    kind, _, number = part.partition(" ")
    return {"sphere": lambda: int(number), "width": lambda: config.network_dimension}.get(kind, lambda: None)()


def examples(config: Config, part: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two numbers of examples for the pooled and for the plain kernel, around where the share is at its level."""
    d = dimension(config, part)
    if d is None:
        image = picture(config, part)
        return image[4], image[5]
    pooled, plain = ((round(0.82 * n), round(1.22 * n)) for n in (0.49 * d + 2, d * (0.48 * d + 1)))
    return pooled, plain


def assumptions(config: Config) -> list[Assumption]:
    """Sizes at which corrections are small, and at which shares pass their level."""
    prediction = predict(config)
    worst = float(np.abs(prediction["finite"].values[_spheres(prediction)] - 1).max())
    level, share = prediction["level"].values[:, None], prediction["share"].values
    inside = np.all((share[..., 0] < 1.05 * level) & (share[..., 1] > 0.95 * level))
    return [
        Assumption("the first correction to gain = d is below a quarter", worst < 0.25, f"at most {worst:.2f}"),
        Assumption("shares pass their level near the sizes measured", bool(inside), f"{np.round(share, 2).tolist()}"),
    ]


def predict(config: Config) -> xr.Dataset:
    """Exponent and height of the gain in d; and of each part the shares of the equations, the gain and its margin."""
    names = parts(config)
    shares = np.array([_shares(config, part) for part in names])
    dims = [dimension(config, part) for part in names]
    levels = np.array([picture(config, p)[3] if d is None else HALF for p, d in zip(names, dims, strict=True)])
    sizes = np.array([examples(config, part) for part in names], np.float64)
    gain = _gain(sizes, shares, levels)
    group = np.array([SIDE**2 if d is None else d for d in dims], np.float64)
    image = np.array([d is None for d in dims])
    margin = np.where(image, np.minimum(MARGIN, 0.5 * np.abs(group / gain - 1)), MARGIN)
    return xr.Dataset(
        {
            "exponent": 1.0,
            "height": 1.0,
            "share": (("part", "symmetry", "size"), shares),
            "examples": (("part", "symmetry", "size"), sizes),
            "level": ("part", levels),
            "finite": ("part", gain / group),
            "group": ("part", group),
            "gain": ("part", gain),
            "margin": ("part", margin),
        },
        coords={"part": names, "symmetry": list(SYMMETRIES)},
    )


@cache
def _shares(config: Config, part: str) -> np.ndarray:
    """What the eigenlearning equations say is learned, ⟨f, f̂⟩/⟨f, f⟩ = Σ L v²/Σ v², (symmetry, size)."""
    d = dimension(config, part)
    if d is None:
        return _image_shares(picture(config, part))
    whole = network_spectrum(NETWORK, d, 16 if d < 20 else 8)
    power = np.zeros(len(whole.eigenvalues))
    power[2] = 1.0
    spectra = (cyclic_spectrum(whole), whole)
    return np.array(
        [learning_curve(s, power, n).learnabilities[:, 2] for s, n in zip(spectra, examples(config, part), strict=True)]
    )


def _image_shares(image: Image) -> np.ndarray:
    x, target = small_images(image[0], image[2], image[1])
    rows = SIDE * x.reshape(len(x), -1)
    shifts = [np.roll(SIDE * x, (s, t), axis=(1, 2)).reshape(len(x), -1) for s in range(SIDE) for t in range(SIDE)]
    kernel = np.stack([np.asarray(ntk(NETWORK, rows, moved)) for moved in shifts], axis=-1)
    whole, pooled = shift_spectra(kernel.reshape(len(x), len(x), SIDE, SIDE), target)
    return np.array(
        [
            learning_curve(spectrum, power, n, ridge=RIDGE * DIAGONAL).learnabilities @ power
            for (spectrum, power), n in zip((pooled, whole), image[4:6], strict=True)
        ]
    )


def _gain(sizes: np.ndarray, shares: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Examples that the plain kernel needs over those that the pooled one needs, (..., symmetry, size) → (...)."""
    position = crossing(sizes, shares, np.zeros_like(shares), level[..., None])[0]
    return position[..., 1] / position[..., 0]


def crossing(
    sizes: Float[np.ndarray, "*shape 2"],
    shares: Float[np.ndarray, "*shape 2"],
    errors: Float[np.ndarray, "*shape 2"],
    level: np.ndarray,
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Where the share L is at the level, and the error of that; ln(L/(1−L)) is taken as linear in ln n."""
    x, y = np.log(sizes), np.log(shares / (1 - shares))
    slope = (y[..., 1] - y[..., 0]) / (x[..., 1] - x[..., 0])
    position = np.exp(x[..., 0] + (np.log(level / (1 - level)) - y[..., 0]) / slope)
    along = (np.log(position) - x[..., 0]) / (x[..., 1] - x[..., 0])
    spread = errors / (shares * (1 - shares))
    return position, position * np.hypot((1 - along) * spread[..., 0], along * spread[..., 1]) / np.abs(slope)


def equal(config: Config) -> xr.Dataset:
    """Rival: symmetry saves no examples."""
    found = predict(config)
    return found.assign(exponent=0.0, gain=xr.ones_like(found["gain"]))


def square_root(config: Config) -> xr.Dataset:
    """Rival: a mean over d correlated views is worth √d."""
    found = predict(config)
    return found.assign(exponent=0.5, gain=found["gain"] ** 0.5)


def reflections(config: Config) -> xr.Dataset:
    """Rival: 2d, as if the kernel were the same under reflections too."""
    found = predict(config)
    return found.assign(height=2.0, gain=2 * found["gain"])


def whole_group(config: Config) -> xr.Dataset:
    """Rival: the gain is the size of the group on images as well."""
    found = predict(config)
    return found.assign(gain=xr.where(_image_parts(found), found["group"], found["gain"]))


def _image_parts(prediction: xr.Dataset) -> xr.DataArray:
    names = prediction["part"].values
    return xr.DataArray([not n.startswith(("sphere", "width")) for n in names], dims="part", coords={"part": names})


def _spheres(prediction: xr.Dataset) -> np.ndarray:
    return np.array([name.startswith("sphere") for name in prediction["part"].values])


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """One for each part."""
    return [{"part": part} for part in parts(config)]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Shares with their errors, and the number of data sets, for both kernels (or networks) at both sizes."""
    part = str(cell["part"])
    d = dimension(config, part)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    table = np.zeros((2, 2, 3))
    for i, sizes in enumerate(examples(config, part)):
        # Threads of BLAS cost more than they bring on matrices of this size, and much more beside other processes.
        with threadpool_limits(1, "blas"):
            if d is None:
                found = [image_shares(picture(config, part), i == 0, n, rng) for n in sizes]
            elif part.startswith("sphere"):
                trials = [max(config.least, config.labels[i] // n) for n in sizes]
                found = [sphere_shares(d, i == 0, n, count, rng) for n, count in zip(sizes, trials, strict=True)]
            else:
                width, trials = int(part.rpartition(" ")[2]), config.networks[i]
                own = jax.random.fold_in(key, i)
                found = trained_shares(d, i == 0, sizes, own, width=width, trials=trials, steps=config.steps)
        for j, (share, power) in enumerate(found):
            table[i, j] = *adjusted_mean(share, power, 1.0), len(share)
    dims = ("symmetry", "size")
    return xr.Dataset(
        {name: (dims, table[..., k]) for k, name in enumerate(("share", "error", "trials"))},
        coords={"symmetry": list(SYMMETRIES)},
    )


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Exponent and height of the gain in d, and the gain of every part against that of the equations."""
    measurement = measurement.sel(part=prediction["part"].values)
    gain, error = gains(prediction, measurement)
    spheres, trials = _spheres(prediction), int(measurement["trials"].min())
    comparisons = _laws(prediction, gain[spheres], error[spheres], trials=trials)
    ratio, relative = gain / prediction["gain"].values, error / prediction["gain"].values
    margin, names = prediction["margin"].values, prediction["part"].values
    widths = np.array([name.startswith("width") for name in names])
    if widths.sum() > 2:
        comparisons += amplitude(
            "gain of infinitely wide networks over that of the equations",
            [float(name.rpartition(" ")[2]) for name in names[widths]],
            ratio[widths],
            relative[widths],
            exponent=0.0,
            prediction=1.0,
            margin=MARGIN,
            correction=1.0,
            sample_size=trials * int(widths.sum()),
            dof=trials - 2,
        )
    # Of many widths the limit is judged, of one or two each.
    alone = ~widths if widths.sum() > 2 else np.ones(len(names), bool)
    comparisons += equivalence(
        [f"gain over that of the equations, {name}" for name in names[alone]],
        ratio[alone],
        1.0,
        margin[alone],
        standard_error=relative[alone],
        sample_size=trials,
        dof=trials - 2,
    )
    return decide(comparisons, margin_source="half the distance of exponents, and of factors, to the nearest rival")


def gains(prediction: xr.Dataset, measurement: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Measured gain of each part, and its error."""
    order = ("part", "symmetry", "size")
    sizes, shares, errors = (
        data[name].transpose(*order).values
        for data, name in ((prediction, "examples"), (measurement, "share"), (measurement, "error"))
    )
    position, spread = crossing(sizes, shares, errors, prediction["level"].values[:, None])
    gain = position[:, 1] / position[:, 0]
    return gain, gain * np.sqrt(np.sum((spread / position) ** 2, axis=1))


def _laws(prediction: xr.Dataset, gain: np.ndarray, error: np.ndarray, *, trials: int) -> list[Comparison]:
    """Exponent and height, both with a first correction of relative order 1/d."""
    sizes, height = prediction["group"].values[_spheres(prediction)], float(prediction["height"])
    sample, dof = trials * len(sizes), trials - 2
    # A gain grows as d^power; the judges' exponents are those of decay.
    power = float(prediction["exponent"])
    return exponent(
        "exponent of the gain",
        sizes,
        gain,
        error,
        prediction=-power,
        margin=0.25,
        correction=1.0,
        sample_size=sample,
        dof=dof,
    ) + amplitude(
        "gain over d",
        sizes,
        gain,
        error,
        exponent=-1.0,
        prediction=height,
        margin=MARGIN,
        correction=1.0,
        sample_size=sample,
        dof=dof,
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: gain over d against d. Middle: against width. Right: images, beside the size of the group."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement.sel(part=evidence.prediction["part"].values)
    gain, error = gains(prediction, measurement)
    group, expected = prediction["group"].values, prediction["gain"].values
    names = prediction["part"].values
    spheres, images = _spheres(prediction), _image_parts(prediction).values
    widths = ~spheres & ~images
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 3, 3))
    style = {"fmt": MARKERS[1], "color": COLOURS[1]}
    d = group[spheres]
    left.plot(d, expected[spheres], color=COLOURS[0], label="equations")
    left.plot(d, d, "--", color="black", linewidth=0.8, label="$d$")
    left.errorbar(d, gain[spheres], 2.576 * error[spheres], label="kernel regression (99 %)", **style)
    left.axhline(1, color="black", linestyle=":", linewidth=0.8, label="equal")
    left.set(xscale="log", yscale="log", xlabel="dimension $d$", ylabel="gain: examples plain / pooled")
    ticks = d[:: -(-len(d) // 4)]
    left.set_xticks(ticks, [f"{t:.0f}" for t in ticks])
    left.set_xticks([], minor=True)
    left.legend(loc="upper left", fontsize="small")
    left.set_ylim(0.7, 8 * d[-1])
    n = np.array([float(name.rpartition(" ")[2]) for name in names[widths]])
    middle.axhline(1, color=COLOURS[0])
    middle.errorbar(n, (gain / expected)[widths], 2.576 * (error / expected)[widths], **style)
    for edge in (1 - MARGIN, 1 + MARGIN):
        middle.axhline(edge, color="black", linestyle=":", linewidth=0.8)
    middle.set(xscale="log", xlabel="width of networks", ylabel="gain / equations", ylim=(0.5, 1.5))
    place = np.arange(images.sum())
    right.plot(place, expected[images], "_", color=COLOURS[0], markersize=16, markeredgewidth=1.5)
    right.errorbar(place, gain[images], 2.576 * error[images], **style)
    right.plot(place, group[images], "_", color="black", markersize=16)
    right.set_xticks(place, [name.replace(" ", "\n") for name in names[images]])
    right.set(ylim=(0, 72), xlim=(-0.6, images.sum() - 0.4), ylabel="gain on images (black: shifts)")


claim = Claim(
    id="ntk/convolution",
    kind="limit",
    expected="supported",
    sources=("mei2021invariances", "simon2023eigenlearning"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("equal", "symmetry saves no examples", predict=equal),
        Rival("square-root", "a mean over d correlated views is worth √d examples", predict=square_root),
        Rival("reflections", "the gain is 2d, as for shifts and reflections together", predict=reflections),
        Rival("whole-group", "on images the gain is the number of shifts, 64", predict=whole_group),
    ),
    datasets=datasets,
)
