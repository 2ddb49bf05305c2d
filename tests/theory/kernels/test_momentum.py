"""Heavy-ball gradient descent: the recursion step by step, closed forms of its roots, neural-tangents, and limits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory.architecture import MLP
from theory.kernels import ntk, predict, response
from theory.kernels.neural_tangents import nt
from theory.kernels.prediction import _learned_with_momentum

MODEL = MLP(2, "erf", 1.5, 0.1)


@pytest.fixture
def data(rng):
    return rng.normal(size=(5, 3)), rng.normal(size=(5, 2)), rng.normal(size=(4, 3))


def heavy_ball(theta, start, y, rate, momentum, steps):
    """v ← βv + gradient, f ← f − ηv for all points, in the convention of experiments.training.Momentum."""
    f, velocity, n, path = start.copy(), np.zeros_like(start), len(y), [start]
    for _ in range(steps):
        velocity = momentum * velocity + theta @ (f[:n] - y)
        f = f - rate * velocity
        path.append(f)
    return np.stack(path)


@pytest.mark.parametrize("momentum", [0.3, 0.9])
def test_it_is_the_recursion_step_by_step(data, rng, momentum):
    """At rates where the roots of the largest eigenvalue are real, complex, and negative, up to the stable limit."""
    x, y, x_test = data
    theta = np.asarray(ntk(MODEL, np.concatenate([x, x_test]), x))
    largest = np.linalg.eigvalsh(theta[:5])[-1]
    start = rng.normal(size=9)
    for step in (0.3 * (1 - momentum**0.5) ** 2, 0.5, 1.0, 0.99 * 2 * (1 + momentum)):
        path = heavy_ball(theta, start, y[:, 0], step / largest, momentum, 40)
        a = response(MODEL, x, x_test, time=[0, 1, 2, 7, 40], learning_rate=step / largest, momentum=momentum)
        np.testing.assert_allclose(
            start[5:] + a @ (y[:, 0] - start[:5]), path[[0, 1, 2, 7, 40], 5:], rtol=1e-10, atol=1e-11
        )


def test_the_power_of_the_matrix_is_that_of_its_roots():
    """r_t = (r_1 − z₂) z₁^t/(z₁ − z₂) + (z₁ − r_1) z₂^t/(z₁ − z₂) with complex z, far beyond what a loop could do."""
    momentum, t = 0.8, np.array([0.0, 1.0, 5.0, 1e3, 12345.0])
    step = np.array([1e-7, 1e-4, 0.01, 0.3, 1.0, 3.3])
    trace = 1 + momentum - step
    root = np.sqrt((trace**2 - 4 * momentum).astype(complex))
    first, second = (trace + root) / 2, (trace - root) / 2
    power = lambda z: z ** t[:, None]  # noqa: E731
    residual = ((1 - step - second) * power(first) - (1 - step - first) * power(second)) / (first - second)
    found = np.asarray(_learned_with_momentum(jnp.array(step), jnp.array(t)[:, None], jnp.array(momentum)))
    # The closed form itself cancels: to 1e-16/1e-7 at the smallest step.
    np.testing.assert_allclose(found, 1 - residual.real, rtol=1e-8, atol=1e-11)
    # Where z₁ = z₂, at s = (1 − √β)², the closed form is 0/0: r_t = z^t (1 + t (1 − s − z)/z).
    equal = (1 - momentum**0.5) ** 2
    z = (1 + momentum - equal) / 2
    found = _learned_with_momentum(jnp.array([equal]), jnp.array([3.0, 50.0])[:, None], jnp.array(momentum))[:, 0]
    for i, count in enumerate((3, 50)):
        assert float(found[i]) == pytest.approx(1 - z**count * (1 + count * (1 - equal - z) / z), rel=1e-12)


def test_without_momentum_nothing_changes(data):
    x, y, x_test = data
    plain = predict(MODEL, x, y, x_test, time=[0, 3, 40, jnp.inf], learning_rate=0.05)
    for momentum in (0, 0.0):
        zero = predict(MODEL, x, y, x_test, time=[0, 3, 40, jnp.inf], learning_rate=0.05, momentum=momentum)
        np.testing.assert_array_equal(zero.mean, plain.mean)
    # Inside a transformation β has no value, and the power of the matrix is taken at β = 0 as well.
    traced = jax.jit(lambda b: response(MODEL, x, x_test, time=[0, 3, 40, jnp.inf], learning_rate=0.05, momentum=b))
    np.testing.assert_allclose(
        traced(0.0), response(MODEL, x, x_test, time=[0, 3, 40, jnp.inf], learning_rate=0.05), rtol=1e-11, atol=1e-13
    )


def test_small_steps_are_the_ode_of_neural_tangents(data):
    """f̈ = −Θ(f − y) − (1 − β)/√η ḟ at time √η t, which is what neural-tangents integrates."""
    x, y, x_test = data
    theta, theta_star = ntk(MODEL, x), ntk(MODEL, x_test, x)
    rate = 1e-8
    momentum = 1 - 1.5 * rate**0.5
    loss: Any = lambda f, target: 0.5 * jnp.sum((f - target) ** 2)  # noqa: E731
    reference: Any = nt.predict.gradient_descent(loss, theta, jnp.array(y), learning_rate=rate, momentum=momentum)
    steps = np.array([3_000, 10_000, 30_000])
    expected = reference(jnp.array(steps, float), jnp.zeros_like(y), jnp.zeros((4, 2)), theta_star)[1]
    ours = predict(MODEL, x, y, x_test, time=steps, learning_rate=rate, momentum=momentum).mean
    # The recursion differs from its ODE by √η = 1e-4 relatively, times some eigenvalue of order one.
    np.testing.assert_allclose(ours, expected, atol=1e-3 * np.abs(expected).max())


def test_training_ends_where_it_ends_without(data):
    x, y, x_test = data
    end = predict(MODEL, x, y, x_test, time=jnp.inf)
    late = predict(MODEL, x, y, x_test, time=[1e6, jnp.inf], learning_rate=0.05, momentum=0.9)
    for i in range(2):
        np.testing.assert_allclose(late.mean[i], end.mean, rtol=1e-8)
        np.testing.assert_allclose(late.covariance[i], end.covariance, rtol=1e-7, atol=1e-10)


def test_gradients_by_rate_and_momentum(data):
    x, y, x_test = data

    def first(rate, momentum):
        return predict(MODEL, x, y, x_test, time=17, learning_rate=rate, momentum=momentum).mean[0, 0]

    step = 1e-6
    by_rate, by_momentum = jax.grad(first, argnums=(0, 1))(0.03, 0.6)
    assert float(by_rate) == pytest.approx(
        float(first(0.03 + step, 0.6) - first(0.03 - step, 0.6)) / (2 * step), rel=1e-5
    )
    difference = float(first(0.03, 0.6 + step) - first(0.03, 0.6 - step)) / (2 * step)
    assert float(by_momentum) == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.0}, "momentum must be one number, at least 0 and below 1"),
        ({"momentum": -0.1}, "momentum must be one number"),
        ({"momentum": 0.5, "learning_rate": None}, "give learning_rate as well"),
        ({"momentum": 0.5, "learning_rate": 1e6, "time": np.inf}, r"less than 2\(1 \+ momentum\)/λ_max"),
    ],
)
def test_wrong_arguments_are_refused(data, change, message):
    arguments = {"time": 3, "learning_rate": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        response(MODEL, data[0], data[2], **arguments)
