"""Classifiers for small data sets, tuned inside the training set.

Every classifier gets the same training set and the same folds of it, chooses its settings by its accuracy on these
inner folds (forests: out of the bag), and is trained on the whole training set with the settings chosen: the test
examples choose nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve

from experiments.networks import Network

Kernels = Sequence[tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "m n"]]]


@dataclass(frozen=True)
class Split:
    """Examples to learn from and to be judged by.

    Attributes:
        x_train, x_test: features, scaled by the training examples alone.
        y_train, y_test: labels 0, 1, ….
        folds: inner fold of each training example, 0, 1, ….
        classes: number of classes.
    """

    x_train: Float[np.ndarray, "n d"]
    y_train: Int[np.ndarray, " n"]
    x_test: Float[np.ndarray, "m d"]
    y_test: Int[np.ndarray, " m"]
    folds: Int[np.ndarray, " n"]
    classes: int


@dataclass(frozen=True)
class Tried:
    """What a classifier gives under each of its settings.

    Attributes:
        scores: accuracy on the inner folds.
        labels: labels of the test examples after training on the whole training set; with several trainings that
            differ in their random numbers, `[g, trainings, m]`.
    """

    scores: Float[np.ndarray, " g"]
    labels: Int[np.ndarray, "g *trainings m"]

    @property
    def chosen(self) -> Int[np.ndarray, "*trainings m"]:
        """Labels under the setting of the best score, the first among equals: grids begin with the ordinary ones."""
        return self.labels[int(best(self.scores))]


def best(scores: Float[np.ndarray, "... g"]) -> Int[np.ndarray, "..."]:
    """The first of the settings with the best score, whatever its rounding."""
    return np.argmax(np.round(scores, 12), axis=-1)


def split(
    x: Float[np.ndarray, "_ d"],
    y: Int[np.ndarray, " _"],
    train: Int[np.ndarray, " n"],
    test: Int[np.ndarray, " m"],
    folds: int,
    generator: np.random.Generator,
    *,
    per_feature: bool,
) -> Split:
    """A split with features centred on the training examples and scaled to unit variance there.

    Args:
        x, y: all examples.
        train, test: their rows.
        folds: number of inner folds.
        generator: draws them.
        per_feature: each feature with a scale of its own, as features in different units need; images have one.
    """
    mean = x[train].mean(axis=0)
    scale = x[train].std(axis=0)
    scale = np.where(scale > 0, scale, 1.0) if per_feature else np.sqrt(np.mean(scale**2))
    first, second = ((x[rows] - mean) / scale for rows in (train, test))
    return Split(first, y[train], second, y[test], inner_folds(y[train], folds, generator), int(y.max()) + 1)


def nested_training_sets(
    y: Int[np.ndarray, " _"], replicates: int, largest: int, generator: np.random.Generator
) -> tuple[list[Int[np.ndarray, "replicates per_class"]], Int[np.ndarray, " m"]]:
    """Balanced training sets without a common example, and all other examples to test on.

    Returns:
        for each class, the rows that each replicate may train on, in random order: the first q of each class are its
        training set of size q·classes. And the test rows.

    Raises:
        ValueError: some class has too few examples.
    """
    classes = int(y.max()) + 1
    each, remaining = [], []
    for label in range(classes):
        rows = generator.permutation(np.flatnonzero(y == label))
        needed = replicates * (largest // classes)
        if needed >= len(rows):
            raise ValueError(
                f"replicates × largest/classes must be below the {len(rows)} examples of class {label}, got {needed}; "
                "ask for fewer or smaller training sets"
            )
        each.append(rows[:needed].reshape(replicates, -1))
        remaining.append(rows[needed:])
    return each, np.concatenate(remaining)


def inner_folds(y: Int[np.ndarray, " n"], count: int, generator: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Random folds with equal shares of each class."""
    folds, start = np.empty(len(y), np.int64), 0
    for label in np.unique(y):
        rows = generator.permutation(np.flatnonzero(y == label))
        folds[rows] = (start + np.arange(len(rows))) % count
        start += len(rows)
    return folds


def relu_tangent_kernels(
    x1: Float[np.ndarray, "n1 d"], x2: Float[np.ndarray, "n2 d"], depths: Sequence[int], bias_variance: float
) -> list[Float[np.ndarray, "n1 n2"]]:
    """Tangent kernels of infinitely wide ReLU networks with σ_w² = 2, for each number of hidden layers.

    K' = E_{(u,v)~K} 2 φ(u)φ(v) + σ_b² = √(ab) (sin θ + (π − θ) cos θ)/π + σ_b² and Θ' = K' + Θ (π − θ)/π, with
    cos θ = K/√(ab) and a, b the two self-terms, which grow by σ_b² a layer (Cho & Saul 2009; Jacot et al. 2018).
    """
    d = x1.shape[1]
    a, b = (2 * np.mean(x * x, axis=1) + bias_variance for x in (x1, x2))
    covariance = tangent = 2 * x1 @ x2.T / d + bias_variance
    found = {0: tangent}
    for depth in range(1, max(depths) + 1):
        scale = np.sqrt(a[:, None] * b)
        cosine = np.clip(covariance / scale, -1, 1)
        angle = np.arccos(cosine)
        covariance = scale * (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / np.pi + bias_variance
        tangent = covariance + tangent * (np.pi - angle) / np.pi
        found[depth] = tangent
        a, b = a + bias_variance, b + bias_variance
    return [found[depth] for depth in depths]


def tangent_kernels(data: Split, depths: Sequence[int], bias_variance: float) -> Kernels:
    """Between training examples, and from test to training examples, for `kernel_regression`."""
    train = relu_tangent_kernels(data.x_train, data.x_train, depths, bias_variance)
    return list(zip(train, relu_tangent_kernels(data.x_test, data.x_train, depths, bias_variance), strict=True))


def kernel_regression(data: Split, kernels: Kernels, ridges: Sequence[float]) -> Tried:
    """Kernel ridge regression on one-hot targets: the class with the largest output of K* (K + ρ I tr K/n)⁻¹ Y.

    Args:
        data: the examples.
        kernels: for each kernel, its values between training examples, and from test to training ones.
        ridges: ρ, in units of the mean diagonal; settings run over kernels first, ridges second.
    """
    y = np.eye(data.classes)[data.y_train] - 1 / data.classes
    labels = [ridge_outputs(k, k_star, y, ridge).argmax(axis=-1) for k, k_star in kernels for ridge in ridges]
    return Tried(regression_scores(data, kernels, ridges), np.stack(labels))


def regression_scores(data: Split, kernels: Kernels, ridges: Sequence[float]) -> Float[np.ndarray, " g"]:
    """Accuracy of `kernel_regression` on the inner folds, for each of its settings."""
    y = np.eye(data.classes)[data.y_train] - 1 / data.classes
    right = np.zeros((len(kernels), len(ridges)))
    for fold in range(data.folds.max() + 1):
        held = data.folds == fold
        for i, (k, _) in enumerate(kernels):
            inner, cross = k[np.ix_(~held, ~held)], k[np.ix_(held, ~held)]
            for j, ridge in enumerate(ridges):
                right[i, j] += np.sum(
                    ridge_outputs(inner, cross, y[~held], ridge).argmax(axis=-1) == data.y_train[held]
                )
    return right.ravel() / len(y)


def ridge_outputs(
    k: Float[np.ndarray, "n n"], k_star: Float[np.ndarray, "m n"], y: Float[np.ndarray, "n k"], ridge: float
) -> Float[np.ndarray, "m k"]:
    """Outputs K* (K + ρ I tr K/n)⁻¹ Y."""
    shifted = k + ridge * np.trace(k) / len(k) * np.eye(len(k))
    # Positive definite by the ridge: a third of the work of a general solve, a tenth of an eigendecomposition's.
    return k_star @ cho_solve(cho_factor(shifted, overwrite_a=True, check_finite=False), y, check_finite=False)


def support_vectors(data: Split, rates: Sequence[float], costs: Sequence[float]) -> Int[np.ndarray, " m"]:
    """Labels by the support vector machine with the Gaussian kernel exp(−γ|x − x'|²/d), tuned over γ and C."""
    from sklearn import config_context
    from sklearn.svm import SVC

    d = data.x_train.shape[1]
    inner = _square_distances(data.x_train, data.x_train) / d
    settings, scores = [(rate, cost) for rate in rates for cost in costs], []
    # Checks of the arguments would take longer than a fit to ten examples.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for rate, cost in settings:
            k, right = np.exp(-rate * inner), 0
            for fold in range(data.folds.max() + 1):
                held = data.folds == fold
                machine = SVC(C=cost, kernel="precomputed").fit(k[np.ix_(~held, ~held)], data.y_train[~held])
                right += np.sum(machine.predict(k[np.ix_(held, ~held)]) == data.y_train[held])
            scores.append(right / len(inner))
        rate, cost = settings[int(best(np.array(scores)))]
        machine = SVC(C=cost, kernel="precomputed").fit(np.exp(-rate * inner), data.y_train)
        return machine.predict(np.exp(-rate * _square_distances(data.x_test, data.x_train) / d))


def _square_distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    return np.maximum(np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T, 0)


def random_forest(data: Split, trees: int, shares: Sequence[float], seed: int) -> Int[np.ndarray, " m"]:
    """Labels by a random forest; the features tried at a node, in units of √d, are chosen out of the bag."""
    import warnings

    from sklearn import config_context
    from sklearn.ensemble import RandomForestClassifier

    d = data.x_train.shape[1]
    grown, tuned = [], len(shares) > 1
    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        # With few trees some examples are in every bag; they do not count.
        warnings.filterwarnings("ignore", message="Some inputs do not have OOB scores")
        for i, share in enumerate(shares):
            features = min(max(round(share * d**0.5), 1), d)
            forest = RandomForestClassifier(trees, max_features=features, oob_score=tuned, random_state=seed + i)
            grown.append(forest.fit(data.x_train, data.y_train))
        scores = np.array([forest.oob_score_ if tuned else 0.0 for forest in grown])
        return grown[int(best(scores))].predict(data.x_test)


def trained_networks(
    data: Split,
    networks: Sequence[Network],
    *,
    learning_rate: float,
    steps: Sequence[int],
    trainings: int,
    generator: np.random.Generator,
) -> Tried:
    """Networks trained by Adam on the cross-entropy, tuned over networks and numbers of steps.

    All members at once, in float32: one for each inner fold, which it leaves out, and `trainings` more on all training
    examples, each from weights of its own.
    """
    folds, n = int(data.folds.max()) + 1, len(data.y_train)
    weights = np.ones((folds + trainings, n, 1), np.float32)
    for fold in range(folds):
        weights[fold, data.folds == fold] = 0
    scores, labels = [], []
    for net in networks:
        for inner, test in _descend(net, data, weights, learning_rate, steps, generator):
            held = (inner[:folds] == data.y_train) & (weights[:folds, :, 0] == 0)
            scores.append(held.sum() / n)
            labels.append(test[folds:])
    return Tried(np.array(scores), np.stack(labels))


def _descend(
    net: Network,
    data: Split,
    weights: Float[np.ndarray, "f n 1"],
    learning_rate: float,
    steps: Sequence[int],
    generator: np.random.Generator,
) -> Iterator[tuple[Int[np.ndarray, "f n"], Int[np.ndarray, "f m"]]]:
    """Labels of training and test examples by every member, after each number of steps."""
    layers = net.assemble(generator.standard_normal((len(weights), net.parameters), np.float32))
    params = [np.array(array) for layer in layers for array in (layer["weight"], layer["bias"][:, None])]
    x, x_test = (a.astype(np.float32)[None] for a in (data.x_train, data.x_test))
    targets = np.eye(net.outputs, dtype=np.float32)[data.y_train]
    # The mean over the examples that are not left out.
    weights = weights / weights.sum(axis=1, keepdims=True)
    first, second = ([np.zeros_like(array) for array in params] for _ in range(2))
    for step in range(1, max(steps) + 1):
        hidden, slopes, outputs = forward(net, params, x)
        odds = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        error = weights * (odds / odds.sum(axis=-1, keepdims=True) - targets)
        size = np.float32(learning_rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step))
        gradients = backward(net, params, hidden, slopes, error)
        for array, m, v, gradient in zip(params, first, second, gradients, strict=True):
            m += np.float32(0.1) * (gradient - m)
            v += np.float32(0.001) * (gradient**2 - v)
            array -= size * m / (np.sqrt(v) + np.float32(1e-8))
        if step in steps:
            yield forward(net, params, x)[2].argmax(axis=-1), forward(net, params, x_test)[2].argmax(axis=-1)


def forward(
    net: Network, params: Sequence[Float[np.ndarray, "*batch _ _"]], x: Float[np.ndarray, "*batch n d"]
) -> tuple[list[np.ndarray], list[np.ndarray], Float[np.ndarray, "*batch n k"]]:
    """Inputs of every layer, slopes of the ReLU units, and outputs of networks with weights and biases in turn."""
    hidden, slopes, z = [x], [], x
    for i, (weight, bias) in enumerate(net.scales()):
        if i > 0:
            slopes.append(z > 0)
            hidden.append(np.maximum(z, 0))
        z = hidden[-1] @ (np.float32(weight.multiplier) * params[2 * i])
        z += np.float32(bias.multiplier) * params[2 * i + 1]
    return hidden, slopes, z


def backward(
    net: Network,
    params: Sequence[Float[np.ndarray, "*batch _ _"]],
    hidden: Sequence[np.ndarray],
    slopes: Sequence[np.ndarray],
    error: Float[np.ndarray, "*batch n k"],
) -> list[Float[np.ndarray, "*batch _ _"]]:
    """Gradients with respect to the parameters, from the loss's derivative by the outputs."""
    gradients = []
    for i, (weight, bias) in reversed(list(enumerate(net.scales()))):
        gradients.append(np.float32(bias.multiplier) * error.sum(axis=-2, keepdims=True))
        gradients.append(np.float32(weight.multiplier) * (np.swapaxes(hidden[i], -1, -2) @ error))
        if i > 0:
            error = (error @ np.swapaxes(np.float32(weight.multiplier) * params[2 * i], -1, -2)) * slopes[i - 1]
    return gradients[::-1]
