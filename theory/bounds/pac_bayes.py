"""PAC-Bayes bounds: the risk of a random hypothesis h ~ Q from its risk on the sample and KL(Q‖P).

Setting of every function: losses in [0, 1], n independent examples, a prior P fixed before them. Then with
probability at least 1−δ over the sample the bound holds for all posteriors Q at once, so Q may depend on the
sample in any way, its temperature included.

Convention: `kl` is KL(Q‖P) in nats and `risk` is the Gibbs risk E_{h~Q} p̂_h on the sample.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import rel_entr

from theory.bounds.binary_kl import kl_inverse_upper
from theory.bounds.certificate import Certificate
from theory.bounds.checks import Numbers, Reals, confidence, divergence, sample_size, unit_interval

# Powers of √2 from 1/32 to 8. The best C is near √(2(KL+ln(1/δ))/(n p(1−p))), inside for most uses.
CATONI_GRID = tuple(2.0 ** (k / 2) for k in range(-10, 7))


def discrete_kl(posterior: Numbers, prior: Numbers) -> Float[np.ndarray, "..."]:
    """KL(Q‖P) = Σ_h Q(h) ln(Q(h)/P(h)) over the last axis, in nats.

    Args:
        posterior: Q, shape (..., hypotheses), broadcast against the prior.
        prior: P, shape (..., hypotheses).

    Returns:
        KL(Q‖P), shape (...); infinite where Q has mass that P lacks.

    Raises:
        ValueError: an entry outside [0, 1].
    """
    terms = rel_entr(unit_interval("posterior", posterior), unit_interval("prior", prior))
    # Rounding may leave −1e-17 where Q = P.
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))


def maurer_constant(n: Numbers) -> Float[np.ndarray, "..."]:
    """ξ(n) = Σ_k C(n,k) (k/n)^k (1−k/n)^{n−k}, which is E exp(n kl(p̂‖p)) for every 0 < p < 1.

    It is evaluated through the identity ξ(n) = Σ_{k=0}^{n} n!/((n−k)! nᵏ), positive terms that fall like
    exp(−k²/2n), so that O(√n) of them give all digits; √n ≤ ξ(n) ≤ 2√n and ξ(n) = √(πn/2) + 2/3 + o(1).

    Args:
        n: sample sizes, at least 1.

    Returns:
        ξ(n) to a relative accuracy of 1e-14 for n up to 1e8.

    Raises:
        ValueError: n below 1 or not whole.

    Source: Maurer 2004, Theorem 1; the identity is that of Ramanujan's Q-function, ξ = 1 + Q
    (Flajolet, Grabner, Kirschenhofer & Prodinger 1995).
    """
    sizes = sample_size(n)
    distinct, inverse = np.unique(sizes, return_inverse=True)
    # Beyond 9√n the terms are below e^{−40} of the first.
    values = [
        1.0 + np.cumprod(1.0 - np.arange(min(int(size), int(9 * np.sqrt(size)) + 10)) / size).sum() for size in distinct
    ]
    return np.asarray(np.asarray(values)[inverse]).reshape(sizes.shape)


def pac_bayes_kl(risk: Numbers, kl: Numbers, n: Numbers, *, delta: Numbers, exact: bool = False) -> Certificate:
    """sup{p : kl(p̂‖p) ≤ (KL(Q‖P) + ln(ξ(n)/δ)) / n} with ξ(n) ≤ 2√n.

    Args:
        risk: Gibbs risk p̂ on the sample; broadcast against all others.
        kl: KL(Q‖P) in nats.
        n: number of independent examples.
        delta: δ in (0, 1).
        exact: take Maurer's constant ξ(n) itself in place of 2√n, a gain of 0.47/n in the budget.

    Returns:
        A certificate for the Gibbs risk E_{h~Q} p_h.

    Raises:
        ValueError: p̂ outside [0, 1], KL negative, n below 1, δ outside (0, 1).

    Source: Maurer 2004, Theorem 5 (for n ≥ 8; that ξ(n) ≤ 2√n also for n < 8 is a finite check). Seeger 2002
    and Langford 2005, section 5, have n+1 in place of ξ(n).
    """
    risk, kl, n, delta = _arguments(risk, kl, n, delta)
    log_moment = np.log(maurer_constant(n)) if exact else np.log(2 * np.sqrt(n))
    return Certificate("PAC-Bayes–kl", kl_inverse_upper(risk, (kl + log_moment - np.log(delta)) / n))


def mcallester(risk: Numbers, kl: Numbers, n: Numbers, *, delta: Numbers) -> Certificate:
    """p̂ + √((KL(Q‖P) + ln(2√n/δ)) / 2n).

    Args:
        risk: Gibbs risk p̂ on the sample; broadcast against all others.
        kl: KL(Q‖P) in nats.
        n: number of independent examples.
        delta: δ in (0, 1).

    Returns:
        A certificate for the Gibbs risk E_{h~Q} p_h.

    Raises:
        ValueError: p̂ outside [0, 1], KL negative, n below 1, δ outside (0, 1).

    Source: McAllester 2003, Theorem 1, has √((KL + ln(n/δ) + 2)/(2n−1)); these sharper constants come from
    Maurer 2004, Theorem 5, through Pinsker's inequality, as in Pérez-Ortiz et al. 2021 (PAC-Bayes-classic).
    """
    risk, kl, n, delta = _arguments(risk, kl, n, delta)
    return Certificate("McAllester", np.asarray(risk + np.sqrt(_half_budget(kl, n, delta))))


def quadratic(risk: Numbers, kl: Numbers, n: Numbers, *, delta: Numbers) -> Certificate:
    """(√(p̂ + B) + √B)² with B = (KL(Q‖P) + ln(2√n/δ)) / 2n.

    Args:
        risk: Gibbs risk p̂ on the sample; broadcast against all others.
        kl: KL(Q‖P) in nats.
        n: number of independent examples.
        delta: δ in (0, 1).

    Returns:
        A certificate for the Gibbs risk E_{h~Q} p_h, of order 1/n where p̂ = 0.

    Raises:
        ValueError: p̂ outside [0, 1], KL negative, n below 1, δ outside (0, 1).

    Source: Rivasplata et al. 2019; Pérez-Ortiz et al. 2021 (PAC-Bayes-quadratic): Maurer 2004, Theorem 5,
    with kl(p̂‖p) ≥ (p−p̂)²/2p solved for √p.
    """
    risk, kl, n, delta = _arguments(risk, kl, n, delta)
    half_budget = _half_budget(kl, n, delta)
    return Certificate("quadratic", np.asarray((np.sqrt(risk + half_budget) + np.sqrt(half_budget)) ** 2))


def catoni(
    risk: Numbers, kl: Numbers, n: Numbers, *, delta: Numbers, grid: Sequence[float] = CATONI_GRID
) -> Certificate:
    """min over C in the grid of (1 − exp(−C p̂ − (KL(Q‖P) + ln(m/δ))/n)) / (1 − e^{−C}), m = grid size.

    Args:
        risk: Gibbs risk p̂ on the sample; broadcast against all others.
        kl: KL(Q‖P) in nats.
        n: number of independent examples.
        delta: δ in (0, 1), shared equally by the m values of C, so that the best may be picked afterwards.
        grid: values of C = λ/n > 0, fixed before the data.

    Returns:
        A certificate for the Gibbs risk E_{h~Q} p_h.

    Raises:
        ValueError: p̂ outside [0, 1], KL negative, n below 1, δ outside (0, 1), an empty or non-positive grid.

    Source: Catoni 2007, Theorem 1.2.6 (one λ = C n), with a union bound over the grid.
    """
    risk, kl, n, delta = _arguments(risk, kl, n, delta)
    if len(grid) == 0 or not all(c > 0 for c in grid):
        raise ValueError(f"grid must hold positive values of C, got {tuple(grid)}; use CATONI_GRID")
    budget = (kl + np.log(len(grid)) - np.log(delta)) / n
    value = np.full(np.broadcast_shapes(np.shape(risk), np.shape(budget)), np.inf)
    for c in grid:
        np.minimum(value, np.expm1(-c * risk - budget) / np.expm1(-c), out=value)
    return Certificate("Catoni", value)


def _arguments(
    risk: Numbers, kl: Numbers, n: Numbers, delta: Numbers
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return unit_interval("risk", risk), divergence("kl", kl), sample_size(n), confidence(delta)


def _half_budget(kl: np.ndarray, n: np.ndarray, delta: np.ndarray) -> Reals:
    """(KL + ln(2√n/δ)) / 2n."""
    return (kl + np.log(2 * np.sqrt(n)) - np.log(delta)) / (2 * n)
