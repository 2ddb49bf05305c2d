r"""Expected linear statistics of a real Wishart matrix, exact at every size.

Let W = XXᵀ for a matrix X of N rows and M ≥ N columns of independent standard normals. Its eigenvalues have the density

    ∏_i x_i^((M−N−1)/2) e^(−x_i/2) ∏_{i<j} |x_i − x_j|

up to a constant. By de Bruijn's formula E ∏_i f(x_i) is proportional to the Pfaffian of the antisymmetric matrix

    A_ij[f] = ∫∫ φ_i(x) φ_j(y) sgn(y − x) f(x) f(y) dx dy,    φ_i(x) = p_i(x) x^((M−N−1)/2) e^(−x/2),

with any polynomials p_i of degrees 0, …, N−1; for odd N it is bordered by ∫ φ_i f. With f = 1 + εg, to first order
in ε,

    E Σ_i g(x_i) = ½ tr A[1]⁻¹ A'[g].

The integrals are done by Gauss–Legendre quadrature in t = √x, in which all integrands are entire functions times g,
with Laguerre polynomials as the p_i, which keep A well conditioned.

Sources: de Bruijn 1955 for the Pfaffian; Tracy & Widom 1998 for its use on linear statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln

# Half-width of the tail beyond the edge √N + √M of the singular values: it falls as e^(−2 · tail²) at least.
TAIL = 7.0


def expected_sum(
    function: Callable[[Float[np.ndarray, " t"]], Float[np.ndarray, " t"]], rows: int, columns: int
) -> float:
    """E Σ_i g(x_i) over the eigenvalues x_i of XXᵀ, for X (rows, columns) of independent standard normals.

    Args:
        function: g, on x > 0; smooth in √x, and growing at most as a power. A pole at x = 0 is allowed as long as the
            expectation exists and columns − rows is at least 2.
        rows: N ≥ 1, the number of eigenvalues.
        columns: M ≥ N.

    Returns:
        The expectation. Moments of x up to N = 100 come out to 1e-13.

    Raises:
        ValueError: rows is below 1 or above columns.
    """
    if rows < 1 or columns < rows:
        raise ValueError(f"rows and columns must satisfy 1 ≤ rows ≤ columns, got {rows} and {columns}; swap them")
    half = (np.sqrt(rows) + np.sqrt(columns) + TAIL) / 2
    # Several nodes for each oscillation; in steps, so that few grids are ever made.
    nodes, weights, cumulative = _grid(128 * (2 + rows // 32))
    nodes, weights, cumulative = half * (nodes + 1), half * weights, half * cumulative
    basis = _laguerre(nodes, rows, columns - rows)
    g = function(nodes**2)

    def signed(values: np.ndarray) -> np.ndarray:
        """∫ φ(x) sgn(y − x) dx as a function of y."""
        below = values @ cumulative.T
        return 2 * below - (values @ weights)[:, None]

    plain, moved = signed(basis), signed(basis * g)
    size = rows + rows % 2
    whole, change = np.zeros((2, size, size))
    whole[:rows, :rows] = plain @ (basis * weights).T
    change[:rows, :rows] = moved @ (basis * weights).T + plain @ (basis * g * weights).T
    if rows % 2:
        whole[:rows, -1], change[:rows, -1] = basis @ weights, (basis * g) @ weights
        whole[-1, :rows], change[-1, :rows] = -whole[:rows, -1], -change[:rows, -1]
    return float(0.5 * np.trace(np.linalg.solve(whole, change)))


def _laguerre(t: Float[np.ndarray, " t"], count: int, order: int) -> Float[np.ndarray, "n t"]:
    """Orthonormal Laguerre functions √(k!/Γ(k+a+1)) L_k^(a)(x) x^(a/2) e^(−x/2) at x = t², a = order.

    Divided by √x and multiplied by dx/dt = 2t they are the φ_i of the module, as densities in t, up to the factor 2.
    """
    x = t**2
    functions = np.empty((count, t.size))
    # Near x = 0 the power of x underflows to 0, as it should.
    functions[0] = np.exp(0.5 * (order * np.log(x) - x - gammaln(order + 1)))
    if count > 1:
        functions[1] = (order + 1 - x) / np.sqrt(order + 1) * functions[0]
    for k in range(1, count - 1):
        functions[k + 1] = (
            (2 * k + order + 1 - x) * functions[k] - np.sqrt(k * (k + order)) * functions[k - 1]
        ) / np.sqrt((k + 1) * (k + 1 + order))
    return functions


@cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on [−1, 1], and the matrix of ∫_{−1}^u at the nodes."""
    u, w = np.polynomial.legendre.leggauss(size)
    p = np.polynomial.legendre.legvander(u, size).T
    degrees = np.arange(size)[:, None]
    # ∫_{−1}^u P_k = (P_{k+1} − P_{k−1})/(2k+1), and u + 1 for k = 0.
    integrals = np.empty((size, size))
    integrals[0] = u + 1
    integrals[1:] = (p[2:] - p[:-2]) / (2 * degrees[1:] + 1)
    return u, w, integrals.T @ ((degrees + 0.5) * p[:-1] * w)
