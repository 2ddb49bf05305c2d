"""Over random initialisations, the outputs of a wide network after t steps of gradient descent have the mean A y and
the covariance K** + A K Aᵀ − A K* − (A K*)ᵀ with A = Θ* Θ⁻¹ (I − (I − ηΘ)^t): the law of the NTK ensemble.

Source: Lee et al. 2019, section 2.2, eqs. (13)–(15). Steps of descent are taken exactly in place of the flow.

For each rival the difference between its law and this one is a direction u, scaled so that the rival is at distance 1:
⟨mean, u⟩ and ⟨covariance, u⟩ are measured where the rival differs, at each recorded step, and extrapolated to infinite
width with their first correction in 1/n. Each is a linear functional of the law, so that its error is that of a mean
over members. These come in pairs that start from opposite functions, which takes the scatter of the start out of means.

Margin: ½, half the distance to the rival by construction. The extrapolation leaves an error of order 1/n². A rival
that comes within a quarter of a moment at a step is not compared there: late in training all covariances are those of
interpolation. The NNGP posterior's is told apart in the first steps only; on these data networks trained to the end
have nearly the same (within 2 %), and that they are no sample of the posterior is not shown here.

Assumptions: full-batch gradient descent on ½ Σ|f − y|² below the critical rate, NTK parametrisation, a positive
definite limiting kernel, inputs with |x|² = d. The outputs of a network are independent in the limit, and their
covariances are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import init_members, network
from experiments.rival_directions import compare_moments
from experiments.ten_digits import CLASSES, ten_digits
from experiments.training import GradientDescent, Outputs, SquaredError, members
from experiments.verdict import Verdict, decide
from experiments.verdict.rates import fit_amplitude
from theory.architecture import MLP
from theory.kernels import nngp, ntk
from theory.kernels import predict as trained_law

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# σ_w² = 1 keeps the outputs at the start below the targets' scale, and still of it: half of what is tested is scatter.
ARCHITECTURE = MLP(2, "erf", weight_variance=1.0, bias_variance=0.1)
MOMENTS = ("mean", "covariance")
# A rival whose mean or covariance is nearer than this, relatively, is not told apart by that moment at that step.
CLOSE = 0.25


@dataclass(frozen=True)
class Config:
    """Data and sizes.

    Attributes:
        dataset: name of a set of images of ten digits.
        train, test: number of images of each digit.
        widths: n of both hidden layers.
        members: networks at each width, shared out evenly among batches and units, in pairs.
        batches: cells at each width.
        units: means over members kept from each cell; `batches · units` of them carry the standard errors.
        steps: of gradient descent, at which outputs are compared.
        learning_rate: about half of 1/λ_max of the limiting kernel, so that narrow networks stay below their own
            limit. A number, because a measurement that took it from the predicted kernel would not be independent.
    """

    dataset: str
    train: int
    test: int
    widths: tuple[int, ...]
    members: tuple[int, ...]
    batches: int
    units: int
    steps: tuple[int, ...]
    learning_rate: float


# Covariances need far more members than means: that of one pair's outputs scatters by its own size.
SMOKE = Config(
    "digits",
    1,
    1,
    widths=(32, 64, 128),
    members=(1024, 1024, 1024),
    batches=1,
    units=64,
    steps=(1, 2, 8),
    learning_rate=0.15,
)
PAPER = Config(
    "mnist",
    2,
    1,
    widths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    members=(2048, 2048, 2048, 1536, 1024, 512, 192, 64),
    batches=4,
    units=8,
    steps=(1, 2, 4, 8, 16),
    learning_rate=0.08,
)


def datasets(config: Config) -> tuple[str, ...]:
    """Sets that `measure` reads."""
    return (config.dataset,)


def task(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images, their targets (one-hot less 1/10), and test images."""
    inputs, targets = ten_digits(config.dataset, config.train, config.test)
    return inputs[: len(targets)], targets, inputs[len(targets) :]


def assumptions(config: Config) -> list[Assumption]:
    """The conditions of the law, and that the training is worth the name."""
    x_train, y, _ = task(config)
    eigenvalues, vectors = np.linalg.eigh(np.asarray(ntk(ARCHITECTURE, x_train)))
    low, high = float(eigenvalues[0]), float(eigenvalues[-1])
    left = (1 - config.learning_rate * eigenvalues)[:, None] ** config.steps[-1] * (vectors.T @ y)
    residual = float(np.linalg.norm(left) / np.linalg.norm(y))
    return [
        Assumption("the limiting kernel is positive definite", low > 1e-6 * high, f"λ from {low:.3g} to {high:.3g}"),
        Assumption(
            "the learning rate is below the critical one",
            config.learning_rate < 2 / (low + high),
            f"{config.learning_rate:.3g} of {2 / (low + high):.3g}",
        ),
        Assumption("training removes half of the targets' residual", residual < 0.5, f"{residual:.2f} of it is left"),
    ]


Law = tuple[Float[np.ndarray, "step test output"], Float[np.ndarray, "step test test"]]


def predict(config: Config) -> xr.Dataset:
    """The law at each step, the rivals' directions, and the values of both moments along them."""
    return _prediction(config, _ensemble(config))


def nngp_posterior(config: Config) -> xr.Dataset:
    """Rival: the ensemble is a sample of the NNGP posterior, with its covariance K** − K* K⁻¹ K*ᵀ."""
    return _prediction(config, _posterior(config))


def last_layer_only(config: Config) -> xr.Dataset:
    """Rival: only the last layer learns, so that the kernel of the dynamics is the NNGP's."""
    return _prediction(config, _last_layer(config))


def half_time(config: Config) -> xr.Dataset:
    """Rival: a factor ½ in time, as if the loss were a mean in place of a sum, or |f − y|² had no ½."""
    return _prediction(config, _half(config))


def _ensemble(config: Config, steps: np.ndarray | None = None) -> Law:
    x_train, y, x_test = task(config)
    times = np.array(config.steps) if steps is None else steps
    law = trained_law(ARCHITECTURE, x_train, y, x_test, time=times, learning_rate=config.learning_rate)
    return np.asarray(law.mean), np.asarray(law.covariance)


def _half(config: Config) -> Law:
    return _ensemble(config, np.array(config.steps) // 2)


def _kernels(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x_train, _, x_test = task(config)
    return tuple(np.asarray(nngp(ARCHITECTURE, *pair)) for pair in ((x_train,), (x_test, x_train), (x_test,)))  # pyright: ignore[reportReturnType] # three pairs give three kernels


def _posterior(config: Config) -> Law:
    mean, covariance = _ensemble(config)
    k, star, test = _kernels(config)
    return mean, np.broadcast_to(test - star @ np.linalg.solve(k, star.T), covariance.shape)


def _last_layer(config: Config) -> Law:
    k, star, test = _kernels(config)
    eigenvalues, vectors = np.linalg.eigh(k)
    decay = (1 - config.learning_rate * eigenvalues) ** np.array(config.steps)[:, None]
    a = (star @ vectors * ((1 - decay) / eigenvalues)[:, None]) @ vectors.T
    cross = a @ star.T
    return a @ task(config)[1], test + a @ k @ np.swapaxes(a, -1, -2) - cross - np.swapaxes(cross, -1, -2)


DIRECTIONS = {"nngp-posterior": _posterior, "last-layer-only": _last_layer, "half-time": _half}


def _prediction(config: Config, law: Law) -> xr.Dataset:
    truth = _ensemble(config)
    others = [direction(config) for direction in DIRECTIONS.values()]
    data = {}
    for name, exact, given, rivals, axes in zip(
        MOMENTS, truth, law, zip(*others, strict=True), (("test", "output"), ("test", "test2")), strict=True
    ):
        difference = np.stack(rivals) - exact
        square = np.sum(difference**2, axis=(-2, -1), keepdims=True)
        # A rival that shares this moment has no direction: all of its entries are 0, and it is not compared.
        shared = square < CLOSE**2 * np.sum(exact**2, axis=(-2, -1), keepdims=True)
        unit = np.where(shared, 0.0, difference / np.where(shared, 1.0, square))
        dims = ("rival", "step", *axes)
        data[f"{name}_direction"] = (dims, unit)
        data[f"{name}_value"] = (dims[:2], np.einsum("rsij,sij->rs", unit, given))
        data[name] = (dims[1:], given)
    return xr.Dataset(data | {"margin": 0.5}, coords={"step": list(config.steps), "rival": list(DIRECTIONS)})


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members at each width."""
    return [{"width": width, "batch": batch} for width in config.widths for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Trains pairs of float32 networks and keeps their outputs on the test images.

    The second of a pair has the first one's last layer with the other sign: as likely a draw, with the opposite
    function at the start, so that the pair's mean is free of the scatter that the start leaves.
    """
    x_train, y, x_test = task(config)
    width = int(cell["width"])
    net = network(ARCHITECTURE, width=width, inputs=x_train.shape[1], outputs=CLASSES)
    count = config.members[config.widths.index(width)] // config.batches
    *hidden, last = init_members(net, key, count // 2)
    twins = [*hidden, jax.tree.map(jnp.negative, last)]
    outputs = members(
        SquaredError(net),
        jax.tree.map(lambda *pair: jnp.concatenate(pair), [*hidden, last], twins),
        (x_train.astype(np.float32), y.astype(np.float32)),
        method=GradientDescent(config.learning_rate),
        records=config.steps,
        record=Outputs(net),
        probe=x_test.astype(np.float32),
    ).values
    first, second = outputs.reshape(2, config.units, -1, *outputs.shape[1:]).astype(np.float64)
    mean, half = 0.5 * (first + second), 0.5 * (first - second)
    # f = mean ± half: the products of both add up to the second moments.
    products = sum(np.einsum("upstk,upsvk->ustv", g, g, optimize=True) for g in (mean, half))
    return xr.Dataset(
        {
            "mean": (("unit", "step", "test", "output"), mean.mean(axis=1)),
            "second": (("unit", "step", "test", "test2"), products / (mean.shape[1] * CLASSES)),
        }
    )


def functionals(
    prediction: xr.Dataset, measurement: xr.Dataset
) -> dict[str, tuple[Float[np.ndarray, "rival step width"], Float[np.ndarray, "rival step width"]]]:
    """⟨mean, u⟩ and ⟨covariance, u⟩ along every rival's direction, with standard errors over units of members."""
    order = ("width", "batch", "unit", "step", "test")
    mean = measurement["mean"].transpose(*order, "output").values
    second = measurement["second"].transpose(*order, "test2").values
    mean, second = (moment.reshape(moment.shape[0], -1, *moment.shape[3:]) for moment in (mean, second))
    along, across = (prediction[f"{name}_direction"].values for name in MOMENTS)
    # About the mean of all units, which as a mean of hundreds of pairs takes away next to none of their scatter.
    centre = mean.mean(axis=1, keepdims=True)
    cross = np.einsum("wustk,wusvk->wustv", np.broadcast_to(centre, mean.shape), 0.5 * centre - mean, optimize=True)
    centred = second + (cross + np.swapaxes(cross, -1, -2)) / CLASSES
    both = np.einsum("wustk,rstk->rswu", mean, along), np.einsum("wustv,rstv->rswu", centred, across)
    return {
        name: (values.mean(axis=-1), values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1]))
        for name, values in zip(MOMENTS, both, strict=True)
    }


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Both moments along every rival's direction at each step, at infinite width."""
    widths, steps = measurement["width"].values, prediction["step"].values
    units = measurement.sizes["batch"] * measurement.sizes["unit"]
    rivals = prediction["rival"].values
    comparisons = compare_moments(
        prediction,
        widths,
        functionals(prediction, measurement),
        units,
        lambda moment, rival, step: f"{moment} towards {rivals[rival]}, step {steps[step]}",
    )
    return decide(comparisons, margin_source="half the distance to the rival in whose direction the law is measured")


def draw(figure: Figure, evidence: Evidence) -> None:
    """From the law (0) towards each rival (1): against width at the first step where they differ, and by step."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    widths, steps = measurement["width"].values.astype(float), prediction["step"].values
    left, right = figure.subplots(1, 2, sharey=True)
    found = functionals(prediction, measurement)
    row = 0
    for name in MOMENTS:
        values, errors = found[name]
        values = values - prediction[f"{name}_value"].values[..., None]
        for r, rival in enumerate(prediction["rival"].values):
            compared = prediction[f"{name}_direction"].values[r].any(axis=(-2, -1))
            if not compared.any():
                continue
            style = {"fmt": MARKERS[row % len(MARKERS)], "color": COLOURS[row % len(COLOURS)], "markersize": 4}
            first = int(np.argmax(compared))
            left.errorbar((1 + 0.04 * row) * widths, values[r, first], 2.576 * errors[r, first], **style)
            fit = fit_amplitude(widths, values[r, compared], errors[r, compared], exponent=0.0, correction=1.0)
            right.errorbar(
                steps[compared] * (1 + 0.05 * row),
                fit.estimate,
                2.576 * fit.standard_error,
                label=f"{name}: {rival}",
                **style,
            )
            row += 1
    for axis in (left, right):
        axis.axhline(0, color="black", linewidth=1)
        axis.axhline(1, color="black", linewidth=1, linestyle=":")
        axis.set(xscale="log")
    left.set(xlabel="width $n$", ylabel="from the law (0) to the rival (1)", title="first step that tells them apart")
    left.set_xticks(widths, [f"{width:.0f}" for width in widths], rotation=45 if len(widths) > 5 else 0)
    left.minorticks_off()
    right.set(xlabel="steps of gradient descent", title="infinite width")
    right.set_xticks(steps, [str(step) for step in steps])
    right.minorticks_off()
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)


claim = Claim(
    id="ntk/ensemble-law",
    kind="limit",
    expected="supported",
    sources=("lee2019wide",),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival(
            "nngp-posterior", "the trained ensemble has the covariance of the NNGP posterior", predict=nngp_posterior
        ),
        Rival("last-layer-only", "only the last layer learns: the kernel is the NNGP's", predict=last_layer_only),
        Rival("half-time", "time runs at half the pace: a factor ½ in the loss is misplaced", predict=half_time),
    ),
    datasets=datasets,
)
