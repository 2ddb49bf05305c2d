"""Training moves the tangent kernel of a wide network of smooth units by a relative amount of order 1/n: the typical
change in one network (root mean square over networks), and with one hidden layer its mean alike. For two layers of
weights and a handful of examples the amplitudes of both are known: n ΔΘ is a quadratic form in Gaussian variables.

Source: Dyer & Gur-Ari 2020 (conjectured from Feynman diagrams) and Huang & Yau 2020 (bounds by the neural tangent
hierarchy) for the order; amplitudes are derived in `theory.kernels.ntk_drift`. ΔΘ has two parts
of the same order: a sum over units that is odd in the output weights and fluctuates around zero, times the integrated
residual; and the mean curvature of the kernel along the flow, times its square. The first has a mean as well, because
it is correlated with the output at the start.

Measured is the change of Θ on the training examples over the whole training, in units of |Θ_∞|, for one and two hidden
layers: the exponent of its root mean square, and for one hidden layer the limits of n times the mean change of the
trace, of n times that of Θ(x, x'), and of n times the root mean square.

Margin: half the distance to the nearest rival: exponents ½ (the bound on |Θ_t − Θ_0| of Lee et al. 2019, taken as the
rate) and 0 (features are learned at any width); amplitudes with a part left out. A rival counts as a neighbour in a
comparison if it is further than NEAR off there. The theory's own error is relatively 1/n, a term of the fit at the
paper tier; the smoke tier leaves it in: up to 0.06 of the amplitudes, and 0.05 in the exponent.

Assumptions: gradient flow on ½ Σ (f − y)², erf units, no biases, Gaussian weights, the NTK parametrisation, a positive
definite limiting kernel, a fixed number of examples as n grows. Networks are float64. The flow is integrated by a
Runge–Kutta method of order four, and for some of the networks again with twice as many steps: in the worst of these
the two may differ by a hundredth of the typical change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float, Key

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.networks import Network, network
from experiments.small_flows import flow_path, in_chunks, random_weights
from experiments.verdict import Verdict, decide, equivalence, exponent, identity
from experiments.verdict.rates import fit_amplitude
from theory.architecture import MLP
from theory.kernels import ntk
from theory.kernels.ntk_drift import Drift, two_layer_drift

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATION, WEIGHT_VARIANCE, COSINE = "erf", 0.5, 0.3
# Two inputs with |x|²/d = 1, and targets well apart from the outputs at the start (0.4 or so).
SINE = np.sqrt(1 - COSINE**2)
X = np.array([[1.0, 1.0], [COSINE + SINE, COSINE - SINE]])
Y = np.array([1.0, -0.5])
QUANTITIES = ("trace", "off", "square")
NAMES = {
    "trace": "mean change of the trace",
    "off": "mean change off the diagonal",
    "square": "root mean square change",
}
# A rival nearer than this share of the larger of the two numbers is no neighbour in that comparison.
NEAR = 0.15
# The largest error of the integration in a network, as a share of the typical change.
INTEGRATION = 0.01
LAYERS = {1: "one hidden layer", 2: "two hidden layers"}


@dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
        widths: n of every hidden layer.
        members: networks with one hidden layer at each width.
        deep_members: networks with two hidden layers.
        correction: whether the fits have a term of the next order.
        steps: of the integration.
        times: recorded, the last being the end of the training; eigenvalues of Θ_∞ are 0.2 to 0.5.
        checked: networks of each cell whose flow is integrated again with twice as many steps.
    """

    widths: tuple[int, ...]
    members: tuple[int, ...]
    deep_members: tuple[int, ...]
    correction: bool
    steps: int
    times: tuple[float, ...] = (4.0, 8.0, 12.0, 16.0)
    checked: int = 2


SMOKE = Config(
    widths=(48, 96, 192), members=(2400, 1200, 800), deep_members=(400, 200, 120), correction=False, steps=12
)
PAPER = Config(
    widths=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    members=(32768, 16384, 8192, 4096, 2048, 1024, 512, 256),
    deep_members=(2048, 1024, 1024, 512, 256, 128, 64, 32),
    correction=True,
    steps=16,
)


def architecture(depth: int) -> MLP:
    return MLP(depth, ACTIVATION, WEIGHT_VARIANCE)


def assumptions(config: Config) -> list[Assumption]:
    """A positive definite kernel, a training worth the name, and enough networks for the margins."""
    found = []
    for depth, name in LAYERS.items():
        rates = np.linalg.eigvalsh(np.asarray(ntk(architecture(depth), X)))
        left = float(np.exp(-rates[0] * config.times[-1]))
        found.append(
            Assumption(f"{name}: the limiting kernel is positive definite", rates[0] > 0.1, f"{rates[0]:.2f} and more")
        )
        found.append(Assumption(f"{name}: training removes most of the residual", left < 0.1, f"{left:.3f} are left"))
    law, table = two_layer_drift(ACTIVATION, X, Y, weight_variance=WEIGHT_VARIANCE), predict(config)
    spread = n_trace_spread(law)
    n = np.array(config.widths, float)
    fit = fit_amplitude(
        n, 1 / n, spread / n / np.sqrt(config.members), exponent=1.0, correction=1.0 if config.correction else None
    )
    power = float(table["margin"].sel(quantity="trace") / fit.standard_error)
    found.append(Assumption("the margin of the trace is at least 8 standard errors", power >= 8, f"{power:.1f}"))
    return found


def n_trace_spread(law: Drift) -> float:
    """At most this is the standard deviation of n ΔΘ's trace over networks, in units of |Θ_∞|."""
    variances = law.square - law.mean**2
    return float(np.sqrt(variances[0, 0]) + np.sqrt(variances[1, 1])) / size(law.limit)


def size(kernel: Float[np.ndarray, "m m"]) -> float:
    return float(np.sqrt(np.sum(kernel**2)))


def amplitudes(config: Config, time: float | None = None, **parts: bool) -> np.ndarray:
    """The limits of n times the changes of `QUANTITIES`, in units of |Θ_∞|, for one hidden layer."""
    law = two_layer_drift(
        ACTIVATION, X, Y, weight_variance=WEIGHT_VARIANCE, time=config.times[-1] if time is None else time, **parts
    )
    return np.array([np.trace(law.mean), law.mean[0, 1], size(np.sqrt(law.square))]) / size(law.limit)


# What each rival leaves out.
INCOMPLETE = ({"fluctuations": False}, {"curvature": False}, {"correlated": False})


def predict(config: Config) -> xr.Dataset:
    """Exponent, amplitudes and |Θ_∞| of each depth, with margins."""
    return _tabulate(config)


def _tabulate(config: Config, *, power: float = 1.0, **parts: bool) -> xr.Dataset:
    truth = amplitudes(config)
    rivals = np.array([amplitudes(config, **left_out) for left_out in INCOMPLETE])
    distance, scale = np.abs(rivals - truth), np.maximum(np.abs(rivals), np.abs(truth))
    return xr.Dataset(
        {
            "exponent": ((), power),
            "exponent_margin": ((), 0.25),
            "amplitude": ("quantity", amplitudes(config, **parts)),
            "margin": ("quantity", 0.5 * np.where(distance > NEAR * scale, distance, np.inf).min(axis=0)),
            "size": ("depth", [size(np.asarray(ntk(architecture(depth), X))) for depth in LAYERS]),
            "correction": ((), config.correction),
        },
        coords={"depth": list(LAYERS), "quantity": list(QUANTITIES)},
    )


def bound_as_rate(config: Config) -> xr.Dataset:
    """Rival: the change falls as n^-½."""
    return _tabulate(config, power=0.5)


def features(config: Config) -> xr.Dataset:
    """Rival: the relative change is the same at every width."""
    return _tabulate(config, power=0.0)


def no_fluctuations(config: Config) -> xr.Dataset:
    """Rival: every network's kernel changes by the mean curvature along the flow."""
    return _tabulate(config, fluctuations=False)


def no_curvature(config: Config) -> xr.Dataset:
    """Rival: the hierarchy ends after the third-order kernel, taken at the start."""
    return _tabulate(config, curvature=False)


def uncorrelated(config: Config) -> xr.Dataset:
    """Rival: the third-order kernel is independent of the output at the start."""
    return _tabulate(config, correlated=False)


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Each depth at each width."""
    return [{"depth": depth, "width": width} for depth in LAYERS for width in config.widths]


def measure(config: Config, cell: Cell, key: Key[jax.Array, ""]) -> xr.Dataset:
    """Means over networks of the changes and of |ΔΘ|², with standard errors, at each recorded time."""
    depth, width = int(cell["depth"]), int(cell["width"])
    net = network(architecture(depth), width=width, inputs=X.shape[1])
    members = (config.members if depth == 1 else config.deep_members)[config.widths.index(width)]

    def work(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
        weights = random_weights(net, rng, count)
        path = flow_path(net, weights, X, Y, times=(0.0, *config.times), steps=config.steps)
        return path.kernels[:, 1:] - path.kernels[:, :1], path.outputs[:, -1] - Y

    change, residual = in_chunks(work, net.parameters, members, key)
    square = np.sum(change**2, axis=(2, 3))
    values = np.stack([change[..., 0, 0] + change[..., 1, 1], change[..., 0, 1], square])
    gap = integration_error(config, net, jax.random.fold_in(key, 1))
    return xr.Dataset(
        {
            "value": (("quantity", "time"), values.mean(axis=1)),
            "error": (("quantity", "time"), values.std(axis=1, ddof=1) / np.sqrt(members)),
            # In units of the typical change.
            "integration": ((), gap / np.sqrt(square[:, -1].mean())),
            "residual": ((), np.sqrt(np.mean(residual**2) / np.mean(Y**2))),
            "members": ((), members),
        },
        coords={"time": list(config.times), "quantity": list(QUANTITIES)},
    )


def integration_error(config: Config, net: Network, key: Key[jax.Array, ""]) -> float:
    """The largest difference in ΔΘ between flows with all steps and with twice as many, over some networks."""
    [gaps] = in_chunks(lambda rng, count: (_gaps(config, net, rng, count),), net.parameters, config.checked, key)
    return float(gaps.max())


def _gaps(config: Config, net: Network, rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
    weights = random_weights(net, rng, count)
    coarse, fine = (
        flow_path(net, weights, X, Y, times=config.times[-1:], steps=steps).kernels[:, 0]
        for steps in (config.steps, 2 * config.steps)
    )
    return np.sqrt(np.sum((fine - coarse) ** 2, axis=(1, 2)))


def changes(prediction: xr.Dataset, measurement: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Changes of `QUANTITIES` in units of |Θ_∞| (quantity, depth, width, time), their errors, and the members."""
    order = ("quantity", "depth", "width", "time")
    value, error = (measurement[name].transpose(*order).values.copy() for name in ("value", "error"))
    scale = prediction["size"].values[:, None, None]
    root = np.sqrt(value[2])
    # The mean square becomes a root mean square.
    value[2], error[2] = root, error[2] / (2 * root)
    return value / scale, error / scale, measurement["members"].transpose("depth", "width").values


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """The exponent for each depth, the amplitudes for one hidden layer, and the error of the integration."""
    value, error, members = (a[..., -1] if a.ndim == 4 else a for a in changes(prediction, measurement))
    widths = measurement["width"].values.astype(float)
    correction = 1.0 if bool(prediction["correction"]) else None
    comparisons = []
    for i, depth in enumerate(prediction["depth"].values):
        comparisons += exponent(
            f"exponent of the relative change, {LAYERS[int(depth)]}",
            widths,
            value[2, i],
            error[2, i],
            prediction=float(prediction["exponent"]),
            margin=float(prediction["exponent_margin"]),
            correction=correction,
            sample_size=int(members[i].sum()),
            dof=int(members[i].min()) - 1,
        )
    for j, quantity in enumerate(prediction["quantity"].values):
        fit = fit_amplitude(widths, value[j, 0], error[j, 0], exponent=1.0, correction=correction)
        comparisons += equivalence(
            f"n times the {NAMES[str(quantity)]}, one hidden layer",
            fit.estimate,
            float(prediction["amplitude"][j]),
            float(prediction["margin"][j]),
            standard_error=fit.standard_error,
            sample_size=int(members[0].sum()),
            dof=int(members[0].min()) - 1,
        )
    worst = measurement["integration"].transpose("depth", "width").values.max(axis=1)
    comparisons += identity(
        [f"error of the integration, {LAYERS[int(depth)]}" for depth in prediction["depth"].values],
        worst,
        0.0,
        tolerance=INTEGRATION,
    )
    return decide(
        comparisons,
        margin_source="half the distance to the nearest rival that counts there; integration: 0.01 of the effect",
    )


def draw(figure: Figure, evidence: Evidence) -> None:
    """Left: relative change against width. Right: n times the mean changes of two layers in time."""
    from experiments.report.style import COLOURS, MARKERS

    prediction, measurement, config = evidence.prediction, evidence.measurement, evidence.config
    value, error, _ = changes(prediction, measurement)
    n, times = measurement["width"].values.astype(float), measurement["time"].values
    left, right = figure.subplots(1, 2)
    for i, depth in enumerate(prediction["depth"].values):
        # With no theory for the amplitude, a line of slope −1 through the widest networks but one.
        scale = float(prediction["amplitude"][2]) if depth == 1 else float(n[-2] * value[2, i, -2, -1])
        left.plot(n, scale / n, "-" if depth == 1 else "--", color=COLOURS[i], linewidth=1)
        left.errorbar(
            n,
            value[2, i, :, -1],
            2.576 * error[2, i, :, -1],
            fmt=MARKERS[i],
            color=COLOURS[i],
            label=LAYERS[int(depth)],
        )
    start = value[2, 1, 0, -1]
    left.plot(n, start * (n / n[0]) ** -0.5, ":", color="black", linewidth=0.8, label=r"rival, $n^{-1/2}$")
    left.set(xscale="log", yscale="log", xlabel="width $n$", ylabel=r"relative change of $\Theta$, r.m.s.")
    left.set_xticks(n, [f"{width:.0f}" for width in n], rotation=45 if len(n) > 5 else 0)
    left.set_xticks([], minor=True)
    left.legend()
    fine = np.linspace(0, times[-1], 60)
    law = np.array([amplitudes(config, time) for time in fine])
    shown = [0, len(n) // 2] if len(n) > 2 else [0]
    for j, name in enumerate(("trace", r"$\Theta(x, x')$")):
        right.plot(fine, law[:, j], color=COLOURS[j], linewidth=1)
        for row, i in enumerate(shown):
            right.errorbar(
                times * (1 + 0.015 * row),
                n[i] * value[j, 0, i],
                2.576 * n[i] * error[j, 0, i],
                fmt=MARKERS[2 * j + row],
                markerfacecolor="none" if row else COLOURS[j],
                color=COLOURS[j],
                label=f"{name}, $n={n[i]:.0f}$",
            )
    right.axhline(0.0, color="black", linewidth=0.5)
    right.set(xlabel="time $t$", ylabel=r"$n \times$ mean change, relative")
    right.legend()


claim = Claim(
    id="ntk/drift-smooth",
    kind="limit",
    expected="supported",
    sources=("dyer2020asymptotics", "huang2020dynamics", "lee2019wide"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("bound-as-rate", "the kernel changes by n^-½, the proven bound", predict=bound_as_rate),
        Rival("features", "the kernel's relative change does not fall with the width", predict=features),
        Rival(
            "no-fluctuations",
            "all networks' kernels change alike, by the mean curvature along the flow",
            predict=no_fluctuations,
        ),
        Rival("no-curvature", "the third-order kernel at the start says it all", predict=no_curvature),
        Rival(
            "uncorrelated",
            "the third-order kernel is independent of the output at the start, and adds nothing to the mean",
            predict=uncorrelated,
        ),
    ),
)
