r"""Eigenvalues of a network's kernel on the sphere, in any dimension with one compilation.

`spectra.sphere` asks its kernel for arrays of many shapes, and JAX compiles `ntk` anew for each. Here the inputs are
laid into blocks of one shape: further features that are 0 change nothing once x·x'/d is rescaled to the d at hand.
"""

from __future__ import annotations

from math import comb

import numpy as np
from jaxtyping import Float

from theory.architecture import MLP
from theory.kernels.infinite import nngp, ntk
from theory.kernels.spectra import Kernel, Spectrum, sphere

KERNELS = {"ntk": ntk, "nngp": nngp}
# Every call of JAX has this shape: two rows, a block of columns, features.
ROWS, COLUMNS, FEATURES = 2, 512, 128


def network_spectrum(architecture: MLP, dimension: int, degrees: int, *, kernel: str = "ntk") -> Spectrum:
    """Eigenvalues of degree 0 … `degrees` − 1 of a network's kernel on the sphere |x|² = d of R^d.

    Args:
        architecture: any; enable 64-bit numbers.
        dimension: 2 ≤ d ≤ 128; 2 is the circle.
        degrees: at least 1.
        kernel: 'ntk' or 'nngp'.

    Raises:
        ValueError: an unknown kernel, or a dimension or number of degrees outside its range.
        RuntimeError: as in `spectra.sphere`.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got '{kernel}'")
    if not 2 <= dimension <= FEATURES:
        raise ValueError(f"dimension must be from 2 to {FEATURES}, got {dimension}; use spectra.sphere beyond")
    return sphere(_in_blocks(KERNELS[kernel], architecture), dimension, degrees, radius=float(dimension) ** 0.5)


def _in_blocks(function, architecture: MLP) -> Kernel:
    def kernel(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "n m"]:
        rows = _padded(np.asarray(a), ROWS)
        blocks = [
            np.asarray(function(architecture, rows, _padded(np.asarray(b[i : i + COLUMNS]), COLUMNS)))
            for i in range(0, len(b), COLUMNS)
        ]
        return np.concatenate(blocks, axis=1)[: len(a), : len(b)]

    return kernel


def _padded(x: Float[np.ndarray, "n d"], rows: int) -> Float[np.ndarray, "rows features"]:
    """Rows repeat the first; features beyond d are 0, and the others scaled so that x·x'/128 is what x·x'/d was."""
    count, dimension = x.shape
    block = np.zeros((rows, FEATURES))
    block[:, :dimension] = x[0]
    block[:count, :dimension] = x
    return block * (FEATURES / dimension) ** 0.5


def hypercube_spectrum(architecture: MLP, dimension: int, *, kernel: str = "ntk") -> Spectrum:
    r"""Eigenvalues of a network's kernel on the 2^m vertices {−1, 1}^m under the uniform distribution.

    The eigenfunctions are the Walsh functions Π_{i∈S} x_i, with an eigenvalue for each size k = |S|, C(m, k) times
    over: λ_k = 2^−m Σ_j k(j) K_j(k), where k(j) is the kernel at Hamming distance j and
    K_j(k) = Σ_i (−1)^i C(k, i) C(m−k, j−i) are Krawtchouk's polynomials. A complete basis: no tail.

    Args:
        architecture: any; enable 64-bit numbers.
        dimension: 1 ≤ m ≤ 30; beyond, rounding of the alternating sums would show.
        kernel: 'ntk' or 'nngp'.

    Raises:
        ValueError: an unknown kernel, or a dimension outside its range.

    Source: MacWilliams & Sloane 1977, chapter 5, for the polynomials.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got '{kernel}'")
    if not 1 <= dimension <= 30:
        raise ValueError(f"dimension must be from 1 to 30, got {dimension}")
    sizes = np.arange(dimension + 1)
    vertices = np.where(np.arange(dimension) < sizes[:, None], -1.0, 1.0)
    by_distance = _in_blocks(KERNELS[kernel], architecture)(vertices[:1], vertices)[0]
    krawtchouk = np.array(
        [[sum((-1) ** i * comb(k, i) * comb(dimension - k, j - i) for i in range(j + 1)) for j in sizes] for k in sizes]
    )
    eigenvalues = krawtchouk @ by_distance / 2.0**dimension
    accuracy = 16 * np.finfo(np.float64).eps * float(np.abs(by_distance).max())
    return Spectrum(eigenvalues, np.array([comb(dimension, k) for k in sizes], np.float64), 0.0, None, accuracy)
