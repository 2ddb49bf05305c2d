"""The NNGP posterior: conditioning of a joint Gaussian, scikit-learn, neural-tangents, last-layer training, limits."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from theory.architecture import MLP
from theory.kernels import nngp, nngp_posterior
from theory.kernels.neural_tangents import nt

MODEL = MLP(2, "erf", 1.5, 0.1)


@pytest.fixture
def data(rng):
    return rng.normal(size=(6, 3)), rng.normal(size=(6, 2)), rng.normal(size=(4, 3))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_it_conditions_the_joint_gaussian(data, noise):
    """The precision matrix of test outputs and labels together, whose block is the inverse posterior covariance."""
    x, y, x_test = data
    joint = np.asarray(nngp(MODEL, np.concatenate([x_test, x])))
    joint = joint + np.diag([0.0] * 4 + [noise] * 6)
    precision = np.linalg.inv(joint)
    law = nngp_posterior(MODEL, x, y, x_test, noise=noise)
    np.testing.assert_allclose(law.covariance, np.linalg.inv(precision[:4, :4]), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(law.mean, -np.linalg.solve(precision[:4, :4], precision[:4, 4:] @ y), rtol=1e-7)


def test_a_linear_model_is_bayesian_linear_regression(data):
    """Posterior over the weights (d of them) in place of the kernel's n-dimensional form."""
    x, y, x_test = data
    noise, scale = 0.2, np.sqrt(1.3 / 3)
    features, probe = np.c_[x * scale, np.full(6, 0.5)], np.c_[x_test * scale, np.full(4, 0.5)]
    weights = np.linalg.inv(features.T @ features / noise + np.eye(4))
    law = nngp_posterior(MLP(0, "linear", 1.3, 0.25), x, y[:, 0], x_test, noise=noise)
    np.testing.assert_allclose(law.covariance, probe @ weights @ probe.T, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(law.mean, probe @ weights @ features.T @ y[:, 0] / noise, rtol=1e-10)


def test_it_agrees_with_neural_tangents(data):
    x, y, x_test = data
    dense = lambda: nt.stax.Dense(1, W_std=1.5**0.5, b_std=0.1**0.5, parameterization="ntk")  # noqa: E731
    _, _, kernel = nt.stax.serial(dense(), nt.stax.Erf(), dense(), nt.stax.Erf(), dense())
    reference = nt.predict.gp_inference(kernel(x, None, "nngp"), y, diag_reg=0.3, diag_reg_absolute_scale=True)
    expected: Any = reference("nngp", kernel(x_test, x, "nngp"), kernel(x_test, None, "nngp"))
    law = nngp_posterior(MODEL, x, y, x_test, noise=0.3)
    np.testing.assert_allclose(law.mean, expected.mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(law.covariance, expected.covariance, rtol=1e-9, atol=1e-10)


def test_without_noise_it_is_the_end_of_last_layer_training(data, rng):
    """f_0(x*) + K* K⁻¹ (y − f_0(X)) over draws of f_0 from the NNGP has the posterior's mean and covariance."""
    x, y, x_test = data
    draws, y = 200_000, y[:, 0]
    joint = np.asarray(nngp(MODEL, np.concatenate([x, x_test])))
    start = rng.multivariate_normal(np.zeros(10), joint, size=draws)
    outputs = start[:, 6:] + (y - start[:, :6]) @ np.linalg.solve(joint[:6, :6], joint[:6, 6:])
    law = nngp_posterior(MODEL, x, y, x_test)
    # 5 standard errors of each entry.
    assert np.all(np.abs(outputs.mean(0) - law.mean) < 5 * outputs.std(0) / np.sqrt(draws))
    centred = outputs - outputs.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    assert np.all(np.abs(products.mean(0) - law.covariance) < 5 * products.std(0) / np.sqrt(draws))


def test_limits_in_the_noise(data):
    x, y, x_test = data
    law = nngp_posterior(MODEL, x, y, x, noise=[0.0, 1e12])
    np.testing.assert_allclose(law.mean[0], y, rtol=1e-8)
    np.testing.assert_allclose(law.covariance[0], np.zeros((6, 6)), atol=1e-12)
    # No data: back to the prior, up to K²/noise.
    np.testing.assert_allclose(law.mean[1], np.zeros((6, 2)), atol=1e-10)
    np.testing.assert_allclose(law.covariance[1], nngp(MODEL, x), rtol=1e-10)
    each = [nngp_posterior(MODEL, x, y[:, 0], x_test, noise=noise) for noise in (0.1, 0.7)]
    both = nngp_posterior(MODEL, x, y[:, 0], x_test, noise=[0.1, 0.7])
    assert both.mean.shape == (2, 4)
    assert both.covariance.shape == (2, 4, 4)
    for i, one in enumerate(each):
        np.testing.assert_allclose(both.mean[i], one.mean, rtol=1e-13)
        np.testing.assert_allclose(both.covariance[i], one.covariance, rtol=1e-12, atol=1e-14)


def test_one_input_twice(data):
    """Two labels of one input without noise end at their mean; with noise they count as one label of half the noise."""
    x, y, x_test = data
    twice, labels = np.concatenate([x, x[:1]]), np.concatenate([y, y[:1] + 1.0])
    mean = nngp_posterior(MODEL, twice, labels, x).mean
    np.testing.assert_allclose(mean[0], y[0] + 0.5, rtol=1e-6)
    np.testing.assert_allclose(mean[1:], y[1:], rtol=1e-6)
    law = nngp_posterior(MODEL, np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0), x_test, noise=0.4)
    half = nngp_posterior(MODEL, x, y, x_test, noise=0.2)
    np.testing.assert_allclose(law.mean, half.mean, rtol=1e-10)
    np.testing.assert_allclose(law.covariance, half.covariance, rtol=1e-10, atol=1e-13)


def test_double_precision_stays_and_single_follows_its_inputs(data):
    x, y, x_test = data
    assert nngp_posterior(MODEL, x, y, x_test, noise=0.1).mean.dtype == jnp.float64
    single = nngp_posterior(MODEL, x.astype(np.float32), y, x_test.astype(np.float32), noise=0.1)
    assert single.mean.dtype == jnp.float32
    # The condition number λ_max/noise is some tens: as many roundings.
    np.testing.assert_allclose(single.mean, nngp_posterior(MODEL, x, y, x_test, noise=0.1).mean, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.ones(5)}, r"y_train must have shape \(6,\) or \(6, k\)"),
        ({"y_train": np.full(6, np.nan)}, "y_train must be finite"),
        ({"noise": -0.1}, "noise must be finite and at least 0"),
        ({"noise": np.inf}, "noise must be finite and at least 0"),
        ({"x_test": np.ones((2, 7))}, "x_train and x_test must have the same number of features"),
    ],
)
def test_wrong_arguments_are_refused(data, change, message):
    arguments = {"x_train": data[0], "y_train": data[1], "x_test": data[2], **change}
    noise = arguments.pop("noise", 0.0)
    with pytest.raises(ValueError, match=message):
        nngp_posterior(MODEL, **arguments, noise=noise)
