"""Paired tests of the difference between two classifiers, and the controls that such tests must pass."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.small_data import Kernels, best, relu_tangent_kernels, ridge_outputs, split, tangent_kernels


class Estimate(NamedTuple):
    """A mean, its standard error and the degrees of freedom behind that; arrays for many at once."""

    mean: Float[np.ndarray, "..."]
    error: Float[np.ndarray, "..."]
    dof: Float[np.ndarray, "..."]


def resampled(differences: Float[np.ndarray, "... j"], train: int, test: int, *, corrected: bool = True) -> Estimate:
    """Mean of differences over j random splits of one data set, for the population that it was drawn from.

    Splits share examples, so that their results are correlated and s²/j is too small: with the correlation
    test/(train + test), for which examples that are in a test set together are to blame, the variance is
    s² (1/j + test/train).

    Args:
        differences: one for each split, in the last axis.
        train, test: examples on either side of each split.
        corrected: False takes the splits as independent.

    Source: Nadeau & Bengio 2003, the corrected resampled t-test.
    """
    count = differences.shape[-1]
    variance = differences.var(axis=-1, ddof=1) * (1 / count + (test / train if corrected else 0.0))
    return Estimate(differences.mean(axis=-1), np.sqrt(variance), np.full(variance.shape, count - 1.0))


def crossed(differences: Float[np.ndarray, "... r m"]) -> Estimate:
    """Mean of differences over r training sets without a common example, and m test examples common to all.

    A difference is the mean plus a term of the training set, one of the test example, and one of both, all
    independent: the variance of the mean is A/r + B/m + C/(rm). The spread of the row means estimates A + C/m, that of
    the column means B + C/r: together they count the last term twice, which errs on the safe side.
    """
    r, m = differences.shape[-2:]
    rows = differences.mean(axis=-1).var(axis=-1, ddof=1) / r
    columns = differences.mean(axis=-2).var(axis=-1, ddof=1) / m
    total = rows + columns
    with np.errstate(invalid="ignore", divide="ignore"):
        # Welch & Satterthwaite.
        dof = total**2 / (rows**2 / (r - 1) + columns**2 / (m - 1))
    return Estimate(differences.mean(axis=(-1, -2)), np.sqrt(total), np.where(total > 0, dof, r - 1.0))


def average(estimates: Estimate, weights: Float[np.ndarray, " s"]) -> Estimate:
    """Weighted mean over the first axis, whose estimates are independent."""
    shares = (weights / weights.sum()).reshape(-1, *[1] * (np.ndim(estimates.mean) - 1))
    parts = (shares * estimates.error) ** 2
    total = parts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        dof = total**2 / np.sum(parts**2 / estimates.dof, axis=0)
    return Estimate(np.sum(shares * estimates.mean, axis=0), np.sqrt(total), dof)


def halves(
    kernel: Float[np.ndarray, "n n"],
    y: Int[np.ndarray, " n"],
    splits: int,
    ridge: float,
    generator: np.random.Generator,
) -> Float[np.ndarray, " splits"]:
    """The placebo: differences in accuracy between a method and itself, each given one half of the training set.

    The examples are halved once, at random. In each split, four fifths are trained on: the first by those of one
    half, the second by those of the other. By symmetry the expected difference is zero, while the differences of
    different splits are correlated as those between two methods are.
    """
    n, test = len(y), len(y) // 5
    targets = np.eye(int(y.max()) + 1)[y] - 1 / (int(y.max()) + 1)
    half = generator.permutation(n) < n // 2
    found = np.empty(splits)
    for j in range(splits):
        order = generator.permutation(n)
        held, train = order[:test], order[test:]
        right = []
        for rows in (train[half[train]], train[~half[train]]):
            outputs = ridge_outputs(kernel[np.ix_(rows, rows)], kernel[np.ix_(held, rows)], targets[rows], ridge)
            right.append(np.mean(outputs.argmax(axis=1) == y[held]))
        found[j] = right[0] - right[1]
    return found


def coins(
    kernels: Kernels, folds: Int[np.ndarray, " n"], ridges: Sequence[float], draws: int, generator: np.random.Generator
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Accuracies of tuned kernel regression where every label is a fair coin: ½ in expectation, whatever is learned.

    Args:
        kernels, ridges: as for `kernel_regression`.
        folds: inner fold of each training example.
        draws: labels are drawn so many times.
        generator: draws them.

    Returns:
        for each draw the accuracy with the setting chosen on the inner folds, and that with the setting chosen on the
        test examples, which is what a wrong analysis would report.
    """
    n, m = len(folds), len(kernels[0][1])
    labels = generator.choice([-1.0, 1.0], (n + m, draws))
    y, y_test = labels[:n], labels[n:]
    scores, right = np.zeros((2, len(kernels) * len(ridges), draws))
    for i, (k, k_star) in enumerate(kernels):
        for j, ridge in enumerate(ridges):
            setting = i * len(ridges) + j
            right[setting] = np.mean(ridge_outputs(k, k_star, y, ridge) * y_test > 0, axis=0)
            for fold in range(folds.max() + 1):
                held = folds == fold
                outputs = ridge_outputs(k[np.ix_(~held, ~held)], k[np.ix_(held, ~held)], y[~held], ridge)
                scores[setting] += np.sum(outputs * y[held] > 0, axis=0) / n
    return right[best(scores.T), np.arange(draws)], right.max(axis=0)


def false_alarms(placebo: Float[np.ndarray, "a j"], train: int, test: int, level: float) -> Int[np.ndarray, "2"]:
    """How many of a null hypothesis's differences the test at that level takes for real: corrected, and uncorrected."""
    from scipy.special import stdtrit

    found = [resampled(placebo, train, test, corrected=corrected) for corrected in (True, False)]
    return np.array([np.sum(np.abs(one.mean) > stdtrit(one.dof, 1 - level / 2) * one.error) for one in found])


class Controls(NamedTuple):
    """Where there is nothing to find: false alarms of both tests, and accuracies on coins, tuned inside and on test."""

    alarms: Int[np.ndarray, "2"]
    coins: Float[np.ndarray, "2 draws"]


def controls(
    x: Float[np.ndarray, "_ d"],
    y: Int[np.ndarray, " _"],
    *,
    examples: int,
    assignments: int,
    draws: int,
    splits: int,
    folds: int,
    depths: Sequence[int],
    ridges: Sequence[float],
    bias_variance: float,
    level: float,
    generator: np.random.Generator,
) -> Controls:
    """`halves` and `coins` with tangent kernels of ReLU networks, on random subsets of a data set.

    Args:
        x, y: all examples.
        examples: in a subset, of which a fifth is tested on; drawn anew for every halving, and for each of ten equal
            shares of the draws.
        assignments, splits: halvings, and splits for each.
        draws: of coin labels.
        folds, depths, ridges, bias_variance: of the tuning, as in `kernel_regression`; halves take the first ridge and
            the shallowest network.
        level: of the test.
        generator: draws all of it.
    """
    test, repeats = examples // 5, 10
    placebo, accuracies = np.empty((assignments, splits)), []
    for i in range(assignments):
        rows = generator.choice(len(y), examples, replace=False)
        part = x[rows] - x[rows].mean(axis=0)
        scale = part.std(axis=0)
        part = part / np.where(scale > 0, scale, 1.0)
        kernel = relu_tangent_kernels(part, part, (min(depths),), bias_variance)[0]
        placebo[i] = halves(kernel, y[rows], splits, ridges[0], generator)
    for _ in range(repeats):
        rows = generator.choice(len(y), examples, replace=False)
        data = split(x, y, rows[test:], rows[:test], folds, generator, per_feature=True)
        kernels = tangent_kernels(data, depths, bias_variance)
        accuracies.append(coins(kernels, data.folds, ridges, draws // repeats, generator))
    return Controls(false_alarms(placebo, examples - test, test, level), np.concatenate(accuracies, axis=1))
