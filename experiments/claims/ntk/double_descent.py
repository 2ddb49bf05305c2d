"""Least squares of minimum norm on isotropic Gaussian inputs has, exactly, the excess risk σ²p/(n−p−1) for p < n−1 and
r²(1−n/p) + σ²n/(p−n−1) for p > n+1: it diverges at interpolation and falls again beyond; the best ridge penalty σ²p/r²
removes the peak.

Sources: Hastie, Montanari, Rosset & Tibshirani 2022 (proportional limits); Belkin, Hsu & Xu 2020, Theorem 1 (finite
n); Dobriban & Wager 2018 (best penalty). The exact ridge risk and the variances are derived in `theory.regression`.

Three statements are tested. *Identity*: measured and exact risks agree, for least squares on both sides of the peak
and for ridge everywhere, on the peak too. *Best penalty*: at σ²p/r² the risk is below that at σ²/r² (the same without
p) and that at four times the penalty, on the same training sets. *No peak*: with the best penalty the risk rises with p
all the way (r² is fixed, so that each of more inputs carries less).

Margin: an identity has no error of its own. For least squares it is half the distance to the nearest rival: the
proportional limit taken at finite n (no −1 in the denominators), a squared bias, or a bias that is r² as soon as p > n.
For ridge it is half the distance to the exact risk without ridge, at most a tenth of the prediction. Orderings have
none.

Heavy tails: the risk of one training set has moments below (|n−p|+1)/2 only, hence no mean within 1 of the peak and no
variance within 3. Least squares is measured at |n−p| ≥ 8, where the fourth moment is finite, and its standard error is
the exact one. Ridge has no heavy tails.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key
from threadpoolctl import threadpool_limits

from experiments.claim import Assumption, Cell, Claim, Evidence, Rival
from experiments.verdict import Comparison, Verdict, decide, equivalence, ordering
from theory.regression.isotropic import (
    best_ridge,
    least_squares_limit,
    least_squares_risk,
    least_squares_variance,
    ridge_risk,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distance |n − p| from which on the fourth moment of the risk of one training set exists: 4 < (|n−p|+1)/2.
TAME = 8
# Normals drawn at once: they still fit into the cache.
DRAWS = 2**18
PENALTIES = ("none", "without p", "best", "fourfold")


@dataclass(frozen=True)
class Config:
    """Sizes of the sweep.

    Attributes:
        samples: n.
        ratios: p/n; the products must be whole.
        members: training sets for least squares at each ratio, for each n; 0 where p is too close to n.
        ridge_members: training sets for ridge at each ratio.
        signal, noise: r² and σ².
    """

    samples: tuple[int, ...]
    ratios: tuple[float, ...]
    members: tuple[int, ...]
    ridge_members: tuple[int, ...]
    signal: float = 4.0
    noise: float = 1.0


SMOKE = Config(
    samples=(16,),
    ratios=(0.25, 0.375, 0.5, 1.0, 1.5, 1.75, 2.0),
    members=(100_000, 60_000, 40_000, 0, 32_000, 56_000, 100_000),
    ridge_members=(40_000, 16_000, 8_000, 8_000, 8_000, 8_000, 8_000),
)
PAPER = Config(
    samples=(32, 48),
    ratios=(0.25, 0.375, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
    members=(200_000, 125_000, 76_000, 30_000, 0, 30_000, 68_000, 125_000, 250_000),
    ridge_members=(24_000, 16_000, 8_000, 8_000, 8_000, 8_000, 8_000, 8_000, 8_000),
)


def sizes(config: Config) -> list[tuple[int, int, int]]:
    """(n, p, members of least squares) for each n and each ratio."""
    return [
        (n, round(n * ratio), members)
        for n in config.samples
        for ratio, members in zip(config.ratios, config.members, strict=True)
    ]


def assumptions(config: Config) -> list[Assumption]:
    """Whole numbers of inputs, tame risks, and an ensemble that resolves the nearest rival."""
    prediction = predict(config)
    measured = prediction["members"].values > 0
    least = float((prediction["margin"] / prediction["error"]).values[measured].min())
    closest = min(abs(n - p) for n, p, members in sizes(config) if members)
    whole = all(float(n * ratio).is_integer() for n in config.samples for ratio in config.ratios)
    return [
        Assumption("p is a whole number at every ratio", whole),
        Assumption(
            f"least squares is measured at |n − p| ≥ {TAME}, where the fourth moment of its risk is finite",
            closest >= TAME,
            f"closest {closest}",
        ),
        Assumption("its margin is at least 12 exact standard errors", least >= 12, f"least {least:.1f}"),
    ]


def predict(config: Config) -> xr.Dataset:
    """Exact risks, margins, and the exact standard errors of least squares, for each n and ratio."""
    rows = []
    for n, p, members in sizes(config):
        known = {"signal": config.signal, "noise": config.noise}
        ridge = _best_ridge_risk(n, p, config.signal, config.noise)
        plain = least_squares_risk(n, p, **known)
        if members:
            nearest = min(abs(plain - rival) for rival in _rivals(config, n, p) if rival != plain)
            error = np.sqrt(least_squares_variance(n, p, **known) / members)
            rows.append((plain, nearest / 2, error, ridge, min(abs(plain - ridge) / 2, ridge / 10)))
        else:
            # Least squares is not measured, for want of a finite mean or of tame tails.
            rows.append((np.inf, np.inf, np.inf, ridge, ridge / 10))
    names = ("risk", "margin", "error", "ridge_risk", "ridge_margin")
    shape = (len(config.samples), len(config.ratios))
    columns = np.array(rows).T.reshape(len(names), *shape)
    dims = ("samples", "ratio")
    features = np.array([p for _, p, _ in sizes(config)]).reshape(shape)
    members = np.array([m for _, _, m in sizes(config)]).reshape(shape)
    return xr.Dataset(
        {name: (dims, column) for name, column in zip(names, columns, strict=True)}
        | {"features": (dims, features), "members": (dims, members)},
        coords={"samples": list(config.samples), "ratio": list(config.ratios)},
    )


@cache
def _best_ridge_risk(n: int, p: int, signal: float, noise: float) -> float:
    """Exact risk with the best penalty; the claim and its rivals all ask for it."""
    return ridge_risk(n, p, signal=signal, noise=noise, penalty=best_ridge(p, signal=signal, noise=noise))


def _rivals(config: Config, n: int, p: int) -> list[float]:
    """Wrong risks of least squares: of the limit, of a squared bias, and of a lost signal."""
    variance = config.noise * min(n, p) / (abs(n - p) - 1)
    unseen = max(1 - n / p, 0.0)
    return [
        least_squares_limit(p / n, signal=config.signal, noise=config.noise),
        config.signal * unseen**2 + variance,
        config.signal * (p > n) + variance,
    ]


def _with_risk(config: Config, index: int) -> xr.Dataset:
    prediction = predict(config)
    values = [_rivals(config, n, p)[index] if members else np.inf for n, p, members in sizes(config)]
    return prediction.assign(risk=(prediction["risk"].dims, np.reshape(values, prediction["risk"].shape)))


def proportional_limit(config: Config) -> xr.Dataset:
    """Rival: the formulas of the proportional limit hold as they stand, without the −1."""
    return _with_risk(config, 0)


def squared_bias(config: Config) -> xr.Dataset:
    """Rival: beyond interpolation the bias is r²(1−n/p)², as if β̂ were β shrunk by n/p."""
    return _with_risk(config, 1)


def lost_signal(config: Config) -> xr.Dataset:
    """Rival: beyond interpolation nothing is learned, and the bias is r²."""
    return _with_risk(config, 2)


def ridge_changes_nothing(config: Config) -> xr.Dataset:
    """Rival: ridge regression has the risk of least squares wherever that is finite."""
    prediction = predict(config)
    measured = prediction["members"] > 0
    return prediction.assign(ridge_risk=prediction["risk"].where(measured, prediction["ridge_risk"]))


def cells(config: Config) -> list[dict[str, int | float | str]]:
    """Each n with each ratio."""
    return [{"samples": n, "ratio": ratio} for n in config.samples for ratio in config.ratios]


def measure(config: Config, cell: Cell, key: Key[Array, ""]) -> xr.Dataset:
    """Mean |β̂ − β|² over training sets for least squares and three ridge penalties, in double precision.

    Ridge risks come with their standard errors and those of their differences from the best penalty, all on the same
    training sets.
    """
    n, p = int(cell["samples"]), round(int(cell["samples"]) * float(cell["ratio"]))
    place = config.ratios.index(float(cell["ratio"]))
    members, ridge_members = config.members[place], config.ridge_members[place]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    beta = np.full(p, np.sqrt(config.signal / p))
    best = config.noise * p / config.signal
    penalties = (config.noise / config.signal, best, 4 * best)
    least_squares, risks = 0.0, []
    # These matrices are too small for threads, which would only wait for each other.
    with threadpool_limits(1, "blas"):
        for size in _chunks(members, n * p):
            inputs, labels = _training_sets(rng, size, n, beta, config.noise)
            least_squares += np.sum((_regress(inputs, labels, 0.0) - beta) ** 2)
        for size in _chunks(ridge_members, n * p):
            inputs, labels = _training_sets(rng, size, n, beta, config.noise)
            risks.append([np.sum((_regress(inputs, labels, mu) - beta) ** 2, axis=1) for mu in penalties])
    ridge = np.concatenate(risks, axis=1)
    root = np.sqrt(ridge.shape[1])
    dims = ("penalty",)
    return xr.Dataset(
        {
            "risk": least_squares / max(members, 1),
            "members": members,
            "ridge": (dims, ridge.mean(axis=1)),
            "ridge_error": (dims, ridge.std(axis=1, ddof=1) / root),
            "excess_error": (dims, (ridge - ridge[1]).std(axis=1, ddof=1) / root),
            "ridge_members": ridge.shape[1],
        },
        coords={"penalty": list(PENALTIES[1:])},
    )


def _chunks(members: int, draws: int) -> list[int]:
    """Numbers of training sets that are drawn together."""
    chunk = max(1, DRAWS // draws)
    return [min(chunk, members - start) for start in range(0, members, chunk)]


def _training_sets(
    rng: np.random.Generator, members: int, n: int, beta: Float[np.ndarray, " p"], noise: float
) -> tuple[Float[np.ndarray, "m n p"], Float[np.ndarray, "m n"]]:
    inputs = rng.standard_normal((members, n, beta.size))
    return inputs, inputs @ beta + np.sqrt(noise) * rng.standard_normal((members, n))


def _regress(
    inputs: Float[np.ndarray, "m n p"], labels: Float[np.ndarray, "m n"], penalty: float
) -> Float[np.ndarray, "m p"]:
    """Ridge regression for each training set; without a penalty, least squares of minimum norm."""
    n, p = inputs.shape[1:]
    transposed = inputs.transpose(0, 2, 1)
    # The smaller of the two Gram matrices, which is regular: the singular values are at least of order |√n − √p|.
    gram = transposed @ inputs if p <= n else inputs @ transposed
    gram[:, np.arange(min(n, p)), np.arange(min(n, p))] += penalty
    if p <= n:
        return np.linalg.solve(gram, transposed @ labels[..., None])[..., 0]
    return (transposed @ np.linalg.solve(gram, labels[..., None]))[..., 0]


def judge(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Equivalence of risks, superiority of the best penalty, and a risk that rises with p under it."""
    return decide(
        [
            *least_squares_agrees(prediction, measurement),
            *ridge_agrees(prediction, measurement),
            *best_penalty_wins(measurement),
            *risk_rises(measurement),
        ],
        margin_source="half the distance to the nearest rival; the risks are exact, and orderings have no margin",
    )


def least_squares_agrees(prediction: xr.Dataset, measurement: xr.Dataset) -> list[Comparison]:
    """Measured against exact risk where least squares is measured."""
    rows = np.argwhere(prediction["members"].values > 0)
    at = tuple(rows.T)
    return equivalence(
        [f"least squares, {_name(prediction, i, j)}" for i, j in rows],
        measurement["risk"].values[at],
        prediction["risk"].values[at],
        prediction["margin"].values[at],
        standard_error=prediction["error"].values[at],
        sample_size=measurement["members"].values[at],
    )


def ridge_agrees(prediction: xr.Dataset, measurement: xr.Dataset) -> list[Comparison]:
    """Measured against exact risk with the best penalty, everywhere."""
    best = measurement.sel(penalty="best")
    shape = prediction["features"].shape
    return equivalence(
        [f"best ridge, {_name(prediction, i, j)}" for i, j in np.ndindex(shape)],
        best["ridge"].values,
        prediction["ridge_risk"].values,
        prediction["ridge_margin"].values,
        standard_error=best["ridge_error"].values,
        sample_size=best["ridge_members"].values,
    )


def best_penalty_wins(measurement: xr.Dataset) -> list[Comparison]:
    """R(other penalty) > R(σ²p/r²), paired."""
    comparisons = []
    for penalty in ("without p", "fourfold"):
        there, best = measurement.sel(penalty=penalty), measurement.sel(penalty="best")
        comparisons += ordering(
            [f"penalty {penalty} loses, {_name(measurement, i, j)}" for i, j in np.ndindex(best["ridge"].shape)],
            (there["ridge"] - best["ridge"]).values,
            standard_error=there["excess_error"].values,
            sample_size=there["ridge_members"].values,
        )
    return comparisons


def risk_rises(measurement: xr.Dataset) -> list[Comparison]:
    """With the best penalty, R at each ratio exceeds that at the ratio before."""
    best = measurement.sel(penalty="best")
    errors = best["ridge_error"].values
    return ordering(
        [f"best ridge rises up to {_name(measurement, i, j + 1)}" for i, j in np.ndindex(_steps(best["ridge"]).shape)],
        _steps(best["ridge"]),
        standard_error=np.hypot(errors[:, 1:], errors[:, :-1]),
        sample_size=best["ridge_members"].values[:, 1:],
    )


def _steps(risk: xr.DataArray) -> Float[np.ndarray, "samples ratio"]:
    return np.diff(risk.transpose("samples", "ratio").values, axis=1)


def _name(data: xr.Dataset, i: int, j: int) -> str:
    n, ratio = int(data["samples"].values[i]), float(data["ratio"].values[j])
    return f"n = {n}, p = {round(n * ratio)}"


def u_curve(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: complexity beyond interpolation only hurts, so that R rises with p there (least squares)."""
    comparisons = []
    for n in measurement["samples"].values:
        here = measurement["ratio"].values > 1
        risk = measurement["risk"].sel(samples=n).values[here]
        error = prediction["error"].sel(samples=n).values[here]
        comparisons += ordering(
            [f"least squares rises after p/n = {ratio:g}, n = {n}" for ratio in measurement["ratio"].values[here][:-1]],
            np.diff(risk),
            standard_error=np.hypot(error[1:], error[:-1]),
            sample_size=measurement["members"].sel(samples=n).values[here][1:],
        )
    return decide(comparisons, margin_source="an ordering has no margin")


def ridge_still_peaks(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: with the best penalty too the risk at p = n exceeds that at the next p."""
    best = measurement.sel(penalty="best")
    ratios = measurement["ratio"].values
    here = int(np.argmax(ratios >= 1))
    drop = best["ridge"].isel(ratio=here) - best["ridge"].isel(ratio=here + 1)
    errors = best["ridge_error"].transpose("samples", "ratio").values
    comparisons = ordering(
        [f"best ridge falls after p = n = {n}" for n in measurement["samples"].values],
        drop.values,
        standard_error=np.hypot(errors[:, here], errors[:, here + 1]),
        sample_size=best["ridge_members"].isel(ratio=here).values,
    )
    return decide(comparisons, margin_source="an ordering has no margin")


def penalty_without_features(prediction: xr.Dataset, measurement: xr.Dataset) -> Verdict:
    """Rival: the best penalty is σ²/r², whatever p."""
    best, other = measurement.sel(penalty="best"), measurement.sel(penalty="without p")
    comparisons = ordering(
        [f"σ²/r² beats σ²p/r², {_name(measurement, i, j)}" for i, j in np.ndindex(best["ridge"].shape)],
        (best["ridge"] - other["ridge"]).values,
        standard_error=other["excess_error"].values,
        sample_size=other["ridge_members"].values,
    )
    return decide(comparisons, margin_source="an ordering has no margin")


def draw(figure: Figure, evidence: Evidence) -> None:
    """Risk against p/n for the largest n: least squares and best ridge, with two rivals dotted."""
    from experiments.report.style import COLOURS, MARKERS

    config, prediction, measurement = evidence.config, evidence.prediction, evidence.measurement
    known = {"signal": config.signal, "noise": config.noise}
    axes = figure.subplots(1, len(config.samples), sharey=True, squeeze=False)[0]
    for axis, n in zip(axes, config.samples, strict=True):
        top = 1.6 * float(prediction["risk"].where(prediction["members"] > 0).max())
        below = np.linspace(prediction["ratio"].values[0] * n, n - 1.02, 300)
        above = np.linspace(n + 1.02, prediction["ratio"].values[-1] * n, 300)
        plain = [config.noise * below / (n - below - 1)]
        plain.append(config.signal * (1 - n / above) + config.noise * n / (above - n - 1))
        limits = [
            [least_squares_limit(float(p) / n, **known) for p in side[np.abs(side - n) > 2]] for side in (below, above)
        ]
        for side, exact, limit in zip((below, above), plain, limits, strict=True):
            first = side is below
            axis.plot(side / n, exact, color=COLOURS[0], label="least squares, exact" if first else None)
            away = side[np.abs(side - n) > 2] / n
            axis.plot(
                away, limit, ":", color=COLOURS[0], linewidth=1, label="the same without the −1" if first else None
            )
        features = np.unique(np.rint(np.linspace(below[0], above[-1], 14)).astype(int))
        ridge = [_best_ridge_risk(n, int(p), config.signal, config.noise) for p in features]
        axis.plot(features / n, ridge, "--", color=COLOURS[1], label="best ridge, exact")
        here = {"samples": n}
        best = measurement.sel(penalty="best")
        # Least squares was not measured where its error is infinite.
        plain_risk = measurement["risk"].where(prediction["members"] > 0)
        points = ((plain_risk, prediction["error"]), (best["ridge"], best["ridge_error"]))
        for i, (risk, error) in enumerate(points):
            axis.errorbar(
                prediction["ratio"].values,
                risk.sel(here).values,
                2.576 * error.sel(here).values,
                fmt=MARKERS[i],
                color=COLOURS[i],
                label=("least squares, measured", "best ridge, measured")[i],
            )
        axis.axvline(1, color="0.6", linewidth=0.6)
        axis.set(yscale="log", ylim=(0.2, top), xlabel="inputs over examples $p/n$", title=f"$n = {n}$")
    axes[0].set_yticks([0.2, 0.5, 1, 2, 5, 10, 20], ["0.2", "0.5", "1", "2", "5", "10", "20"])
    axes[0].set_ylabel(r"excess risk $E|\hat\beta - \beta|^2$")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)


claim = Claim(
    id="ntk/double-descent",
    kind="identity",
    expected="supported",
    sources=("hastie2022surprises", "belkin2020two", "dobriban2018high"),
    tiers={"smoke": SMOKE, "paper": PAPER},
    assumptions=assumptions,
    predict=predict,
    cells=cells,
    measure=measure,
    judge=judge,
    draw=draw,
    rivals=(
        Rival("u-curve", "complexity only hurts: the risk rises with p beyond interpolation too", judge=u_curve),
        Rival(
            "proportional-limit",
            "σ²p/(n−p) and r²(1−n/p) + σ²n/(p−n) hold at finite n, without the −1",
            predict=proportional_limit,
        ),
        Rival("squared-bias", "beyond interpolation the bias is r²(1−n/p)²", predict=squared_bias),
        Rival("lost-signal", "beyond interpolation nothing is learned: the bias is r²", predict=lost_signal),
        Rival("ridge-changes-nothing", "ridge regression has the risk of least squares", predict=ridge_changes_nothing),
        Rival("ridge-still-peaks", "the best penalty lowers the peak but leaves one at p = n", judge=ridge_still_peaks),
        Rival("penalty-without-p", "the best penalty is σ²/r², whatever p", judge=penalty_without_features),
    ),
)
