"""Kernels of one angle: for inputs of one length, a fully connected network's kernel is a function of ρ = x·x'/|x|².

That function is smooth in s = √(1 − ρ), kinked activations included: cos ψ = ρ gives ψ = 2 arcsin(s/√2), and ReLU's
duals are analytic in ψ. A Chebyshev series in s then replaces the recursion through the layers, so that a tile of the
kernel costs little more than its inner products, whatever the depth and the activation.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial import chebyshev

# Series are tried at these lengths; one that needs more is no faster than the recursion.
TERMS = (8, 12, 16, 24, 32, 48, 64, 96)


class Zonal(NamedTuple):
    """K(x, x') as a Chebyshev series in √(1 − ρ), for rows with |x|² = d.

    Attributes:
        coefficients: of T_0, T_1, … on 0 ≤ s ≤ √2.
        self_term: K(x, x).
    """

    coefficients: tuple[float, ...]
    self_term: float

    def __call__(
        self, x1: Float[Array, "n1 d"] | np.ndarray, x2: Float[Array, "n2 d"] | np.ndarray | None = None
    ) -> Float[Array, "n1 n2"]:
        """The kernel between rows, in their dtype; by default of x1 with itself, with an exact diagonal."""
        return _evaluate(self, x1, x1 if x2 is None else x2, x2 is None)


def zonal(profile: Callable[[np.ndarray], np.ndarray], *, tolerance: float = 1e-8) -> Zonal:
    """The series of a kernel given as a function of 1 − ρ.

    Args:
        profile: maps 1 − ρ in [0, 2], float64 of shape (m,), to the kernel, of the same shape.
        tolerance: largest error of the series, in units of K(x, x).

    Raises:
        ValueError: no series of at most 96 terms is that accurate (a kernel with a kink at opposite inputs, such as
            the tangent kernel of a ReLU network without biases).
    """
    nodes = np.linspace(0.0, np.sqrt(2.0), 2001)
    exact = np.asarray(profile(np.minimum(nodes**2, 2.0)), np.float64)
    self_term = float(exact[0])
    if not (np.isfinite(exact).all() and self_term > 0):
        raise ValueError(f"profile must be finite, and positive at 0, got {self_term} there")
    error = np.inf
    for terms in TERMS:
        points = chebyshev.chebpts1(terms)
        values = profile(np.minimum(0.5 * (points + 1.0) ** 2, 2.0))
        # The Chebyshev polynomials are orthogonal over these points.
        series = chebyshev.chebvander(points, terms - 1).T @ values * (2.0 / terms)
        series[0] /= 2.0
        error = np.max(np.abs(chebyshev.chebval(np.sqrt(2.0) * nodes - 1.0, series) - exact)) / self_term
        if error <= tolerance:
            return Zonal(tuple(float(c) for c in series), self_term)
    raise ValueError(
        f"profile needs more than {TERMS[-1]} terms: the error is {error:.1g} of K(x, x), above the tolerance "
        f"{tolerance:g}; use the kernel itself, or allow more"
    )


def from_kernel(kernel: Callable[..., Array], *, tolerance: float = 1e-8) -> Zonal:
    """The series of a kernel of rows, `partial(nngp, architecture)` say, that depends on lengths and angles alone.

    It is evaluated in float64 on pairs of inputs in the plane. Raises: see `zonal`.
    """

    def profile(versine: np.ndarray) -> np.ndarray:
        angle = 2.0 * np.arcsin(np.sqrt(versine / 2.0))
        circle = np.sqrt(2.0) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        with jax.enable_x64(True):
            return np.asarray(kernel(np.array([[np.sqrt(2.0), 0.0]]), circle)[0])

    return zonal(profile, tolerance=tolerance)


@partial(jax.jit, static_argnums=3)
def _evaluate(series: Zonal, x1: Array, x2: Array, same: bool) -> Float[Array, "n1 n2"]:
    dtype, d = x1.dtype, x1.shape[1]
    cosine = jnp.matmul(x1, x2.T, precision=jax.lax.Precision.HIGHEST) / d
    t = 2.0 * jnp.sqrt(jnp.clip(0.5 * (1.0 - cosine), 0.0, 1.0)) - 1.0
    # Clenshaw's recursion; one fused pass over the tile.
    coefficients = [jnp.asarray(c, dtype) for c in series.coefficients]
    high, higher = jnp.zeros_like(t), jnp.zeros_like(t)
    for c in coefficients[:0:-1]:
        high, higher = c + 2.0 * t * high - higher, high
    value = coefficients[0] + t * high - higher
    return jnp.fill_diagonal(value, jnp.asarray(series.self_term, dtype), inplace=False) if same else value
