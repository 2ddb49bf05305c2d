"""At initialisation the mean tangent kernel differs from its limit by E Θ − Θ_∞ = c/n + O(1/n²) in networks of three
and more layers of weights, with c known; for ReLU the diagonal is exact, E Θ(x, x) = Θ_∞(x, x) at every width and
depth, and in two-layer networks everything is.

Source: Guillen, Misof & Gerken 2025 for the structure and for the diagonal of ReLU; the coefficients are derived in
`theory.kernels.ntk_mean_shift`, a recursion over layers for any activation. Two effects add up: kernels of a layer
fluctuate, and the map to the next one is curved; and a unit's tangent kernel is not independent of its pre-activation.

Measured are c/Θ_∞ on the diagonal, off it (two inputs with cosine 0.7), and for the ratio of the two means, in which
most of the noise is common and cancels. ReLU networks have σ_w² = 2, erf networks σ_w² = ½, where the shift stands out
best.

Margin: half the distance to the nearest rival, where a rival counts as a neighbour if it is further than a third of c
off: no shift at all; for ReLU, a shift on the diagonal as off it; in two-layer networks, the shift of three layers;
for erf, the coefficient without the dependence of kernel and pre-activation ("gradient independence"). Another rival
is a shift of the same coefficient and order n^-½, the order of the fluctuations. The theory's own error is the next
order: a term 1/n² in the fit at the paper tier. The smoke tier has too few widths for it and leaves it in: 0.15 c or
so at n = 6. For ReLU the margins are half of c, since gradient independence is too near to count there.

Widths: the shift falls as 1/n, its noise as n^-½ and the number of networks that time allows as n^-2, so that
resolving it takes n³ in time. Widths end at 64 for that reason: at 4096 a shift of 1e-4 would need 10^7 networks of
10^7 weights.

Assumptions: Gaussian weights, no biases, equal widths, |x|²/d = 1, the NTK parametrisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import network
from experiments.random_kernels import contributions, total
from experiments.verdict import Verdict, decide, equivalence
from experiments.verdict.rates import fit_amplitude
from theory.architecture import MLP
from theory.kernels.ntk_mean_shift import ntk_mean_shift

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ("relu", "erf")
NAMES = {"relu": "ReLU", "erf": "erf"}
WEIGHT_VARIANCES = {"relu": 2.0, "erf": 0.5}
ENTRIES = ("diagonal", "off", "ratio")
COSINE = 0.7
# A rival nearer than this, relative to the larger of the two coefficients, is no neighbour there.
NEAR = 1 / 3


class Quantity(NamedTuple):
    """What is judged: c/Θ_∞ of one entry for one activation and depth L, and a pilot's n · relative variance."""

    activation: str
    depth: int
    entry: str
    spread: float

    @property
    def label(self) -> str:
        entry = {"diagonal": "diagonal", "off": "off the diagonal", "ratio": "ratio of off to on the diagonal"}[
            self.entry
        ]
        return f"{NAMES[self.activation]}, {self.depth} layers, {entry}"


# The spreads serve to plan the ensembles and nothing else (2·10⁵ networks of width 8 each).
QUANTITIES = (
    Quantity("relu", 2, "diagonal", 2.7),
    Quantity("relu", 2, "off", 6.0),
    Quantity("erf", 2, "diagonal", 0.9),
    Quantity("erf", 2, "off", 1.2),
    Quantity("relu", 3, "ratio", 1.6),
    Quantity("relu", 4, "diagonal", 11.0),
    Quantity("relu", 4, "off", 22.0),
    Quantity("relu", 4, "ratio", 3.1),
    Quantity("erf", 4, "diagonal", 2.4),
    Quantity("erf", 4, "off", 3.2),
)


@dataclass(frozen=True)
class Config:
    """Sizes of the sweep, one entry a case.

    Attributes:
        widths: n of every hidden layer.
        depths: L, the number of weight matrices.
        members: networks drawn, shared out evenly among the batches.
        correction: whether the fit has a term 1/n², where the law is not exact.
        batches: cells of each case.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    members: tuple[int, ...]
    correction: bool
    batches: int


SMOKE = Config(
    widths=(6, 8, 6, 8),
    depths=(2, 2, 4, 4),
    members=(300_000, 150_000, 300_000, 120_000),
    correction=False,
    batches=1,
)
# For a given time the leading coefficient is known best from two widths, 8 and 16 here; the others show the law.
SWEEP = (8, 12, 16, 24, 32, 48, 64)
PAPER = Config(
    widths=SWEEP * 3,
    depths=(2,) * 7 + (3,) * 7 + (4,) * 7,
    members=(
        *(600_000, 400_000, 300_000, 300_000, 200_000, 100_000, 100_000),
        *(600_000, 200_000, 600_000, 200_000, 60_000, 20_000, 10_000),
        *(2_800_000, 800_000, 3_600_000, 400_000, 100_000, 40_000, 16_000),
    ),
    correction=True,
    batches=4,
)


def relative_coefficient(q: Quantity, *, depth: int | None = None, entry: str = "", independent: bool = False) -> float:
    """c/Θ_∞ of the entry, or c/Θ_∞ off the diagonal less that on it for the ratio."""
    depth, entry = depth or q.depth, entry or q.entry
    on, off = (
        ntk_mean_shift(
            q.activation, depth - 1, cosine, WEIGHT_VARIANCES[q.activation], independent=independent
        ).relative
        for cosine in (1.0, COSINE)
    )
    return {"diagonal": on, "off": off, "ratio": off - on}[entry]


def exact(q: Quantity) -> bool:
    """Where the law has no shift at any width: two layers, and the diagonal of ReLU."""
    return q.depth == 2 or (q.activation == "relu" and q.entry == "diagonal")


def quantities(config: Config) -> list[Quantity]:
    return [q for q in QUANTITIES if q.depth in config.depths]


def no_shift_law(q: Quantity) -> float:
    return 0.0


def as_deep_law(q: Quantity) -> float:
    """Two layers shift as three do."""
    return relative_coefficient(q, depth=3) if q.depth == 2 else relative_coefficient(q)


def diagonal_law(q: Quantity) -> float:
    """ReLU's diagonal shifts as the kernel off it; at two layers as for three."""
    if q.activation == "relu" and q.entry == "diagonal":
        return relative_coefficient(q, depth=max(q.depth, 3), entry="off")
    return relative_coefficient(q)


def independent_law(q: Quantity) -> float:
    return relative_coefficient(q, independent=True)


LAWS = (no_shift_law, as_deep_law, diagonal_law, independent_law)


def _tabulate(config: Config, law) -> xr.Dataset:
    kept = quantities(config)
    truth = np.array([relative_coefficient(q) for q in kept])
    distance = np.array([[abs(rival(q) - c) for rival in LAWS] for q, c in zip(kept, truth, strict=True)])
    scale = np.array([[max(abs(rival(q)), abs(c)) for rival in LAWS] for q, c in zip(kept, truth, strict=True)])
    # Rounding leaves 1e-14 of a coefficient that vanishes; its rivals are those that do not.
    margins = 0.5 * np.where((distance > NEAR * scale) & (scale > 1e-6), distance, np.inf).min(axis=1)
    limits = [
        [
            ntk_mean_shift(a, depth - 1, cosine, WEIGHT_VARIANCES[a]).limit
            for a in ACTIVATIONS
            for cosine in (1.0, COSINE)
        ]
        for depth in config.depths
    ]
    return xr.Dataset(
        {
            "coefficient": ("quantity", [law(q) for q in kept]),
            "margin": ("quantity", margins),
            "limit": (("case", "activation", "entry"), np.reshape(limits, (-1, len(ACTIVATIONS), 2))),
            "correction": ("quantity", [config.correction and not exact(q) for q in kept]),
            "exponent": 1.0,
            "width": ("case", list(config.widths)),
            "depth": ("case", list(config.depths)),
        },
        coords={"quantity": [q.label for q in kept]},
    )


def assumptions(config: Config) -> list[Assumption]:
    """Margins of at least 12 standard errors, planned with a pilot's spreads."""
    table = predict(config)
    power = {}
    for i, q in enumerate(quantities(config)):
        here = np.array(config.depths) == q.depth
        n = np.array(config.widths, dtype=np.float64)[here]
        errors = np.sqrt(q.spread / n / np.array(config.members)[here])
        correction = 1.0 if bool(table["correction"][i]) else None
        fit = fit_amplitude(n, np.zeros_like(n), errors, exponent=1.0, correction=correction)
        power[q.label] = float(table["margin"][i]) / float(fit.standard_error)
    least = min(power, key=lambda label: power[label])
    return [
        Assumption(
            "margins are at least 12 planned standard errors", power[least] >= 12, f"least: {least}: {power[least]:.1f}"
        )
    ]


def predict(config: Config) -> xr.Dataset:
    """Limits, coefficients of 1/n relative to them, and margins."""
    return _tabulate(config, relative_coefficient)


def no_shift(config: Config) -> xr.Dataset:
    """Rival: the mean kernel is its limit."""
    return _tabulate(config, no_shift_law)


def root(config: Config) -> xr.Dataset:
    """Rival: a shift of order n^-½, of the same coefficient."""
    return predict(config).assign(exponent=0.5)


def as_deep(config: Config) -> xr.Dataset:
    """Rival: two-layer networks shift as those of three layers do."""
    return _tabulate(config, as_deep_law)


def diagonal_too(config: Config) -> xr.Dataset:
    """Rival: for ReLU the diagonal shifts as well."""
    return _tabulate(config, diagonal_law)


def independent(config: Config) -> xr.Dataset:
    """Rival: a unit's tangent kernel is independent of its pre-activation."""
    return _tabulate(config, independent_law)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Batches of members of each case."""
    return [{"case": case, "batch": batch} for case in range(len(config.widths)) for batch in range(config.batches)]


def measure(config: Config, cell: Cell, key: Key[jax.Array, ""]) -> xr.Dataset:
    """Means of D, O, D², O², DO over members, with D the mean of both diagonal entries and O = Θ(x, x')."""
    case = int(cell["case"])
    nets = [
        network(MLP(config.depths[case] - 1, a, WEIGHT_VARIANCES[a]), width=config.widths[case], inputs=2)
        for a in ACTIVATIONS
    ]
    # |x|²/d = 1 and x·x'/d = COSINE.
    sine = np.sqrt(1 - COSINE**2)
    x = np.array([[1, 1], [COSINE + sine, COSINE - sine]], np.float32)

    def sums(normals: np.ndarray) -> np.ndarray:
        found = []
        for net in nets:
            kernel = contributions(net, normals, x).sum(axis=1)
            on, off = 0.5 * (kernel[:, 0, 0] + kernel[:, 1, 1]), kernel[:, 0, 1]
            found.append([on.sum(), off.sum(), on @ on, off @ off, on @ off])
        return np.array(found)

    members = -(-config.members[case] // config.batches)
    means = total(sums, nets[0].parameters, members, key) / members
    return xr.Dataset({"moments": (("activation", "moment"), means), "members": ((), members)})


def shifts(
    prediction: xr.Dataset, measurement: xr.Dataset
) -> tuple[Float[np.ndarray, "case activation entry"], Float[np.ndarray, "case activation entry"], np.ndarray]:
    """E Θ/Θ_∞ − 1 on the diagonal, off it, and for the ratio; standard errors; members of each case."""
    moments = measurement["moments"].mean("batch").transpose("case", "activation", "moment").values
    members = measurement["members"].sum("batch").values
    on, off, on2, off2, both = np.moveaxis(moments, -1, 0)
    limit = prediction["limit"].values
    a, b = on / limit[..., 0], off / limit[..., 1]
    # Relative (co)variances of one member.
    v, w, c = on2 / on**2 - 1, off2 / off**2 - 1, both / (on * off) - 1
    values = np.stack([a - 1, b - 1, b / a - 1], axis=-1)
    errors = np.sqrt(np.stack([v, w, v + w - 2 * c], axis=-1) / members[:, None, None])
    return values, errors, members


def _pick(label: str) -> Quantity:
    return next(q for q in QUANTITIES if q.label == label)


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The fitted coefficient of 1/n against the predicted one."""
    values, errors, members = shifts(prediction, measurement)
    depths, widths = prediction["depth"].values, prediction["width"].values
    comparisons = []
    for i, label in enumerate(prediction["quantity"].values):
        q = _pick(str(label))
        here, j, k = depths == q.depth, ACTIVATIONS.index(q.activation), ENTRIES.index(q.entry)
        fit = fit_amplitude(
            widths[here],
            values[here, j, k],
            errors[here, j, k],
            exponent=float(prediction["exponent"]),
            correction=1.0 if bool(prediction["correction"][i]) else None,
        )
        comparisons += equivalence(
            str(label),
            fit.estimate,
            float(prediction["coefficient"][i]),
            float(prediction["margin"][i]),
            standard_error=fit.standard_error,
            sample_size=int(members[here].sum()),
        )
    return decide(
        comparisons,
        margin_source="half the distance to the nearest rival's coefficient that is a third of c away or more",
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """n times the relative shift against width: left what stays, right what vanishes."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement = evidence.prediction, evidence.measurement
    values, errors, _ = shifts(prediction, measurement)
    n, depths = prediction["width"].values, prediction["depth"].values
    axes = figure.subplots(1, 2)
    kept = quantities(evidence.config)
    for axis, vanishing in zip(axes, (False, True), strict=True):
        chosen = [q for q in kept if exact(q) is vanishing]
        for i, q in enumerate(chosen):
            here, j, k = depths == q.depth, ACTIVATIONS.index(q.activation), ENTRIES.index(q.entry)
            colour = COLOURS[i % len(COLOURS)]
            if not vanishing:
                axis.axhline(relative_coefficient(q), color=colour, linewidth=1)
            # Side by side where several share a width.
            place = n[here] * 1.035 ** (i - 0.5 * len(chosen))
            scaled, error = n[here] * values[here, j, k], n[here] * errors[here, j, k]
            # Where the noise has outgrown the shift a point says nothing.
            shown = 2.576 * error < (0.35 if vanishing else 0.3)
            label = f"{NAMES[q.activation]}, $L={q.depth}$, {q.entry}"
            axis.errorbar(
                place[shown],
                scaled[shown],
                2.576 * error[shown],
                fmt=MARKERS[i % len(MARKERS)],
                color=colour,
                label=label,
            )
        if vanishing:
            axis.axhline(0.0, color="black", linewidth=1)
        axis.set(xscale="log", xlabel="width $n$")
        axis.set_xticks(np.unique(n), [str(width) for width in np.unique(n)])
        axis.minorticks_off()
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
    axes[0].set_ylabel(r"$n\,(E\,\Theta/\Theta_\infty - 1)$")


claim = Claim(
    id="ntk/mean-shift",
    kind="limit",
    expected="supported",
    sources=("guillen2025finite", "roberts2022principles"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("no-shift", "the mean kernel is its limit at every width", predict=no_shift),
        Rival("root", "the shift has the order n^-½ of the fluctuations", predict=root),
        Rival("two-layers-too", "two-layer networks shift as those of three layers", predict=as_deep),
        Rival("diagonal-too", "for ReLU the diagonal shifts as well", predict=diagonal_too),
        Rival(
            "gradient-independence",
            "a unit's tangent kernel is independent of its pre-activation",
            predict=independent,
        ),
    ),
)
