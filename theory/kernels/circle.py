r"""Kernels on the circle and on even grids of it, whose eigenfunctions are Fourier modes, and how fast each is learnt.

A kernel Θ(γ − γ') of the angle has the eigenvalues c_k = ∫ Θ(γ) cos kγ dγ/2π for e^{±ikγ}. On an even grid of m points
the matrix Θ(γ_i − γ_j)/m is circulant, and modes that agree on the grid share one eigenvalue,

    c_k^(m) = (1/m) Σ_j Θ(2πj/m) cos(2πjk/m) = Σ_p c_{k + pm}        (p over all integers, c_{−k} = c_k).

Gradient descent with learning rate η/m on ½ Σ_j (f_j − y_j)² multiplies mode k of f − y by 1 − η c_k^(m) at every step
(by flow e^{−η c_k^(m) t}), as long as Θ stays what it is. For a bias-free two-layer ReLU network with inputs |x|² = d
on the circle, whose kernels are those of order 0 and 1 of Cho & Saul,

    Θ(γ) = σ_w⁴/2π [sin γ + 2 (π − γ) cos γ],        0 ≤ γ ≤ π,

the odd modes from 3 on have c_k = 0: the odd part of Σ a_u max(0, w_u·x) is ½ Σ a_u w_u·x, a linear function at any
width and after any training. Biases give all modes c_k > 0.

Source: Basri et al. 2019, section 3 (hidden layer trained alone); both layers and the grid derived here.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from theory.arrays import ArrayLike, check_finite
from theory.kernels.spectra import Kernel


class Eigenvalues(NamedTuple):
    """Of the covariance at the start and of the tangent kernel."""

    nngp: Float[np.ndarray, "..."]
    ntk: Float[np.ndarray, "..."]


def relu_eigenvalues(modes: ArrayLike, *, weight_variance: float = 2.0) -> Eigenvalues:
    """c_k of the infinitely wide bias-free two-layer ReLU network on the circle |x|² = 2, in closed form.

        NTK: σ_w⁴ (k² + 3)/(π² (k² − 1)²) for even k, σ_w⁴/4 for k = 1, else 0;
        NNGP: 2 σ_w⁴/(π² (k² − 1)²) for even k, σ_w⁴/8 for k = 1, else 0.

    They follow from ∫_0^π sin γ cos kγ dγ = 2/(1 − k²) and ∫_0^π (π − γ) cos jγ dγ = (1 − cos jπ)/j².

    Args:
        modes: integers k of any sign.
        weight_variance: σ_w².

    Raises:
        ValueError: a mode is no integer.
    """
    k = np.abs(np.asarray(modes, np.float64))
    if np.any(k != np.round(k)):
        raise ValueError(f"modes must be integers, got {modes}")
    even = k % 2 == 0
    square = np.where(even, k**2, 0.0)
    ntk = np.where(even, (square + 3) / (np.pi * (square - 1)) ** 2, np.where(k == 1, 0.25, 0.0))
    nngp = np.where(even, 2 / (np.pi * (square - 1)) ** 2, np.where(k == 1, 0.125, 0.0))
    return Eigenvalues(weight_variance**2 * nngp, weight_variance**2 * ntk)


def even_grid(points: int, *, radius: float = 2**0.5) -> Float[np.ndarray, "m 2"]:
    """m points on the circle, at the angles 2πj/m."""
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    angle = 2 * np.pi * np.arange(points) / points
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def grid_eigenvalues(kernel: Kernel, points: int, *, radius: float = 2**0.5) -> Float[np.ndarray, " m"]:
    """c_k^(m) for k = 0, …, m − 1: eigenvalues of the kernel's matrix on the even grid, over m.

    Args:
        kernel: kernel(x1, x2) → (n1, n2) of inputs with 2 features, a function of their angle; called in float64.
        points: m.
        radius: |x|; √2 gives inputs with |x|² = d.

    Raises:
        ValueError: the kernel is not a function of the angle, or m is below 1.
    """
    x = even_grid(points, radius=radius)
    matrix = np.asarray(kernel(x, x), np.float64)
    check_finite("kernel(x, x)", matrix)
    row = matrix[0]
    turned = row[(np.arange(points) - np.arange(points)[:, None]) % points]
    # As good as float32: the test is for kernels that are no function of the angle at all.
    if matrix.shape != (points, points) or not np.allclose(matrix, turned, rtol=0, atol=1e-5 * np.abs(row).max()):
        raise ValueError(
            "kernel must depend on the angle of its inputs alone, but its matrix on an even grid is not circulant"
        )
    return np.fft.fft(row).real / points


def decay(eigenvalues: ArrayLike, steps: ArrayLike, learning_rate: float) -> Float[np.ndarray, "... steps"]:
    """(1 − η c)^t, the factor left of the residual in a mode of eigenvalue c after t steps of rate η/m.

    Args:
        eigenvalues: c, of any shape.
        steps: t ≥ 0, along a new last axis.
        learning_rate: η > 0.

    Raises:
        ValueError: η c exceeds 2, where descent diverges, or a number of steps is negative.
    """
    c, t = np.asarray(eigenvalues, np.float64)[..., None], np.asarray(steps)
    if np.any(learning_rate * c > 2):
        raise ValueError(
            f"learning_rate must be at most 2/c = {2 / c.max():.3g}, got {learning_rate}; descent diverges"
        )
    if np.any(t < 0):
        raise ValueError(f"steps must not be negative, got {t.min()}")
    return (1 - learning_rate * c) ** t
