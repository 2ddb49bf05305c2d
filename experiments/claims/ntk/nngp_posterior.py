"""If only the last layer of a wide network is trained, to the end, its outputs follow the noise-free posterior of the
Gaussian process of the initial outputs (NNGP); if all parameters follow Langevin dynamics at temperature T, the outputs
follow the posterior with noise T.

Source: Lee et al. 2018 and Matthews et al. 2018 for the process; Lee et al. 2019, section 2.3.1, for the last layer.
Langevin: with the loss ½ Σ (f − y)² the stationary density exp(−L(θ)/T) N(θ; 0, 1) is the Bayesian posterior under
noise of variance T and the prior of the initialisation (Welling & Teh 2011).

For each rival the difference between its law and this one gives a direction on which the rival is at distance 1: linear
functionals of mean and covariance, weighted by the inverse covariance (plus a tenth of its mean eigenvalue), which
scatter least. They are measured at each width and extrapolated to infinite width with a correction in 1/n.

Margin: ½, half the distance to the rival by construction. The extrapolation leaves an error of order 1/n². A rival
within CLOSE of a moment, relatively, is not told apart by that moment.

Last layer: gradient descent with momentum moves the outputs' weights within the span of the training features alone.
Where it ends without residual is therefore where the gradient flow ends; the judge checks the residual. Hidden layers
never move: their features are computed once, and many last layers are trained on them, in pairs of opposite starts.
Langevin: chains start from the prior. The mean of the outputs at two consecutive steps is free of most of the finite
step's bias. What is left of it and of the start is known at infinite width (`theory.kernels.langevin`); an assumption
keeps it below a tenth of the margin. It is seen in the measurement, as the same shift at every width.

Assumptions: erf units, NTK parametrisation, no biases, inputs on a circle in three dimensions with |x|² = d, few
training points. The last layer is trained behind two hidden layers; Langevin dynamics runs with one, which at width
4096 has 3·10⁴ parameters in place of 2·10⁷.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import Network, Params, init_members, network
from experiments.rival_directions import compare_moments
from experiments.training import Langevin, Momentum, Outputs, SquaredError, members
from experiments.verdict import Verdict, decide, identity
from theory.architecture import MLP
from theory.kernels import nngp, nngp_posterior, ntk
from theory.kernels import predict as trained_law
from theory.kernels.langevin import langevin_law

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("last-layer", "langevin")
# Where the posterior and the ensemble of fully trained networks differ by a fifth and more of both moments.
DEEP = MLP(2, "erf", weight_variance=12.0)
SHALLOW = MLP(1, "erf", weight_variance=2.5)
MOMENTS = ("mean", "covariance")
CLOSE = 0.05
MOMENTUM = 0.9
# The largest residual, relative to the targets, with which the last layer counts as trained to the end.
TRAINED = 1e-3


@dataclass(frozen=True)
class Config:
    """Task and sizes.

    Attributes:
        train, test: numbers of points on a circle.
        widths: n of the hidden layers.
        networks: hidden layers drawn at each width for the training of the last layer.
        heads: last layers trained on each of them, for every target and sign.
        steps, rate: of gradient descent on the last layer.
        chains: of Langevin dynamics at each width.
        temperature, step_size: T and η of Langevin dynamics.
        burn_in: its steps before the first record.
        spacing, records: steps between records, and their number.
        units: means over networks or chains kept from each width; they carry the standard errors.
    """

    train: int
    test: int
    widths: tuple[int, ...]
    networks: tuple[int, ...]
    heads: int
    steps: int
    rate: float
    chains: tuple[int, ...]
    temperature: float
    step_size: float
    burn_in: int
    spacing: int
    records: int
    units: int = 32


SMOKE = Config(
    6,
    6,
    widths=(64, 256),
    networks=(128, 192),
    heads=8,
    steps=500,
    rate=0.025,
    chains=(64, 64),
    temperature=0.3,
    step_size=0.06,
    burn_in=100,
    spacing=20,
    records=20,
)
PAPER = Config(
    6,
    6,
    widths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    networks=(1024, 1024, 512, 256, 128, 64, 32, 32),
    heads=8,
    steps=2000,
    rate=0.025,
    chains=(2048, 1024, 512, 256, 128, 64, 32, 32),
    temperature=0.3,
    step_size=0.06,
    burn_in=100,
    spacing=20,
    records=50,
)


def task(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uneven training points on a circle of latitude, |x|² = 3, with four targets each, and even test points.

    The constant third coordinate does the work of biases: without it erf networks are odd functions.
    """
    count = np.arange(config.train)
    angles = 2 * np.pi * (count + 0.3 * np.sin(5.0 * count)) / (config.train + 1.2)
    even = 2 * np.pi * (np.arange(config.test) + 0.5) / config.test
    targets = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles), np.cos(2 * angles), np.sin(2 * angles)], axis=-1)
    flat, height = np.sqrt(3 * 0.6), np.sqrt(3 * 0.4)
    x = [np.stack([flat * np.cos(a), flat * np.sin(a), np.full_like(a, height)], axis=-1) for a in (angles, even)]
    return x[0], targets, x[1]


def assumptions(config: Config) -> list[Assumption]:
    """The last layer's training ends, and Langevin dynamics is close to its stationary law."""
    eigenvalues = np.linalg.eigvalsh(np.asarray(nngp(DEEP, task(config)[0])))
    left = float(1 - config.rate * eigenvalues[0]) ** config.steps
    # erf is below 1, so that no width has an eigenvalue of the last layer's kernel above σ_w² · train.
    limit = 2 / (config.train * float(np.asarray(DEEP.weight_variance)))
    bias = _langevin_bias(config)
    return [
        Assumption("the last layer's rate is stable at every width", config.rate < limit, f"limit {limit:.3f}"),
        Assumption("the last layer's training ends", left < 0.1 * TRAINED, f"{left:.1e} of the residual is left"),
        Assumption(
            "start and step size of Langevin dynamics move no functional by a tenth of the margin",
            bias < 0.05,
            f"{bias:.3f} of the distance to a rival, at infinite width",
        ),
    ]


def recorded(config: Config) -> np.ndarray:
    """Steps of Langevin dynamics at which outputs are kept, each followed by the next step: (records, 2)."""
    first = config.burn_in + config.spacing * np.arange(config.records)
    return np.stack([first, first + 1], axis=-1)


def _langevin_bias(config: Config) -> float:
    prediction = predict(config).sel(part="langevin")
    x_train, y, x_test = task(config)
    law = langevin_law(
        SHALLOW,
        x_train,
        y,
        x_test,
        temperature=config.temperature,
        learning_rate=config.step_size,
        steps=recorded(config)[:, 0],
        midpoint=True,
    )
    found = np.asarray(law.mean).mean(axis=0), np.asarray(law.covariance).mean(axis=0)
    biases = [
        prediction[f"{name}_direction"].values.reshape(len(DIRECTIONS), -1) @ moment.ravel()
        - prediction[f"{name}_value"].values
        for name, moment in zip(MOMENTS, found, strict=True)
    ]
    return float(np.abs(biases).max())


Law = tuple[Float[np.ndarray, "test output"], Float[np.ndarray, "test test"]]


def _posterior(config: Config, part: str, noise: float) -> Law:
    law = nngp_posterior(DEEP if part == "last-layer" else SHALLOW, *task(config), noise=noise)
    return np.asarray(law.mean), np.asarray(law.covariance)


def _truth(config: Config, part: str) -> Law:
    return _posterior(config, part, 0.0 if part == "last-layer" else config.temperature)


def _ensemble(config: Config, part: str) -> Law:
    law = trained_law(DEEP if part == "last-layer" else SHALLOW, *task(config), time=jnp.inf)
    return np.asarray(law.mean), np.asarray(law.covariance)


def _other_noise(config: Config, part: str) -> Law:
    return _posterior(config, part, config.temperature if part == "last-layer" else 0.0)


def _half_noise(config: Config, part: str) -> Law:
    return _truth(config, part) if part == "last-layer" else _posterior(config, part, config.temperature / 2)


def _tangent(config: Config, part: str) -> Law:
    if part == "last-layer":
        return _truth(config, part)
    x_train, y, x_test = task(config)
    theta, star, test = (np.asarray(ntk(SHALLOW, *pair)) for pair in ((x_train,), (x_test, x_train), (x_test,)))
    solved = np.linalg.solve(theta + config.temperature * np.eye(len(theta)), np.concatenate([y, star.T], axis=1))
    return star @ solved[:, : y.shape[1]], test - star @ solved[:, y.shape[1] :]


DIRECTIONS = {
    "ntk-ensemble": _ensemble,
    "other-noise": _other_noise,
    "half-noise": _half_noise,
    "tangent-posterior": _tangent,
}


def predict(config: Config) -> xr.Dataset:
    """The posteriors, the rivals' directions, and the values of both moments along them."""
    return _prediction(config, _truth)


def ntk_ensemble(config: Config) -> xr.Dataset:
    """Rival: both trainings end in the law of networks trained by gradient flow in all layers."""
    return _prediction(config, _ensemble)


def other_noise(config: Config) -> xr.Dataset:
    """Rival: noise T where the last layer is trained, none in Langevin dynamics."""
    return _prediction(config, _other_noise)


def half_noise(config: Config) -> xr.Dataset:
    """Rival: noise T/2 in Langevin dynamics, as if its noise were √(ηT) or the loss Σ (f − y)²."""
    return _prediction(config, _half_noise)


def tangent_posterior(config: Config) -> xr.Dataset:
    """Rival: all layers move in Langevin dynamics, so that the process has the covariance Θ, the tangent kernel."""
    return _prediction(config, _tangent)


def _prediction(config: Config, given: Callable[[Config, str], Law]) -> xr.Dataset:
    data: dict[str, list] = {f"{name}_{what}": [] for name in MOMENTS for what in ("direction", "value")}
    for part in PARTS:
        truth = _truth(config, part)
        law = given(config, part)
        others = [direction(config, part) for direction in DIRECTIONS.values()]
        size = len(truth[1])
        weight = np.linalg.inv(truth[1] + 0.1 * np.trace(truth[1]) / size * np.eye(size))
        for i, name in enumerate(MOMENTS):
            difference = np.stack([other[i] for other in others]) - truth[i]
            unit = weight @ difference @ (weight if name == "covariance" else np.eye(truth[0].shape[1]))
            near = np.linalg.norm(difference, axis=(1, 2)) < CLOSE * np.linalg.norm(truth[i])
            scale = np.where(near, np.inf, np.sum(unit * difference, axis=(1, 2)))
            # A rival that shares this moment has no direction: all of its entries are 0, and it is not compared.
            unit = unit / scale[:, None, None]
            data[f"{name}_direction"].append(unit)
            data[f"{name}_value"].append(np.einsum("rij,ij->r", unit, law[i]))
    axes = {"mean": ("test", "output"), "covariance": ("test", "test2")}
    dataset = {}
    for name in MOMENTS:
        dims = ("part", "rival")
        dataset[f"{name}_direction"] = ((*dims, *axes[name]), np.stack(data[f"{name}_direction"]))
        dataset[f"{name}_value"] = (dims, np.stack(data[f"{name}_value"]))
    return xr.Dataset(dataset | {"margin": 0.5}, coords={"part": list(PARTS), "rival": list(DIRECTIONS)})


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Both trainings at each width."""
    return [{"part": part, "width": width} for part in PARTS for width in config.widths]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Outputs of float32 networks on the test points: their mean and second moment in each unit."""
    width = int(cell["width"])
    if cell["part"] == "last-layer":
        outputs, residual = last_layer(config, width, key)
    else:
        outputs, residual = langevin(config, width, key), np.zeros(config.units)
    # (unit, sample, test, output), in double precision.
    outputs = outputs.astype(np.float64)
    second = np.einsum("usik,usjk->uij", outputs, outputs, optimize=True) / (outputs.shape[1] * outputs.shape[3])
    return xr.Dataset(
        {
            "mean": (("unit", "test", "output"), outputs.mean(axis=1)),
            "second": (("unit", "test", "test2"), second),
            "residual": ("unit", residual),
        }
    )


def last_layer(config: Config, width: int, key: Key[Array, ""]) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (unit, sample, test, output) of networks whose last layer was trained, and each unit's largest residual.

    The second half of the last layers has the weights of the first with the other sign.
    """
    x_train, y, x_test = task(config)
    x, n = np.concatenate([x_train, x_test]).astype(np.float32), len(x_train)
    half = config.heads * y.shape[1]
    net = network(DEEP, width=width, inputs=x.shape[1], outputs=half)
    head = network(MLP(0, "linear", DEEP.weight_variance), width=(), inputs=width, outputs=2 * half)
    targets = np.tile(y, (1, 2 * config.heads)).astype(np.float32)
    count = config.networks[config.widths.index(width)] // config.units
    outputs, residual = [], []
    for unit in range(config.units):
        params = init_members(net, jax.random.fold_in(key, unit), count)
        features = _features(net, params, x)
        start = jax.tree.map(lambda leaf: jnp.concatenate([leaf, -leaf], axis=-1), params[-1:])
        found = members(
            SquaredError(head),
            start,
            (features[:, :n], np.broadcast_to(targets, (count, *targets.shape))),
            method=Momentum(config.rate, MOMENTUM),
            records=[config.steps],
            record=Outputs(head),
            probe=features,
            per_member=("data", "probe"),
        ).values[:, 0]
        residual.append(np.abs(found[:, :n] - targets).max() / np.abs(y).max())
        split = found[:, n:].reshape(count, len(x_test), 2 * config.heads, y.shape[1])
        outputs.append(np.moveaxis(split, 2, 1).reshape(-1, len(x_test), y.shape[1]))
    return np.stack(outputs), np.array(residual)


@partial(jax.jit, static_argnums=0)
def _features(net: Network, params: Params, x: Float[Array, "m d"]) -> Float[Array, "members m n"]:
    """Activations of the last hidden layer."""
    return jax.lax.map(lambda member: net.activation(net.preactivations(member, x)[-2]), params)


def langevin(config: Config, width: int, key: Key[Array, ""]) -> np.ndarray:
    """Outputs (unit, sample, test, output), each the mean over two consecutive steps of Langevin dynamics."""
    x_train, y, x_test = task(config)
    net = network(SHALLOW, width=width, inputs=x_train.shape[1], outputs=y.shape[1])
    start, walk = jax.random.split(key)
    chains = config.chains[config.widths.index(width)]
    found = members(
        SquaredError(net),
        init_members(net, start, chains),
        (x_train.astype(np.float32), y.astype(np.float32)),
        method=Langevin(config.step_size, config.temperature),
        records=recorded(config).ravel(),
        record=Outputs(net),
        probe=x_test.astype(np.float32),
        key=walk,
    ).values
    pairs = found.reshape(config.units, -1, 2, *found.shape[2:])
    return pairs.mean(axis=2)


Moment = tuple[Float[np.ndarray, "part rival width"], Float[np.ndarray, "part rival width"]]


def functionals(prediction: xr.Dataset, measurement: xr.Dataset) -> dict[str, Moment]:
    """⟨mean, u⟩ and ⟨covariance, u⟩ along every rival's direction, with standard errors over units."""
    order = ("part", "width", "unit", "test")
    mean = measurement["mean"].transpose(*order, "output").values
    second = measurement["second"].transpose(*order, "test2").values
    units, outputs = mean.shape[2], mean.shape[4]
    centre = mean.mean(axis=2, keepdims=True)
    away = mean - centre
    # About the mean of all units, plus that mean's own variance, which the centring takes away.
    shift = np.einsum("pwuik,pwujk->pwuij", away, away, optimize=True) / (units - 1)
    cross = np.einsum("pwuik,pwujk->pwuij", np.broadcast_to(centre, mean.shape), 0.5 * centre - mean, optimize=True)
    centred = second + (cross + np.swapaxes(cross, -1, -2) + shift) / outputs
    along, across = (prediction[f"{name}_direction"].values for name in MOMENTS)
    both = np.einsum("pwuik,prik->prwu", mean, along), np.einsum("pwuij,prij->prwu", centred, across)
    return {
        name: (values.mean(axis=-1), values.std(axis=-1, ddof=1) / np.sqrt(units))
        for name, values in zip(MOMENTS, both, strict=True)
    }


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Both moments along every rival's direction, at infinite width; and that the last layer was trained to the end."""
    widths, units = measurement["width"].values, measurement.sizes["unit"]
    residual = float(measurement["residual"].max())
    comparisons = identity("largest residual of the last layer", residual, 0.0, tolerance=TRAINED)
    rivals = prediction["rival"].values
    comparisons += compare_moments(
        prediction,
        widths,
        functionals(prediction, measurement),
        units,
        lambda moment, part, rival: f"{PARTS[part]}: {moment} towards {rivals[rival]}",
    )
    return decide(comparisons, margin_source="half the distance to the rival in whose direction the law is measured")


def draw(figure: Figure, evidence: Evidence) -> None:
    """From the law (0) towards each rival (1) against width: one panel for each training."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    widths = measurement["width"].values.astype(float)
    found = functionals(prediction, measurement)
    handles: dict[str, Any] = {}
    for p, (axis, part) in enumerate(zip(figure.subplots(1, 2, sharey=True), PARTS, strict=True)):
        shift = 1.0
        for i, name in enumerate(MOMENTS):
            values, errors = found[name]
            for r, rival in enumerate(prediction["rival"].values):
                if not prediction[f"{name}_direction"].values[p, r].any():
                    continue
                handles[f"{name}: {rival}"] = axis.errorbar(
                    shift * widths,
                    values[p, r] - prediction[f"{name}_value"].values[p, r],
                    2.576 * errors[p, r],
                    fmt=MARKERS[i],
                    color=COLOURS[r],
                )
                shift *= 1.06
        axis.axhline(0, color="black", linewidth=1)
        axis.axhline(1, color="black", linewidth=1, linestyle=":")
        axis.set(xscale="log", xlabel="width $n$", title=part.replace("-", " ").replace("langevin", "Langevin"))
        axis.set_xticks(widths, [f"{width:.0f}" for width in widths], rotation=45 if len(widths) > 5 else 0)
        axis.minorticks_off()
        if p == 0:
            axis.set_ylabel("from the law (0) to the rival (1)")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)


claim = Claim(
    id="ntk/nngp-posterior",
    kind="limit",
    expected="supported",
    sources=("lee2018deep", "matthews2018gaussian", "lee2019wide", "welling2011bayesian"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("ntk-ensemble", "both follow the law of networks trained in all layers to t = ∞", predict=ntk_ensemble),
        Rival("other-noise", "noise T after training the last layer, none in Langevin dynamics", predict=other_noise),
        Rival("half-noise", "Langevin dynamics at temperature T has noise T/2", predict=half_noise),
        Rival(
            "tangent-posterior",
            "all layers move in Langevin dynamics: the posterior is that of a process with covariance Θ",
            predict=tangent_posterior,
        ),
    ),
)
