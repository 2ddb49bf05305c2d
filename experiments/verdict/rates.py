"""Power laws with their first correction: the amplitude where theory gives it, else the exponent.

A straight line through a log–log plot is pulled by the next order of the expansion: at the widths one can reach,
n^−1 (1 + B/√n) looks like n^−1.2 or n^−0.8. So the correction is a term of the fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from experiments.verdict.judges import equivalence
from experiments.verdict.status import Comparison

# A lack of fit rarer than this is no accident: the errors are then widened by √(χ²/dof).
MISFIT = 1e-3


class Fit(NamedTuple):
    """Leading coefficient of a weighted linear fit, its standard error, and the probability of so bad a fit."""

    estimate: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    goodness: NDArray[np.float64]


def weighted_fit(design: NDArray, values: NDArray, errors: NDArray, coefficient: int) -> Fit:
    """Least squares with known errors, vectorised over repetitions.

    Args:
        design: `[s, k]`, one row a size.
        values, errors: `[..., s]`.
        coefficient: which of the k to return.

    Returns:
        The coefficient with its standard error, widened by √(χ²/dof) where the model misses the data.
    """
    scaled = design / errors[..., None]
    # The columns differ by orders of magnitude, which QR (unlike the normal equations) takes in its stride.
    q, r = np.linalg.qr(scaled)
    inverse = np.linalg.inv(r)
    whitened = values / errors
    coefficients = np.einsum("...ij,...kj,...k->...i", inverse, q, whitened)
    residual = whitened - np.einsum("...kj,...j->...k", scaled, coefficients)
    variance = np.einsum("...ij,...ij->...i", inverse, inverse)[..., coefficient]
    dof = values.shape[-1] - design.shape[-1]
    chi2 = np.sum(residual**2, axis=-1)
    goodness = np.asarray(chdtrc(dof, chi2)) if dof > 0 else np.ones_like(chi2)
    inflation = np.where(goodness < MISFIT, np.sqrt(np.maximum(chi2 / max(dof, 1), 1.0)), 1.0)
    return Fit(coefficients[..., coefficient], np.sqrt(variance) * inflation, goodness)


def fit_amplitude(
    sizes: ArrayLike,
    values: ArrayLike,
    standard_errors: ArrayLike,
    *,
    exponent: float,
    correction: float | None,
) -> Fit:
    """A in value = A n^−p (1 + B n^−r), linear in A and AB for a given exponent p and correction r."""
    n, v, e = _check(sizes, values, standard_errors, 1 if correction is None else 2)
    columns = [n**-exponent] if correction is None else [n**-exponent, n ** -(exponent + correction)]
    return weighted_fit(np.stack(columns, axis=-1), v, e, 0)


def fit_exponent(sizes: ArrayLike, values: ArrayLike, standard_errors: ArrayLike, *, correction: float | None) -> Fit:
    """p in ln value = ln A − p ln n + B n^−r, for a given correction r; values must be positive."""
    n, v, e = _check(sizes, values, standard_errors, 2 if correction is None else 3)
    relative = e / v
    columns = [-np.log(n), np.ones_like(n)] + ([] if correction is None else [n**-correction])
    with np.errstate(invalid="ignore", divide="ignore"):
        # E ln v̂ = ln v − ½ (relative error)² + …
        log_values = np.log(v) + 0.5 * relative**2
    return weighted_fit(np.stack(columns, axis=-1), log_values, relative, 0)


def amplitude(
    label: str,
    sizes: ArrayLike,
    values: ArrayLike,
    standard_errors: ArrayLike,
    *,
    exponent: float,
    prediction: float,
    margin: float,
    sample_size: int,
    correction: float | None = 0.5,
    dof: float = np.inf,
) -> list[Comparison]:
    """value = A n^−p (1 + B n^−r): the fitted A over the predicted one is 1 within the margin.

    `dof` are the degrees of freedom behind each standard error: members − 1 where they come from an ensemble.
    """
    if prediction == 0:
        raise ValueError("prediction must not be 0: an amplitude of nothing has no relative deviation; use equivalence")
    fit = fit_amplitude(sizes, values, standard_errors, exponent=exponent, correction=correction)
    return equivalence(
        label,
        fit.estimate / prediction,
        1.0,
        margin,
        standard_error=np.abs(fit.standard_error / prediction),
        sample_size=sample_size,
        dof=dof,
    )


def exponent(
    label: str,
    sizes: ArrayLike,
    values: ArrayLike,
    standard_errors: ArrayLike,
    *,
    prediction: float,
    margin: float,
    sample_size: int,
    correction: float | None = 1.0,
    dof: float = np.inf,
) -> list[Comparison]:
    """value = A n^−p (1 + B n^−r): the fitted p is the predicted one within the margin. `dof` as in `amplitude`."""
    fit = fit_exponent(sizes, values, standard_errors, correction=correction)
    return equivalence(
        label, fit.estimate, prediction, margin, standard_error=fit.standard_error, sample_size=sample_size, dof=dof
    )


def _check(
    sizes: ArrayLike, values: ArrayLike, standard_errors: ArrayLike, unknowns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    n, v, e = (np.asarray(a, dtype=np.float64) for a in (sizes, values, standard_errors))
    if n.ndim != 1 or v.shape[-1:] != n.shape or e.shape != v.shape:
        raise ValueError(
            f"sizes {n.shape}, values {v.shape} and standard_errors {e.shape} must end in one axis of the same length"
        )
    if np.unique(n).size < max(unknowns, 2):
        raise ValueError(f"sizes has {np.unique(n).size} different values; this fit needs at least {max(unknowns, 2)}")
    if np.any(e <= 0):
        raise ValueError("standard_errors must be positive: a fit weighs each size by them")
    return n, v, e
