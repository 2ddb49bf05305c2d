"""Training moves the tangent kernel of a two-layer ReLU network by order n^-½, not 1/n: units cross their kink and are
lost. For one example √n E ΔΘ → −(κ/π) E|f_0 − y| with κ = σ_w² |x|/√d, around which ΔΘ fluctuates by n^-¾.

Source: derived in `theory.kernels.relu_drift`, with the next order of the mean, which is relatively n^-½. For that
reason the mean drift at y = 0 has a slope of −0.61 between widths 64 and 4096, and networks with other targets have
other slopes. Where there is a factor 2 in one layer only, f = √(2/n) Σ a φ(w·x) with |x| = 1, κ is √2 and the amplitude
√2/π. The folklore is that any wide network's kernel moves by 1/n; its proofs ask for smooth units (Huang & Yau 2020).

Measured for each of two targets: the amplitude over E|f_0 − y|, from a fit of the mean change with the next order, the
variance of ΔΘ given f_0, and the number of units lost, in units of √n; and for y = 0 the slope of a straight line,
which is that of the first two orders. (For y = 2 a third one counts at the narrow widths.)

Margin: half the distance to the nearest rival. For the amplitude that is the other convention's, √2/π at κ = 2, a share
of 0.29 off; others leave out the selection of lost units by |a| (½), or let as many units come alive as are lost (0).
The theory's own error is relatively 1/n, a term of the fit at the paper tier; the smoke tier leaves it in: 0.02 of the
amplitude. Variance and number of lost units are fitted with as many terms, the first of which is relatively n^-½.

Assumptions: gradient flow on ½ (f − y)² to its end, one example, no biases, Gaussian weights, the NTK parametrisation.
The measurement has no integrator: in a clock of its own the flow of each network is known unit by unit, and its end is
the root of one equation (`experiments.relu_flow`). For some networks the flow of all parameters is integrated too
(classical Runge–Kutta), and has to agree to a hundredth of the typical change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import network
from experiments.relu_flow import relu_flow
from experiments.small_flows import flow_path, in_chunks, random_weights
from experiments.verdict import Verdict, decide, equivalence, identity
from experiments.verdict.rates import Fit, weighted_fit
from theory.architecture import MLP
from theory.kernels.relu_drift import ReluDrift, relu_drift

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# |x|²/d is 1; targets in the middle of the outputs at the start, whose standard deviation is √2, and beside them.
WEIGHT_VARIANCE, INPUTS = 2.0, 3
TARGETS = (0.0, 2.0)
# Edges of |f_0 − y| for the figure.
EDGES = np.linspace(0.0, 4.0, 9)
# The largest distance of an integrated network from its exact flow, as a share of the typical change.
INTEGRATION = 0.01


@dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        widths: n.
        units: of all networks of a width together.
        terms: of the fits of the mean: powers ½, 1, 3/2, … of 1/n.
        time, steps: of the integrated flows; Θ_∞ = 4, so that a residual of e^{−4 time} is left.
        checked: networks of each width that are integrated.
    """

    widths: tuple[int, ...]
    units: int
    terms: int
    time: float = 6.0
    steps: int = 96
    checked: int = 4


SMOKE = Config(widths=(128, 256, 512, 1024, 2048), units=2**22, terms=2)
PAPER = Config(widths=(32, 64, 128, 256, 512, 1024, 2048, 4096), units=2**25, terms=3)


def kappa() -> float:
    return WEIGHT_VARIANCE


def assumptions(config: Config) -> list[Assumption]:
    """Enough networks, and integration to the end."""
    # Given f_0, the relative spread of ΔΘ is √(4π κ/(|f_0 − y| √n)): 4.7 n^-¼ for y = 0, 3.5 n^-¼ for y = 2.
    n = np.array(config.widths, float)
    error = 4.7 * n**-0.25 * (n / config.units) ** 0.5
    fit = _fit(n, np.ones_like(n), error, config.terms)
    power = 0.5 * (1 - 0.5**0.5) / float(fit.standard_error)
    left = float(np.exp(-(WEIGHT_VARIANCE**2) * config.time))
    return [
        Assumption("the margin of the amplitude is at least 8 standard errors", power >= 8, f"{power:.1f}"),
        Assumption("the integrated flows end near the target", left < 1e-6, f"{left:.0e} of the residual are left"),
    ]


def predict(config: Config) -> xr.Dataset:
    """For each target, coefficients over E|f_0 − y| and the slope, with margins."""
    return _tabulate(config)


def _law(target: float, weight_variance: float = WEIGHT_VARIANCE) -> ReluDrift:
    return relu_drift(target, weight_variance=weight_variance)


def _tabulate(
    config: Config,
    *,
    weight_variance: float = WEIGHT_VARIANCE,
    mean: float = 1.0,
    variance: float = 1.0,
    slope: float | None = None,
) -> xr.Dataset:
    """The law, with factors and a slope that only rivals change."""
    truth = [_law(target) for target in TARGETS]
    laws = [_law(target, weight_variance) for target in TARGETS]
    rate = np.array([law.rate for law in truth])
    return xr.Dataset(
        {
            "rate": ("target", [mean * law.rate for law in laws]),
            # Nearest: κ = √2 in place of 2, a factor 1/√2 here and √2 for the number of units lost.
            "rate_margin": ("target", 0.5 * (1 - 0.5**0.5) * rate),
            "variance": ("target", [variance * law.variance / law.distance for law in laws]),
            # Nearest: E a⁴ = 3 in place of ½ √2π E|a|⁵ · 2/√2π = 8, for lost units that are like all others.
            "variance_margin": ("target", [0.5 * 5 / 8 * law.variance / law.distance for law in truth]),
            "lost": ("target", [law.lost / law.distance for law in laws]),
            "lost_margin": ("target", [0.5 * (2**0.5 - 1) * law.lost / law.distance for law in truth]),
            "slope": ("target", [_slope(config, law) if slope is None else slope for law in laws]),
            # Nearest: ½, the slope in the limit.
            "slope_margin": ("target", [0.5 * abs(_slope(config, law) - 0.5) for law in truth]),
            "terms": ((), config.terms),
        },
        coords={"target": list(TARGETS)},
    )


def _slope(config: Config, law: ReluDrift) -> float:
    """Of a straight line through the mean drift to the first two orders, at the widths used."""
    n = np.array(config.widths, float)
    return -float(_straight(n) @ np.log(-law.mean * n**-0.5 - law.next_order / n))


def _straight(n: np.ndarray) -> np.ndarray:
    """Weights whose product with values of ln v is the slope of v in n on logarithmic axes, least squares."""
    centred = np.log(n) - np.log(n).mean()
    return centred / (centred @ centred)


def folklore(config: Config) -> xr.Dataset:
    """Rival: 1/n."""
    return _tabulate(config, mean=0.0, slope=1.0)


def balanced(config: Config) -> xr.Dataset:
    """Rival: no mean of order n^-½, since units that come alive make up for those lost; twice the variance."""
    return _tabulate(config, mean=0.0, variance=2.0)


def typical(config: Config) -> xr.Dataset:
    """Rival: lost units are like all others, E a² = 1 and E a⁴ = 3."""
    return _tabulate(config, mean=0.5, variance=3 / 8)


def other_convention(config: Config) -> xr.Dataset:
    """Rival: κ = √2."""
    return _tabulate(config, weight_variance=2**0.5)


def leading_order(config: Config) -> xr.Dataset:
    """Rival: n^-½ and no next order."""
    return _tabulate(config, slope=0.5)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Each width."""
    return [{"width": width} for width in config.widths]


def measure(config: Config, cell: Cell, key: Key[jax.Array, ""]) -> xr.Dataset:
    """Trains an ensemble to each target; keeps means over E|f_0 − y| with errors, and means in bins of |f_0 − y|."""
    n = int(cell["width"])
    members = config.units // n

    def work(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
        z, a = rng.standard_normal((2, count, n))
        ends = [relu_flow(z, a, target, scale=kappa()) for target in TARGETS]
        return tuple(
            np.stack(values, axis=1)
            for values in (
                [end.output for end in ends],
                [end.trained_kernel - end.kernel for end in ends],
                [end.lost for end in ends],
            )
        )

    output, change, lost = in_chunks(work, 2 * n, members, key)
    gap = integration_error(config, n, jax.random.fold_in(key, 1))
    parts = [_summary(n, output[:, i] - y, change[:, i], lost[:, i]) for i, y in enumerate(TARGETS)]
    bins = ("distance", "binned", "binned_error")
    return xr.Dataset(
        {
            name: (("target", "bin") if name in bins else "target", np.array([part[name] for part in parts]))
            for name in parts[0]
        }
        | {"integration": ((), gap), "members": ((), members)},
        coords={"target": list(TARGETS)},
    )


def _summary(n: int, residual: np.ndarray, change: np.ndarray, lost: np.ndarray) -> dict[str, np.ndarray | float]:
    distance = np.abs(residual)
    # A conditional mean, in the terms that its first two orders have; what it leaves is conditional variance.
    terms = np.stack([distance, residual, residual**2], axis=1)
    rest = change - terms @ np.linalg.lstsq(terms, change, rcond=None)[0]
    found: dict[str, np.ndarray | float] = {"mean": change.mean(), "mean_error": _error(change)}
    for name, values in (("rate", -(n**0.5) * change), ("variance", n**1.5 * rest**2), ("lost", n**-0.5 * lost)):
        ratio = values.mean() / distance.mean()
        found |= {name: ratio, f"{name}_error": _error(values - ratio * distance) / distance.mean()}
    which = np.digitize(distance, EDGES) - 1
    inside = [which == i for i in range(len(EDGES) - 1)]
    found["distance"] = np.array([distance[here].mean() if here.any() else np.nan for here in inside])
    scaled = -(n**0.5) * change
    found["binned"] = np.array([scaled[here].mean() if here.any() else np.nan for here in inside])
    found["binned_error"] = np.array([_error(scaled[here]) if here.sum() > 1 else np.nan for here in inside])
    return found


def _error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def integration_error(config: Config, n: int, key: Key[jax.Array, ""]) -> float:
    """Distance of integrated networks of three inputs from the exact flow of their projections, over r.m.s. change."""
    net = network(MLP(1, "relu", WEIGHT_VARIANCE), width=n, inputs=INPUTS)
    x = np.ones((1, INPUTS))

    def work(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
        weights = random_weights(net, rng, count)
        z, a = (x @ weights[0])[:, 0] / np.sqrt(INPUTS), weights[1][..., 0]
        found = []
        for target in TARGETS:
            path = flow_path(net, weights, x, np.array([target]), times=(0.0, config.time), steps=config.steps)
            exact = relu_flow(z, a, target, scale=kappa())
            integrated = path.kernels[:, 1, 0, 0] - path.kernels[:, 0, 0, 0]
            found.append(np.stack([integrated, exact.trained_kernel - exact.kernel], axis=1))
        return (np.stack(found, axis=1),)

    [changes] = in_chunks(work, net.parameters, config.checked, key)
    worst = np.abs(changes[..., 0] - changes[..., 1]).max()
    return float(worst / np.sqrt(np.mean(changes[..., 1] ** 2)))


def _fit(n: np.ndarray, values: np.ndarray, errors: np.ndarray, terms: int) -> Fit:
    """The constant in a + b n^-½ + c n^-1 + …"""
    return weighted_fit(n[:, None] ** (-0.5 * np.arange(terms)), values, errors, 0)


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """For each target amplitude, variance and units lost; the slope for the first; and the integration."""
    n = measurement["width"].values.astype(float)
    members = measurement["members"].values
    comparisons = []
    for i, target in enumerate(prediction["target"].values):
        law, found = prediction.sel(target=target), measurement.sel(target=target)
        for label, name, terms in (
            ("amplitude of the mean", "rate", int(prediction["terms"])),
            ("variance", "variance", int(prediction["terms"])),
            ("units lost", "lost", int(prediction["terms"])),
        ):
            values, errors = (found[f"{name}{suffix}"].transpose("width").values for suffix in ("", "_error"))
            fit = _fit(n, values, errors, terms)
            comparisons += equivalence(
                f"{label}, target {target:g}",
                fit.estimate,
                float(law[name]),
                float(law[f"{name}_margin"]),
                standard_error=fit.standard_error,
                sample_size=int(members.sum()),
                dof=int(members.min()) - 1,
            )
        if i:
            continue
        # Over E|f_0 − y|, which does not fall with n, the noise of f_0 cancels.
        rate, error = (found[name].transpose("width").values for name in ("rate", "rate_error"))
        line = _straight(n)
        comparisons += equivalence(
            f"slope, target {target:g}",
            0.5 - line @ np.log(rate),
            float(law["slope"]),
            float(law["slope_margin"]),
            standard_error=np.sqrt(line**2 @ (error / rate) ** 2),
            sample_size=int(members.sum()),
            dof=int(members.min()) - 1,
        )
    comparisons += identity(
        "distance of integrated networks from their exact flow",
        float(measurement["integration"].max()),
        0.0,
        tolerance=INTEGRATION,
    )
    return decide(comparisons, margin_source="half the distance to the nearest rival; integration: 0.01 of the effect")


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: √n times the mean change over E|f_0 − y| against width. Right: that of the widest networks given f_0."""
    from experiments.report.style import COLOURS, MARKERS

    measurement = evidence.measurement
    n = measurement["width"].values.astype(float)
    smooth = np.geomspace(n[0], n[-1], 60)
    left, right = figure.subplots(1, 2)
    widest = measurement.isel(width=-1)
    right.plot([0, EDGES[-1]], [0, EDGES[-1] * _law(0.0).rate], color="black", linewidth=1, label="limit")
    for i, target in enumerate(TARGETS):
        law, found = _law(target), measurement.sel(target=target)
        value, error = (found[name].transpose("width").values for name in ("rate", "rate_error"))
        left.plot(smooth, law.rate - law.next_order / law.distance * smooth**-0.5, color=COLOURS[i], linewidth=1)
        left.errorbar(n, value, 2.576 * error, fmt=MARKERS[i], color=COLOURS[i], label=f"$y = {target:g}$")
        here = widest.sel(target=target)
        place = here["distance"].values
        # At one distance from y networks start on either side of it, as often as f_0 ~ N(0, κ²/2) says.
        away = np.linspace(0, EDGES[-1], 60)
        starts = target + away * np.array([[-1.0], [1.0]])
        often = np.exp(-((starts / kappa()) ** 2))
        second = 2 * (target**2 - starts**2) - away**2 / (2 * np.pi**2)
        second = np.sum(often * second, axis=0) / np.sum(often, axis=0)
        right.plot(away, away * law.rate - second * n[-1] ** -0.5, color=COLOURS[i], linewidth=1)
        right.errorbar(
            place,
            here["binned"].values,
            2.576 * here["binned_error"].values,
            fmt=MARKERS[i],
            color=COLOURS[i],
            label=f"$y = {target:g}$, $n = {n[-1]:.0f}$",
        )
    left.axhline(_law(0.0).rate, color="black", linewidth=0.8, label="limit, $\\kappa/\\pi$")
    left.axhline(0.5**0.5 * _law(0.0).rate, linestyle=":", color="black", linewidth=0.8, label=r"rival, $\sqrt{2}/\pi$")
    left.set(xscale="log", xlabel="width $n$", ylabel=r"$-\sqrt{n}\, E\,\Delta\Theta / E|f_0 - y|$", ylim=(0, None))
    left.set_xticks(n, [f"{width:.0f}" for width in n], rotation=45 if len(n) > 5 else 0)
    left.set_xticks([], minor=True)
    left.legend()
    right.set(xlabel="$|f_0 - y|$", ylabel=r"$-\sqrt{n}\, E[\Delta\Theta\,|\,f_0]$")
    right.legend()


claim = Claim(
    id="ntk/drift-relu",
    kind="limit",
    expected="supported",
    sources=("huang2020dynamics",),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("folklore", "the kernel moves by 1/n, as for smooth units", predict=folklore),
        Rival("balanced", "as many units come alive as are lost, and the mean cancels", predict=balanced),
        Rival("typical", "the units that are lost have the same output weights as all others", predict=typical),
        Rival("other-convention", "the amplitude is √2/π with σ_w² = 2 in both layers", predict=other_convention),
        Rival("leading-order", "the mean drift has slope −½ at reachable widths", predict=leading_order),
    ),
)
