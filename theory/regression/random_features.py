r"""Regression on chosen and on random features, on both sides of interpolation.

*Chosen features.* Of D isotropic Gaussian inputs with labels y = ⟨β, x⟩ + ε a set T of p is used, by least squares of
minimum norm. What the other inputs contribute is noise that is independent of the chosen ones, so that the excess risk
is exactly

    |β_U|² + R(n, p; r² = |β_T|², noise = σ² + |β_U|²),    U the complement of T,

with R of `theory.regression.isotropic` (Belkin, Hsu & Xu 2020, Theorem 1).

*Random features.* f(x) = Σ_a c_a φ(⟨w_a, x⟩/√d) with N fixed random directions |w_a| = √d, inputs of dimension d with
|x|² ≈ d, n examples, ridge regression of c. Let μ_1 = E[zφ(z)], μ_*² = E[φ²] − E[φ]² − μ_1², ζ = μ_1/μ_*,
ψ_1 = N/d, ψ_2 = n/d. In the proportional limit the excess risk for labels with linear part F_1² = |β|², centred
nonlinear part F_*² and noise σ² is

    R = F_1² B + (σ² + F_*²) V + F_*²,

where B = E_1/E_0 and V = E_2/E_0 are rational in one number χ ≤ 0. With χ = −q and the penalty λ̄ = λ/μ_*², q is the
root between 0 and min ψ of

    (ψ_1 − h)(ψ_2 − h) = ψ_1 ψ_2 λ̄ q,    h(q) = q + ζ²q/(1 + ζ²q),

which are the source's two equations for ν_1 and ν_2 on the imaginary axis with one unknown eliminated, q = |ν_1 ν_2|.

Sources: Belkin, Hsu & Xu 2020; Mei & Montanari 2022, Definition 1 and Theorem 2 (F_0 is irrelevant: constants are
learned). Checked in the tests by an independent route: random features conditioned on their directions are Gaussian
ridge regression with a misspecified target, averaged over the Marchenko–Pastur law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import root_scalar

from theory.regression.isotropic import least_squares_risk, least_squares_variance


@dataclass(frozen=True)
class Nonlinearity:
    """What the limit knows of an activation φ, for z ~ N(0, 1).

    Attributes:
        linear: μ_1 = E[zφ(z)] ≠ 0.
        residual: μ_*² = E[φ²] − E[φ]² − μ_1² > 0.
    """

    linear: float
    residual: float


RELU = Nonlinearity(linear=0.5, residual=0.25 - 0.5 / np.pi)


def chosen_features_risk(samples: int, chosen: float, left_out: float, features: int, *, noise: float) -> float:
    """Excess risk of least squares of minimum norm on some of the inputs.

    Args:
        samples: n ≥ 1.
        chosen: |β_T|², of the inputs that are used.
        left_out: |β_U|², of those that are not.
        features: p ≥ 1, the number of inputs that are used.
        noise: variance σ² ≥ 0 of the labels.

    Returns:
        The risk, without the noise of the test label; infinite for |n − p| ≤ 1.

    Raises:
        ValueError: a size is below 1, or a variance is negative.
    """
    _check_left_out(left_out)
    return left_out + least_squares_risk(samples, features, signal=chosen, noise=noise + left_out)


def chosen_features_variance(samples: int, chosen: float, left_out: float, features: int, *, noise: float) -> float:
    """Variance over training sets of the excess risk whose mean is `chosen_features_risk`."""
    _check_left_out(left_out)
    return least_squares_variance(samples, features, signal=chosen, noise=noise + left_out)


def random_features_risk(
    features: float,
    samples: float,
    *,
    penalty: float,
    linear: float,
    nonlinear: float = 0.0,
    noise: float = 0.0,
    activation: Nonlinearity = RELU,
) -> float:
    """Excess risk of ridge regression on random features, in the proportional limit.

    Args:
        features: ψ_1 = N/d > 0.
        samples: ψ_2 = n/d > 0.
        penalty: λ ≥ 0; the loss is the mean square over the examples plus λ (N/d) |c|². At λ = 0 the predictor is that
            of minimum norm.
        linear: F_1² ≥ 0, variance of the linear part of the target.
        nonlinear: F_*² ≥ 0, variance of the rest of the target, its mean apart.
        noise: variance σ² ≥ 0 of the labels about the target.
        activation: moments of φ.

    Returns:
        The risk, without the noise of the test label; infinite at λ = 0 and N = n.

    Raises:
        ValueError: a ratio is not positive, or a variance or the penalty is negative.
    """
    for name, ratio in (("features", features), ("samples", samples)):
        if not ratio > 0:
            raise ValueError(f"{name} must be positive, got {ratio}; it is a number over the input dimension")
    for name, x in (("penalty", penalty), ("linear", linear), ("nonlinear", nonlinear), ("noise", noise)):
        if not x >= 0:
            raise ValueError(f"{name} must not be negative, got {x}")
    if penalty == 0 and features == samples:
        return np.inf
    bias, variance = _bias_and_variance(features, samples, penalty, activation)
    return linear * bias + (noise + nonlinear) * variance + nonlinear


def _bias_and_variance(p1: float, p2: float, penalty: float, activation: Nonlinearity) -> tuple[float, float]:
    """B and V, with ψ_1 and ψ_2 as p1 and p2, and z = ζ²."""
    z = activation.linear**2 / activation.residual
    x = -_root(p1, p2, penalty / activation.residual, z)
    e0 = (
        -(x**5) * z**3
        + 3 * x**4 * z**2
        + (p1 * p2 - p2 - p1 + 1) * x**3 * z**3
        - 2 * x**3 * z**2
        - 3 * x**3 * z
        + (p1 + p2 - 3 * p1 * p2 + 1) * x**2 * z**2
        + 2 * x**2 * z
        + x**2
        + 3 * p1 * p2 * x * z
        - p1 * p2
    )
    e1 = p2 * x**3 * z**2 - p2 * x**2 * z + p1 * p2 * x * z - p1 * p2
    e2 = (
        x**5 * z**3
        - 3 * x**4 * z**2
        + (p1 - 1) * x**3 * z**3
        + 2 * x**3 * z**2
        + 3 * x**3 * z
        + (-p1 - 1) * x**2 * z**2
        - 2 * x**2 * z
        - x**2
    )
    return e1 / e0, e2 / e0


def _root(p1: float, p2: float, penalty: float, z: float) -> float:
    """q = −χ."""
    least = min(p1, p2)
    # h(q) = ψ, the end of the interval and the answer without penalty: zq² + (1 + z − zψ)q = ψ.
    b = 1 + z - z * least
    end = 2 * least / (b + np.sqrt(b**2 + 4 * z * least))
    if penalty == 0:
        return end

    def gap(q: float) -> float:
        h = q + z * q / (1 + z * q)
        return (p1 - h) * (p2 - h) - p1 * p2 * penalty * q

    return float(root_scalar(gap, bracket=(0.0, end), xtol=1e-300, rtol=4 * np.finfo(float).eps).root)


def _check_left_out(left_out: float) -> None:
    if not left_out >= 0:
        raise ValueError(f"left_out must not be negative, got {left_out}; it is |β|² of the inputs that are not used")
