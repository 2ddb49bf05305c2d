r"""Linear regression on isotropic Gaussian inputs: exact risk on both sides of interpolation, and with ridge.

Labels y = ⟨β, x⟩ + ε with x ~ N(0, I_p), ε ~ N(0, σ²) and |β|² = r², n examples. Least squares of minimum norm has the
excess risk R = E|β̂ − β|²

    σ² p/(n − p − 1)                          for p ≤ n − 2,
    r² (1 − n/p) + σ² n/(p − n − 1)           for p ≥ n + 2,

and infinite between. For given inputs the error is Gaussian with covariance σ²(XᵀX)⁻¹, so that with d = n − p and the
moments of the inverse Wishart law the variance of |β̂ − β|² is

    σ⁴ 2p(n − 1)/((d − 1)² (d − 3))                                        for p ≤ n − 4,
    r⁴ 2n(p − n)/(p² (p + 2)) + σ⁴ 2n(p − 1)/((p − n − 1)² (p − n − 3))    for p ≥ n + 4,

and infinite between. For p > n the share of |β|² outside the row space is a Beta((p−n)/2, n/2) variable that is
independent of the singular values. Ridge regression β̂ = (XᵀX + μ)⁻¹ Xᵀy has, with the eigenvalues s of XᵀX,

    R(μ) = E Σ_s ((r²/p) μ² + σ² s)/(s + μ)²,

over min(n, p) eigenvalues, plus r²(1 − n/p) for p > n, since the singular vectors are uniform. Each term is smallest at
μ = σ² p/r², whatever the inputs, and is σ²/(s + μ) there.

Sources: Hastie, Montanari, Rosset & Tibshirani 2022 (proportional limits); Belkin, Hsu & Xu 2020, Theorem 1 (finite
n); Dobriban & Wager 2018 (best penalty). The variances, and the exact ridge risk at finite n, are derived here.
"""

from __future__ import annotations

import numpy as np

from theory.regression.wishart import expected_sum


def least_squares_risk(samples: int, features: int, *, signal: float, noise: float) -> float:
    """Excess risk E|β̂ − β|² of least squares of minimum norm.

    Args:
        samples: n ≥ 1.
        features: p ≥ 1.
        signal: r² = |β|² ≥ 0.
        noise: variance σ² ≥ 0 of the labels.

    Returns:
        The risk; infinite for |n − p| ≤ 1 with noise.

    Raises:
        ValueError: a size is below 1, or a variance is negative.
    """
    _check(samples, features, signal, noise)
    excess = abs(samples - features)
    bias = signal * max(1 - samples / features, 0.0)
    if noise == 0:
        return bias
    return bias + noise * min(samples, features) / (excess - 1) if excess > 1 else np.inf


def least_squares_variance(samples: int, features: int, *, signal: float, noise: float) -> float:
    """Variance of |β̂ − β|² over inputs and label noise, for least squares of minimum norm.

    Arguments and errors are those of `least_squares_risk`; infinite for |n − p| ≤ 3 with noise.
    """
    _check(samples, features, signal, noise)
    n, p = samples, features
    excess = abs(n - p)
    bias = signal**2 * 2 * n * (p - n) / (p**2 * (p + 2)) if p > n else 0.0
    if noise == 0:
        return bias
    if excess <= 3:
        return np.inf
    return bias + noise**2 * 2 * min(n, p) * (max(n, p) - 1) / ((excess - 1) ** 2 * (excess - 3))


def best_ridge(features: int, *, signal: float, noise: float) -> float:
    """The penalty μ = σ² p/r² of μ|β|² beside the sum of squares, best for every set of inputs; μ/n if it is the mean.

    Raises:
        ValueError: features is below 1, noise is negative, or signal is not positive.
    """
    _check(1, features, signal, noise)
    if signal == 0:
        raise ValueError("signal must be positive, got 0: with nothing to learn the best penalty is infinite")
    return noise * features / signal


def ridge_risk(samples: int, features: int, *, signal: float, noise: float, penalty: float) -> float:
    """Excess risk E|β̂ − β|² of ridge regression, exact at finite n and p.

    Args:
        samples, features, signal, noise: as in `least_squares_risk`.
        penalty: μ > 0, of μ|β|² beside the sum of squares over the examples (not their mean).

    Returns:
        The risk, to a relative accuracy of about 1e-9.

    Raises:
        ValueError: a size is below 1, a variance is negative, or the penalty is not positive.
    """
    _check(samples, features, signal, noise)
    if not penalty > 0:
        raise ValueError(f"penalty must be positive, got {penalty}; without one use least_squares_risk")

    def term(s: np.ndarray) -> np.ndarray:
        return (signal / features * penalty**2 + noise * s) / (s + penalty) ** 2

    unseen = signal * max(1 - samples / features, 0.0)
    return unseen + expected_sum(term, min(samples, features), max(samples, features))


def least_squares_limit(ratio: float, *, signal: float, noise: float) -> float:
    """The risk as n, p → ∞ at p/n = γ: σ²γ/(1−γ) below γ = 1, r²(1−1/γ) + σ²/(γ−1) above.

    Args:
        ratio: γ > 0.
        signal, noise: as in `least_squares_risk`.

    Raises:
        ValueError: the ratio is not positive, or a variance is negative.
    """
    _check_ratio(ratio, signal, noise)
    if ratio == 1:
        return np.inf if noise > 0 else 0.0
    if ratio < 1:
        return noise * ratio / (1 - ratio)
    return signal * (1 - 1 / ratio) + noise / (ratio - 1)


def ridge_limit(ratio: float, *, signal: float, noise: float, penalty: float) -> float:
    """The risk of ridge regression as n, p → ∞ at p/n = γ, for the penalty λ = μ/n beside the mean square.

    With m(−λ) = ∫ 1/(s+λ), the Stieltjes transform of the Marchenko–Pastur law of XᵀX/n, the solution of
    γλm² + (1 − γ + λ)m = 1, it is r²λ²m' + σ²γ(m − λm'), with m' = ∫ 1/(s+λ)².

    Args:
        ratio: γ > 0.
        signal, noise: as in `least_squares_risk`.
        penalty: λ > 0.

    Raises:
        ValueError: the ratio or the penalty is not positive, or a variance is negative.
    """
    _check_ratio(ratio, signal, noise)
    if not penalty > 0:
        raise ValueError(f"penalty must be positive, got {penalty}; without one use least_squares_limit")
    linear = 1 - ratio + penalty
    root = np.sqrt(linear**2 + 4 * ratio * penalty)
    # The positive root, in the form that does not cancel.
    m = 2 / (linear + root) if linear > 0 else (root - linear) / (2 * ratio * penalty)
    # Minus the derivative of m in λ, from its equation.
    slope = m * (ratio * m + 1) / (2 * ratio * penalty * m + linear)
    return float(signal * penalty**2 * slope + noise * ratio * (m - penalty * slope))


def _check(samples: int, features: int, signal: float, noise: float) -> None:
    for name, size in (("samples", samples), ("features", features)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    _check_variances(signal, noise)


def _check_ratio(ratio: float, signal: float, noise: float) -> None:
    if not ratio > 0:
        raise ValueError(f"ratio must be positive, got {ratio}; it is features over examples")
    _check_variances(signal, noise)


def _check_variances(signal: float, noise: float) -> None:
    for name, variance in (("signal", signal), ("noise", noise)):
        if not variance >= 0:
            raise ValueError(f"{name} must not be negative, got {variance}; it is a variance")
