"""Trained outputs: integration of the ODE, gradient descent step by step, neural-tangents, and limits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory.architecture import MLP, Convolutional
from theory.kernels import (
    maximal_learning_rate,
    nngp,
    nngp_posterior,
    ntk,
    predict,
    predict_classifier,
    response,
)
from theory.kernels.neural_tangents import nt

MODEL = MLP(2, "erf", 1.5, 0.1)
TIMES = np.array([0.0, 0.5, 3.0])


@pytest.fixture
def data(rng):
    return rng.normal(size=(5, 3)), rng.normal(size=(5, 2)), rng.normal(size=(4, 3))


def test_the_response_solves_the_flow(data, rng):
    """df/dt = −Θ(f − y) on training and test points at once, by an adaptive integrator from a random start."""
    x, y, x_test = data
    y = y[:, 0]
    theta = np.asarray(ntk(MODEL, np.concatenate([x, x_test]), x))
    start = rng.normal(size=9)
    flow = solve_ivp(
        lambda _, f: -theta @ (f[:5] - y), (0, TIMES[-1]), start, t_eval=TIMES, method="DOP853", rtol=1e-11, atol=1e-12
    )
    for points, initial, path in ((x_test, start[5:], flow.y[5:]), (x, start[:5], flow.y[:5])):
        a = response(MODEL, x, points, time=TIMES)
        np.testing.assert_allclose(initial + a @ (y - start[:5]), path.T, atol=1e-9)


def test_steps_of_gradient_descent(data, rng):
    """The same map from repeated steps, with rates below and above the flip at ηλ = 1."""
    x, y, x_test = data
    theta = np.asarray(ntk(MODEL, np.concatenate([x, x_test]), x))
    largest = np.linalg.eigvalsh(theta[:5])[-1]
    for rate in (0.3 / largest, 1.0 / largest, 1.8 / largest):
        f = start = rng.normal(size=9)
        path = []
        for step in range(8):
            if step in (0, 1, 7):
                path.append(f)
            f = f - rate * theta @ (f[:5] - y[:, 0])
        a = response(MODEL, x, x_test, time=[0, 1, 7], learning_rate=rate)
        np.testing.assert_allclose(start[5:] + a @ (y[:, 0] - start[:5]), np.stack(path)[:, 5:], rtol=1e-9, atol=1e-11)


def test_small_steps_are_the_flow(data):
    x, _, x_test = data
    flow = response(MODEL, x, x_test, time=2.0)
    steps = response(MODEL, x, x_test, time=2_000_000, learning_rate=1e-6)
    np.testing.assert_allclose(steps, flow, rtol=1e-4, atol=1e-6)


def test_mean_and_covariance_agree_with_neural_tangents(data):
    x, y, x_test = data
    dense = lambda: nt.stax.Dense(1, W_std=1.5**0.5, b_std=0.1**0.5, parameterization="ntk")  # noqa: E731
    _, _, kernel = nt.stax.serial(dense(), nt.stax.Erf(), dense(), nt.stax.Erf(), dense())
    reference = nt.predict.gradient_descent_mse_ensemble(kernel, x, y, diag_reg=0.0)
    ours = predict(MODEL, x, y, x_test, time=[0.5, jnp.inf])
    # Its loss is the mean over examples and outputs where ours is the sum.
    for i, time in enumerate((0.5 * y.size, None)):
        expected: Any = reference(t=time, x_test=x_test, get="ntk", compute_cov=True)
        np.testing.assert_allclose(ours.mean[i], expected.mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(ours.covariance[i], expected.covariance, rtol=1e-8, atol=1e-9)


def test_the_law_is_that_of_linearised_networks(data, rng):
    """Mean and covariance of f_0 + A(y − f_0(X)) over draws of f_0 from the NNGP, at 5 standard errors."""
    x, y, x_test = data
    y = y[:, 0]
    draws = 200_000
    kernel = np.asarray(nngp(MODEL, np.concatenate([x, x_test])))
    start = rng.multivariate_normal(np.zeros(9), kernel, size=draws)
    a = np.asarray(response(MODEL, x, x_test, time=0.7))
    outputs = start[:, 5:] + (y - start[:, :5]) @ a.T
    law = predict(MODEL, x, y, x_test, time=0.7)
    assert np.all(np.abs(outputs.mean(0) - law.mean) < 5 * outputs.std(0) / np.sqrt(draws))
    centred = outputs - outputs.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    assert np.all(np.abs(products.mean(0) - law.covariance) < 5 * products.std(0) / np.sqrt(draws))


def test_limits_in_time(data):
    x, y, x_test = data
    before = predict(MODEL, x, y, x_test, time=0.0)
    np.testing.assert_array_equal(before.mean, np.zeros((4, 2)))
    np.testing.assert_allclose(before.covariance, nngp(MODEL, x_test), rtol=1e-14)
    after = predict(MODEL, x, y, x, time=jnp.inf)
    np.testing.assert_allclose(after.mean, y, rtol=1e-10)
    np.testing.assert_allclose(after.covariance, np.zeros((5, 5)), atol=1e-12)
    late = predict(MODEL, x, y, x_test, time=[1e6, jnp.inf])
    np.testing.assert_allclose(late.mean[0], late.mean[1], rtol=1e-9)
    end = response(MODEL, x, x_test, time=jnp.inf)
    solved = np.linalg.solve(np.asarray(ntk(MODEL, x)), np.asarray(ntk(MODEL, x, x_test))).T
    np.testing.assert_allclose(end, solved, rtol=1e-9)


def test_shapes_follow_time_and_targets(data):
    x, y, x_test = data
    assert response(MODEL, x, x_test, time=1.0).shape == (4, 5)
    assert response(MODEL, x, x_test, time=np.ones((2, 3))).shape == (2, 3, 4, 5)
    law = predict(MODEL, x, y[:, 0], x_test, time=[1, 2, 3])
    assert law.mean.shape == (3, 4)
    assert law.covariance.shape == (3, 4, 4)
    np.testing.assert_allclose(law.mean, predict(MODEL, x, y, x_test, time=[1, 2, 3]).mean[..., 0], rtol=1e-13)


def test_a_singular_kernel_leaves_its_null_space_alone(data):
    """One input twice with two labels: training ends at their mean, and nothing blows up."""
    x, y, x_test = data
    twice, labels = np.concatenate([x, x[:1]]), np.concatenate([y, y[:1] + 1.0])
    for time in (1e12, jnp.inf):
        mean = predict(MODEL, twice, labels, x, time=time).mean
        np.testing.assert_allclose(mean[0], y[0] + 0.5, rtol=1e-6)
        np.testing.assert_allclose(mean[1:], y[1:], rtol=1e-6)
    # A linear model with fewer features than examples: least squares.
    linear = MLP(0, "linear", 1.0)
    mean = predict(linear, x, y, x_test, time=jnp.inf).mean
    np.testing.assert_allclose(mean, x_test @ np.linalg.lstsq(x, y)[0], rtol=1e-9, atol=1e-12)


def test_the_covariance_is_symmetric_and_positive_and_gradients_exist(data):
    x, y, x_test = data
    law = predict(MODEL, x, y, x_test, time=TIMES)
    np.testing.assert_array_equal(law.covariance, jnp.swapaxes(law.covariance, -1, -2))
    assert np.linalg.eigvalsh(np.asarray(law.covariance)).min() > -1e-12

    def first(weight_variance):
        return predict(MLP(2, "erf", weight_variance, 0.1), x, y, x_test, time=0.5).mean[0, 0]

    step = 1e-5
    slope = (first(1.5 + step) - first(1.5 - step)) / (2 * step)
    assert float(jax.grad(first)(1.5)) == pytest.approx(float(slope), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.ones(4)}, r"y_train must have shape \(5,\) or \(5, k\)"),
        ({"y_train": np.full(5, np.nan)}, "y_train must be finite"),
        ({"time": -1.0}, "time must be at least 0"),
        ({"time": [1.0, np.nan]}, "time must be at least 0 and not NaN"),
        ({"time": 1.5, "learning_rate": 0.1}, "must be whole"),
        ({"time": 1, "learning_rate": 0.0}, "learning_rate must be one positive"),
        ({"time": np.inf, "learning_rate": 1e6}, "diverges"),
        ({"x_test": np.ones((2, 7))}, "x_train and x_test must have the same number of features"),
    ],
)
def test_wrong_arguments_are_refused(data, change, message):
    arguments = {"x_train": data[0], "y_train": data[1], "x_test": data[2], "time": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        predict(MODEL, **arguments)


def test_images_are_predicted_like_rows(rng):
    """On images of one position a convolution is a dense layer: the law is that of the MLP, to the last digits."""
    x, y, x_test = rng.normal(size=(6, 3)), rng.normal(size=(6, 2)), rng.normal(size=(4, 3))
    images, new = x[:, None, :], x_test[:, None, :]
    net = Convolutional(2, "erf", 1.5, 0.1, filter=(1,))
    for law in (
        lambda model, a, b: predict(model, a, y, b, time=TIMES),
        lambda model, a, b: nngp_posterior(model, a, y, b, noise=0.1),
        lambda model, a, b: predict_classifier(
            model, a, np.array([0, 1, 2, 0, 1, 2]), b, time=1.0, draws=3, key=jax.random.key(0)
        ),
    ):
        for ours, expected in zip(law(net, images, new), law(MODEL, x, x_test), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(maximal_learning_rate(net, images), maximal_learning_rate(MODEL, x), rtol=1e-12)
    with pytest.raises(ValueError, match="x_train and x_test must have examples of one shape"):
        predict(net, images, y, x_test[:, None, :2], time=1.0)
