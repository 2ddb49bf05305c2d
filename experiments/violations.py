"""How often each bound of `theory.bounds` fails in a world of known risk, and by how much it exceeds the risk.

The guarantee is checked at its strongest. Occam: does any hypothesis break it? PAC-Bayes: does any of several
posteriors, two of them made by an adversary who knows the true risks? Test-set bounds: does the tested hypothesis?
Beside the sound bounds three faulty ones are evaluated on the same training sets.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import binom

from experiments.worlds import Samples, World, enumerate_samples
from theory.bounds import (
    bernoulli_kl,
    catoni,
    chernoff_kl,
    clopper_pearson,
    hoeffding,
    kl_inverse_upper,
    mcallester,
    occam,
    pac_bayes_kl,
    quadratic,
)

TEST_SET = {"Hoeffding": hoeffding, "Chernoff–kl": chernoff_kl}
PAC_BAYES = {"PAC-Bayes–kl": pac_bayes_kl, "McAllester": mcallester, "Catoni": catoni, "quadratic": quadratic}
SOUND = (*TEST_SET, "Clopper–Pearson", "Occam", *PAC_BAYES)
# Clopper–Pearson on the training errors of the hypothesis picked by them; PAC-Bayes–kl with the posterior as its own
# prior; PAC-Bayes–kl with ln(2√n) in place of ln(2√n/δ).
NO_UNION, FITTED_PRIOR, NO_CONFIDENCE = "no union bound", "fitted prior", "no ln(1/δ)"
FAULTY = (NO_UNION, FITTED_PRIOR, NO_CONFIDENCE)
BOUNDS = SOUND + FAULTY
# Rows of every table below.
QUANTITIES = ("rate", "value", "risk", "vacuous")

# Inverse temperatures per training error.
TEMPERATURES = (0.25, 0.5, 1.0, 2.0)


def one_hypothesis(n: int, deltas: tuple[float, ...]) -> Float[np.ndarray, "4 bounds deltas"]:
    """`QUANTITIES` at the risk p where each bound fails most often, exactly.

    U(k) fails for p if U(k) < p, and U grows with the number of errors k ~ Bin(n, p): the failure probability jumps
    up as p passes a value of U and falls until the next, so its supremum over p is max_k P(Bin(n, U(k)⁺) ≤ k).
    """
    k = np.arange(n + 1)
    table = np.empty((4, len(BOUNDS), len(deltas)))
    for j, delta in enumerate(deltas):
        values = {name: bound(k / n, n, delta=delta).value for name, bound in TEST_SET.items()}
        values |= {name: bound(k / n, 0.0, n, delta=delta).value for name, bound in PAC_BAYES.items()}
        values["Occam"] = occam(k, n, log_prior=0.0, delta=delta).value
        values["Clopper–Pearson"] = values[NO_UNION] = clopper_pearson(k, n, delta=delta).value
        # With one hypothesis there is nothing to select and no prior to fit: these two are sound here.
        values[FITTED_PRIOR] = values["PAC-Bayes–kl"]
        values[NO_CONFIDENCE] = kl_inverse_upper(k / n, np.log(2 * np.sqrt(n)) / n)
        for i, name in enumerate(BOUNDS):
            value = values[name]
            above = np.nextafter(value, 2)
            rates = np.where(above < 1, binom.cdf(k, n, np.minimum(above, 1.0)), 0.0)
            worst = int(np.argmax(rates))
            p = min(above[worst], 1.0)
            weight = binom.pmf(k, n, p)
            table[:, i, j] = rates[worst], weight @ value, p, weight @ (value >= 1)
    return table


def few_hypotheses(n: int, prior: tuple[float, ...], deltas: tuple[float, ...]) -> Float[np.ndarray, "4 bounds deltas"]:
    """`QUANTITIES` by summing over all outcomes, at the worst of a set of adversarial risks.

    The risks lie just above the values that Occam's and the PAC-Bayes–kl bound take for 0, …, n−1 errors, for all
    hypotheses together: there Occam's failures are nearly disjoint and its union bound is nearly tight.
    """
    k, log_prior = np.arange(n)[:, None], np.log(prior)
    vectors = [occam(k, n, log_prior=log_prior, delta=delta).value for delta in deltas]
    vectors += [pac_bayes_kl(k / n, -log_prior, n, delta=delta).value for delta in deltas]
    tables = []
    for risks in np.nextafter(np.concatenate(vectors), 2):
        world = World(n, np.minimum(risks, 1.0), log_prior)
        samples, probability = enumerate_samples(world)
        tables.append(np.einsum("t,qtbd->qbd", probability, evaluate(world, samples, deltas)))
    table = np.array(tables)
    worst = np.argmax(table[:, 0], axis=0)
    return np.take_along_axis(table, worst[None, None], axis=0)[0]


def evaluate(world: World, samples: Samples, deltas: tuple[float, ...]) -> Float[np.ndarray, "4 t bounds deltas"]:
    """For each training set: is the bound violated, its value, the true risk, and is it vacuous.

    Value and risk are those that a user would report: of the learner's hypothesis, or of that posterior among the
    learner's (temperatures, point mass) whose bound is smallest.
    """
    n, k = world.n, np.arange(world.n + 1)
    hypotheses, row = np.arange(world.risks.size), np.arange(len(samples.errors))
    gibbs, risk, kl = posteriors(world, samples)
    learners = slice(0, len(TEMPERATURES) + 1)
    tested_risk, learned_risk = world.risks[samples.tested], world.risks[samples.learned]
    masses, which = np.unique(world.log_prior, return_inverse=True)
    unpaid = kl_inverse_upper(gibbs, (kl + np.log(2 * np.sqrt(n))) / n)
    table = np.empty((4, len(row), len(BOUNDS), len(deltas)))
    for j, delta in enumerate(deltas):
        outcome = {}
        # A bound on errors takes n+1 values: evaluate it once for each.
        lookup = {name: bound(k / n, n, delta=delta).value for name, bound in TEST_SET.items()}
        lookup["Clopper–Pearson"] = clopper_pearson(k, n, delta=delta).value
        for name, values in lookup.items():
            value = values[samples.test_errors]
            outcome[name] = tested_risk > value, value, tested_risk
        value = lookup["Clopper–Pearson"][samples.errors[row, samples.learned]]
        outcome[NO_UNION] = learned_risk > value, value, learned_risk
        occams = occam(k[:, None], n, log_prior=masses, delta=delta).value[:, which][samples.errors, hypotheses]
        outcome["Occam"] = (world.risks > occams).any(axis=1), occams[row, samples.learned], learned_risk
        values = {name: bound(gibbs, kl, n, delta=delta).value for name, bound in PAC_BAYES.items()}
        values[FITTED_PRIOR] = pac_bayes_kl(gibbs, 0.0, n, delta=delta).value
        values[NO_CONFIDENCE] = unpaid
        for name, value in values.items():
            best = np.argmin(value[:, learners], axis=1)
            outcome[name] = (risk > value).any(axis=1), value[row, best], risk[row, best]
        for i, name in enumerate(BOUNDS):
            violated, value, true = outcome[name]
            table[:, :, i, j] = violated, value, true, value >= 1
    return table


def posteriors(
    world: World, samples: Samples
) -> tuple[Float[np.ndarray, "t q"], Float[np.ndarray, "t q"], Float[np.ndarray, "t q"]]:
    """Gibbs risk on the sample, true Gibbs risk and KL(Q‖P) of each posterior on each training set.

    In order: Gibbs posteriors Q ∝ P exp(−β errors) at all temperatures; the point mass on the learner's hypothesis;
    the adversaries Q ∝ P exp(n kl(p̂‖p)) over the hypotheses that look better than they are, for which the change
    of measure in the proof is tight, and the point mass where that weight is largest.
    """
    n, errors, log_prior = world.n, samples.errors.astype(np.float64), world.log_prior
    k = np.arange(n + 1)[:, None]
    flattery = np.where(k < n * world.risks, n * bernoulli_kl(k / n, world.risks), 0.0)
    surprise = flattery[samples.errors, np.arange(world.risks.size)]

    def point(chosen: np.ndarray) -> tuple[np.ndarray, ...]:
        return errors[np.arange(len(errors)), chosen] / n, world.risks[chosen], -log_prior[chosen]

    def tilted(score: np.ndarray) -> tuple[np.ndarray, ...]:
        """Q ∝ P exp(score), for which KL(Q‖P) = E_Q score − ln E_P exp(score)."""
        q = score + log_prior
        largest = q.max(axis=1, keepdims=True)
        np.exp(q - largest, out=q)
        total = q.sum(axis=1)
        q /= total[:, None]
        kl = np.einsum("tm,tm->t", q, score) - largest[:, 0] - np.log(total)
        # Rounding can leave a divergence of −1e-16.
        return np.einsum("tm,tm->t", q, errors) / n, q @ world.risks, np.maximum(kl, 0.0)

    columns = [tilted(-beta * errors) for beta in TEMPERATURES]
    columns += [point(samples.learned), tilted(surprise), point(np.argmax(surprise + log_prior, axis=1))]
    gibbs, risk, kl = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
    return gibbs, risk, kl
