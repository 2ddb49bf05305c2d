"""Training on the cross-entropy: SciPy's integrator, neural-tangents, step-by-step descent, and a conserved sum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import softmax

from theory.architecture import MLP
from theory.kernels import classifier_path, nngp, ntk, predict_classifier
from theory.kernels.neural_tangents import nt

MODEL = MLP(2, "erf", 1.5, 0.1)
TIMES = np.array([[3.0, 0.0], [0.4, 20.0]])


@pytest.fixture
def data(rng):
    x, x_test = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    kernel = np.asarray(ntk(MODEL, np.concatenate([x, x_test]), x))
    return kernel[:5], kernel[5:], np.eye(3)[[0, 1, 2, 1, 0]], rng.normal(size=(2, 9, 3))


def test_the_flow_is_that_of_all_points_at_once(data):
    """df/dt = −Θ (softmax(f) − y) for training and test points together, by SciPy, from two starts."""
    theta, theta_star, y, start = data
    both = np.concatenate([theta, theta_star])

    def velocity(_, flat):
        f = flat.reshape(9, 3)
        return (-both @ (softmax(f[:5], axis=1) - y)).ravel()

    found = classifier_path(theta, theta_star, y, start[:, :5], start[:, 5:], time=TIMES)
    assert found.shape == (2, 2, 2, 4, 3)
    for s in range(2):
        flow = solve_ivp(
            velocity, (0, 20), start[s].ravel(), t_eval=[0, 0.4, 3, 20], method="DOP853", rtol=1e-10, atol=1e-11
        )
        path = flow.y.T.reshape(4, 9, 3)[:, 5:]
        # The integrators' tolerances are 1e-8 and 1e-10.
        np.testing.assert_allclose(found[s], path[[[2, 0], [1, 3]]], atol=3e-7)


def test_the_flow_agrees_with_neural_tangents(data):
    theta, theta_star, y, start = data
    loss: Any = lambda f, target: -jnp.sum(jax.nn.log_softmax(f) * target)  # noqa: E731
    reference: Any = nt.predict.gradient_descent(loss, jnp.array(theta), jnp.array(y))
    times = np.array([0.4, 3.0])
    expected = reference(jnp.array(times), jnp.array(start[0, :5]), jnp.array(start[0, 5:]), jnp.array(theta_star))[1]
    found = classifier_path(theta, theta_star, y, start[0, :5], start[0, 5:], time=times)
    # Its odeint stops at 1.4e-8.
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_steps_of_gradient_descent(data, momentum):
    theta, theta_star, y, start = data
    both, f, velocity = np.concatenate([theta, theta_star]), start[1].copy(), np.zeros((9, 3))
    path = [f[5:]]
    for _ in range(9):
        velocity = momentum * velocity + both @ (softmax(f[:5], axis=1) - y)
        f = f - 0.2 * velocity
        path.append(f[5:])
    found = classifier_path(
        theta, theta_star, y, start[1, :5], start[1, 5:], time=[9, 0, 4], learning_rate=0.2, momentum=momentum
    )
    np.testing.assert_allclose(found, np.stack(path)[[9, 0, 4]], rtol=1e-10, atol=1e-12)


def test_small_steps_are_the_flow(data):
    theta, theta_star, y, start = data
    arguments = theta, theta_star, y, start[0, :5], start[0, 5:]
    flow = classifier_path(*arguments, time=2.0)
    errors = [np.abs(classifier_path(*arguments, time=2 * n, learning_rate=1 / n) - flow).max() for n in (200, 400)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_what_training_conserves(data):
    """Updates sum to zero over classes, whatever the kernel, since probabilities and labels both sum to one."""
    theta, theta_star, y, start = data
    found = classifier_path(theta, theta_star, y, start[:, :5], start[:, 5:], time=TIMES)
    sums = np.broadcast_to(start[:, None, None, 5:].sum(-1), (2, 2, 2, 4))
    np.testing.assert_allclose(np.asarray(found).sum(-1), sums, atol=1e-10)


def test_one_example_by_separation_of_variables():
    """Two classes, one example, f = 0 at the start: u = f_y − f_other obeys u + e^u − 1 = 2Θt."""
    for theta, time in ((1.3, 0.7), (2.0, 50.0)):
        u = np.diff(
            np.asarray(classifier_path([[theta]], [[theta]], [[0.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]], time=time))
        )
        assert float(u[0, 0] + np.expm1(u[0, 0])) == pytest.approx(2 * theta * time, rel=1e-6)


def test_the_law_over_initialisations(rng):
    """At t = 0 the NNGP; shortly after, by linear response, a mean of t Θ* (y − E softmax)."""
    x, x_test, labels = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), np.array([0, 1, 2, 1, 0])
    draws = predict_classifier(MODEL, x, labels, x_test, time=[0.0, 1e-3], draws=1000, key=jax.random.key(3))
    assert draws.outputs.shape == (1000, 2, 4, 3)
    kernel = np.asarray(nngp(MODEL, x_test))
    # 5 standard errors of a covariance of Gaussians.
    spread = np.sqrt((np.outer(np.diag(kernel), np.diag(kernel)) + kernel**2) / 1000)
    assert np.all(np.abs(draws.covariance[0] - kernel) < 5 * spread)
    assert np.all(np.abs(draws.mean[0]) < 5 * draws.standard_error[0])
    moved = np.asarray(draws.outputs[:, 1] - draws.outputs[:, 0])
    expected = 1e-3 * np.asarray(ntk(MODEL, x_test, x)) @ (np.eye(3)[labels] - 1 / 3)
    # E softmax is 1/3 by symmetry; what is left is t², some 1e-3 relatively.
    error = moved.std(0) / np.sqrt(1000)
    assert np.all(np.abs(moved.mean(0) - expected) < 5 * error + 5e-3 * np.abs(expected).max())
    # Test points that are training points have one start, not two.
    twice = predict_classifier(
        MODEL, x, labels, np.concatenate([x[:1], x[:1]]), time=2.0, draws=3, key=jax.random.key(3)
    )
    np.testing.assert_allclose(twice.outputs[:, 0], twice.outputs[:, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.array([0.5, 1, 0, 1, 0])}, "y_train must be integer labels"),
        ({"y_train": np.array([0, -1, 0, 1, 0])}, "labels must be at least 0"),
        ({"y_train": np.zeros((5, 1), int)}, "a column for each class, at least 2"),
        ({"y_train": np.full((5, 2), 0.4)}, "rows of probabilities"),
        ({"y_train": np.zeros(4, int)}, r"y_train must have shape \(5,\) or \(5, k\)"),
        ({"time": np.inf}, "time must be finite and at least 0"),
        ({"time": 1.5, "learning_rate": 0.1}, "must be whole"),
        ({"momentum": 0.5}, "give learning_rate as well"),
        ({"momentum": 1.5, "learning_rate": 0.1}, "momentum must be at least 0 and below 1"),
        ({"learning_rate": 0.0}, "learning_rate must be one positive"),
        ({"draws": 0}, "draws must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(rng, change, message):
    x = rng.normal(size=(5, 3))
    arguments = {"y_train": np.array([0, 1, 2, 1, 0]), "time": 1.0, "draws": 2, **change}
    with pytest.raises(ValueError, match=message):
        predict_classifier(MODEL, x, x_test=x, key=jax.random.key(0), **arguments)


def test_shapes_are_checked():
    eye = np.eye(3)
    with pytest.raises(ValueError, match="theta_star must have shape"):
        classifier_path(eye, np.ones((2, 4)), eye, eye, np.ones((2, 3)), time=1.0)
    with pytest.raises(ValueError, match="start and start_star must have shapes"):
        classifier_path(eye, np.ones((2, 3)), eye, eye, np.ones((4, 3)), time=1.0)
