"""At initialisation the outputs of a bias-free network have heavier tails than a Gaussian, at every width n:
E f⁴ / (3 (E f²)²) = (1 + 5/n)^(L−1) for ReLU and (1 + 2/n)^(L−1) for linear units, with L weight matrices.

Source: Roberts, Yaida & Hanin 2022, chapter 5, to first order in 1/n; Hanin & Nica 2020 for the product over
layers. The exact law is derived in `theory.kernels.finite_width`: given the last hidden layer the output is
Gaussian, and its variance is multiplied in each of the L − 1 hidden layers by an independent factor of mean one
and second moment 1 + 5/n or 1 + 2/n.

Margin: an identity has no error of its own, so the margin is half the distance to the nearest rival: Gaussian
outputs, the other activation's factor, or one layer more in the exponent. Sampling noise is planned from the
exact moments of f up to the eighth, which the heavy tails make necessary.

Assumptions: Gaussian weights, no biases, equal widths. The first l layers of a network are a network too, with n
outputs, so that one deep network measures every depth; both activations share its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import Network, network
from experiments.verdict import Verdict, decide, equivalence
from theory.architecture import MLP
from theory.kernels.finite_width import kurtosis_ratio, ratio_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ("relu", "linear")
OTHER = {"relu": "linear", "linear": "relu"}
# Variances that keep E f² from layer to layer; the ratio does not depend on them.
WEIGHT_VARIANCES = {"relu": 2.0, "linear": 1.0}

# Normals drawn at once: large enough for vector code, small enough for the cache.
DRAWS = 2**18


@dataclass(frozen=True)
class Config:
    """Sizes of the sweep.

    Attributes:
        widths: n of every hidden layer.
        members: networks drawn at each width, shared out evenly among the batches.
        depth: largest number of hidden layers, L − 1; all from 1 on are measured.
        batches: cells at each width.
        inputs: dimension of the one input x, with |x|²/d = 1; its direction plays no role.
    """

    widths: tuple[int, ...]
    members: tuple[int, ...]
    depth: int
    batches: int
    inputs: int = 2


SMOKE = Config(widths=(8, 16), members=(300_000, 90_000), depth=3, batches=1)
# The margin shrinks as 1/n, the noise of one network's n outputs only as n^-½ (wide), and the tails are heaviest
# in narrow deep networks: both ends need many members.
PAPER = Config(
    widths=(8, 16, 32, 64, 128), members=(1_800_000, 400_000, 144_000, 184_000, 320_000), depth=4, batches=16
)


def assumptions(config: Config) -> list[Assumption]:
    """The ensemble resolves the nearest rival everywhere: margin ≥ 12 exact standard errors."""
    rows = [
        (margin / _planned_error(activation, width, depth, members), width, depth)
        for width, members in zip(config.widths, config.members, strict=True)
        for depth in range(1, config.depth + 1)
        for activation in ACTIVATIONS
        for margin in [_margin(activation, width, depth)]
    ]
    least, width, depth = min(rows)
    return [
        Assumption(
            "the margin is at least 12 planned standard errors",
            least >= 12,
            f"least at width {width}, depth {depth}: {least:.1f}",
        )
    ]


def _margin(activation: str, width: int, depth: int) -> float:
    """Half the distance to the nearest rival."""
    ratio = kurtosis_ratio(activation, [width] * depth)
    swapped = kurtosis_ratio(OTHER[activation], [width] * depth)
    deeper = kurtosis_ratio(activation, [width] * (depth + 1))
    return 0.5 * min(abs(ratio - rival) for rival in (1.0, swapped, deeper))


def _planned_error(activation: str, width: int, depth: int, members: int) -> float:
    """Exact standard error of the estimated ratio."""
    return float(ratio_plan(activation, [width] * depth, outputs=width).standard_error(members))


def predict(config: Config) -> xr.Dataset:
    """The exact ratio, its margin and the ensemble's exact standard error for each width, depth and activation."""
    return _tabulate(config, lambda activation, width, depth: kurtosis_ratio(activation, [width] * depth))


def gaussian_outputs(config: Config) -> xr.Dataset:
    """Rival: a finite network's output is Gaussian."""
    return _tabulate(config, lambda activation, width, depth: 1.0)


def other_activation(config: Config) -> xr.Dataset:
    """Rival: each activation gets the factor of the other."""
    return _tabulate(config, lambda activation, width, depth: kurtosis_ratio(OTHER[activation], [width] * depth))


def one_layer_more(config: Config) -> xr.Dataset:
    """Rival: the exponent is L in place of L − 1."""
    return _tabulate(config, lambda activation, width, depth: kurtosis_ratio(activation, [width] * (depth + 1)))


def _tabulate(config: Config, ratio) -> xr.Dataset:
    # The error is the exact one of the law: with tails this heavy a sample's own error scatters by tens of percent.
    values = np.array(
        [
            [
                [(ratio(a, n, depth), _margin(a, n, depth), _planned_error(a, n, depth, members)) for a in ACTIVATIONS]
                for depth in range(1, config.depth + 1)
            ]
            for n, members in zip(config.widths, config.members, strict=True)
        ]
    )
    dims = ("width", "depth", "activation")
    return xr.Dataset(
        {"ratio": (dims, values[..., 0]), "margin": (dims, values[..., 1]), "error": (dims, values[..., 2])},
        coords={"width": list(config.widths), "depth": list(range(1, config.depth + 1))},
    )


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members at each width."""
    return [{"width": width, "batch": batch} for width in config.widths for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Means over members of S₁, S₂, S₁², S₁S₂, S₂², where S₁ = mean f² and S₂ = mean f⁴/3 over a member's units."""
    width = int(cell["width"])
    members = config.members[config.widths.index(width)] // config.batches
    networks = tuple(
        network(MLP(config.depth, name, WEIGHT_VARIANCES[name]), width=width, inputs=config.inputs, outputs=width)
        for name in ACTIVATIONS
    )
    chunk = min(members, max(1, DRAWS // networks[0].parameters))
    chunks = -(-members // chunk)
    sums = np.asarray(_member_sums(networks, key, chunks, chunk)) / (chunks * chunk)
    dims = ("depth", "activation", "moment")
    return xr.Dataset({"moments": (dims, sums), "members": ((), chunks * chunk)})


@partial(jax.jit, static_argnums=(0, 2, 3))
def _member_sums(
    networks: tuple[Network, ...], key: Key[Array, ""], chunks: int, chunk: int
) -> Float[Array, "depth activation 5"]:
    """Sums of S₁, S₂, S₁², S₁S₂, S₂² over chunks · chunk networks."""
    shapes, tree = jax.tree.flatten(jax.eval_shape(networks[0].init, jax.random.key(0)))
    offsets = np.cumsum([0, *(shape.size for shape in shapes)])
    # |x|²/d = 1.
    x = jnp.ones((1, networks[0].inputs), jnp.float32)

    def member(normals: Float[Array, " parameters"]) -> Float[Array, "depth activation 2"]:
        # In the NTK parametrisation every parameter is a standard normal: one draw for a whole chunk of networks
        # compiles and runs several times faster than `init` for each.
        arrays = [normals[a:b].reshape(s.shape) for a, b, s in zip(offsets[:-1], offsets[1:], shapes, strict=True)]
        params = jax.tree.unflatten(tree, arrays)
        outputs = jnp.stack([jnp.concatenate(net.preactivations(params, x)[1:]) for net in networks], axis=1)
        squares = outputs**2
        return jnp.stack([jnp.mean(squares, -1), jnp.mean(squares**2, -1) / 3], axis=-1)

    def add_chunk(total, chunk_key):
        normals = jax.random.normal(chunk_key, (chunk, networks[0].parameters), jnp.float32)
        s = jax.vmap(member)(normals).astype(total.dtype)
        first, second = s[..., 0], s[..., 1]
        products = jnp.stack([first, second, first**2, first * second, second**2], axis=-1)
        return total + jnp.sum(products, axis=0), None

    depth = len(networks[0].widths)
    # In double precision: float32 sums of 10^5 members would round away what is measured.
    total = jnp.zeros((depth, len(networks), 5), jnp.float64)
    return jax.lax.scan(add_chunk, total, jax.random.split(key, chunks))[0]


def ratio_and_error(moments: Float[np.ndarray, "... 5"], members: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R = mean S₂ / (mean S₁)² and its standard error over members, by the delta method.

    Args:
        moments: means of S₁, S₂, S₁², S₁S₂, S₂² over the members.
        members: their number, broadcast against the results.

    Returns:
        R and its standard error, of the shape of `moments` without the last dimension.
    """
    s1, s2, s11, s12, s22 = np.moveaxis(np.asarray(moments), -1, 0)
    ratio = s2 / s1**2
    v11, v12, v22 = s11 / s1**2 - 1, s12 / (s1 * s2) - 1, s22 / s2**2 - 1
    return ratio, ratio * np.sqrt(np.maximum(v22 - 4 * v12 + 4 * v11, 0.0) / members)


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Equivalence of measured and exact ratio for every width, depth and activation."""
    moments = measurement["moments"].mean("batch").transpose("width", "depth", "activation", "moment")
    members = measurement["members"].sum("batch").values
    ratio, _ = ratio_and_error(moments.values, members[:, None, None])
    labels = [
        f"{activation}, width {width}, {depth} hidden"
        for width in prediction["width"].values
        for depth in prediction["depth"].values
        for activation in ACTIVATIONS
    ]
    comparisons = equivalence(
        labels,
        ratio,
        prediction["ratio"].values,
        prediction["margin"].values,
        standard_error=prediction["error"].values,
        sample_size=members[:, None, None],
    )
    return decide(comparisons, margin_source="half the distance to the nearest rival; the law itself is exact")


def draw(figure: Figure, evidence: Evidence) -> None:
    """Excess over the Gaussian value against width, on logarithmic axes: one panel for each activation."""
    from matplotlib.lines import Line2D

    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    moments = measurement["moments"].mean("batch").transpose("width", "depth", "activation", "moment")
    members = measurement["members"].sum("batch").values
    ratio, error = ratio_and_error(moments.values, members[:, None, None])
    widths, depths = prediction["width"].values, prediction["depth"].values
    smooth = np.geomspace(widths[0], widths[-1], 60)
    axes = figure.subplots(1, 2, sharey=True)
    for j, (axis, name, excess) in enumerate(zip(axes, ("ReLU", "linear"), (5, 2), strict=True)):
        for i, depth in enumerate(depths):
            colour = COLOURS[i % len(COLOURS)]
            axis.plot(smooth, (1 + excess / smooth) ** depth - 1, color=colour, linewidth=1)
            # What the network would show with the other activation's factor.
            axis.plot(smooth, (1 + (7 - excess) / smooth) ** depth - 1, ":", color=colour, linewidth=0.7)
            axis.errorbar(
                widths,
                ratio[:, i, j] - 1,
                yerr=2.576 * error[:, i, j],
                fmt=MARKERS[i % len(MARKERS)],
                color=colour,
                label=f"$L - 1 = {depth}$",
            )
        axis.set(xscale="log", yscale="log", xlabel="width $n$", title=f"{name}: $(1+{excess}/n)^{{L-1}}$")
        axis.set_xticks(widths, [str(width) for width in widths])
        axis.set_yticks([0.01, 0.03, 0.1, 0.3, 1, 3], ["0.01", "0.03", "0.1", "0.3", "1", "3"])
        axis.minorticks_off()
        # Room around the predictions alone; the limits follow both panels.
        excesses = prediction["ratio"].values - 1
        axis.set_ylim(0.6 * excesses.min(), 2.0 * excesses.max())
    axes[0].set_ylabel(r"excess $E f^4 / 3(E f^2)^2 - 1$")
    handles, names = axes[0].get_legend_handles_labels()
    rival = Line2D([], [], linestyle=":", color="black", linewidth=0.7)
    figure.legend([*handles, rival], [*names, "the other's factor"], loc="outside lower center", ncols=len(names) + 1)


claim = Claim(
    id="ntk/initial-moments",
    kind="identity",
    expected="supported",
    sources=("roberts2022principles", "hanin2020products"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("gaussian-output", "outputs of a finite network are Gaussian: the ratio is 1", predict=gaussian_outputs),
        Rival("other-activation", "ReLU has the factor 1 + 2/n, linear units have 1 + 5/n", predict=other_activation),
        Rival("one-layer-more", "the exponent is L, the number of weight matrices", predict=one_layer_more),
    ),
)
