"""Worlds of known risk: the risks by brute force, the draws against their laws."""

import itertools

import numpy as np
import pytest

from experiments.worlds import World, draw_independent, draw_perceptrons, enumerate_samples, perceptrons

TEACHER, NOISE = (1.0, 0.7, 0.4), 0.15


def sign(value):
    return 1 if value >= 0 else -1


def test_perceptron_risks_by_walking_through_the_cube():
    problem = perceptrons(10, TEACHER, NOISE)
    assert problem.joint.sum() == pytest.approx(1, rel=1e-15)
    for index, weights in enumerate(itertools.product((-1, 0, 1), repeat=3)):
        risk = 0.0
        for x in itertools.product((-1, 1), repeat=3):
            agrees = sign(np.dot(weights, x)) == sign(np.dot(TEACHER, x))
            risk += (NOISE if agrees else 1 - NOISE) / 8
        assert problem.world.risks[index] == pytest.approx(risk, rel=1e-14)
        zeros = weights.count(0)
        assert problem.world.log_prior[index] == pytest.approx(np.log(0.5**zeros * 0.25 ** (3 - zeros)), rel=1e-14)
    assert np.exp(problem.world.log_prior).sum() == pytest.approx(1, rel=1e-14)


def test_perceptron_errors_have_the_mean_and_variance_of_their_risk(rng):
    problem, trials = perceptrons(20, TEACHER, NOISE), 4000
    samples = draw_perceptrons(problem, trials, rng)
    risks = problem.world.risks
    spread = np.sqrt(20 * risks * (1 - risks))
    assert np.all(np.abs(samples.errors.mean(axis=0) - 20 * risks) < 4.5 * spread / np.sqrt(trials))
    # The variance of a variance estimate of nearly normal data is 2σ⁴/T; dependent losses would keep the mean only.
    assert np.all(np.abs(samples.errors.var(axis=0) / spread**2 - 1) < 4.5 * np.sqrt(2.5 / trials))


def test_the_trained_perceptron_nears_the_best_and_is_tested_afresh(rng):
    problem = perceptrons(400, TEACHER, NOISE)
    samples = draw_perceptrons(problem, 300, rng)
    learned = problem.world.risks[samples.learned]
    assert learned.mean() < problem.world.risks.min() + 0.03
    # Test errors are unbiased for the learned risk, whatever was learned.
    error = np.sqrt((learned * (1 - learned)).mean() / (400 * 300))
    assert abs((samples.test_errors / 400 - learned).mean()) < 4.5 * error


def test_independent_losses_are_independent_and_the_learner_takes_the_best(rng):
    world = World(12, np.array([0.3, 0.5, 0.6]), np.log(np.full(3, 1 / 3)))
    samples = draw_independent(world, 5000, rng)
    correlation = np.corrcoef(samples.errors.T)[np.triu_indices(3, 1)]
    assert np.all(np.abs(correlation) < 4.5 / np.sqrt(5000))
    assert np.all(samples.errors[np.arange(5000), samples.learned] == samples.errors.min(axis=1))


def test_enumeration_is_complete_and_agrees_with_sampling(rng):
    world = World(4, np.array([0.2, 0.7]), np.log([0.5, 0.5]))
    samples, probability = enumerate_samples(world)
    assert samples.errors.shape == (25, 2)
    assert probability.sum() == pytest.approx(1, rel=1e-14)
    np.testing.assert_allclose(probability @ samples.errors, 4 * world.risks, rtol=1e-13)
    drawn = draw_independent(world, 20_000, rng).errors
    for errors, exact in zip(samples.errors, probability, strict=True):
        rate = np.all(drawn == errors, axis=1).mean()
        assert abs(rate - exact) < 4.5 * np.sqrt(exact / 20_000) + 1e-3


def test_outcomes_that_cannot_happen_are_left_out():
    samples, probability = enumerate_samples(World(3, np.array([1.0, 0.5]), np.log([0.5, 0.5])))
    assert samples.errors[:, 0].tolist() == [3] * 4
    assert probability.sum() == pytest.approx(1, rel=1e-14)
