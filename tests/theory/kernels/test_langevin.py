"""Langevin dynamics at infinite width: Hermite components, the recursion step by step, the posterior, finite nets."""

import numpy as np
import pytest
from scipy.special import erf

from theory.architecture import MLP
from theory.kernels import nngp, nngp_posterior, ntk
from theory.kernels.langevin import hermite_components, langevin_law

MODEL = MLP(1, "erf", 2.0, 0.3)
TEMPERATURE, RATE = 0.4, 0.05


@pytest.fixture
def data(rng):
    return rng.normal(size=(4, 3)), rng.normal(size=(4, 2)), rng.normal(size=(3, 3))


def test_components_of_erf_are_the_terms_of_the_arcsine(data):
    """K = σ_w² (2/π) asin s + σ_b² with s = 2c/√((1 + 2a)(1 + 2b)): the term in s^j belongs to order j."""
    x = np.concatenate([data[0], data[2]])
    first = 2.0 * x @ x.T / 3 + 0.3
    s = 2 * first / np.sqrt(np.outer(1 + 2 * np.diag(first), 1 + 2 * np.diag(first)))
    found = hermite_components(MODEL, x, 8)
    arcsine = {1: 1, 3: 1 / 6, 5: 3 / 40}
    for j in range(7):
        expected = 2.0 * (2 / np.pi) * arcsine.get(j, 0) * s**j + (0.3 if j == 0 else 0.0)
        np.testing.assert_allclose(found[j], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=0), nngp(MODEL, x), rtol=1e-12)


@pytest.mark.parametrize("model", [MODEL, MLP(1, "gelu", 1.5, 0.0), MLP(1, "relu", 2.0, 0.0)])
def test_components_weighted_by_their_pace_make_the_tangent_kernel(model, data):
    """At order j one output weight and j weights below it: Σ (1 + j) K_j = Θ."""
    x = data[0] if model.activation.name != "relu" else data[0][:1]
    orders = 200
    components = hermite_components(model, x, orders)
    # ReLU has a kink, whose order-j terms fall as j^-5/2: what the tail carries of Θ is that of Σ j^-3/2, 1/√orders.
    tolerance = 1e-9 if model.activation.name != "relu" else 0.1
    np.testing.assert_allclose(
        np.einsum("j,jab->ab", 1.0 + np.arange(orders), components), ntk(model, x), rtol=tolerance
    )


def component_moments(data, steps):
    """Mean and covariance of all f_j on all points by the recursion of the module, one step after the other."""
    x, y, x_test = data
    decay, spread = 1 - RATE * TEMPERATURE, 1 / (1 - RATE * TEMPERATURE / 2)
    wider = MLP(1, "erf", 2.0 * spread, 0.3 * spread)
    components = hermite_components(wider, np.concatenate([x, x_test]), 12)
    j, m = components.shape[:2]
    n = len(x)
    # Σ_j f_j(X) as a matrix on the stacked components.
    total = np.concatenate([np.eye(n, m)] * j, axis=1)
    pull = np.concatenate([decay**i * (1 + i) / spread * k[:, :n] for i, k in enumerate(components)])
    step = np.diag(np.repeat(decay ** (1.0 + np.arange(j)), m)) - RATE * pull @ total
    covariance, kick = np.zeros((2, j * m, j * m))
    for i, k in enumerate(components):
        block = slice(i * m, (i + 1) * m)
        covariance[block, block] = k
        kick[block, block] = (1 - decay ** (2 + 2 * i)) * k
    mean = np.zeros((j * m, y.shape[1]))
    for _ in range(steps):
        mean, covariance = step @ mean + RATE * pull @ y, step @ covariance @ step.T + kick
    after = step @ mean + RATE * pull @ y
    # The mean of this state and the next one, (1 + step)/2 of this one with half the kick.
    half = (np.eye(j * m) + step) / 2
    sums = np.concatenate([np.eye(m)] * j, axis=1)[n:]
    return (
        (sums @ mean, sums @ covariance @ sums.T),
        (sums @ (mean + after) / 2, sums @ (half @ covariance @ half.T + kick / 4) @ sums.T),
    )


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_the_law_is_that_of_the_recursion(data, steps):
    for midpoint, (mean, covariance) in zip((False, True), component_moments(data, steps), strict=True):
        law = langevin_law(
            MODEL,
            *data,
            temperature=TEMPERATURE,
            learning_rate=RATE,
            steps=[steps],
            midpoint=midpoint,
            orders=12,
        )
        np.testing.assert_allclose(law.mean[0], mean, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(law.covariance[0], covariance, rtol=1e-9, atol=1e-11)


def test_it_ends_in_the_posterior_with_noise_t(data):
    """As the step size vanishes, to first order in it; means of two steps are far closer."""
    posterior = nngp_posterior(MODEL, *data, noise=TEMPERATURE)

    def bias(rate, midpoint):
        options = {"temperature": TEMPERATURE, "learning_rate": rate, "steps": [10**6], "midpoint": midpoint}
        law = langevin_law(MODEL, *data, **options)
        return np.asarray(law.mean[0] - posterior.mean), np.asarray(law.covariance[0] - posterior.covariance)

    for midpoint in (False, True):
        for coarse, fine in zip(bias(2e-3, midpoint), bias(1e-3, midpoint), strict=True):
            assert np.abs(coarse).max() > 1e-5
            # Halving the step halves the bias; the next order is some ηλ = 1e-2 of it.
            np.testing.assert_allclose(coarse, 2 * fine, rtol=0.05, atol=0.03 * np.abs(coarse).max())
    single, double = (np.abs(bias(RATE, midpoint)[1]).max() for midpoint in (False, True))
    assert double < 0.5 * single


def test_wide_networks_follow_it(data, rng):
    """Brute force with NumPy: 400 networks of width 300, moved step by step."""
    x, y, x_test = data
    runs, width, steps = 400, 300, 12
    w, b = rng.standard_normal((runs, 3, width)), rng.standard_normal((runs, 1, width))
    a, c = rng.standard_normal((runs, width, 2)), rng.standard_normal((runs, 1, 2))
    gain, top, offset = np.sqrt(2.0 / 3), np.sqrt(2.0 / width), np.sqrt(0.3)

    def outputs(points):
        z = gain * points @ w + offset * b
        return z, erf(z), top * erf(z) @ a + offset * c

    for _ in range(steps):
        z, h, f = outputs(x)
        left = f - y
        below = top * (left @ np.swapaxes(a, 1, 2)) * 2 / np.sqrt(np.pi) * np.exp(-(z**2))
        gradients = (
            gain * x.T @ below,
            offset * below.sum(axis=1, keepdims=True),
            top * np.swapaxes(h, 1, 2) @ left,
            offset * left.sum(axis=1, keepdims=True),
        )
        w, b, a, c = (
            p - RATE * (g + TEMPERATURE * p) + np.sqrt(2 * RATE * TEMPERATURE) * rng.standard_normal(p.shape)
            for p, g in zip((w, b, a, c), gradients, strict=True)
        )
    f = outputs(x_test)[2]
    law = langevin_law(MODEL, *data, temperature=TEMPERATURE, learning_rate=RATE, steps=[steps])
    # Four standard errors, and 1/n of the width with a factor of some units.
    assert np.all(np.abs(f.mean(axis=0) - law.mean[0]) < 4 * f.std(axis=0) / np.sqrt(runs) + 5 / width)
    centred = f - f.mean(axis=0)
    products = np.einsum("rik,rjk->rij", centred, centred) / 2
    error = products.std(axis=0) / np.sqrt(runs)
    assert np.all(np.abs(products.mean(axis=0) - law.covariance[0]) < 4 * error + 5 / width)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": MLP(2, "erf")}, "architecture must have one hidden layer"),
        ({"y_train": np.ones(3)}, r"y_train must have shape \(4,\) or \(4, k\)"),
        ({"y_train": np.full(4, np.inf)}, "y_train must be finite"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"learning_rate": 10.0}, "learning_rate 10.0 diverges"),
        ({"steps": [1.5]}, "steps must be whole numbers"),
        ({"steps": [-1]}, "steps must be whole numbers"),
        ({"orders": 1}, "orders must be at least 2"),
        ({"architecture": MLP(1, "erf", 2.0, 0.0), "x_test": np.zeros((1, 3))}, "no input that is zero everywhere"),
    ],
)
def test_wrong_arguments_are_refused(data, change, message):
    arguments = {
        "architecture": MODEL,
        "x_train": data[0],
        "y_train": data[1],
        "x_test": data[2],
        "temperature": TEMPERATURE,
        "learning_rate": RATE,
        "steps": [1],
    }
    with pytest.raises(ValueError, match=message):
        langevin_law(**(arguments | change))
