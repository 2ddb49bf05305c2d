"""First finite-width corrections against exact laws and simulated chains."""

import numpy as np
import pytest

from theory.architecture import MLP
from theory.mean_field import corrections, propagate


def chain(function, weight_variance, bias_variance, inputs, width, depth, members, rng):
    """Lengths and correlations observed in finite networks, (depth, members, 3).

    A layer's units are Gaussian given the layer before, so drawing them from their covariance has exactly the law of
    drawing the weights.
    """
    r1, r2, c = inputs
    overlaps = np.array([r1, c * np.sqrt(r1 * r2), r2])
    g11, g12, g22 = np.repeat(weight_variance * overlaps + bias_variance, members).reshape(3, members)
    seen = []
    for _ in range(depth):
        s, t = rng.standard_normal((2, members, width))
        u = np.sqrt(g11)[:, None] * s
        slope = g12 / np.sqrt(g11)
        v = slope[:, None] * s + np.sqrt(np.maximum(g22 - slope**2, 0))[:, None] * t
        q1, q2 = np.mean(u * u, 1), np.mean(v * v, 1)
        seen.append(np.stack([q1, q2, np.mean(u * v, 1) / np.sqrt(q1 * q2)], axis=1))
        f, g = function(u), function(v)
        g11, g12, g22 = (weight_variance * np.mean(a, 1) + bias_variance for a in (f * f, f * g, g * g))
    return np.array(seen)


CASES = {
    "tanh": (np.tanh, 3.0, 0.05, (1.0, 0.5, 0.8)),
    "relu": (lambda x: np.maximum(x, 0), 2.0, 0.0, (1.0, 2.0, -0.5)),
}


def simulated_and_expected(name, width, members, rng, depth=7):
    function, weight_variance, bias_variance, inputs = CASES[name]
    seen = chain(function, weight_variance, bias_variance, inputs, width, depth, members, rng)
    return seen, [np.asarray(x) for x in corrections(MLP(depth, name, weight_variance, bias_variance), *inputs)]


@pytest.mark.parametrize("name", CASES)
def test_shift_of_simulated_networks(name, rng):
    width, members = 32, 80_000
    seen, (mean, shift, _) = simulated_and_expected(name, width, members, rng)
    error = seen.std(axis=1) / np.sqrt(members)
    found, expected = seen.mean(axis=1) - mean, shift / width
    # 21 comparisons at 4.5 standard errors, and the next order in 1/n, a few per cent of the shift.
    assert np.all(np.abs(found - expected) < 4.5 * error + 0.1 * np.abs(expected))
    # Where the shift stands out most, half of it would fail the same test.
    clearest = np.unravel_index(np.argmax(np.abs(expected) / error), error.shape)
    assert abs(expected[clearest]) / error[clearest] > 4.5 / 0.4


@pytest.mark.parametrize("name", CASES)
def test_covariance_of_simulated_networks(name, rng):
    width, members = 256, 8_000
    seen, (_, _, covariance) = simulated_and_expected(name, width, members, rng)
    centred = seen - seen.mean(axis=1, keepdims=True)
    for layer, later in ((0, 0), (4, 4), (6, 6), (0, 3), (3, 6)):
        found = width * np.einsum("ra,rb->ab", centred[layer], centred[later]) / members
        scale = np.sqrt(np.outer(np.diag(covariance[layer, layer]), np.diag(covariance[later, later])))
        # 4.5 standard errors of a sample covariance, and the next order in 1/n, which grows as depth/width: the
        # largest correlations are near 1 (a layer with itself) and 0.7 (ReLU across three layers).
        tolerance = 4.5 * np.sqrt(2 / members) + 2 * (later + 1) / width
        np.testing.assert_array_less(np.abs(found - covariance[layer, later]) / scale, tolerance)


@pytest.mark.parametrize(("name", "weight_variance", "excess"), [("linear", 1.0, 2.0), ("relu", 2.0, 5.0)])
def test_lengths_of_scale_free_networks_scatter_as_known(name, weight_variance, excess):
    """n Var q^l / q² is 2 from the units looked at, and 5 (ReLU) or 2 (linear) from every layer before."""
    depth = 7
    result = corrections(MLP(depth, name, weight_variance, 0.0), 1.0, 1.0, 0.3)
    variance = np.array([result.covariance[i, i, 0, 0] for i in range(depth)]) / np.asarray(result.mean[:, 0]) ** 2
    np.testing.assert_allclose(variance, 2 + excess * np.arange(depth), rtol=1e-6)
    np.testing.assert_allclose(result.shift[:, :2], 0.0, atol=1e-9)


def test_the_first_layer_has_the_moments_of_a_sample_correlation():
    """n Var c = (1 − c²)² and n E(ĉ − c) = −c(1 − c²)/2 (Hotelling 1953)."""
    result = corrections(MLP(7, "tanh", 1.0, 0.0), 1.0, 3.0, 0.6)
    np.testing.assert_allclose(result.covariance[0, 0, 2, 2], (1 - 0.36) ** 2, rtol=1e-9)
    np.testing.assert_allclose(result.shift[0, 2], -0.5 * 0.6 * (1 - 0.36), rtol=1e-9)


def test_means_are_those_of_propagation_and_covariances_are_symmetric():
    architecture = MLP(7, "tanh", 1.3, 0.05)
    result = corrections(architecture, 0.7, 0.2, -0.4)
    track = np.stack(propagate(architecture, 0.7, 0.2, -0.4), axis=1)[:-1]
    np.testing.assert_allclose(result.mean, track, rtol=1e-12)
    full = np.asarray(result.covariance).transpose(0, 2, 1, 3).reshape(21, 21)
    np.testing.assert_allclose(full, full.T, atol=1e-12)
    assert np.linalg.eigvalsh(full).min() > -1e-10


def test_parallel_inputs_are_refused():
    with pytest.raises(ValueError, match="strictly between"):
        corrections(MLP(2, "tanh"), 1.0, 1.0, 1.0)
