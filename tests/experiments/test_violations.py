"""Failure rates: enumeration against sampling and against a grid of risks; posteriors against their definition."""

import numpy as np
import pytest
from scipy.stats import binom

from experiments.violations import (
    BOUNDS,
    FAULTY,
    NO_CONFIDENCE,
    NO_UNION,
    SOUND,
    TEMPERATURES,
    evaluate,
    few_hypotheses,
    one_hypothesis,
    posteriors,
)
from experiments.worlds import World, draw_independent, enumerate_samples
from theory.bounds import bernoulli_kl, clopper_pearson, discrete_kl

DELTAS = (0.1, 0.01)


def row(name):
    return BOUNDS.index(name)


def test_no_risk_on_a_grid_fails_more_often_than_the_supremum():
    n, k = 15, np.arange(16)
    rates = one_hypothesis(n, DELTAS)[0]
    risks = np.linspace(0.001, 0.999, 1499)
    for j, delta in enumerate(DELTAS):
        value = clopper_pearson(k, n, delta=delta).value
        on_grid = [binom.pmf(k, n, p) @ (p > value) for p in risks]
        assert max(on_grid) <= rates[row("Clopper–Pearson"), j] * (1 + 1e-12)
        # The grid comes within its spacing of a jump.
        assert max(on_grid) > 0.97 * rates[row("Clopper–Pearson"), j]


@pytest.mark.parametrize("n", [1, 4, 33])
def test_sound_bounds_keep_delta_exactly_and_the_tight_one_reaches_it(n):
    rates = one_hypothesis(n, DELTAS)[0]
    sound = rates[[row(name) for name in SOUND]]
    assert np.all(sound <= np.array(DELTAS) * (1 + 1e-12))
    np.testing.assert_allclose(rates[row("Clopper–Pearson")], DELTAS, rtol=1e-9)
    # Without errors the unpaid bound fails with probability 1/(2√n), whatever δ says.
    assert np.all(rates[row(NO_CONFIDENCE)] >= (1 - 1e-9) / (2 * np.sqrt(n)))


def test_few_hypotheses_keep_delta_and_occam_is_nearly_tight():
    prior = (0.5, 0.3, 0.2)
    rates = few_hypotheses(4, prior, DELTAS)[0]
    assert np.all(rates[[row(name) for name in SOUND]] <= np.array(DELTAS) * (1 + 1e-12))
    # Independent failures of probability δP(h) each: the union bound is off by overlaps only.
    exact = [1 - np.prod([1 - delta * p for p in prior]) for delta in DELTAS]
    np.testing.assert_allclose(rates[row("Occam")], exact, rtol=1e-9)
    assert np.all(rates[row(NO_UNION)] > 1.2 * np.array(DELTAS))


def test_enumerated_and_sampled_rates_agree(rng):
    world = World(5, np.array([0.55, 0.7]), np.log([0.6, 0.4]))
    samples, probability = enumerate_samples(world)
    exact = np.einsum("t,qtbd->qbd", probability, evaluate(world, samples, (0.2, 0.05)))
    drawn = evaluate(world, draw_independent(world, 8000, rng), (0.2, 0.05)).mean(axis=1)
    # Test-set bounds are tested on different hypotheses in the two; all others see the same errors.
    for name in ("Occam", "PAC-Bayes–kl", "Catoni", *FAULTY):
        error = np.sqrt(exact[0, row(name)] * (1 - exact[0, row(name)]) / 8000)
        assert np.all(np.abs(drawn[0, row(name)] - exact[0, row(name)]) <= 4.5 * error + 1e-12)
        # Bounds and risks lie in [0, 2], so that a mean over 8000 is good to 0.05.
        np.testing.assert_allclose(drawn[1:, row(name)], exact[1:, row(name)], atol=0.05)
    assert exact[0, row("Occam"), 0] > 0.02


def test_posteriors_are_what_they_say():
    world = World(6, np.array([0.2, 0.5, 0.7, 0.4]), np.log([0.4, 0.3, 0.2, 0.1]))
    samples = draw_independent(world, 5, np.random.default_rng(3))
    gibbs, risk, kl = posteriors(world, samples)
    prior = np.exp(world.log_prior)
    for t, errors in enumerate(samples.errors):
        expected = [prior * np.exp(-beta * errors) for beta in TEMPERATURES]
        expected.append(np.eye(4)[samples.learned[t]])
        better = errors < 6 * world.risks
        weight = prior * np.where(better, np.exp(6 * bernoulli_kl(errors / 6, world.risks)), 1.0)
        expected += [weight, np.eye(4)[np.argmax(weight)]]
        for i, q in enumerate(expected):
            q = q / q.sum()
            assert gibbs[t, i] == pytest.approx(q @ errors / 6, rel=1e-12, abs=1e-15)
            assert risk[t, i] == pytest.approx(q @ world.risks, rel=1e-12)
            assert kl[t, i] == pytest.approx(discrete_kl(q, prior).item(), rel=1e-9, abs=1e-14)


def test_reported_slack_is_positive_where_nothing_fails(rng):
    world = World(30, np.array([0.2, 0.3]), np.log([0.5, 0.5]))
    violated, value, risk, vacuous = evaluate(world, draw_independent(world, 200, rng), (0.05,))
    fine = violated[:, [row(name) for name in SOUND]] == 0
    assert np.all((value - risk)[:, [row(name) for name in SOUND]][fine] >= 0)
    assert np.array_equal(vacuous, value >= 1)
