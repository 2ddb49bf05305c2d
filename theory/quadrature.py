"""Gaussian integrals of elementwise functions by quadrature.

The trapezoidal rule with step h on the whole line converges as e^(−2πr/h) for a function analytic within a
distance r of the real axis: for the tanh of a variance q, r = π/(2√q). At the same number of nodes it beats
Gauss–Hermite by far, whose nodes are spread over √n standard deviations where the weight is nil (Trefethen
2022, "Exactness of quadrature formulas", SIAM Review 64).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.activations import Activation
from theory.determinant import safe_sqrt

Elementwise = Callable[[Array], Array]

# (half-width in standard deviations, nodes a standard deviation). A single integral is cheap and gets many
# nodes; a double one pays their square for each entry of a kernel.
_SINGLE = {"float64": (12.0, 32), "float32": (8.0, 16)}
_DOUBLE = {"float64": (8.5, 8), "float32": (6.0, 5)}


def trapezoid(width: float, density: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z and weights w, Σ w = 1, with Σ w g(z) ≈ E[g(z)] for z ~ N(0, 1)."""
    # Nodes lie half a step off zero, where kinks and jumps are: the error of a jump there vanishes.
    nodes = (np.arange(-round(width * density), round(width * density)) + 0.5) / density
    weights = np.exp(-0.5 * nodes**2)
    # The normalising sum is that of the same rule: exact to rounding, and constants integrate to themselves.
    return nodes, weights / weights.sum()


def _rule(table: dict[str, tuple[float, int]], dtype) -> tuple[Array, Array]:
    nodes, weights = trapezoid(*table.get(np.dtype(dtype).name, table["float32"]))
    return jnp.asarray(nodes, dtype), jnp.asarray(weights, dtype)


def single(function: Elementwise, variance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """E[g(√q z)] for each variance q."""
    nodes, weights = _rule(_SINGLE, variance.dtype)
    return function(safe_sqrt(variance)[..., None] * nodes) @ weights


def derivative_of(function: Elementwise) -> Elementwise:
    """The elementwise derivative: an activation's own, else by automatic differentiation."""
    if isinstance(function, Activation):
        return function.derivative
    return lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def pair(
    f: Elementwise,
    g: Elementwise,
    a: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    c: Float[Array, "*shape"],
    r: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """E[f(u) g(v)] for centred Gaussian (u, v) of variances a, b, covariance c and r = 1 − ρ².

    u = √a z₁ and v = (c/√a) z₁ + √(br) z₂ with independent z₁, z₂: at |ρ| → 1 nothing cancels, because r
    comes in with its own digits.
    """
    nodes, weights = _rule(_DOUBLE, a.dtype)
    positive = a > 0
    a_safe = jnp.where(positive, a, 1.0)
    slope = jnp.where(positive, c / jnp.sqrt(a_safe), 0.0)
    rest = jnp.sqrt(jnp.where(positive, b * r, b))
    scale = jnp.sqrt(a)

    def add_node(total, node_and_weight):
        # One row of the grid at a time, so that memory grows with its side, not with its area.
        node, weight = node_and_weight
        inner = g((slope * node)[..., None] + rest[..., None] * nodes) @ weights
        return total + weight * f(scale * node) * inner, None

    return jax.lax.scan(add_node, jnp.zeros_like(a), (nodes, weights))[0]


@pair.defjvp
def _pair_jvp(f, g, primals, tangents):
    """Price's theorem: ∂/∂c E[fg] = E[f'g'] and ∂/∂a E[fg] = ½E[f''g] = (E[u f'(u) g(v)] − c E[f'g'])/2a.

    The second form (Stein's lemma) needs first derivatives only and holds for kinked functions too. The
    gradient of the quadrature itself would divide 0 by 0 at |ρ| = 1.
    """
    a, b, c, r = primals
    da, db, dc, _ = tangents  # r is a function of the other three: its share is in their derivatives
    f_prime, g_prime = derivative_of(f), derivative_of(g)
    slope = pair(f_prime, g_prime, a, b, c, r)
    by_a = pair(lambda u: u * f_prime(u), g, a, b, c, r) - c * slope
    by_b = pair(f, lambda v: v * g_prime(v), a, b, c, r) - c * slope
    half_a = jnp.where(a > 0, 0.5 / jnp.where(a > 0, a, 1.0), 0.0)
    half_b = jnp.where(b > 0, 0.5 / jnp.where(b > 0, b, 1.0), 0.0)
    return pair(f, g, a, b, c, r), slope * dc + by_a * half_a * da + by_b * half_b * db
