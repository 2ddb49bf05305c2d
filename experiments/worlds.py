"""Learning problems whose true risks are known exactly, and the training sets drawn from them.

A world has finitely many hypotheses of known risk and a prior fixed before the data. A batch of training sets is
kept as what the bounds look at: how many errors each hypothesis makes on each of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit
from scipy.stats import binom


@dataclass(frozen=True)
class World:
    """n examples a training set; risks and log-prior (nats) of the M hypotheses."""

    n: int
    risks: Float[np.ndarray, " m"]
    log_prior: Float[np.ndarray, " m"]


@dataclass(frozen=True)
class Samples:
    """T training sets.

    Attributes:
        errors: errors of each hypothesis on each training set.
        learned: the hypothesis that the learner picks from each training set.
        tested: a hypothesis chosen without looking at the n examples it is tested on.
        test_errors: its errors on those.
    """

    errors: Int[np.ndarray, "t m"]
    learned: Int[np.ndarray, " t"]
    tested: Int[np.ndarray, " t"]
    test_errors: Int[np.ndarray, " t"]


def enumerate_samples(world: World) -> tuple[Samples, Float[np.ndarray, " t"]]:
    """Every outcome of independent losses that can occur, with its probability: up to (n+1)^M of them.

    The tested hypothesis is the first, named before the training set and tested on it.
    """
    counts = np.arange(world.n + 1)
    errors = np.array(list(itertools.product(counts, repeat=world.risks.size)))
    probability = np.prod(binom.pmf(errors, world.n, world.risks), axis=1)
    errors, probability = errors[probability > 0], probability[probability > 0]
    first = np.zeros(len(errors), dtype=np.int64)
    return Samples(errors, np.argmin(errors, axis=1), first, errors[:, 0]), probability


def draw_independent(world: World, trials: int, rng: np.random.Generator) -> Samples:
    """Training sets on which the hypotheses err independently; the learner minimises the training error."""
    errors = rng.binomial(world.n, world.risks, size=(trials, world.risks.size))
    learned = np.argmin(errors, axis=1)
    return Samples(errors, learned, learned, rng.binomial(world.n, world.risks[learned]))


@dataclass(frozen=True)
class Perceptrons:
    """The perceptrons x ↦ sign(w·x), w ∈ {−1, 0, 1}^d, on the cube {−1, 1}^d under a noisy teacher.

    Inputs are uniform, so a true risk is a sum over the 2^d inputs. The label is sign(v·x) for a teacher v outside
    the class, flipped with probability `noise`; sign(0) = 1. The prior is a product, ½ for a zero weight and ¼ for
    either sign: a code of one bit for "absent" and two for a sign.

    Attributes:
        world: the risks and the prior.
        inputs: the points of the cube.
        weights: the ternary weights, in the order of base-3 numbers.
        joint: probabilities of (x, label −1) for all x, then of (x, label 1).
        losses: 0–1 loss of each hypothesis on each of those.
    """

    world: World
    inputs: Float[np.ndarray, "x d"]
    weights: Float[np.ndarray, "m d"]
    joint: Float[np.ndarray, " 2x"]
    losses: Float[np.ndarray, "2x m"]


def perceptrons(n: int, teacher: tuple[float, ...], noise: float) -> Perceptrons:
    """The world of ternary perceptrons in the teacher's dimension."""
    dimension = len(teacher)
    inputs = np.array(list(itertools.product((-1.0, 1.0), repeat=dimension)))
    weights = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=dimension)))
    positive = inputs @ weights.T >= 0
    clean = inputs @ np.asarray(teacher) >= 0
    of_positive = np.where(clean, 1 - noise, noise) / len(inputs)
    joint = np.concatenate([1 / len(inputs) - of_positive, of_positive])
    losses = np.concatenate([positive, ~positive]).astype(np.float64)
    log_prior = np.log(np.where(weights == 0, 0.5, 0.25)).sum(axis=1)
    return Perceptrons(World(n, joint @ losses, log_prior), inputs, weights, joint, losses)


def draw_perceptrons(problem: Perceptrons, trials: int, rng: np.random.Generator) -> Samples:
    """Training sets of labelled inputs, on each of which logistic regression is trained and its weights rounded."""
    world = problem.world
    counts = rng.multinomial(world.n, problem.joint, size=trials).astype(np.float64)
    errors = np.rint(counts @ problem.losses).astype(np.int64)
    learned = _rounded(_logistic_regression(problem.inputs, counts / world.n))
    return Samples(errors, learned, learned, rng.binomial(world.n, world.risks[learned]))


def _logistic_regression(inputs: np.ndarray, frequency: np.ndarray, steps: int = 20) -> np.ndarray:
    """Full-batch gradient descent on the logistic loss from w = 0, one run a row of `frequency`."""
    negative, positive = np.split(frequency, 2, axis=1)
    weights = np.zeros((len(frequency), inputs.shape[1]))
    for _ in range(steps):
        # The Hessian is at most ¼ E xxᵀ ≤ d/4 on the cube, so that a step of 1 is stable up to d = 8.
        residual = positive - (negative + positive) * expit(weights @ inputs.T)
        weights += residual @ inputs
    return weights


def _rounded(weights: np.ndarray) -> np.ndarray:
    """Index of the ternary vector nearest to w / max|w|."""
    largest = np.abs(weights).max(axis=1, keepdims=True)
    digits = np.rint(weights / np.where(largest > 0, largest, 1.0)).astype(np.int64) + 1
    return digits @ 3 ** np.arange(weights.shape[1])[::-1]
