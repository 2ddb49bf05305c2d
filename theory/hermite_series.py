r"""Dual activations without a closed form, for many pairs at once: Mehler's series.

With the normalised Hermite polynomials h_k = He_k/√k! and c_k(a) = E[φ(√a z) h_k(z)],

    E[φ(u)φ(v)] = Σ_k c_k(a) c_k(b) ρ^k,    (u, v) ~ N(0, [[a, c], [c, b]]), ρ = c/√(ab),

and the same for φ'. The coefficients belong to one input each, so that a pair costs a few hundred multiplications,
where a double integral costs 2·10⁴ evaluations of φ. For φ analytic within a distance y of the real axis c_k(a)² falls
as e^(−2y√(k/a)): the tanh of a variance 1 takes 200 terms, of a variance 4 some 700. What the first terms leave out is
known, since Σ_k c_k² = E φ², and by Cauchy and Schwarz the error is at most the root of what is left for a and for b,
times |ρ|^1024. Where a part of 10⁻⁹ is left (kinks, jumps, a tanh of a variance above 15) the double integral steps in
for all pairs, whose own error is of that order there. Oscillations of a wavelength below a fifteenth of a standard
deviation are seen by neither.

Source: Mehler 1866; Daniely, Frostig & Singer 2016, section 4.2, for dual activations.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.activations import Activation
from theory.determinant import safe_inverse, safe_sqrt
from theory.duals import closed_form
from theory.gaussian import dual_at, dual_derivative_at
from theory.quadrature import trapezoid

# Most terms, and how many of them are added in one pass over the pairs.
TERMS, AT_ONCE = 1024, 8
# Bytes for the coefficients of the inputs on one side; images have many positions, and then there are fewer terms.
MEMORY = 2.5e8
# Half-width in standard deviations and nodes a standard deviation: h_1023 swings 5 times in one.
_WIDTH, _DENSITY = 13.0, 20
_NODES_AT_ONCE = 65
# What may be left of E φ²: the error of the double integral where the tanh's series leaves it.
_REST = 1e-9


def duals(
    activation: Activation,
    a: Float[Array, "*#shape"],
    b: Float[Array, "*#shape"],
    c: Float[Array, "*shape"],
    r: Float[Array, "*shape"] | None,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """E[φ(u)φ(v)] and E[φ'(u)φ'(v)] for variances a, b that are the same for many pairs.

    Args:
        activation: φ; one with a closed form is computed by that.
        a, b: variances, of shapes that broadcast to that of c: the smaller they are, the less work.
        c: covariances, c² ≤ ab.
        r: 1 − ρ² where it is known better than a, b and c tell, else None.

    Returns:
        Two arrays of the shape of c. Derivatives are those of the double integrals, and under `jax.vmap` both ways are
        computed: then it is no faster than they are.
    """
    if closed_form(activation.function) is not None or c.size <= 4 * (a.size + b.size):
        return _direct(activation, a, b, c, r)
    return _duals(activation, a, b, c, r)


def _direct(activation: Activation, a: Array, b: Array, c: Array, r: Array | None) -> tuple[Array, Array]:
    a, b = (jnp.broadcast_to(variance, c.shape) for variance in (a, b))
    return dual_at(activation, a, b, c, r), dual_derivative_at(activation, a, b, c, r)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _duals(activation: Activation, a: Array, b: Array, c: Array, r: Array | None) -> tuple[Array, Array]:
    terms = int(min(TERMS, max(MEMORY // (c.dtype.itemsize * max(a.size, b.size)), 1)))
    terms = AT_ONCE * -(-terms // AT_ONCE)
    functions = activation, activation.derivative
    left, right = ([_coefficients(f, variance, terms) for f in functions] for variance in (a, b))
    sides = [*left, *right]
    enough = jnp.all(jnp.stack([rest for _, _, rest in sides]) <= max(_REST, 512 * float(jnp.finfo(c.dtype).eps)))
    passes = -(-jnp.max(jnp.stack([count for _, count, _ in sides])) // AT_ONCE)

    def series(r: Array | None) -> tuple[Array, Array]:
        rho = jnp.clip(c * (safe_inverse(safe_sqrt(a)) * safe_inverse(safe_sqrt(b))), -1.0, 1.0)
        pairs = [(one[0], two[0]) for one, two in zip(left, right, strict=True)]

        def add(i: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
            start = (passes - 1 - i) * AT_ONCE
            totals_after = []
            for total, (one, two) in zip(totals, pairs, strict=True):
                first, second = (jax.lax.dynamic_slice_in_dim(x, start, AT_ONCE) for x in (one, two))
                for k in reversed(range(AT_ONCE)):
                    total = total * rho + first[k] * second[k]
                totals_after.append(total)
            return tuple(totals_after)

        zero = jnp.zeros_like(c)
        return jax.lax.fori_loop(0, passes, add, (zero, zero))

    return jax.lax.cond(enough, series, lambda r: _direct(activation, a, b, c, r), r)


@_duals.defjvp
def _duals_jvp(activation, primals, tangents):
    """The derivatives of the double integrals: the loop has a length that is not known beforehand."""
    return jax.jvp(partial(_direct, activation), primals, tangents)


def _coefficients(
    function: Callable[[Array], Array], variance: Float[Array, "*shape"], terms: int
) -> tuple[Float[Array, "terms *shape"], Array, Array]:
    """c_0, …; how many of them matter; and the largest part of E φ² that all of them leave out."""
    nodes, weights, table = (
        jnp.asarray(x, variance.dtype).reshape(-1, _NODES_AT_ONCE, *x.shape[1:]) for x in _rule(terms)
    )
    root = safe_sqrt(variance)[..., None]

    def add(totals: tuple[Array, Array], part: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        z, w, h = part
        values = function(root * z)
        product = jnp.matmul(values, h, precision=jax.lax.Precision.HIGHEST)
        return (totals[0] + product, totals[1] + (values * values) @ w), None

    start = jnp.zeros((*variance.shape, terms), variance.dtype), jnp.zeros(variance.shape, variance.dtype)
    (found, square), _ = jax.lax.scan(add, start, (nodes, weights, table))
    # Parts of E φ² in c_k and all that follow; an input on which φ vanishes leaves nothing.
    parts = found * found * safe_inverse(square)[..., None]
    tails = jnp.max(jnp.cumsum(parts[..., ::-1], axis=-1)[..., ::-1].reshape(-1, terms), axis=0)
    count = jnp.sum(tails > jnp.finfo(variance.dtype).eps)
    rest = jnp.max(jnp.where(square > 0, 1.0 - jnp.sum(parts, axis=-1), 0.0))
    return jnp.moveaxis(found, -1, 0), count, rest


@lru_cache(maxsize=8)
def _rule(terms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes z, weights w, and w h_k(z) for k < terms (nodes, terms)."""
    nodes, weights = trapezoid(_WIDTH, _DENSITY)
    columns = [np.ones_like(nodes), nodes]
    for k in range(1, terms - 1):
        columns.append((nodes * columns[-1] - np.sqrt(k) * columns[-2]) / np.sqrt(k + 1))
    return nodes, weights, weights[:, None] * np.stack(columns, axis=1)
