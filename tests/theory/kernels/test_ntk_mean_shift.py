"""The first-order shift of the mean tangent kernel against exact cases, automatic differentiation, and simulation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from theory.architecture import MLP
from theory.kernels import nngp, ntk
from theory.kernels.ntk_mean_shift import ntk_mean_shift

CASES = [("relu", 2.0), ("erf", 0.5), ("erf", 1.5), ("square", 0.5)]


@pytest.mark.parametrize(("activation", "variance"), CASES)
def test_limits_are_those_of_the_kernels(activation, variance):
    x = np.array([[1.0, 1.0], [0.7 + np.sqrt(0.51), 0.7 - np.sqrt(0.51)]])
    found, diagonal = (ntk_mean_shift(activation, 3, cosine, variance) for cosine in (0.7, 1.0))
    architecture = MLP(3, activation, variance)
    theta, covariance = np.asarray(ntk(architecture, x)), np.asarray(nngp(architecture, x))
    np.testing.assert_allclose([diagonal.limit, found.limit], theta[0], rtol=1e-10)
    np.testing.assert_allclose([diagonal.nngp_limit, found.nngp_limit], covariance[0], rtol=1e-10)


def test_what_vanishes():
    for (activation, variance), cosine in itertools.product([*CASES, ("tanh", 1.5)], (1.0, 0.3)):
        assert abs(ntk_mean_shift(activation, 1, cosine, variance).coefficient) < 1e-12
    for depth in (2, 3, 5):
        # Rounding, times the many terms that cancel.
        assert abs(ntk_mean_shift("relu", depth, 1.0, 2.0).coefficient) < 1e-11
        assert abs(ntk_mean_shift("linear", depth, 0.6, 1.0).coefficient) < 1e-10
        # Off the diagonal it does not: a wrong sign or a lost factor would not go unseen.
        assert abs(ntk_mean_shift("relu", depth, 0.7, 2.0).relative) > 0.2


def test_squares_are_exact_at_three_layers():
    """For φ = z², L = 3 and one input E Θ is linear in 1/n, from moments of z ~ N(0, q) alone."""
    s = q = 0.5
    m2, m4, m6, m8 = (q**k * double for k, double in ((1, 1), (2, 3), (3, 15), (4, 105)))

    def mean(inverse):
        """V = 3sG², V̇ = 4sG, R = G + Q with G = (s/n)Σz⁴, Q = (s/n)Σ4z²q, and E(φ'²)'' = 8."""
        gg = s**2 * (m4**2 + inverse * (m8 - m4**2))
        gq = s**2 * 4 * q * (m4 * m2 + inverse * (m6 - m4 * m2))
        return 3 * s * gg + 4 * s * (gg + gq) + 8 * s * inverse * s**2 * 4 * m6 * q

    found = ntk_mean_shift("square", 2, 1.0, s)
    np.testing.assert_allclose(found.limit, mean(0.0), rtol=1e-12)
    np.testing.assert_allclose(found.coefficient, mean(1.0) - mean(0.0), rtol=1e-11)


def test_three_layers_of_erf_by_automatic_differentiation():
    """Closed-form duals, their Hessians by JAX, and one unit's covariances by the trapezoidal rule."""
    s, cosine = 1.5, 0.7

    def v(g):
        a, c, b = g
        return s * 2 / jnp.pi * jnp.arcsin(2 * c / jnp.sqrt((1 + 2 * a) * (1 + 2 * b)))

    def slope(g):
        a, c, b = g
        return s * 4 / jnp.pi / jnp.sqrt((1 + 2 * a) * (1 + 2 * b) - 4 * c**2)

    def mean(state):
        return v(state[:3]) + slope(state[:3]) * (state[1] + state[3])

    start = s * np.array([1.0, cosine, 1.0])
    nodes, step = np.linspace(-9, 9, 181, retstep=True)
    u = np.stack([m.ravel() for m in np.meshgrid(nodes, nodes)], axis=1)
    w = step**2 * np.exp(-0.5 * np.sum(u**2, axis=1)) / (2 * np.pi)
    z = u @ np.linalg.cholesky(start[[[0, 1], [1, 2]]]).T
    f, d = erf(z), 2 / np.sqrt(np.pi) * np.exp(-(z**2))
    unit = s * np.stack([f[:, 0] ** 2, f[:, 0] * f[:, 1], f[:, 1] ** 2, d[:, 0] * d[:, 1] * start[1]])
    expected = unit @ w
    covariance = ((unit - expected[:, None]) * w) @ unit.T
    hessian = np.asarray(jax.jit(jax.hessian(mean))(jnp.asarray(expected)))
    # ∂_a ∂_b F in G: twice the derivative for a = b, and (a, b) = (1, 2), (2, 1) both count.
    gradient = np.asarray(jax.jit(jax.grad(slope))(jnp.asarray(expected[:3])))
    stein = unit[3] * w * s @ np.stack([2 * f[:, 0] ** 2, 2 * f[:, 0] * f[:, 1], 2 * f[:, 1] ** 2], axis=1) @ gradient
    found = ntk_mean_shift("erf", 2, cosine, s)
    np.testing.assert_allclose(found.coefficient, 0.5 * np.sum(hessian * covariance) + stein, rtol=1e-9)
    without = ntk_mean_shift("erf", 2, cosine, s, independent=True)
    np.testing.assert_allclose(without.coefficient, 0.5 * np.sum(hessian * covariance), rtol=1e-9)


@pytest.mark.parametrize(("activation", "variance"), [("relu", 2.0), ("erf", 0.5)])
def test_four_layers_of_simulated_networks(activation, variance, rng):
    """E Θ by explicit Jacobians at width 12, where the next order is below a tenth of the shift."""
    n, members, cosine = 12, 60_000, 0.7
    x = np.array([[1.0, 1.0], [cosine + np.sqrt(1 - cosine**2), cosine - np.sqrt(1 - cosine**2)]])
    w1, w2, w3 = (rng.standard_normal((members, n, m)) * np.sqrt(variance / m) for m in (2, n, n))
    w4 = rng.standard_normal((members, n)) * np.sqrt(variance / n)
    h, back, kernel = np.broadcast_to(x, (members, 2, 2)), [], np.zeros((members, 2, 2))
    hidden = [h]
    for w in (w1, w2, w3):
        z = h @ np.swapaxes(w, 1, 2)
        h, slope = (
            (np.maximum(z, 0), 1.0 * (z > 0))
            if activation == "relu"
            else (erf(z), 2 / np.sqrt(np.pi) * np.exp(-(z**2)))
        )
        hidden.append(h)
        back.append(slope)
    delta = np.ones((members, 2, 1))
    for i, w in enumerate((w4[:, None], w3, w2, None)):
        h = hidden[3 - i]
        kernel = kernel + variance / h.shape[2] * (h @ np.swapaxes(h, 1, 2)) * (delta @ np.swapaxes(delta, 1, 2))
        if w is not None:
            delta = back[2 - i] * (delta @ w)
    on, off = 0.5 * (kernel[:, 0, 0] + kernel[:, 1, 1]), kernel[:, 0, 1]
    diagonal, other = (ntk_mean_shift(activation, 3, c, variance) for c in (1.0, cosine))
    # 4 standard errors, and a tenth of the shift for the next order.
    for values, theory in ((on, diagonal), (off, other)):
        error = n * np.std(values) / theory.limit / np.sqrt(members)
        assert abs(n * (np.mean(values) / theory.limit - 1) - theory.relative) < 4 * error + 0.1 * abs(theory.relative)
    influence = off / np.mean(off) - on / np.mean(on)
    error = n * np.std(influence) / np.sqrt(members)
    shift = n * (np.mean(off) / other.limit / (np.mean(on) / diagonal.limit) - 1)
    expected = other.relative - diagonal.relative
    assert abs(shift - expected) < 4 * error + 0.1 * abs(expected)
    if activation == "relu":
        assert expected > 20 * error


def test_the_diagonal_is_the_limit_of_equal_inputs():
    near, at = (ntk_mean_shift("erf", 3, cosine, 1.5).coefficient for cosine in (0.9999, 1.0))
    np.testing.assert_allclose(near, at, rtol=0.1)
    opposite, same = (ntk_mean_shift("erf", 3, cosine, 1.5).coefficient for cosine in (-0.6, 0.6))
    np.testing.assert_allclose(opposite, -same, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("gelu", 2, 0.5, 1.0), "activation"),
        (("erf", 0, 0.5, 1.0), "depth"),
        (("erf", 2, -1.0, 1.0), "cosine"),
        (("erf", 2, 1.1, 1.0), "cosine"),
        (("erf", 2, 0.5, 0.0), "weight_variance"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        ntk_mean_shift(*arguments)
