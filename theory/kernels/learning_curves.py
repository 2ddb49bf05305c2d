r"""Mean test error of kernel ridge regression from the spectrum: the eigenlearning equations.

Kernel regression on n examples drawn from a distribution under which the kernel has eigenvalues λ_i, with ridge δ added
to the Gram matrix, target f = Σ_i v_i φ_i and label noise of variance σ². If the eigenfunctions behave as independent
Gaussian features do (Gaussian universality), then

    n = Σ_i λ_i/(λ_i+κ) + δ/κ,    L_i = λ_i/(λ_i+κ),    E_0 = n / (n − Σ_i L_i²),
    test error = E_0 (Σ_i (1−L_i)² v_i² + σ²),    train error = (δ/(nκ))² · test error.

The test error counts the noise of the test label. L_i is the share of mode i that is learned; the learnabilities sum to
n when there is no ridge. E_0 is what is paid for noise. At κ = 0 (no ridge, more examples than modes) nothing but noise
is left, with E_0 = n/(n − rank).

Universality is an assumption. It fails in low dimension: on the circle the ridgeless NTK of a biased ReLU network
interpolates linearly between neighbours, which makes noise 5/3 as large, where these equations say 2.

Sources: Bordelon, Canatar & Pehlevan 2020; Simon, Dickens, Karkada & DeWeese 2021.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import root_scalar

from theory.arrays import ArrayLike, check_finite
from theory.kernels.spectra import Spectrum

LOW_DIMENSION = 3


class DomainWarning(UserWarning):
    """A prediction is asked for where its assumptions are known to fail."""


@dataclass(frozen=True)
class LearningCurve:
    """Predictions at each number of examples n.

    Attributes:
        samples: n.
        resolution: κ, the eigenvalue that is half learned.
        learnabilities: L of a mode in each eigenspace.
        noise_factor: E_0, by which noise is multiplied; infinite where n is the rank and there is no ridge.
        test_error: mean squared error on new examples with their noise.
        train_error: mean squared error on the examples.
    """

    samples: Float[np.ndarray, " n"]
    resolution: Float[np.ndarray, " n"]
    learnabilities: Float[np.ndarray, "n k"]
    noise_factor: Float[np.ndarray, " n"]
    test_error: Float[np.ndarray, " n"]
    train_error: Float[np.ndarray, " n"]


def learning_curve(
    spectrum: Spectrum, power: ArrayLike, samples: ArrayLike, *, ridge: float = 0.0, noise: float = 0.0
) -> LearningCurve:
    """Test and train error of kernel ridge regression by the eigenlearning equations.

    Args:
        spectrum: eigenvalues and their multiplicities; those below `spectrum.accuracy` count as 0. Its tail, modes far
            below κ, acts as a ridge of that size, which the kernel brings along: it regularises, but leaves no
            train error. Give enough degrees that the last eigenvalue is well below κ.
        power: Σ v_i² of the target in each eigenspace, (k,).
        samples: numbers of examples n > 0.
        ridge: δ ≥ 0, added to the Gram matrix (not divided by n).
        noise: variance σ² ≥ 0 of the labels about the target.

    Returns:
        The predictions, one for each n.

    Raises:
        ValueError: shapes that differ, or numbers outside their range.

    Warns:
        DomainWarning: on the sphere in at most 3 dimensions, where the equations fail for rough kernels.
    """
    values = np.where(spectrum.eigenvalues > spectrum.accuracy, spectrum.eigenvalues, 0.0)
    weight = spectrum.multiplicities
    target = np.asarray(power, np.float64)
    number = np.atleast_1d(np.asarray(samples, np.float64))
    check_finite("power", target)
    check_finite("samples", number)
    if target.shape != values.shape or (target < 0).any():
        raise ValueError(
            f"power must be {len(values)} numbers of at least 0, one for each eigenspace, got {target.shape}"
        )
    if number.ndim != 1 or (number <= 0).any():
        raise ValueError(f"samples must be positive numbers of examples, got {samples}")
    if not values.any():
        raise ValueError("spectrum must have an eigenvalue above its accuracy, but all of them are rounding")
    for name, value in (("ridge", ridge), ("noise", noise)):
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {value}")
    if spectrum.dimension is not None and spectrum.dimension <= LOW_DIMENSION:
        warnings.warn(
            f"the eigenlearning equations assume Gaussian eigenfunctions, which fails in dimension "
            f"{spectrum.dimension}; compare with regressions on drawn data",
            DomainWarning,
            stacklevel=2,
        )
    kappa = np.array([_resolution(values, weight, n, ridge + spectrum.tail) for n in number])
    safe = np.where(values > 0, values, 1.0)
    learned = np.where(values > 0, safe / (safe + kappa[:, None]), 0.0)
    spare = number - learned**2 @ weight
    # At κ = 0 and n = rank the difference is rounding about 0.
    noise_factor = np.where(spare > 1e-12 * number, number / np.where(spare > 0, spare, 1.0), np.inf)
    missed = (1 - learned) ** 2 @ target + noise
    with np.errstate(invalid="ignore"):
        test = np.where(missed > 0, noise_factor * missed, 0.0)
    kept = np.array([ridge / (n * k) if ridge > 0 else 0.0 for n, k in zip(number, kappa, strict=True)])
    # Without a ridge, what more examples than modes leave over is the noise outside of their span.
    overfull = (kappa == 0) & (number > weight[values > 0].sum())
    train = np.where(overfull, missed / noise_factor, kept**2 * np.where(np.isfinite(test), test, 0.0))
    return LearningCurve(number, kappa, learned, noise_factor, test, train)


def _resolution(values: np.ndarray, weight: np.ndarray, n: float, ridge: float) -> float:
    """κ with Σ λ/(λ+κ) + δ/κ = n, δ with the tail: the left side falls from rank (or ∞) to 0."""
    rank = weight[values > 0].sum()
    if ridge == 0 and n >= rank:
        return 0.0

    def excess(log_kappa: float) -> float:
        kappa = float(np.exp(log_kappa))
        return float(weight @ (values / (values + kappa))) + (ridge / kappa if ridge else 0.0) - n

    # κ ≤ (Σ λ + δ)/n, because every term is at most λ/κ; below, go down until the sum is too large.
    upper = float(np.log((weight @ values + ridge) / n)) + 1e-9
    lower = upper - 1
    while excess(lower) < 0:
        lower -= 2 * (upper - lower)
    return float(np.exp(root_scalar(excess, bracket=(lower, upper), method="brentq", xtol=1e-14, rtol=1e-13).root))
