r"""Moments of up to four centred Gaussians z ~ N(0, G) times steps at zero, without quadrature in space:

    E ∏_i z_i^{k_i} s_i(z_i),    s_i(z) = m_i + h_i sgn z.

Stein's lemma takes one factor z_i away,

    E z_i F = Σ_j G_ij E ∂_j F,    ∂_j s_j = 2 h_j δ(z_j),

where a power of z_j that is left over kills δ(z_j), and otherwise z_j = 0 is a condition that leaves one variable less.
When no power is left, E ∏ s_i needs E sgn sgn = (2/π) asin ρ, and for four variables Plackett's identity

    ∂/∂ρ_ij E[sgn_1 sgn_2 sgn_3 sgn_4] = (2/π) (1 − ρ_ij²)^(−½) · (2/π) asin ρ_{kl | z_i = z_j = 0},

integrated in t along the correlations tρ_ij from independence at t = 0, where the expectation is nil.

Source: Plackett 1954, "A reduction formula for normal multivariate integrals", Biometrika 41; the recursion is derived
    here.
"""

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
from jaxtyping import Float

# Independent noise added to each variable, as a variance relative to its own. Where more inputs than dimensions leave G
# singular, the planes z_i = 0 meet in fewer dimensions than there are conditions, and what is left given two of them is
# undecided. Noise decides it consistently, and moves the moments by as little as its variance.
JITTER = 1e-12


def step_moment(
    covariance: Float[np.ndarray, "input input"],
    powers: tuple[int, ...],
    left: tuple[float, ...],
    right: tuple[float, ...],
) -> float:
    """E ∏_i z_i^{k_i} s_i(z_i) with s_i = left_i below zero and right_i above.

    Args:
        covariance: G of up to four variables with positive variances; singular is fine, if no two are parallel.
        powers: k_i ≥ 0.
        left, right: values of s_i on either side.

    Returns:
        The moment, to about 1e-11 of its scale.

    Raises:
        ValueError: more than four variables.
    """
    if len(covariance) > 4:
        raise ValueError(f"covariance must be of at most four variables, got {len(covariance)}")
    scale = np.sqrt(np.diag(covariance))
    eigenvalues, basis = np.linalg.eigh(covariance / np.outer(scale, scale))
    # One condition leaves two variables undecided only if they are parallel.
    noise = JITTER if len(scale) > 2 else 0.0
    # z_i = v_i·u with standard u. Vectors rather than covariances: a length of √JITTER keeps ten of its digits when
    # projections come down to it, where its square would keep four.
    vectors = np.hstack([basis * np.sqrt(np.maximum(eigenvalues, 0.0)), np.sqrt(noise) * np.eye(len(scale))])
    means = [0.5 * (high + low) for low, high in zip(left, right, strict=True)]
    jumps = [0.5 * (high - low) for low, high in zip(left, right, strict=True)]
    return float(np.prod(scale ** np.array(powers))) * _moment(vectors, tuple(powers), means, jumps)


def _moment(
    v: Float[np.ndarray, "input dim"], powers: tuple[int, ...], means: Sequence[float], jumps: Sequence[float]
) -> float:
    if not any(powers):
        return _steps(v, means, jumps)
    first = next(i for i, k in enumerate(powers) if k)
    rest = tuple(k - (i == first) for i, k in enumerate(powers))
    total = 0.0
    for j, k in enumerate(rest):
        inner = float(v[first] @ v[j])
        if k:
            lower = tuple(p - (i == j) for i, p in enumerate(rest))
            total += inner * k * _moment(v, lower, means, jumps)
        elif jumps[j]:
            others = [i for i in range(len(rest)) if i != j]
            density = 1 / np.sqrt(2 * np.pi * v[j] @ v[j])
            lower, m, h = tuple(rest[i] for i in others), [means[i] for i in others], [jumps[i] for i in others]
            given = _moment(_orthogonal(v[others], v[j]), lower, m, h)
            total += inner * 2 * jumps[j] * density * given
    return total


def _orthogonal(v: Float[np.ndarray, "input dim"], to: Float[np.ndarray, " dim"]) -> Float[np.ndarray, "input dim"]:
    """The vectors given that the variable of another one vanishes."""
    unit = to / np.linalg.norm(to)
    return v - np.outer(v @ unit, unit)


def _steps(v: Float[np.ndarray, "input dim"], means: Sequence[float], jumps: Sequence[float]) -> float:
    """E ∏ (m_i + h_i sgn z_i); odd numbers of signs vanish by symmetry."""
    total = float(np.prod(means))
    every = range(len(means))
    for i, j in combinations(every, 2):
        factor = jumps[i] * jumps[j] * float(np.prod([means[k] for k in every if k not in (i, j)]))
        if factor:
            # E[sgn sgn] = (2/π) asin ρ, as an arctangent that keeps its digits at ρ → ±1.
            unit = v[i] / np.linalg.norm(v[i])
            along = v[j] @ unit
            total += factor * 2 / np.pi * float(np.arctan2(along, np.linalg.norm(v[j] - along * unit)))
    if len(means) == 4 and all(jumps):
        total += float(np.prod(jumps)) * four_signs(v @ v.T)
    return total


def four_signs(covariance: Float[np.ndarray, "4 4"]) -> float:
    """E[sgn z_1 sgn z_2 sgn z_3 sgn z_4], to about 1e-12."""
    scale = np.sqrt(np.diag(covariance))
    off = covariance / np.outer(scale, scale)
    np.fill_diagonal(off, 0.0)
    t, weights = _double_exponential()
    total = 0.0
    for i, j in combinations(range(4), 2):
        if not off[i, j]:
            continue
        k, m = (n for n in range(4) if n not in (i, j))
        # Covariance of (k, m) given z_i = z_j = 0 at every t, times 1 − t²ρ_ij².
        determinant = 1 - (t * off[i, j]) ** 2
        ik, jk, im, jm = (t * off[pair] for pair in ((i, k), (j, k), (i, m), (j, m)))
        across = t * off[i, j]
        kk = determinant - (ik * ik + jk * jk - 2 * across * ik * jk)
        mm = determinant - (im * im + jm * jm - 2 * across * im * jm)
        km = determinant * t * off[k, m] - (ik * im + jk * jm - across * (ik * jm + im * jk))
        angle = np.arctan2(km, np.sqrt(np.maximum(kk * mm - km * km, 0.0)))
        total += float(np.sum(weights * (2 / np.pi) ** 2 * off[i, j] / np.sqrt(determinant) * angle))
    return total


@cache
def _double_exponential() -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, " node"]]:
    """Tanh-sinh nodes and weights on [0, 1]: the square roots at t = 1, where G may be singular, cost no digits."""
    step = 0.05
    x = np.arange(-62, 63) * step
    inner = 0.5 * np.pi * np.sinh(x)
    return 1 / (1 + np.exp(-2 * inner)), step * 0.25 * np.pi * np.cosh(x) / np.cosh(inner) ** 2
