r"""Noise in one dimension: what an interpolant between neighbours makes of it, in place of the eigenlearning equations.

On the circle a kernel with a kink at the origin, 1/λ_k = A (k² + μ² + O(k⁻²)), is the Green's function of A(−∂² + μ²)
up to smoother operators. Its interpolant therefore solves f″ = μ² f between neighbouring data, and is piecewise linear
once the gaps are small against 1/|μ|. Between data with independent noise of variance σ², a gap h apart, it has the
weights sinh(μhs)/sinh(μh) and sinh(μh(1−s))/sinh(μh), which near μh = 0 are s and 1 − s; and s is uniform on [0, 1]
whatever the law of the gaps. So the error on a new noisy label is σ² times

    1 + E[coth(x)/x − 1/sinh²x] = 5/3 − (4/45) E x² + …,    x = μh,

where h = 2πu is the gap that a test point falls into, u ~ Beta(2, n−1) for n uniform points, E u² = 6/((n+1)(n+2)).
Finitely many low frequencies that do not follow k² + μ² change the interpolant in a gap by h² times a mean over all n
data, hence this factor by O(n⁻³).

Source: derived here. That ReLU tangent kernels are tempered, not benign: Mallinar et al. 2022, whose law for the
amplification rests on the eigenlearning equations.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from theory.arrays import ArrayLike, check_finite
from theory.kernels.spectra import Spectrum


def interpolation_noise(samples: ArrayLike, *, stiffness: float = 0.0) -> Float[np.ndarray, " n"]:
    """5/3 − (4/45) μ² (2π)² 6/((n+1)(n+2)): by what interpolation between neighbours multiplies noise on the circle.

    Args:
        samples: n ≥ 2 uniform points on a circle of circumference 2π, an array of one axis.
        stiffness: μ², of either sign; 0 for linear interpolation, for which the value is exact. Otherwise the next term
            is O(n⁻³), or O(n⁻⁴) if every frequency follows 1/λ_k ∝ k² + μ².

    Raises:
        ValueError: n is below 2, or μ² is not finite.
    """
    number = np.atleast_1d(np.asarray(samples, np.float64))
    check_finite("samples", number)
    if number.ndim != 1 or (number < 2).any():
        raise ValueError(f"samples must be numbers of at least 2 examples, got {samples}")
    if not np.isfinite(stiffness):
        raise ValueError(f"stiffness must be finite, got {stiffness}")
    square = (2 * np.pi) ** 2 * 6 / ((number + 1) * (number + 2))
    return 5 / 3 - 4 / 45 * stiffness * square


def stiffness(spectrum: Spectrum, *, low: int = 24, high: int = 48) -> float:
    """μ² of 1/λ_k = A (k² + μ²) through two frequencies of a kernel on the circle.

    What it leaves out falls as 1/k²: compare with twice the frequencies.

    Args:
        spectrum: of a kernel on the circle, with eigenvalues beyond the frequency `high`.
        low, high: 1 ≤ low < high.

    Raises:
        ValueError: no circle, frequencies out of order or beyond the spectrum, or eigenvalues that are rounding.
    """
    if spectrum.dimension != 2:
        raise ValueError(f"spectrum must be one of the circle (dimension 2), got dimension {spectrum.dimension}")
    if not 1 <= low < high < len(spectrum.eigenvalues):
        raise ValueError(f"frequencies must have 1 ≤ low < high < {len(spectrum.eigenvalues)}, got {low} and {high}")
    first, second = spectrum.eigenvalues[low], spectrum.eigenvalues[high]
    if min(first, second) <= spectrum.accuracy:
        raise ValueError(f"eigenvalues at frequencies {low} and {high} are rounding; take lower ones")
    scale = (1 / second - 1 / first) / (high**2 - low**2)
    return float(1 / (first * scale) - low**2)
