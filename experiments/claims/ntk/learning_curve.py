"""The mean error of kernel regression with a network's tangent kernel follows from the kernel's spectrum alone: with
Σ λ/(λ+κ) + δ/κ = n, L = λ/(λ+κ) and E₀ = n/(n − ΣL²) the test error is E₀ (Σ (1−L)² v² + σ²) and the train error
(δ/(nκ))² times that; without a ridge the learnabilities of any complete basis sum to n.

Source: Bordelon, Canatar & Pehlevan 2020; Simon et al. 2023, who also prove the sum rule. Here for infinitely wide ReLU
networks with biases on the sphere |x|² = d, with targets of degree 1, 2 and 3 and noise on the labels. This is kernel
regression: what a finite network of large width does is the subject of other claims.

Margin: half the distance to the nearest rival at that very point, and at most 4 % of the prediction. The equations are
a limit, exact as n grows with E₀ fixed. For Gaussian features their first correction is known, relatively
(E₀−1)/n in the error of least squares (whose exact factor is (n−1)/(n−p−1) in place of n/(n−p)), and
E₀² Σ L²(1−L)/n² ≤ E₀(E₀−1)/n in κ (Bai & Silverstein 2004, Theorem 1.1, real case). Harmonics are no Gaussians, but
dependent, so that this gives an order of magnitude; `assumptions` wants E₀(E₀−1)/n below half of each margin. The sum
rule is exact, and held to rounding.

The measurement has the kernel from distances by a recursion of its own; the prediction projects it on Gegenbauer
polynomials.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.regression import adjusted_mean, relu_ntk, sphere_points, versines
from experiments.verdict import Verdict, decide, equivalence, identity
from theory.architecture import MLP
from theory.kernels.learning_curves import learning_curve
from theory.kernels.network_spectra import hypercube_spectrum, network_spectrum
from theory.kernels.spectra import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WEIGHT_VARIANCE, BIAS_VARIANCE = 2.0, 0.1
# Degrees in the spectrum: those beyond, far below κ, act as a ridge.
DEGREES = 12
# At most this many kernel entries at once.
ENTRIES = 2**21


@dataclass(frozen=True)
class Config:
    """Problem and sizes.

    Attributes:
        depths: hidden layers of the networks.
        samples: n, numbers of training examples.
        trials: data sets at each n.
        ridges: δ in units of the kernel's diagonal Θ(x, x).
        dimension: d of the inputs.
        power: v² of the target's parts of degree 1, 2 and 3; they sum to 1.
        noise: variance σ² of the labels.
        draws: draws of the noise for each data set.
        fresh: least number of test points for each data set; n/2 of them where that is more.
        cube: m of the hypercube {−1, 1}^m on which the sum rule is looked at.
    """

    depths: tuple[int, ...]
    samples: tuple[int, ...]
    trials: tuple[int, ...]
    ridges: tuple[float, ...] = (0.0, 0.05, 0.2)
    dimension: int = 20
    power: tuple[float, ...] = (0.4, 0.4, 0.2)
    noise: float = 0.5
    draws: int = 16
    fresh: int = 96
    cube: int = 8


SMOKE = Config(depths=(1,), samples=(32, 64, 128, 256), trials=(2400, 1000, 450, 240))
PAPER = Config(
    depths=(1, 2),
    samples=(32, 64, 128, 256, 512, 1024, 2048),
    trials=(2600, 1400, 700, 280, 90, 36, 24),
)


def network(depth: int) -> MLP:
    """What both sides speak of."""
    return MLP(depth, "relu", WEIGHT_VARIANCE, BIAS_VARIANCE)


def vertices(config: Config, samples: int) -> int:
    """How many vertices of the hypercube are learned from, beside a data set of that size."""
    return max(1, samples * 2**config.cube // (2 * max(config.samples)))


def assumptions(config: Config) -> list[Assumption]:
    """The theory's own error against the margins."""
    prediction = predict(config)
    factor = prediction["noise_factor"]
    own = factor * (factor - 1) / prediction["samples"] * prediction["test"] / prediction["test_margin"]
    worst = float(own.max())
    return [
        Assumption("the equations' own error is below half of each margin", worst < 0.5, f"at most {worst:.2f} of it")
    ]


def predict(config: Config) -> xr.Dataset:
    """Errors, with the factor E₀, their margins, and the sums of learnabilities on the hypercube."""
    found = _tabulate(config, _eigenlearning)
    rivals = [_tabulate(config, rule) for rule in (_noise_outside, _infinite_data)]
    for name in ("test", "train"):
        here = found[name]
        distance = np.min([abs(rival[name] - here).values for rival in rivals], axis=0)
        found[f"{name}_margin"] = (here.dims, np.minimum(0.5 * distance, 0.04 * here.values))
    return found


def noise_outside(config: Config) -> xr.Dataset:
    """Rival: only the signal's error is multiplied by E₀."""
    return predict(config).assign(_tabulate(config, _noise_outside))


def infinite_data(config: Config) -> xr.Dataset:
    """Rival: κ = δ/n, as for the population's own ridge regression, and nothing is paid for noise."""
    return predict(config).assign(_tabulate(config, _infinite_data))


def _eigenlearning(spectrum, power, n, ridge, noise):
    """Test error, train error, E₀, and the sum of learnabilities."""
    curve = learning_curve(spectrum, power, [n], ridge=ridge, noise=noise)
    total = float(curve.learnabilities[0] @ spectrum.multiplicities)
    return curve.test_error[0], curve.train_error[0], curve.noise_factor[0], total


def _noise_outside(spectrum, power, n, ridge, noise):
    test, train, factor, total = _eigenlearning(spectrum, power, n, ridge, noise)
    outside = test - (factor - 1) * noise
    return outside, train * outside / test, factor, total


def _infinite_data(spectrum, power, n, ridge, noise):
    values = np.where(spectrum.eigenvalues > spectrum.accuracy, spectrum.eigenvalues, 0.0)
    learned = np.where(values > 0, values / np.where(values > 0, values + ridge / n, 1.0), 0.0)
    error = float((1 - learned) ** 2 @ power + noise)
    # Without a ridge everything is fitted, whatever κ.
    return error, error if ridge > 0 else 0.0, 1.0, float(learned @ spectrum.multiplicities)


def _tabulate(config: Config, rule) -> xr.Dataset:
    power = np.zeros(DEGREES)
    power[1 : 1 + len(config.power)] = config.power
    shape = (len(config.depths), len(config.samples))
    table, sums = np.zeros((*shape, len(config.ridges), 3)), np.zeros(shape)
    for i, depth in enumerate(config.depths):
        sphere, cube = _spectra(depth, config.dimension, config.cube)
        diagonal = sphere.multiplicities @ sphere.eigenvalues + sphere.tail
        nothing = np.zeros(len(cube.eigenvalues))
        for j, n in enumerate(config.samples):
            for k, ridge in enumerate(config.ridges):
                table[i, j, k] = rule(sphere, power, n, ridge * diagonal, config.noise)[:3]
            sums[i, j] = rule(cube, nothing, vertices(config, n), 0.0, 1.0)[3]
    dims = ("depth", "samples", "ridge")
    return xr.Dataset(
        {name: (dims, table[..., i]) for i, name in enumerate(("test", "train", "noise_factor"))}
        | {"sum": (dims[:2], sums)},
        coords={"depth": list(config.depths), "samples": list(config.samples), "ridge": list(config.ridges)},
    )


@cache
def _spectra(depth: int, dimension: int, cube: int) -> tuple[Spectrum, Spectrum]:
    """On the sphere and on the hypercube."""
    return network_spectrum(network(depth), dimension, DEGREES), hypercube_spectrum(network(depth), cube)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """One for each network and number of examples."""
    return [{"depth": depth, "samples": n} for depth, n in itertools.product(config.depths, config.samples)]


def measure(config: Config, cell: Cell, key: jax.Array) -> xr.Dataset:
    """Mean errors over drawn data sets with their standard errors, and a sum of learnabilities on the hypercube."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    net, n = network(int(cell["depth"])), int(cell["samples"])
    trials = config.trials[config.samples.index(n)]
    chunk = max(1, ENTRIES // (n * (n + max(config.fresh, n // 2))))
    # Threads of BLAS cost more than they bring on matrices of this size, and much more beside other processes.
    with threadpool_limits(1, "blas"):
        parts = [regressions(config, net, n, min(chunk, trials - i), rng) for i in range(0, trials, chunk)]
    errors, power_test, power_train = (np.concatenate(part) for part in zip(*parts, strict=True))
    columns = len(config.ridges)
    test = [adjusted_mean(errors[:, 0, k], power_test, 1.0) for k in range(columns)]
    train = [
        adjusted_mean(errors[:, 1, k], power_train, 1.0 + config.noise) if config.ridges[k] > 0 else (0.0, 0.0)
        for k in range(columns)
    ]
    return xr.Dataset(
        {
            "test": ("ridge", [mean for mean, _ in test]),
            "test_error": ("ridge", [error for _, error in test]),
            "train": ("ridge", [mean for mean, _ in train]),
            "train_error": ("ridge", [error for _, error in train]),
            "sum": learnabilities(config.cube, net, vertices(config, n), rng).sum(),
            "trials": trials,
        }
    )


def regressions(
    config: Config, net: MLP, n: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kernel ridge regression on `count` data sets.

    Returns:
        test and train errors, (count, 2, ridges), the test error with the noise's variance; the mean square of the
        target on the test points, and of the labels, (count,).
    """
    x, fresh = (sphere_points(rng, (count, m), config.dimension) for m in (n, max(config.fresh, n // 2)))
    gap = versines(x, x)
    gap[:, np.arange(n), np.arange(n)] = 0.0
    gram, cross = relu_ntk(net, gap), relu_ntk(net, versines(fresh, x))
    target = harmonics(fresh) @ np.sqrt(config.power)
    labels = (harmonics(x) @ np.sqrt(config.power))[..., None]
    labels = labels + np.sqrt(config.noise) * rng.standard_normal((count, n, config.draws))
    errors = np.zeros((count, 2, len(config.ridges)))
    for k, share in enumerate(config.ridges):
        ridge = share * gram[0, 0, 0]
        dual = np.linalg.solve(gram + ridge * np.eye(n), labels)
        errors[:, 0, k] = np.mean((cross @ dual - target[..., None]) ** 2, axis=(1, 2)) + config.noise
        # y − K α = δ α.
        errors[:, 1, k] = np.mean((ridge * dual) ** 2, axis=(1, 2))
    return errors, np.mean(target**2, axis=1), np.mean(labels**2, axis=(1, 2))


def harmonics(x: np.ndarray) -> np.ndarray:
    """Orthonormal harmonics of degree 1, 2 and 3 at unit vectors (..., d): (..., 3).

    Sums of all coordinates, of products of disjoint pairs, and of disjoint triples; by E x₁² = 1/d,
    E x₁²x₂² = 1/(d(d+2)), E x₁²x₂²x₃² = 1/(d(d+2)(d+4)). Many terms, because one product has heavy tails.
    """
    d = x.shape[-1]
    parts = []
    for degree in (1, 2, 3):
        terms = d // degree
        norm = np.prod(d + 2.0 * np.arange(degree)) / terms
        products = x[..., : terms * degree].reshape(*x.shape[:-1], terms, degree).prod(axis=-1)
        parts.append(np.sqrt(norm) * products.sum(axis=-1))
    return np.stack(parts, axis=-1)


def learnabilities(m: int, net: MLP, count: int, rng: np.random.Generator) -> np.ndarray:
    """⟨φ, f̂⟩ of each of the 2^m Walsh functions φ, f̂ being its interpolation from `count` vertices without a ridge."""
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=m)))
    subsets = np.array(list(itertools.product((0, 1), repeat=m)))
    # (−1)^(number of coordinates in S that are −1): one column for each function.
    walsh = 1.0 - 2.0 * ((signs < 0) @ subsets.T % 2)
    known = rng.choice(len(signs), size=count, replace=False)
    kernel = relu_ntk(net, 1 - signs @ signs[known].T / m)
    fitted = kernel @ np.linalg.solve(kernel[known], walsh[known])
    return np.mean(walsh * fitted, axis=0)


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Equivalence of test and train errors for every network, n and ridge; the sum rule to rounding."""
    comparisons = []
    for depth, n in itertools.product(prediction["depth"].values, prediction["samples"].values):
        predicted, found = (side.sel(depth=depth, samples=n) for side in (prediction, measurement))
        place = f"{depth} hidden, n = {n}"
        for name in ("test", "train"):
            for k, ridge in enumerate(prediction["ridge"].values):
                if name == "train" and ridge == 0:
                    continue
                comparisons += equivalence(
                    f"{name} error, {place}, ridge {ridge:g}",
                    found[name].values[k],
                    predicted[name].values[k],
                    predicted[f"{name}_margin"].values[k],
                    standard_error=found[f"{name}_error"].values[k],
                    sample_size=int(found["trials"]),
                    dof=int(found["trials"]) - 2,
                )
        # A sum of 256 learnabilities, from systems with condition numbers below 1e4.
        comparisons += identity(
            f"sum of learnabilities, {place}", float(found["sum"]), float(predicted["sum"]), tolerance=1e-9
        )
    return decide(
        comparisons,
        margin_source="half the distance to the nearest rival at each point, at most 4 %; rounding for the sum rule",
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """Test and train error against n, a panel for each depth."""
    depths = evidence.prediction["depth"].values
    axes = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for axis, depth in zip(axes, depths, strict=True):
        _panel(axis, evidence, int(depth))
    axes[0].set_ylabel("mean squared error")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)


def _panel(axis: Axes, evidence: Evidence, depth: int) -> None:
    from experiments.report.style import COLOURS, MARKERS

    found = evidence.measurement.sel(depth=depth)
    sizes = found["samples"].values
    between = np.unique(np.round(np.geomspace(sizes[0], sizes[-1], 60))).astype(int)
    config = replace(evidence.config, samples=tuple(between.tolist()))
    predicted, outside = (_tabulate(config, rule).sel(depth=depth) for rule in (_eigenlearning, _noise_outside))
    for k, ridge in enumerate(evidence.config.ridges):
        colour = COLOURS[k]
        label = rf"$\delta = {ridge:g}\,\Theta(x,x)$" if ridge else r"$\delta = 0$"
        axis.plot(between, predicted["test"][:, k], color=colour, linewidth=1)
        axis.plot(between, outside["test"][:, k], ":", color=colour, linewidth=0.8)
        axis.errorbar(
            sizes,
            found["test"][:, k],
            2.576 * found["test_error"][:, k],
            fmt=MARKERS[k],
            color=colour,
            label=f"test, {label}",
        )
        if ridge:
            axis.plot(between, predicted["train"][:, k], "--", color=colour, linewidth=1)
            axis.errorbar(
                sizes,
                found["train"][:, k],
                2.576 * found["train_error"][:, k],
                fmt=MARKERS[k],
                color=colour,
                markerfacecolor="white",
                label=f"train, {label}",
            )
    axis.plot([], [], ":", color="black", linewidth=0.8, label="test, noise outside $E_0$")
    layers = "1 hidden layer" if depth == 1 else f"{depth} hidden layers"
    axis.set(xscale="log", xlabel="training examples $n$", title=layers, ylim=(0, None))
    axis.set_xticks(sizes, [str(n) for n in sizes])
    axis.minorticks_off()


claim = Claim(
    id="ntk/learning-curve",
    kind="limit",
    expected="supported",
    sources=("bordelon2020spectrum", "simon2023eigenlearning", "bai2004clt"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("noise-outside", "noise adds σ² and is not multiplied by E₀", predict=noise_outside),
        Rival(
            "infinite-data",
            "the ridge is the only regularisation, κ = δ/n, and train and test error are one",
            predict=infinite_data,
        ),
    ),
)
