"""A wide network of smooth units trains like its own linearisation at the start: the largest distance between the two,
over training time and test points, falls as 1/n with the width n, while the distance to the infinite-width prediction
falls only as n^-½.

Source: Lee et al. 2019, Theorem 2.1, which bounds the first distance by O(n^-½). That the rate is 1/n was conjectured
from Feynman diagrams by Dyer & Gur-Ari 2020 and proven for gradient flow by Huang & Yau 2020, whose hierarchy also
gives the change of the kernel, O(1/n); the second distance is the n^-½ by which the kernel at the start fluctuates.

Margin: half the distance to the nearest rival exponent: 1 against ½ (the bound taken as the rate), ½ against 0 and 1.
The fit models the next order, relatively 1/n: fluctuations of order n^-½ have zero mean, and means over networks have
an expansion in 1/n (Dyer & Gur-Ari 2020, section 2). What it leaves out is of order 1/n² more: with |B| = 10 and as
large a next coefficient as B² a fit of exact values is off by 0.04 at the smoke tier and 0.01 at the paper tier.
"Over training time" means over the recorded steps, which double from one to the next.

Assumptions: full-batch gradient descent on ½ Σ|f − y|² below the critical rate, in the NTK parametrisation; erf units;
a positive definite limiting kernel; inputs with |x|² = d. Distances are Euclidean over the outputs. The networks are
float32: their rounding (1e-6) is far below the distances (1e-3 and more at width 4096).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.linearisation import linearised_descent, tangent_kernel
from experiments.networks import Network, Params, init_members, network
from experiments.ten_digits import CLASSES, ten_digits
from experiments.training import GradientDescent, Outputs, SquaredError, members
from experiments.verdict import Verdict, decide, exponent
from theory.architecture import MLP
from theory.kernels import nngp, ntk, response

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# σ_w² = 1 keeps the outputs at the start (variance ½) below the targets' scale; biases are small but there.
ARCHITECTURE = MLP(2, "erf", weight_variance=1.0, bias_variance=0.1)
GAPS = ("linearised", "infinite")


@dataclass(frozen=True)
class Config:
    """Data and sizes.

    Attributes:
        dataset: name of a set of images of ten digits.
        train, test: number of images of each digit.
        widths: n of both hidden layers.
        members: networks at each width, shared out evenly among the batches.
        batches: cells at each width.
        steps: of gradient descent, at which outputs are compared.
        learning_rate: about half of 1/λ_max of the limiting kernel, so that narrow networks, whose kernels scatter
            by tens of percent, stay below their own limit of 2/λ_max as well. A number, because a measurement that
            took it from the predicted kernel would not be independent of the prediction.
    """

    dataset: str
    train: int
    test: int
    widths: tuple[int, ...]
    members: int
    batches: int
    steps: tuple[int, ...]
    learning_rate: float


SMOKE = Config(
    "digits", 1, 1, widths=(24, 48, 128, 320), members=352, batches=1, steps=(1, 2, 4, 8, 16), learning_rate=0.15
)
PAPER = Config(
    "mnist",
    2,
    1,
    widths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    members=32,
    batches=8,
    steps=(1, 2, 4, 8, 16, 32),
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
    """The conditions of the theorem, and that the training is worth the name."""
    x_train, y, _ = task(config)
    eigenvalues, vectors = np.linalg.eigh(np.asarray(ntk(ARCHITECTURE, x_train)))
    low, high = float(eigenvalues[0]), float(eigenvalues[-1])
    rate = config.learning_rate
    left = (1 - rate * eigenvalues)[:, None] ** config.steps[-1] * (vectors.T @ y)
    residual = float(np.linalg.norm(left) / np.linalg.norm(y))
    return [
        Assumption("the limiting kernel is positive definite", low > 1e-6 * high, f"λ from {low:.3g} to {high:.3g}"),
        Assumption(
            "the learning rate is below the critical one",
            rate < 2 / (low + high),
            f"{rate:.3g} of {2 / (low + high):.3g}",
        ),
        Assumption("training removes half of the targets' residual", residual < 0.5, f"{residual:.2f} of it is left"),
    ]


def predict(config: Config) -> xr.Dataset:
    """Exponents with margins, and the linear map A_t of the infinite network: f_t(x*) = f_0(x*) + A_t (y − f_0(X))."""
    x_train, y, x_test = task(config)
    steps = np.array(config.steps)
    a = response(ARCHITECTURE, x_train, x_test, time=steps, learning_rate=config.learning_rate)
    return _prediction(config, np.asarray(a), y, linearised=1.0, infinite=0.5)


def _prediction(config: Config, a: np.ndarray, y: np.ndarray, *, linearised: float, infinite: float) -> xr.Dataset:
    return xr.Dataset(
        {
            "response": (("step", "test", "train"), a),
            "target": (("train", "output"), y),
            "exponent": ("gap", [linearised, infinite]),
            "margin": ("gap", [0.25, 0.25]),
        },
        coords={"step": list(config.steps)},
    )


def bound_as_rate(config: Config) -> xr.Dataset:
    """Rival: the theorem's bound n^-½ is the rate."""
    return predict(config).assign(exponent=("gap", [0.5, 0.5]))


def no_decay(config: Config) -> xr.Dataset:
    """Rival: finite networks keep learning features at any width."""
    return predict(config).assign(exponent=("gap", [0.0, 0.0]))


def both_fast(config: Config) -> xr.Dataset:
    """Rival: the infinite-width prediction is approached as fast as the network's own linearisation."""
    return predict(config).assign(exponent=("gap", [1.0, 1.0]))


def last_layer_only(config: Config) -> xr.Dataset:
    """Rival: only the last layer learns, so that the kernel of the dynamics is the NNGP's."""
    x_train, y, x_test = task(config)
    eigenvalues, vectors = np.linalg.eigh(np.asarray(nngp(ARCHITECTURE, x_train)))
    star = np.asarray(nngp(ARCHITECTURE, x_test, x_train)) @ vectors
    decay = (1 - config.learning_rate * eigenvalues) ** np.array(config.steps)[:, None]
    a = (star * ((1 - decay) / eigenvalues)[:, None]) @ vectors.T
    return _prediction(config, a, y, linearised=1.0, infinite=0.5)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members at each width."""
    return [{"width": width, "batch": batch} for width in config.widths for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Trains a batch of networks; keeps their outputs, and their distance to their own linearisations."""
    x_train, y, x_test = task(config)
    x = np.concatenate([x_train, x_test]).astype(np.float32)
    rate, n = config.learning_rate, len(x_train)
    net = network(ARCHITECTURE, width=int(cell["width"]), inputs=x.shape[1], outputs=CLASSES)
    params = init_members(net, key, config.members // config.batches)
    kernel = _tangent_kernels(net, n, params, x)
    outputs = members(
        SquaredError(net),
        params,
        (x[:n], y.astype(np.float32)),
        method=GradientDescent(rate),
        records=(0, *config.steps),
        record=Outputs(net),
        probe=x,
    ).values
    start, trained = outputs[:, 0], outputs[:, 1:, n:]
    # In float64: the recursion must not add rounding of its own to a difference of 1/n.
    linear = linearised_descent(np.asarray(kernel, np.float64), start.astype(np.float64), y, rate, config.steps)
    gap = np.linalg.norm(trained - linear[:, :, n:], axis=-1).max(axis=2)
    return xr.Dataset(
        {
            "gap": (("member", "step"), gap.astype(np.float32)),
            "start": (("member", "input", "output"), start),
            "outputs": (("member", "step", "test", "output"), trained),
        }
    )


@partial(jax.jit, static_argnums=(0, 1))
def _tangent_kernels(net: Network, rows: int, params: Params, x: Float[Array, "m d"]) -> Array:
    """Each member's tangent kernel at the start, between all inputs and the training inputs."""
    return jax.lax.map(lambda member: tangent_kernel(net, member, x, rows), params)


def gaps(prediction: xr.Dataset, measurement: xr.Dataset) -> Float[np.ndarray, "gap width member step"]:
    """Both distances, largest over test points, for each member and step."""
    order = ("width", "batch", "member")
    f = measurement["outputs"].transpose(*order, "step", "test", "output").values.astype(np.float64)
    start = measurement["start"].transpose(*order, "input", "output").values.astype(np.float64)
    y, a = prediction["target"].values, prediction["response"].values
    n = len(y)
    infinite = start[..., None, n:, :] + np.einsum("tmn,wbank->wbatmk", a, y - start[..., :n, :])
    to_infinite = np.linalg.norm(f - infinite, axis=-1).max(axis=-1)
    both = np.stack([measurement["gap"].transpose(*order, "step").values, to_infinite])
    return both.reshape(*both.shape[:2], -1, both.shape[-1])


def suprema(prediction: xr.Dataset, measurement: xr.Dataset) -> tuple[np.ndarray, np.ndarray, int]:
    """Means over members of the largest distance, (gap, width), their standard errors, and the number of members."""
    largest = gaps(prediction, measurement).max(axis=-1)
    count = largest.shape[-1]
    return largest.mean(-1), largest.std(-1, ddof=1) / np.sqrt(count), count


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Both exponents, with the next order in the fit."""
    widths = measurement["width"].values
    mean, error, count = suprema(prediction, measurement)
    comparisons = [
        comparison
        for i, name in enumerate(GAPS)
        for comparison in exponent(
            f"exponent of the distance to the {name} network",
            widths,
            mean[i],
            error[i],
            prediction=float(prediction["exponent"][i]),
            margin=float(prediction["margin"][i]),
            correction=1.0,
            sample_size=count * len(widths),
            dof=count - 1,
        )
    ]
    return decide(comparisons, margin_source="half the distance between the exponents 1, ½ and 0")


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: both distances against width. Right: the first one in time, times n: curves of all widths collapse."""
    from experiments.report.style import COLOURS, MARKERS
    from experiments.verdict.rates import fit_amplitude

    prediction, measurement = evidence.prediction, evidence.measurement
    widths, steps = measurement["width"].values.astype(float), prediction["step"].values
    mean, error, count = suprema(prediction, measurement)
    left, right = figure.subplots(1, 2)
    smooth = np.geomspace(widths[0], widths[-1], 60)
    labels = (("own linearisation", "1/n"), ("infinite width", r"n^{-1/2}"))
    for i, (name, rate) in enumerate(labels):
        p = float(prediction["exponent"][i])
        columns = [smooth**-p, smooth ** -(p + 1)]
        a = float(fit_amplitude(widths, mean[i], error[i], exponent=p, correction=1.0).estimate)
        # The amplitude of the correction is what the fit leaves at the narrowest width.
        b = (mean[i][0] - a * widths[0] ** -p) * widths[0] ** (p + 1)
        left.plot(
            smooth, a * columns[0] + b * columns[1], color=COLOURS[i], linewidth=1, label=f"${rate}$ with next order"
        )
        left.errorbar(widths, mean[i], 2.576 * error[i], fmt=MARKERS[i], color=COLOURS[i], label=f"distance to {name}")
    # The bound taken as the rate, through the narrowest networks.
    left.plot(smooth, mean[0][0] * (smooth / widths[0]) ** -0.5, ":", color=COLOURS[0], linewidth=0.8)
    left.annotate(
        "the bound, $n^{-1/2}$", (smooth[25], mean[0][0] * (smooth[25] / widths[0]) ** -0.5), color=COLOURS[0]
    )
    left.set(xscale="log", yscale="log", xlabel="width $n$", ylabel="largest distance")
    left.set_xticks(widths, [f"{width:.0f}" for width in widths], rotation=45 if len(widths) > 5 else 0)
    left.set_xticks([], minor=True)
    left.legend()
    scaled = gaps(prediction, measurement)[0] * widths[:, None, None]
    # Not so many that colours would repeat.
    shown = np.unique(np.rint(np.linspace(0, len(widths) - 1, 5)).astype(int))
    for colour, marker, i in zip(COLOURS, MARKERS, shown, strict=False):
        right.errorbar(
            steps,
            scaled[i].mean(axis=0),
            2.576 * scaled[i].std(axis=0, ddof=1) / np.sqrt(count),
            marker=marker,
            color=colour,
            linewidth=0.8,
            label=f"{widths[i]:.0f}",
        )
    right.set(xscale="log", xlabel="steps of gradient descent", ylabel=r"$n\,\times$ distance to linearisation")
    right.set_xticks(steps, [str(step) for step in steps])
    right.set_xticks([], minor=True)
    right.legend(title="width")


claim = Claim(
    id="ntk/linearised-dynamics",
    kind="limit",
    expected="supported",
    sources=("lee2019wide", "dyer2020asymptotics", "huang2020dynamics"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival(
            "bound-as-rate", "the distance to the linearisation falls as n^-½, the proven bound", predict=bound_as_rate
        ),
        Rival("no-decay", "neither distance falls: networks learn features at any width", predict=no_decay),
        Rival("both-fast", "the infinite-width prediction is approached as 1/n too", predict=both_fast),
        Rival(
            "last-layer-only", "only the last layer learns: the dynamics' kernel is the NNGP's", predict=last_layer_only
        ),
    ),
    datasets=datasets,
)
