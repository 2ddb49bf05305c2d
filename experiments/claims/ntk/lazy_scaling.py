"""The distance between the trained model α (f − f_0), f_0 = f at the start, and its linearisation falls as 1/α for
gradient descent with step η/α², and as α^-2 if f is a doubled network of smooth units, (g(θ_1) − g(θ_2))/√2 with
θ_1 = θ_2 at the start. The coefficients are those of the expansion of training in 1/α. Without f_0 taken off, α f does
not become lazy: the distance grows as α.

Source: Chizat, Oyallon & Bach 2019, Theorem 2.2, which bounds the distance by O(1/α). Derived in `experiments.lazy`:
with θ = θ_0 + u/α the outputs F_α are smooth in ε = 1/α at ε = 0 too, F_α = F_0 + F_1/α + F_2/α² + …, F_0 the
linearisation; F_1 is driven by ∇Θ·u_0, the first change of the tangent kernel. The model −α f is fitted by doubled
networks with θ_1 and θ_2 swapped, by the same outputs: F_α is even in α, and F_1 vanishes with all odd terms. The raw
model α f moves as f itself does under targets y/α: in units of α the distance tends to that for targets 0.

All this holds for gradient descent at any fixed η below the critical one, step by step, hence for its limit, the flow:
both sides take the same steps, and integration adds no error. Distances are the largest over steps and test images, at
fixed widths. Also tested: the distance left after F_1/α (for doubled networks F_2/α²) falls with the next order, α^-2
(α^-4), which it does for the right coefficient only. They are each network's own, from derivatives at its start;
theory predicts how they are made, not their size.

Margin: 0.25, below half of the distance between neighbouring exponents, 1. Each network's exponent is fitted with the
next term, 1/α or 1/α²; those after it pull it by hundredths.

Assumptions: squared error, full-batch descent, smooth units (erf), float64: distances are rounded at about 1e-15 α, a
twenty-fifth of the smallest one and less. With kinks, as in ReLU, F_α is not smooth in 1/α.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.lazy import Combination, Expansion, Model, lazy_expansion, scaled_descent
from experiments.linearisation import linearised_descent, tangent_kernel
from experiments.networks import Network, Params, init_members, network
from experiments.ten_digits import CLASSES, ten_digits
from experiments.verdict import Verdict, decide, equivalence
from experiments.verdict.rates import fit_exponent
from theory.architecture import MLP
from theory.kernels import ntk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARCHITECTURE = MLP(2, "erf", weight_variance=1.0, bias_variance=0.1)
# Factors of g(θ_1) and g(θ_2), and whether the outputs at the start are taken off.
MODELS = {"centred": (1.0, 0.0, 1.0), "doubled": (0.5**0.5, -(0.5**0.5), 1.0), "raw": (1.0, 0.0, 0.0)}
NAMES = {
    "centred": "distance of α (f − f_0)",
    "centred-left": "what the first term leaves of it",
    "doubled": "distance of the doubled network",
    "doubled-left": "what the second term leaves of it",
    "raw": "distance of α f",
}
# The first correction is relatively α^-r.
CORRECTIONS = {"centred": 1.0, "centred-left": 1.0, "doubled": 2.0, "doubled-left": 2.0, "raw": 1.0}
EXPONENTS = {"centred": 1.0, "centred-left": 2.0, "doubled": 2.0, "doubled-left": 4.0, "raw": -1.0}
EXPANSION, CURVATURE = 0, 1


@dataclass(frozen=True)
class Config:
    """Data and sizes.

    Attributes:
        dataset: name of a set of images of ten digits.
        train, test: number of images of each digit.
        widths: n of both hidden layers.
        members: networks at each width, shared out evenly among the batches.
        batches: cells at each width.
        alphas: α.
        steps: of gradient descent.
        learning_rate: η, about half of 1/λ_max of the limiting kernel. A number, because a measurement that took it
            from the predicted kernel would not be independent of the prediction.
    """

    dataset: str
    train: int
    test: int
    widths: tuple[int, ...]
    members: int
    batches: int
    alphas: tuple[float, ...]
    steps: int
    learning_rate: float


ALPHAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
SMOKE = Config("digits", 1, 1, (32,), members=16, batches=1, alphas=ALPHAS, steps=12, learning_rate=0.15)
PAPER = Config("mnist", 2, 1, (32, 128), members=32, batches=8, alphas=ALPHAS, steps=32, learning_rate=0.08)


def datasets(config: Config) -> tuple[str, ...]:
    """Sets that `measure` reads."""
    return (config.dataset,)


def assumptions(config: Config) -> list[Assumption]:
    """Double precision, a stable step, and that the training is worth the name."""
    x, y = ten_digits(config.dataset, config.train, config.test)
    eigenvalues, vectors = np.linalg.eigh(np.asarray(ntk(ARCHITECTURE, x[: len(y)])))
    high, rate, real = float(eigenvalues[-1]), config.learning_rate, jnp.zeros(()).dtype
    left = (1 - rate * eigenvalues)[:, None] ** config.steps * (vectors.T @ y)
    residual = float(np.linalg.norm(left) / np.linalg.norm(y))
    return [
        Assumption("numbers have 64 bits", real == np.float64, str(real)),
        Assumption("the learning rate is below the critical one", rate < 2 / high, f"{rate:.3g} of {2 / high:.3g}"),
        Assumption("training removes half of the targets' residual", residual < 0.5, f"{residual:.2f} of it is left"),
    ]


def predict(config: Config) -> xr.Dataset:
    """The exponents p of α^-p with their margin, and which coefficient is the first one."""
    return _prediction()


def _prediction(law: int = EXPANSION, **others: float) -> xr.Dataset:
    exponents = EXPONENTS | {name.replace("_", "-"): value for name, value in others.items()}
    return xr.Dataset(
        {"exponent": ("quantity", list(exponents.values())), "margin": ((), 0.25), "law": ((), law)},
        coords={"quantity": list(exponents)},
    )


def no_laziness(config: Config) -> xr.Dataset:
    """Rival: the scale of the output changes nothing."""
    return _prediction(centred=0.0, doubled=0.0, raw=0.0)


def doubling_is_idle(config: Config) -> xr.Dataset:
    """Rival: doubled networks become lazy no faster than others."""
    return _prediction(doubled=1.0)


def quadratic_everywhere(config: Config) -> xr.Dataset:
    """Rival: α^-2 in general, as if F_1 always vanished."""
    return _prediction(centred=2.0)


def raw_is_lazy(config: Config) -> xr.Dataset:
    """Rival: it makes no difference whether f_0 is taken off."""
    return _prediction(raw=1.0)


def curvature_only(config: Config) -> xr.Dataset:
    """Rival: the first coefficient is ½ ∂²f[u_0, u_0], the curvature of f along the linearised path."""
    return _prediction(CURVATURE)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members at each width."""
    return [{"width": width, "batch": batch} for width in config.widths for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Trains each network in all three models at every α; largest distances from its linearisation.

    "distance" holds those of `NAMES` and, for the rival, what the curvature leaves; "size" the largest |F_1| of the
    centred and |F_2| of the doubled model.
    """
    x, y = ten_digits(config.dataset, config.train, config.test)
    rate, steps, n = config.learning_rate, config.steps, len(y)
    net = network(ARCHITECTURE, width=int(cell["width"]), inputs=x.shape[1], outputs=CLASSES)
    params = init_members(net, key, config.members // config.batches, np.float64)
    factors, centred = np.array([m[:2] for m in MODELS.values()]), np.array([m[2] for m in MODELS.values()])
    f, alphas = Combination(net), np.array(config.alphas)
    # A small network is several at a time to a processor.
    together = len(alphas) if net.parameters < 2**14 else None
    # Member, model, α, step, input, output.
    found = np.asarray(_train(f, steps, together, params, x, y, rate, alphas, factors, centred))
    terms, curvature = (np.asarray(a) for a in _expand(f, steps, params, x, y, rate, factors[:2]))
    # The factors' squares add up to 1 in all models, so that their kernels at the start are one.
    kernel = np.asarray(_tangent_kernels(net, n, params, x))[:, None, None]
    linear = linearised_descent(kernel, found[:, :, :, 0], y, rate, range(steps + 1))
    gap, scale = found - linear, alphas[:, None, None, None]
    first, second = terms[:, 0, 1], terms[:, 1, 2]
    every = {
        "centred": gap[:, 0],
        "centred-left": gap[:, 0] - first[:, None] / scale,
        "doubled": gap[:, 1],
        "doubled-left": gap[:, 1] - (terms[:, 1, 1][:, None] + second[:, None] / scale) / scale,
        "raw": gap[:, 2],
        "centred-left-by-curvature": gap[:, 0] - curvature[:, 0][:, None] / scale,
    }
    sizes = {"centred": first, "doubled": second}
    return xr.Dataset(
        {
            "distance": (("kind", "member", "alpha"), np.stack([largest(a[..., n:, :]) for a in every.values()])),
            "size": (("model", "member"), np.stack([largest(a[..., n:, :]) for a in sizes.values()])),
        },
        coords={"kind": list(every), "model": list(sizes), "alpha": alphas},
    )


def largest(difference: Float[np.ndarray, "*lead record m k"]) -> Float[np.ndarray, "*lead"]:
    """The largest Euclidean length of the outputs over records and inputs."""
    return np.linalg.norm(difference, axis=-1).max(axis=(-2, -1))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train(
    f: Combination,
    steps: int,
    together: int | None,
    params: Params,
    x: Array,
    y: Array,
    rate: Array,
    alphas: Array,
    factors: Array,
    centred: Array,
) -> Float[Array, "member model alpha record m k"]:
    """F of every member in every model at every α; all models are one program."""

    def run(case: tuple[Array, ...]) -> Array:
        member, model, alpha = case
        start, inputs = _both(params, member), (factors[model], x)
        offset = centred[model] * f(start, inputs)
        return scaled_descent(f, steps, start, inputs, y, rate, alphas[alpha], offset)

    shape = (len(jax.tree.leaves(params)[0]), len(centred), len(alphas))
    runs = jax.lax.map(run, tuple(i.ravel() for i in jnp.indices(shape)), batch_size=together)
    return runs.reshape(*shape, *runs.shape[1:])


@partial(jax.jit, static_argnums=(0, 1))
def _expand(f: Model, steps: int, params: Params, x: Array, y: Array, rate: Array, factors: Array) -> Expansion:
    """The terms for every member in both centred models."""

    def run(case: tuple[Array, ...]) -> Expansion:
        member, model = case
        return lazy_expansion(f, steps, _both(params, member), (factors[model], x), y, rate)

    shape = (len(jax.tree.leaves(params)[0]), len(factors))
    runs = jax.lax.map(run, tuple(i.ravel() for i in jnp.indices(shape)))
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), runs)


def _both(params: Params, member: Any) -> Params:
    """One member's parameters twice, along a leading axis."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf[member]] * 2), params)


@partial(jax.jit, static_argnums=(0, 1))
def _tangent_kernels(net: Network, rows: int, params: Params, x: Array) -> Array:
    """Each member's tangent kernel at the start, between all inputs and the training inputs."""
    return jax.lax.map(lambda member: tangent_kernel(net, member, x, rows), params)


def exponents(
    distance: Float[np.ndarray, "*lead alpha"], alphas: np.ndarray, correction: float
) -> Float[np.ndarray, "*lead"]:
    """Each network's own p in A α^-p (1 + B α^-r): one network's distances vary smoothly in α, without noise."""
    # Equal relative weights; their size does not matter for the estimate.
    return np.asarray(fit_exponent(alphas, distance, 1e-3 * distance, correction=correction).estimate)


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The mean exponent over networks of every distance at every width."""
    kinds, comparisons = list(measurement["kind"].values), []
    for quantity in prediction["quantity"].values:
        kind = quantity
        if quantity == "centred-left" and int(prediction["law"]) == CURVATURE:
            kind = "centred-left-by-curvature"
        distance = measurement["distance"].transpose("kind", "width", "batch", "member", "alpha")
        values = distance.values[kinds.index(kind)]
        found = exponents(values, measurement["alpha"].values, CORRECTIONS[quantity]).reshape(len(values), -1)
        count = found.shape[1]
        comparisons += equivalence(
            [f"{NAMES[quantity]}, width {n}" for n in measurement["width"].values],
            found.mean(axis=1),
            float(prediction["exponent"].sel(quantity=quantity)),
            float(prediction["margin"]),
            standard_error=found.std(axis=1, ddof=1) / np.sqrt(count),
            sample_size=count,
            dof=count - 1,
        )
    return decide(comparisons, margin_source="below half the distance between neighbouring exponents, 1")


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: distances against α, with their terms as lines. Right: what the terms leave, with the slopes."""
    from experiments.report.style import COLOURS, MARKERS

    measurement, alphas = evidence.measurement, evidence.measurement["alpha"].values
    distance = measurement["distance"].isel(width=-1).transpose("kind", "batch", "member", "alpha")
    size = measurement["size"].isel(width=-1).transpose("model", "batch", "member")
    smooth = np.geomspace(alphas[0], alphas[-1], 50)
    left, right = figure.subplots(1, 2)

    def points(axes: Any, kind: str, i: int, label: str) -> np.ndarray:
        values = distance.sel(kind=kind).values.reshape(-1, len(alphas))
        mean, error = values.mean(axis=0), 2.576 * values.std(axis=0, ddof=1) / np.sqrt(len(values))
        axes.errorbar(alphas, mean, error, fmt=MARKERS[i], color=COLOURS[i], label=label)
        return mean

    for i, (kind, label, term) in enumerate(
        (
            ("centred", r"$\alpha(f-f_0)$", r"$|F_1|/\alpha$"),
            ("doubled", "doubled", r"$|F_2|/\alpha^2$"),
        )
    ):
        amplitude, order = float(size.sel(model=kind).mean()), EXPONENTS[kind]
        left.plot(smooth, amplitude * smooth**-order, color=COLOURS[i], linewidth=1, label=f"theory: {term}")
        points(left, kind, i, label)
    raw = points(left, "raw", 2, r"raw, $\alpha f$")
    left.plot(smooth, raw[-1] * smooth / alphas[-1], "--", color=COLOURS[2], linewidth=1, label=r"slope: $\alpha$")
    for i, (kind, label) in enumerate(
        (
            ("centred-left", r"left by $F_1/\alpha$"),
            ("doubled-left", r"left by $F_2/\alpha^2$"),
        )
    ):
        mean, order = points(right, kind, i, label), EXPONENTS[kind]
        line = mean[-1] * (smooth / alphas[-1]) ** -order
        right.plot(smooth, line, "--", color=COLOURS[i], linewidth=1, label=rf"slope: $\alpha^{{-{order:.0f}}}$")
    curvature = points(right, "centred-left-by-curvature", 3, r"left by $\frac{1}{2}\partial^2 f/\alpha$ (rival)")
    right.plot(smooth, curvature[-1] * alphas[-1] / smooth, ":", color=COLOURS[3], linewidth=1)
    for axes, label in ((left, "largest distance to the linearisation"), (right, "what the leading term leaves")):
        axes.set(xscale="log", yscale="log", xlabel=r"scale $\alpha$", ylabel=label)
        axes.set_xscale("log", base=2)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


claim = Claim(
    id="ntk/lazy-scaling",
    kind="limit",
    expected="supported",
    sources=("chizat2019lazy", "huang2020dynamics"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("no-laziness", "the scale of the output changes nothing", predict=no_laziness),
        Rival("doubling-is-idle", "doubled networks become lazy as 1/α, like others", predict=doubling_is_idle),
        Rival("quadratic-everywhere", "the distance falls as α^-2 in general", predict=quadratic_everywhere),
        Rival("raw-is-lazy", "α f becomes lazy too, whether f_0 is taken off or not", predict=raw_is_lazy),
        Rival("curvature-only", "the first term is f's curvature along the linearised path", predict=curvature_only),
    ),
    datasets=datasets,
)
