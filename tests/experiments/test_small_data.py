"""Classifiers for small data: against the library's kernel, scikit-learn, automatic derivatives and optax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.networks import network
from experiments.small_data import (
    Split,
    Tried,
    backward,
    forward,
    inner_folds,
    kernel_regression,
    nested_training_sets,
    random_forest,
    regression_scores,
    relu_tangent_kernels,
    split,
    support_vectors,
    tangent_kernels,
    trained_networks,
)
from theory.architecture import MLP
from theory.kernels import ntk


@pytest.fixture
def blobs(rng):
    """Three classes of Gaussians in four dimensions, told apart almost always."""
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 4)) + 4 * np.eye(4)[y]
    return split(x, y, np.arange(36), np.arange(36, 60), 3, rng, per_feature=True)


def test_the_tangent_kernel_is_the_librarys(rng):
    x1, x2 = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    for depth, found in zip((1, 2, 4), relu_tangent_kernels(x1, x2, (1, 2, 4), 0.1), strict=True):
        np.testing.assert_allclose(found, ntk(MLP(depth, "relu", 2.0, 0.1), x1, x2), rtol=1e-10)


def test_kernel_regression_is_scikit_learns(blobs):
    """Labels and inner accuracies by its `KernelRidge` on the same folds, for each kernel and ridge."""
    from sklearn.kernel_ridge import KernelRidge

    kernels, ridges = tangent_kernels(blobs, (1, 3), 0.1), (0.1, 1e-3)
    tried, targets = kernel_regression(blobs, kernels, ridges), np.eye(3)[blobs.y_train] - 1 / 3
    setting = 0
    for k, k_star in kernels:
        for ridge in ridges:

            def machine(rows, k=k, ridge=ridge):
                part = k[np.ix_(rows, rows)]
                return KernelRidge(alpha=ridge * np.trace(part) / len(part), kernel="precomputed").fit(
                    part, targets[rows]
                )

            everything = np.arange(len(k))
            labels = np.asarray(machine(everything).predict(k_star)).argmax(axis=1)
            np.testing.assert_array_equal(tried.labels[setting], labels)
            right = 0
            for fold in range(3):
                held, rest = everything[blobs.folds == fold], everything[blobs.folds != fold]
                outputs = np.asarray(machine(rest).predict(k[np.ix_(held, rest)]))
                right += np.sum(outputs.argmax(axis=1) == blobs.y_train[held])
            assert tried.scores[setting] == right / 36
            setting += 1
    np.testing.assert_array_equal(regression_scores(blobs, kernels, ridges), tried.scores)


def test_support_vectors_are_tuned_as_a_grid_search_would(blobs):
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.svm import SVC

    # One axis of the grid, so that ties fall to the first in both.
    search = GridSearchCV(SVC(C=10.0), {"gamma": [0.001 / 4, 0.5 / 4, 50 / 4]}, cv=PredefinedSplit(blobs.folds))
    search.fit(blobs.x_train, blobs.y_train)
    found = support_vectors(blobs, (0.001, 0.5, 50.0), (10.0,))
    np.testing.assert_array_equal(found, search.predict(blobs.x_test))


def test_everything_learns_what_is_easy_and_nothing_where_nothing_is(blobs, rng):
    nets = [network(MLP(depth, "relu", 2.0, 0.1), width=32, inputs=4, outputs=3) for depth in (1, 2)]

    def labels(data):
        trained = trained_networks(data, nets, learning_rate=0.03, steps=(10, 60), trainings=2, generator=rng)
        assert trained.scores.shape == (4,)
        assert trained.labels.shape == (4, 2, 24)
        regression = kernel_regression(data, tangent_kernels(data, (1, 2), 0.1), (0.01, 1.0)).chosen
        forest = random_forest(data, 40, (1.0, 2.0), 3)
        return np.stack([regression, support_vectors(data, (0.5, 0.1), (1.0, 10.0)), forest, *trained.chosen])

    assert np.all(np.mean(labels(blobs) == blobs.y_test, axis=1) > 0.85)
    # The test labels choose nothing: shuffled ones are met as often as chance has it, 5 standard deviations at most.
    shuffled = Split(
        blobs.x_train, rng.permutation(blobs.y_train), blobs.x_test, blobs.y_test, blobs.folds, blobs.classes
    )
    assert np.all(np.abs(np.mean(labels(shuffled) == blobs.y_test, axis=1) - 1 / 3) < 5 * (2 / 9 / 24) ** 0.5)


def test_gradients_are_those_of_jax(rng):
    """Batched over two networks that share their inputs."""
    net = network(MLP(2, "relu", 2.0, 0.1), width=6, inputs=4, outputs=3)
    x, error = rng.normal(size=(1, 5, 4)).astype(np.float32), rng.normal(size=(2, 5, 3)).astype(np.float32)
    layers = net.assemble(rng.normal(size=(2, net.parameters)).astype(np.float32))
    params = [array for layer in layers for array in (layer["weight"], layer["bias"][:, None])]
    hidden, slopes, outputs = forward(net, params, x)
    found = backward(net, params, hidden, slopes, error)
    for i in range(2):
        member = jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), layers)
        expected, pull = jax.vjp(lambda p: net.apply(p, x[0]), member)
        np.testing.assert_allclose(outputs[i], expected, rtol=1e-5, atol=1e-5)
        for j, layer in enumerate(pull(jnp.asarray(error[i]))[0]):
            np.testing.assert_allclose(found[2 * j][i], layer["weight"], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found[2 * j + 1][i, 0], layer["bias"], rtol=1e-4, atol=1e-5)


def test_training_is_adam_of_optax_on_the_examples_that_are_not_left_out(blobs):
    """Labels after 25 steps, of each fold's network on its held-out examples and of the last one on the test set."""
    net = network(MLP(1, "relu", 2.0, 0.1), width=16, inputs=4, outputs=3)
    tried = trained_networks(
        blobs, [net], learning_rate=0.03, steps=(25,), trainings=1, generator=np.random.default_rng(8)
    )
    normals = np.random.default_rng(8).standard_normal((4, net.parameters), np.float32)
    right = 0
    optimiser = optax.adam(0.03)
    for member in range(4):
        kept = blobs.folds != member
        x, y = jnp.asarray(blobs.x_train[kept], jnp.float32), jnp.asarray(blobs.y_train[kept])
        params: Any = jax.tree.map(jnp.asarray, net.assemble(normals[member]))
        state = optimiser.init(params)
        gradient = jax.jit(
            jax.grad(lambda p, x, y: optax.softmax_cross_entropy_with_integer_labels(net.apply(p, x), y).mean())
        )
        for _ in range(25):
            updates, state = optimiser.update(gradient(params, x, y), state)
            params = optax.apply_updates(params, updates)
        if member < 3:
            held = np.asarray(net.apply(params, blobs.x_train[~kept])).argmax(axis=1)
            right += np.sum(held == blobs.y_train[~kept])
        else:
            labels = np.asarray(net.apply(params, blobs.x_test)).argmax(axis=1)
            np.testing.assert_array_equal(tried.labels[0, 0], labels)
    assert tried.scores[0] == right / 36


def test_splits_are_scaled_by_training_examples_alone(rng):
    x = np.c_[rng.normal(3, 5, size=20), rng.normal(size=20), np.ones(20)]
    y = np.arange(20) % 2
    data = split(x, y, np.arange(12), np.arange(12, 20), 2, rng, per_feature=True)
    np.testing.assert_allclose(data.x_train[:, :2].std(axis=0), [1, 1], rtol=1e-12)
    np.testing.assert_allclose(data.x_train.mean(axis=0), np.zeros(3), atol=1e-12)
    np.testing.assert_allclose(data.x_test[:, 0], (x[12:, 0] - x[:12, 0].mean()) / x[:12, 0].std(), rtol=1e-12)
    images = split(x, y, np.arange(12), np.arange(12, 20), 2, rng, per_feature=False)
    assert np.mean(images.x_train.var(axis=0)) == pytest.approx(1, rel=1e-12)
    assert images.x_train[:, 0].std() / images.x_train[:, 1].std() == pytest.approx(x[:12, 0].std() / x[:12, 1].std())


def test_folds_and_nested_sets_are_balanced(rng):
    y = rng.permutation(np.repeat([0, 1, 2], [30, 40, 50]))
    folds = inner_folds(y, 3, rng)
    for label, count in enumerate((30, 40, 50)):
        assert np.ptp(np.bincount(folds[y == label], minlength=3)) <= 1
        assert np.sum(y == label) == count
    each, test = nested_training_sets(y, 4, 21, rng)
    everything = np.concatenate([rows.ravel() for rows in each])
    assert len(each) == 3
    assert each[0].shape == (4, 7)
    np.testing.assert_array_equal(np.sort(np.concatenate([everything, test])), np.arange(120))
    assert all(np.all(y[rows] == label) for label, rows in enumerate(each))
    with pytest.raises(ValueError, match="must be below the 30 examples of class 0, got 40"):
        nested_training_sets(y, 4, 30, rng)


def test_the_first_of_equal_settings_is_chosen():
    tried = Tried(np.array([0.5, 0.7, 0.1 + 0.6, 0.2]), np.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(tried.chosen, [2, 3])
