"""Bounds on the risk of one hypothesis from its errors on a sample, and Occam's union of many of them.

The first three hold for one hypothesis that was fixed before the n examples were drawn (a test set). With
the hypothesis chosen on the same examples they are void; `occam` pays for that choice.
"""

import numpy as np
from scipy.special import betaincc, betainccinv, betaln, xlog1py, xlogy

from theory.bounds.binary_kl import kl_inverse_upper
from theory.bounds.certificate import Certificate
from theory.bounds.checks import Numbers, Reals, confidence, error_counts, sample_size, unit_interval

# Below this tail probability the inverse of the incomplete beta function runs out of exponents.
_SMALLEST_TAIL = -600.0
# Tails are inverted at a probability this much smaller (relative), so that rounding errs on the safe side.
_OUTWARD = 1e-12


def hoeffding(risk: Numbers, n: Numbers, *, delta: Numbers) -> Certificate:
    """p̂ + √(ln(1/δ) / 2n).

    Args:
        risk: mean loss p̂ over the sample, of a loss in [0, 1]; broadcast against n and delta.
        n: number of independent examples.
        delta: δ in (0, 1).

    Returns:
        A certificate for the mean loss p: P(p > value) ≤ δ.

    Raises:
        ValueError: p̂ outside [0, 1], n below 1, δ outside (0, 1).

    Source: Hoeffding 1963, Theorem 1, equation (2.3).
    """
    risk, n, delta = unit_interval("risk", risk), sample_size(n), confidence(delta)
    return Certificate("Hoeffding", np.asarray(risk + np.sqrt(-np.log(delta) / (2 * n))))


def chernoff_kl(risk: Numbers, n: Numbers, *, delta: Numbers) -> Certificate:
    """sup{p : kl(p̂‖p) ≤ ln(1/δ)/n}, the Chernoff bound with the exact relative entropy.

    Args:
        risk: mean loss p̂ over the sample, of a loss in [0, 1]; broadcast against n and delta.
        n: number of independent examples.
        delta: δ in (0, 1).

    Returns:
        A certificate for the mean loss p: P(p > value) ≤ δ.

    Raises:
        ValueError: p̂ outside [0, 1], n below 1, δ outside (0, 1).

    Source: Hoeffding 1963, Theorem 1, equation (2.1); Langford 2005, section 3.
    """
    risk, n, delta = unit_interval("risk", risk), sample_size(n), confidence(delta)
    return Certificate("Chernoff–kl", kl_inverse_upper(risk, -np.log(delta) / n))


def clopper_pearson(errors: Numbers, n: Numbers, *, delta: Numbers) -> Certificate:
    """max{p : P(Bin(n, p) ≤ k) ≥ δ}, the inversion of the binomial tail: no test-set bound is tighter.

    The value is the 1−δ quantile of Beta(k+1, n−k), and 1 for k = n. The loss must be 0 or 1.

    Args:
        errors: number k of errors among the n examples; broadcast against n and delta.
        n: number of independent examples.
        delta: δ in (0, 1), one-sided.

    Returns:
        A certificate for the error probability p: P(p > value) ≤ δ, with equality just above each value.

    Raises:
        ValueError: k not a whole number between 0 and n, n below 1, δ outside (0, 1).

    Source: Clopper & Pearson 1934; Langford 2005, section 3 (test set bound).
    """
    n, delta = sample_size(n), confidence(delta)
    return Certificate("Clopper–Pearson", _tail_inversion(error_counts(errors, n), n, np.log(delta)))


def occam(errors: Numbers, n: Numbers, *, log_prior: Numbers, delta: Numbers) -> Certificate:
    """max{p : P(Bin(n, p) ≤ k_h) ≥ δ P(h)}, for all hypotheses h of a countable class at once.

    Args:
        errors: errors k_h on the sample that h may have been trained on; broadcast against all others.
        n: number of independent examples.
        log_prior: ln P(h) ≤ 0 in nats (minus the code length), with Σ_h P(h) ≤ 1, fixed before the data.
        delta: δ in (0, 1).

    Returns:
        A certificate: P(some h has p_h > value_h) ≤ δ. Where δP(h) < e⁻⁶⁰⁰ the binomial tail is inverted
        through its Chernoff bound kl⁻¹(k/n, ln(1/δP(h))/n), which is looser by a relative O(ln n / 600).

    Raises:
        ValueError: as `clopper_pearson`, or a positive log-prior.

    Source: Blumer et al. 1987; Langford 2005, section 4 (Occam's razor bound).
    """
    n, delta = sample_size(n), confidence(delta)
    log_prior = np.asarray(log_prior, dtype=np.float64)
    if not np.all(log_prior <= 0):
        worst = log_prior[~(log_prior <= 0)].flat[0]
        raise ValueError(f"log_prior must be at most 0, got {worst}; pass ln P(h), minus a code length in nats")
    tail = np.log(delta) + log_prior
    return Certificate("Occam", _tail_inversion(error_counts(errors, n), n, tail))


def _tail_inversion(errors: Reals, n: Reals, log_tail: Reals) -> np.ndarray:
    errors, n, log_tail = np.broadcast_arrays(errors, n, log_tail)
    exact = log_tail >= _SMALLEST_TAIL
    # The arguments of the branches not taken are replaced by harmless ones.
    log_target = np.where(exact, log_tail, -1.0)
    successes = np.maximum(n - errors, 1.0)
    value = betainccinv(errors + 1.0, successes, np.exp(log_target))
    # The inverse is good to 1e-10 in the tail probability only, the tail itself to 1e-13. It is concave in p on a
    # logarithmic scale, so that one Newton step ends at or above the root whatever the side it starts from.
    with np.errstate(all="ignore"):
        tail = betaincc(errors + 1.0, successes, value)
        log_density = xlogy(errors, value) + xlog1py(successes - 1, -value) - betaln(errors + 1.0, successes)
        step = (np.log(tail) - log_target + _OUTWARD) * tail / np.exp(log_density)
    # A root nearer to 1 than any float below it has no tail left to step in.
    value = np.where(value < 1, np.nextafter(value + step, 2), 1.0)
    if not np.all(exact):
        value = np.where(exact, value, kl_inverse_upper(errors / n, np.where(exact, 0.0, -log_tail / n)))
    return np.where(errors == n, 1.0, np.minimum(value, 1.0))
