r"""Spectra of kernels averaged over cyclic shifts: fewer modes with the same eigenvalues, hence fewer examples.

Let the inputs' distribution and the kernel k be invariant under a group G of orthogonal maps, k(gx, gx') = k(x, x').
The mean over the group, k_G(x, x') = (1/|G|) Σ_g k(x, gx'), is P k for the projection P on invariant functions, which
commutes with k: it has the eigenvalues of k, on the invariant functions only. Global average pooling of a convolution
around a circle, with filters as wide as the circle, has the fully connected kernel averaged in this way over shifts.

On the sphere in R^d harmonics of degree ℓ have one eigenvalue; N(d, ℓ) ~ d^ℓ/ℓ! of them exist, of which the shifts of d
coordinates leave N_G(d, ℓ) = (1/d) Σ_g χ_ℓ(g) ≈ N(d, ℓ)/d invariant. A shift with m cycles of length d/m has

    Σ_ℓ χ_ℓ(g) t^ℓ = (1 − t²) / (1 − t^(d/m))^m,

because it permutes monomials, and the harmonics are the polynomials without |x|² times those two degrees lower. In the
eigenlearning equations Σ λ/(λ+κ) = n falls by d and the learnabilities at equal κ stay: n is smaller by d.

Source: Mei, Misiakiewicz & Montanari 2021; the characters follow from Molien's formula.
"""

from __future__ import annotations

from math import comb, gcd

import numpy as np
from jaxtyping import Float

from theory.arrays import ArrayLike, check_finite
from theory.kernels.spectra import Spectrum


def cyclic_dimension(dimension: int, degrees: int) -> Float[np.ndarray, " degrees"]:
    """N_G(d, ℓ): number of spherical harmonics of degree 0 … `degrees` − 1 in R^d that no cyclic shift changes.

    Args:
        dimension: d ≥ 2.
        degrees: how many, at least 1.

    Raises:
        ValueError: either is too small.
    """
    if dimension < 2 or degrees < 1:
        raise ValueError(f"dimension must be at least 2 and degrees at least 1, got {dimension} and {degrees}")
    total = [0] * degrees
    for shift in range(dimension):
        cycles = gcd(shift, dimension)
        length = dimension // cycles
        monomials = [comb(cycles + i // length - 1, i // length) if i % length == 0 else 0 for i in range(degrees)]
        total = [
            t + m - (monomials[i - 2] if i >= 2 else 0) for i, (t, m) in enumerate(zip(total, monomials, strict=True))
        ]
    return np.array([t // dimension for t in total], np.float64)


def cyclic_spectrum(spectrum: Spectrum) -> Spectrum:
    """The spectrum on the sphere of the kernel averaged over cyclic shifts of the d coordinates.

    The tail is divided by d: shifts other than the identity leave to it what harmonics of high degree have at an angle
    of about 90°, which is next to nothing.

    Raises:
        ValueError: the spectrum is not one on a sphere.
    """
    if spectrum.dimension is None:
        raise ValueError("spectrum must be one of a sphere, with its dimension; for data use shift_spectra")
    multiplicities = cyclic_dimension(spectrum.dimension, len(spectrum.eigenvalues))
    tail = spectrum.tail / spectrum.dimension
    return Spectrum(spectrum.eigenvalues, multiplicities, tail, spectrum.dimension, spectrum.accuracy)


def shift_spectra(
    kernel: ArrayLike, target: ArrayLike
) -> tuple[tuple[Spectrum, Float[np.ndarray, " k"]], tuple[Spectrum, Float[np.ndarray, " m"]]]:
    """Spectra on a population of N images and all their |G| circular shifts, of a kernel and of its mean over shifts.

    Functions on the population are N-vectors times characters χ of the group. For each χ the kernel acts on the vectors
    as the Hermitian matrix Σ_g k(x_i, g x_j) χ(g) / (N |G|), found for all χ by one Fourier transform over the shifts.
    The mean over shifts keeps χ = 1 only.

    Args:
        kernel: k(x_i, g x_j) as (N, N, *shifts), one axis for each direction of space.
        target: values on the N images, the same on all shifts of one.

    Returns:
        spectrum and power of the target in each mode, for the kernel itself and for its mean over shifts.

    Raises:
        ValueError: shapes do not match, or an entry is not finite.
    """
    check_finite("kernel", kernel)
    k, f = np.asarray(kernel, np.float64), np.asarray(target, np.float64)
    if k.ndim < 3 or k.shape[0] != k.shape[1] or f.shape != k.shape[:1]:
        raise ValueError(f"kernel and target must have shapes (N, N, *shifts) and (N,), got {k.shape} and {f.shape}")
    images, shifts = len(f), int(np.prod(k.shape[2:]))
    blocks = np.fft.fftn(k, axes=tuple(range(2, k.ndim))).reshape(images, images, shifts) / (images * shifts)
    blocks = np.moveaxis(blocks, -1, 0)
    # k is symmetric up to rounding; eigh reads one triangle only.
    invariant, vectors = np.linalg.eigh(blocks[0].real)
    others = np.linalg.eigvalsh(blocks[1:]).ravel()
    power = (vectors.T @ f) ** 2 / images
    accuracy = 16 * images * np.finfo(np.float64).eps * float(invariant[-1])
    whole = np.concatenate([invariant, others])
    return (
        (_data_spectrum(whole, accuracy), np.concatenate([power, np.zeros(len(others))])),
        (_data_spectrum(invariant, accuracy), power),
    )


def _data_spectrum(values: np.ndarray, accuracy: float) -> Spectrum:
    return Spectrum(np.maximum(values, 0.0), np.ones(len(values)), 0.0, None, accuracy)
