r"""Eigenvalues of kernels: on the circle and the sphere by Gegenbauer projection, on data by the Gram matrix.

A kernel on the unit sphere of R^d that depends on the angle alone, K(x, x') = k(θ) with x·x' = cos θ, has the spherical
harmonics for eigenfunctions under the uniform distribution. Its eigenvalue at degree ℓ (Funk–Hecke) is

    λ_ℓ = Γ(d/2) / (√π Γ((d−1)/2)) ∫_0^π k(θ) P_ℓ(cos θ) sin^{d−2} θ dθ,    P_ℓ = C_ℓ^{((d−2)/2)} / C_ℓ^{((d−2)/2)}(1),

N(d, ℓ) times over; on the circle P_ℓ(cos θ) = cos ℓθ. They sum to the diagonal, Σ_ℓ N(d, ℓ) λ_ℓ = k(0). Kernels of
networks are smooth functions of the angle on [0, π] where they are not of its cosine (ReLU), so Gauss–Legendre nodes in
θ converge exponentially fast.

Sources: Schoenberg 1942; Müller 1966; for the NTK Bietti & Mairal 2019, section 3.2 and appendix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, roots_legendre

from theory.arrays import ArrayLike, check_finite

Kernel = Callable[[Any, Any], Any]

# Gauss–Legendre nodes on each of equal panels in θ: doubling the panels keeps the weights exact to rounding.
PANEL, MAX_NODES = 32, 2**15


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues with respect to a probability distribution, so that they sum to the mean of the diagonal.

    Attributes:
        eigenvalues: λ_k, one for each eigenspace.
        multiplicities: dimensions of the eigenspaces.
        tail: what the diagonal has beyond Σ_k N_k λ_k, held by higher degrees.
        dimension: d of the sphere in R^d, None for data.
        accuracy: absolute error of the eigenvalues; those below it are rounding.
    """

    eigenvalues: Float[np.ndarray, " k"]
    multiplicities: Float[np.ndarray, " k"]
    tail: float
    dimension: int | None
    accuracy: float


def harmonic_dimension(dimension: int, degrees: ArrayLike) -> Float[np.ndarray, " k"]:
    """N(d, ℓ) = (2ℓ+d−2)/(ℓ+d−2) · binomial(ℓ+d−2, ℓ): number of spherical harmonics of degree ℓ on the sphere in R^d.

    Args:
        dimension: d ≥ 2 of the space (2 is the circle).
        degrees: ℓ ≥ 0, an array of one axis.

    Raises:
        ValueError: d is below 2.
    """
    _check_dimension(dimension)
    degree = np.asarray(degrees, np.float64)
    if dimension == 2:
        return np.where(degree == 0, 1.0, 2.0)
    log_binomial = gammaln(degree + dimension - 1) - gammaln(degree + 1) - gammaln(dimension - 1)
    # Integers; rounding takes off what the logarithms left, up to 2⁵³.
    number = np.exp(log_binomial) * (2 * degree + dimension - 2) / (degree + dimension - 2)
    return np.where(number < 1e12, np.round(number), number)


def gegenbauer(dimension: int, degrees: int, cosine: ArrayLike) -> Float[np.ndarray, "degrees n"]:
    """P_ℓ(t) for ℓ < `degrees`, scaled to P_ℓ(1) = 1, by the three-term recurrence (stable on [−1, 1]).

    (ℓ+d−2) P_{ℓ+1} = (2ℓ+d−2) t P_ℓ − ℓ P_{ℓ−1}, from P_0 = 1 and P_1 = t.

    Args:
        dimension: d ≥ 2.
        degrees: how many, at least 1.
        cosine: points t in [−1, 1], (n,).
    """
    _check_dimension(dimension)
    t = np.asarray(cosine, np.float64)
    values = np.ones((degrees, t.size))
    if degrees > 1:
        values[1] = t
    for n in range(1, degrees - 1):
        # At d = 2 this is cos (n+1)θ = 2 t cos nθ − cos (n−1)θ.
        values[n + 1] = ((2 * n + dimension - 2) * t * values[n] - n * values[n - 1]) / (n + dimension - 2)
    return values


def sphere(kernel: Kernel, dimension: int, degrees: int, *, radius: float = 1.0, rtol: float = 1e-13) -> Spectrum:
    """Eigenvalues of degree 0 … `degrees` − 1 of a kernel on the sphere of R^d under the uniform distribution.

    Nodes are doubled until the eigenvalues stay where they are.

    Args:
        kernel: kernel(x1, x2) → (n1, n2) of inputs with d features that depends on the angle alone, such as
            `lambda a, b: ntk(architecture, a, b)`. Called in the dtype that JAX gives it: enable 64-bit numbers.
        dimension: d ≥ 2 of the space; 2 is the circle.
        degrees: number of degrees, at least 1.
        radius: of the sphere; √d gives inputs with features of size 1.
        rtol: change of an eigenvalue, relative to the diagonal k(0), at which to stop.

    Returns:
        The spectrum; `accuracy` is the last change or the rounding of the sum, whichever is larger.

    Raises:
        ValueError: d below 2, no degree, a radius that is not positive, a kernel that is not a function of the angle.
        RuntimeError: the eigenvalues still change at 2¹⁵ nodes.
    """
    _check_dimension(dimension)
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}")
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(f"radius must be positive and finite, got {radius}")
    diagonal = _check_zonal(kernel, dimension, radius)
    log_constant = gammaln(dimension / 2) - gammaln((dimension - 1) / 2) - 0.5 * np.log(np.pi)
    before = None
    panels = max(2, -(-(degrees + dimension) // (PANEL // 2)))
    while panels * PANEL <= MAX_NODES:
        angle, weights = _nodes(panels)
        measure = np.exp(log_constant) * weights * np.sin(angle) ** (dimension - 2)
        values = _on_great_circle(kernel, dimension, radius, angle)
        eigenvalues = gegenbauer(dimension, degrees, np.cos(angle)) @ (measure * values)
        if before is not None:
            change = float(np.max(np.abs(eigenvalues - before)))
            if change <= rtol * abs(diagonal):
                accuracy = max(change, 16 * np.finfo(np.float64).eps * abs(diagonal))
                counts = harmonic_dimension(dimension, np.arange(degrees))
                known = np.where(np.abs(eigenvalues) > accuracy, eigenvalues, 0.0)
                tail = max(0.0, diagonal - float(counts @ known))
                return Spectrum(eigenvalues, counts, tail, dimension, accuracy)
        before, panels = eigenvalues, 2 * panels
    raise RuntimeError(
        f"the eigenvalues still change by more than {rtol:g} of the diagonal at {MAX_NODES} nodes; the kernel is not "
        "smooth in the angle, or computed in float32: enable 64-bit numbers, or raise rtol"
    )


def mercer(gram: ArrayLike) -> tuple[Spectrum, Float[np.ndarray, "n n"]]:
    """Eigenvalues of K/n and eigenfunctions on the data: the spectrum under the empirical distribution.

    Args:
        gram: kernel matrix K of the data with themselves, (n, n), symmetric.

    Returns:
        the spectrum, largest first, and the eigenfunctions φ_k(x_i) as columns, with (1/n) Σ_i φ_k φ_l = δ_kl, so that
        K_ij = Σ_k λ_k φ_k(x_i) φ_k(x_j).

    Raises:
        ValueError: K is not square, symmetric and finite.
    """
    check_finite("gram", gram)
    matrix = np.asarray(gram, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"gram must be a square matrix, got shape {matrix.shape}")
    scale = np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > 1e-5 * scale:
        raise ValueError("gram must be symmetric; use the kernel of the data with themselves")
    n = len(matrix)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / (2 * n))
    rounding = np.finfo(np.asarray(gram).dtype if np.asarray(gram).dtype.kind == "f" else np.float64).eps
    spectrum = Spectrum(values[::-1].copy(), np.ones(n), 0.0, None, float(n * rounding * np.abs(values).max()))
    return spectrum, np.sqrt(n) * vectors[:, ::-1]


def _check_dimension(dimension: int) -> None:
    if dimension < 2:
        raise ValueError(f"dimension must be at least 2 (the circle), got {dimension}")


def _nodes(panels: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of composite Gauss–Legendre quadrature on [0, π]."""
    x, weights = roots_legendre(PANEL)
    half = np.pi / (2 * panels)
    centres = half * (2 * np.arange(panels) + 1)
    return (centres[:, None] + half * x).ravel(), np.tile(half * weights, panels)


def _on_great_circle(kernel: Kernel, dimension: int, radius: float, angle: np.ndarray) -> np.ndarray:
    """k(θ), from one point to points on a great circle through it."""
    points = np.zeros((len(angle), dimension))
    points[:, 0], points[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    pole = np.zeros((1, dimension))
    pole[0, 0] = radius
    values = np.asarray(kernel(pole, points), np.float64)
    if values.shape != (1, len(angle)):
        raise ValueError(
            f"kernel must return shape (1, {len(angle)}) for 1 and {len(angle)} inputs, got {values.shape}"
        )
    check_finite("kernel(x1, x2)", values)
    return values[0]


def _check_zonal(kernel: Kernel, dimension: int, radius: float) -> float:
    """The diagonal k(0), once turning a pair of points has been seen to change nothing."""
    generator = np.random.default_rng(0)
    pairs = generator.standard_normal((2, dimension))
    pairs *= radius / np.linalg.norm(pairs, axis=1, keepdims=True)
    turn = np.linalg.qr(generator.standard_normal((dimension, dimension)))[0]
    given, turned = (np.asarray(kernel(x, x), np.float64) for x in (pairs, pairs @ turn))
    scale = np.abs(given).max()
    if not np.allclose(given, turned, rtol=0, atol=1e-4 * scale) or abs(given[0, 0] - given[1, 1]) > 1e-4 * scale:
        raise ValueError("kernel must depend on the angle of its inputs alone, but turning both of them changed it")
    return float(given[0, 0])
