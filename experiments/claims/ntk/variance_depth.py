"""At initialisation the tangent kernel of a bias-free network fluctuates more the deeper it is for its width: with L
weight matrices and width n, E Θ²/(E Θ)² = s^(L−1) [⅓ + ⅔ mean_{ℓ,m} ((1 − 1/n)/s)^|ℓ−m|], where s = 1 + 5/n for ReLU
and 1 + 2/n for linear units, exactly.

Source: derived in `theory.kernels.ntk_fluctuations`. Hanin & Nica 2020, Theorem 1, has e^(5L/n) for ReLU up to
constants; at large depth for its width the law here is a third of that. Each weight matrix contributes T_ℓ = (forward
norm up to ℓ) (backward norm from ℓ), and the law is the mean over ℓ, m of E T_ℓ T_m/(E T_ℓ E T_m) = ⅓ s^(L−1) + ⅔
s^(L−1−|ℓ−m|) (1 − 1/n)^|ℓ−m|. That of the first and last matrix, |ℓ−m| = L − 1, is measured too.

To first order in 1/n the factor of a layer between ℓ and m is 1 + 1/n (ReLU) or 1 (linear). Compounding it layer by
layer seems natural and is wrong: the layers between are dependent, and at fixed L/n the error does not vanish as n
grows. It is a rival here, seen best in the covariance of the first and last matrix.

Margin: an identity has no error of its own, so the margin is half the distance to the nearest rival. A rival within
5 % of the law (for L = 2 the first-order law is exact) is no neighbour there; it has to lose elsewhere: the first-order
law does so in the covariance of the first and last matrix alone, for in Θ itself it is as near as that at every size
measured.

Assumptions: Gaussian weights, no biases, equal widths, one input. Moments of Θ grow as exp(k(k−1) 5L/2n): the ensembles
follow from the exact moments up to the fourth, and end at L/n = ½ because of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import network
from experiments.random_kernels import contributions, total
from experiments.verdict import Verdict, decide, equivalence
from theory.architecture import MLP
from theory.kernels.ntk_fluctuations import ends_plan, layer_second_moment, ntk_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ("relu", "linear")
OTHER = {"relu": "linear", "linear": "relu"}
# Variances that keep E f² from layer to layer; the ratios do not depend on them.
WEIGHT_VARIANCES = {"relu": 2.0, "linear": 1.0}
# To first order in 1/n: what a layer does outside of ℓ … m, and between.
OUTSIDE = {"relu": 5.0, "linear": 2.0}
BETWEEN = {"relu": 1.0, "linear": 0.0}
QUANTITIES = ("all", "ends")
# A rival nearer than this, relative to the law, is no neighbour there.
NEAR = 0.05


@dataclass(frozen=True)
class Config:
    """Sizes of the sweep, one entry a case.

    Attributes:
        widths: n of every hidden layer.
        depths: L, the number of weight matrices.
        members: networks drawn, shared out evenly among the batches.
        ends: whether the covariance of the first and last matrix is judged as well. In wide deep networks it needs more
            members than the whole.
        batches: cells of each case.
        inputs: dimension of the one input x, with |x|²/d = 1; its direction plays no role.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    members: tuple[int, ...]
    ends: tuple[bool, ...]
    batches: int
    inputs: int = 2


SMOKE = Config(
    widths=(8, 8, 16),
    depths=(2, 4, 4),
    members=(24_000, 210_000, 16_000),
    ends=(True, True, False),
    batches=1,
)
# L/n = 1/16, 1/8, 1/4 at two to four widths each, and 1/2 at the narrowest. The tails are heaviest in deep networks,
# and for L = 2 the margin is narrowest.
PAPER = Config(
    widths=(32, 64, 128, 16, 32, 64, 8, 16, 32, 64, 8),
    depths=(2, 4, 8, 2, 4, 8, 2, 4, 8, 16, 4),
    members=(24_000, 10_000, 14_000, 24_000, 10_000, 20_000, 24_000, 260_000, 280_000, 85_000, 220_000),
    ends=(True, False, False, True, False, False, True, True, True, False, True),
    batches=4,
)

STYLES: tuple[Literal["-", ":", "--"], ...] = ("-", ":", "--")

Law = Callable[[str, int, int, int], float]


def exact(activation: str, width: int, depth: int, distance: int) -> float:
    """E T_ℓ T_m/(E T_ℓ E T_m) for matrices |ℓ − m| = distance apart."""
    return layer_second_moment(activation, [width] * (depth - 1), 1, 1 + distance)


def exponential(activation: str, width: int, depth: int, distance: int) -> float:
    """The bound of Hanin & Nica with its constants set to one: exp(5 Σ 1/n) over the hidden layers."""
    return float(np.exp(OUTSIDE[activation] * (depth - 1) / width))


def first_order(activation: str, width: int, depth: int, distance: int) -> float:
    """Each layer's first order in 1/n, compounded as if the layers between were independent."""
    outside, between = 1 + OUTSIDE[activation] / width, 1 + BETWEEN[activation] / width
    return outside ** (depth - 1 - distance) * between**distance


def independent(activation: str, width: int, depth: int, distance: int) -> float:
    """Contributions of different matrices are independent."""
    return exact(activation, width, depth, 0) if distance == 0 else 1.0


def other_activation(activation: str, width: int, depth: int, distance: int) -> float:
    """Each activation has the law of the other."""
    return exact(OTHER[activation], width, depth, distance)


LAWS: dict[str, Law] = {
    "exponential": exponential,
    "first-order-compounded": first_order,
    "independent-layers": independent,
    "other-activation": other_activation,
}


def ratios(law: Law, activation: str, width: int, depth: int) -> tuple[float, float]:
    """What a law says of the whole and of the ends: its mean over all ℓ, m, and its value at |ℓ − m| = L − 1."""
    values = np.array([law(activation, width, depth, distance) for distance in range(depth)])
    matrices = np.arange(depth)
    return float(np.mean(values[np.abs(matrices[:, None] - matrices)])), float(values[-1])


def _margins(activation: str, width: int, depth: int) -> Float[np.ndarray, " quantity"]:
    """Half the distance to the nearest rival that is no closer than `NEAR`."""
    truth = np.array(ratios(exact, activation, width, depth))
    distances = np.array([np.abs(truth - ratios(law, activation, width, depth)) for law in LAWS.values()])
    return 0.5 * np.where(distances > NEAR * truth, distances, np.inf).min(axis=0)


def _errors(activation: str, width: int, depth: int, members: int) -> tuple[float, float]:
    """Exact standard errors of both ratios; a sample's own scatters by tens of percent with tails this heavy."""
    hidden = [width] * (depth - 1)
    return tuple(plan(activation, hidden).standard_error(members) for plan in (ntk_plan, ends_plan))  # pyright: ignore[reportReturnType] # two


def _tabulate(config: Config, law: Law) -> xr.Dataset:
    cases = list(zip(config.widths, config.depths, config.members, strict=True))
    dims = ("case", "activation", "quantity")
    judged = np.array([[[True, ends]] * len(ACTIVATIONS) for ends in config.ends])
    return xr.Dataset(
        {
            "ratio": (dims, [[ratios(law, a, n, depth) for a in ACTIVATIONS] for n, depth, _ in cases]),
            "margin": (dims, np.array([[_margins(a, n, depth) for a in ACTIVATIONS] for n, depth, _ in cases])),
            "error": (dims, [[_errors(a, n, depth, m) for a in ACTIVATIONS] for n, depth, m in cases]),
            "judged": (dims, judged),
            "width": ("case", list(config.widths)),
            "depth": ("case", list(config.depths)),
        },
        coords={"case": np.arange(len(cases)), "activation": list(ACTIVATIONS), "quantity": list(QUANTITIES)},
    )


def assumptions(config: Config) -> list[Assumption]:
    """The ensemble resolves the nearest rival wherever one is judged."""
    table = predict(config)
    power = (table["margin"] / table["error"]).where(table["judged"])
    case = int(np.argmin(power.min(("activation", "quantity")).values))
    least = float(power.min())
    return [
        Assumption(
            "the margin is at least 12 planned standard errors",
            least >= 12,
            f"least at width {config.widths[case]}, {config.depths[case]} matrices: {least:.1f}",
        )
    ]


def predict(config: Config) -> xr.Dataset:
    """The exact ratios, their margins and the ensemble's exact standard errors."""
    return _tabulate(config, exact)


def predict_exponential(config: Config) -> xr.Dataset:
    return _tabulate(config, exponential)


def predict_first_order(config: Config) -> xr.Dataset:
    return _tabulate(config, first_order)


def predict_independent(config: Config) -> xr.Dataset:
    return _tabulate(config, independent)


def predict_other_activation(config: Config) -> xr.Dataset:
    return _tabulate(config, other_activation)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members of each case."""
    return [{"case": case, "batch": batch} for case in range(len(config.widths)) for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[jax.Array, ""]) -> xr.Dataset:
    """Means over members of Θ, Θ², T_1, T_L, T_1 T_L, for both activations with the same weights."""
    case = int(cell["case"])
    nets = [
        network(MLP(config.depths[case] - 1, a, WEIGHT_VARIANCES[a]), width=config.widths[case], inputs=config.inputs)
        for a in ACTIVATIONS
    ]
    # |x|²/d = 1.
    x = np.ones((1, config.inputs), np.float32)

    def sums(normals: np.ndarray) -> np.ndarray:
        shares = [contributions(net, normals, x)[:, :, 0, 0] for net in nets]
        return np.array(
            [
                [theta.sum(), theta @ theta, first.sum(), last.sum(), first @ last]
                for share in shares
                for theta, first, last in [(share.sum(axis=1), share[:, 0], share[:, -1])]
            ]
        )

    members = -(-config.members[case] // config.batches)
    means = total(sums, nets[0].parameters, members, key) / members
    return xr.Dataset({"moments": (("activation", "moment"), means), "members": ((), members)})


def estimates(measurement: xr.Dataset) -> tuple[Float[np.ndarray, "case activation quantity"], np.ndarray]:
    """Both ratios, and the number of members of each case."""
    moments = measurement["moments"].mean("batch").transpose("case", "activation", "moment").values
    theta, square, first, last, product = np.moveaxis(moments, -1, 0)
    return np.stack([square / theta**2, product / (first * last)], axis=-1), measurement["members"].sum("batch").values


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Equivalence of measured and exact ratio for every case and activation."""
    ratio, members = estimates(measurement)
    widths, depths = prediction["width"].values, prediction["depth"].values
    judged = prediction["judged"].values
    labels = [
        f"{activation}, {'Θ' if quantity == 'all' else 'first and last matrix'}, width {n}, {depth} matrices"
        for n, depth in zip(widths, depths, strict=True)
        for activation in ACTIVATIONS
        for quantity in QUANTITIES
    ]
    comparisons = equivalence(
        [label for label, keep in zip(labels, judged.ravel(), strict=True) if keep],
        ratio[judged],
        prediction["ratio"].values[judged],
        prediction["margin"].values[judged],
        standard_error=prediction["error"].values[judged],
        sample_size=np.broadcast_to(members[:, None, None], judged.shape)[judged],
    )
    return decide(
        comparisons, margin_source="half the distance to the nearest rival no closer than 5 %; the law itself is exact"
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left and middle: the whole against L/n, for each width. Right: first and last matrix, ReLU."""
    from matplotlib.lines import Line2D

    from experiments.report.style import COLOURS, HEIGHT, MARKERS, WIDTH

    figure.set_size_inches(WIDTH, 1.05 * HEIGHT)
    prediction, measurement = evidence.prediction, evidence.measurement
    ratio, _ = estimates(measurement)
    error = prediction["error"].values
    n, depth = prediction["width"].values, prediction["depth"].values
    axes = figure.subplots(1, 3)
    panels = ((0, 0, "ReLU, all matrices"), (1, 0, "linear, all matrices"), (0, 1, "ReLU, first and last"))
    for axis, (a, q, title) in zip(axes, panels, strict=True):
        activation = ACTIVATIONS[a]
        for i, width in enumerate(np.unique(n)):
            here = (n == width) & prediction["judged"].values[:, a, q]
            if not here.any():
                continue
            colour = COLOURS[i % len(COLOURS)]
            deeper = np.arange(2, max(depth[here].max(), 3) + 1)
            for law, style in zip((exact, first_order, exponential), STYLES, strict=True):
                curve = [ratios(law, activation, int(width), int(many))[q] for many in deeper]
                axis.plot(
                    deeper / width, np.array(curve) - 1, style, color=colour, linewidth=0.8 if style == "-" else 0.6
                )
            axis.errorbar(
                depth[here] / width,
                ratio[here, a, q] - 1,
                2.576 * error[here, a, q],
                fmt=MARKERS[i % len(MARKERS)],
                color=colour,
            )
        axis.set(xscale="log", yscale="log", xlabel="$L/n$", title=title)
        # Around the predictions alone.
        seen = prediction["ratio"].values[:, a, q][prediction["judged"].values[:, a, q]] - 1
        axis.set_ylim(0.6 * seen.min(), 3.0 * seen.max())
        axis.set_xticks([1 / 16, 1 / 8, 1 / 4, 1 / 2], ["1/16", "1/8", "1/4", "1/2"])
        axis.minorticks_off()
    axes[0].set_ylabel(r"$E\,\Theta^2/(E\,\Theta)^2 - 1$")
    handles = [
        Line2D([], [], linestyle="none", marker=MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)])
        for i in range(len(np.unique(n)))
    ]
    handles += [Line2D([], [], linestyle=style, color="black", linewidth=0.8) for style in STYLES]
    names = [f"$n={width}$" for width in np.unique(n)]
    names += ["law", "first order, compounded", r"$e^{5(L-1)/n}$ ($e^{2(L-1)/n}$)"]
    figure.legend(handles, names, loc="outside lower center", ncols=4)


claim = Claim(
    id="ntk/variance-depth",
    kind="identity",
    expected="supported",
    sources=("hanin2020finite", "hanin2020products"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("exponential", "E Θ²/(E Θ)² is exp(5(L−1)/n), the bound as an equality", predict=predict_exponential),
        Rival(
            "first-order-compounded",
            "E T_ℓ T_m ∝ (1 + 5/n)^(L−1−|ℓ−m|) (1 + 1/n)^|ℓ−m|: first orders of layers multiply",
            predict=predict_first_order,
        ),
        Rival("independent-layers", "contributions of different matrices are independent", predict=predict_independent),
        Rival("other-activation", "each activation has the other's law", predict=predict_other_activation),
    ),
)
