"""Gaussian expectations: closed forms against quadrature, SciPy, mpmath and their own differential equations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from theory import gaussian
from theory.activations import ACTIVATIONS, Activation, activation, hermite, leaky_relu, monomial
from theory.arrays import as_float

SMOOTH = ["linear", "erf", "gelu", "sin", "cos", "exp", "square", hermite(3), monomial(3)]
KINKED = ["relu", leaky_relu(0.2), "abs", "sign"]
# Variances and correlations of (u, v): alike and unlike, parallel, opposite and independent.
A = np.array([1.3, 0.2, 2.0, 1.0, 1.0, 0.5])
B = np.array([0.7, 1.9, 2.0, 1.0, 1.0, 0.5])
C = np.array([0.5, -0.3, 1.9, 1.0, -1.0, 0.0])


def by_gauss_hermite(function, a, b, c, nodes=100):
    """E[g(u)g(v)] over the product rule, in plain NumPy."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    rest = np.sqrt(max(b - c * c / a, 0.0))
    u, v = np.sqrt(a) * z[:, None], c / np.sqrt(a) * z[:, None] + rest * z[None, :]
    return float(np.sum(w[:, None] * w[None, :] * np.asarray(function(u) * function(v))))


@pytest.mark.parametrize("phi", [activation(name) for name in SMOOTH], ids=lambda phi: phi.name)
def test_closed_forms_of_smooth_activations_agree_with_gauss_hermite(phi):
    expected = [by_gauss_hermite(phi, *abc) for abc in zip(A, B, C, strict=True)]
    np.testing.assert_allclose(gaussian.dual(phi, A, B, C), expected, rtol=1e-11, atol=1e-12)
    expected = [by_gauss_hermite(lambda x: phi.derivative(jnp.asarray(x)), *abc) for abc in zip(A, B, C, strict=True)]
    np.testing.assert_allclose(gaussian.dual_derivative(phi, A, B, C), expected, rtol=1e-11, atol=1e-12)


def by_conditioning(function, a, b, c, kinks=(0.0,)):
    """E[g(u)g(v)] by SciPy's adaptive rule on either side of the kinks, the inner integral included."""
    slope, rest = c / np.sqrt(a), np.sqrt(max(b - c * c / a, 0.0))

    def density(z):
        return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)

    def inner(z):
        if rest == 0:
            return function(slope * z)
        kink = -slope * z / rest
        pieces = [(-9, kink), (kink, 9)] if abs(kink) < 9 else [(-9, 9)]
        return sum(
            quad(lambda t: function(slope * z + rest * t) * density(t), *piece, epsabs=1e-12)[0] for piece in pieces
        )

    outer = [quad(lambda z: function(np.sqrt(a) * z) * inner(z) * density(z), *piece, epsabs=1e-12)[0]
             for piece in ((-9, 0), (0, 9))]  # fmt: skip
    return sum(outer)


@pytest.mark.parametrize("phi", [activation(name) for name in KINKED], ids=lambda phi: phi.name)
def test_closed_forms_of_kinked_activations_agree_with_adaptive_quadrature(phi):
    left, right = float(phi(jnp.array(-1.0))), float(phi(jnp.array(1.0)))
    if phi.name == "sign":
        function = slope = np.sign
    else:
        function = lambda x: right * max(x, 0.0) - left * min(x, 0.0)  # noqa: E731
        slope = lambda x: right if x > 0 else -left  # noqa: E731
    for a, b, c in list(zip(A, B, C, strict=True))[:3]:
        assert float(gaussian.dual(phi, a, b, c)) == pytest.approx(by_conditioning(function, a, b, c), abs=1e-9)
        if phi.name != "sign":
            expected = by_conditioning(slope, a, b, c)
            assert float(gaussian.dual_derivative(phi, a, b, c)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_one_point_moments_are_the_diagonal_of_the_pair(name):
    q = np.array([0.1, 0.3, 0.5, 1.0, 1.7, 2.5])
    phi = activation(name)
    np.testing.assert_allclose(gaussian.second_moment(name, q), gaussian.dual(name, q, q, q), rtol=1e-11)
    slopes = gaussian.dual_derivative(name, q, q, q)
    np.testing.assert_allclose(gaussian.derivative_second_moment(name, q), slopes, rtol=1e-11)
    # The half-step rule integrates squares of kinked functions to rounding, for both halves are smooth.
    np.testing.assert_allclose(
        gaussian.expectation(lambda z: phi(z) ** 2, q), gaussian.second_moment(name, q), rtol=1e-12
    )


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "swish"])
def test_quadrature_agrees_with_mpmath(name):
    function = {
        "tanh": mpmath.tanh,
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
        "swish": lambda x: x / (1 + mpmath.exp(-x)),
    }[name]
    for q in (0.1, 1.0, 20.0):
        root = mpmath.sqrt(q)
        expected: Any = mpmath.quad(lambda z: function(root * z) ** 2 * mpmath.npdf(z), [-12, -3, 0, 3, 12])  # noqa: B023
        assert float(gaussian.second_moment(name, q)) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_quadrature_over_pairs_is_accurate_at_every_correlation(name):
    """Against Gauss–Hermite with twice as many nodes, and against the first order in 1 − |ρ|."""
    for a, b, c in ((1.0, 0.5, 0.3), (0.5, 1.0, -0.6), (1.0, 1.0, 1.0), (1.0, 1.0, -1.0)):
        expected = by_gauss_hermite(activation(name), a, b, c, nodes=180)
        assert float(gaussian.dual(name, a, b, c)) == pytest.approx(expected, abs=1e-13)
    drop = (gaussian.dual(name, 1.0, 1.0, 1.0) - gaussian.dual(name, 1.0, 1.0, 1.0 - 1e-6)) / 1e-6
    assert float(drop) == pytest.approx(float(gaussian.derivative_second_moment(name, 1.0)), rel=1e-5)


def test_kinked_custom_functions_are_as_accurate_as_promised():
    relu, step = Activation("my-relu", jax.nn.relu), Activation("step", lambda x: jnp.where(x > 0, 1.0, 0.0))
    assert gaussian.closed_form(relu.function) is None
    error = gaussian.dual(relu, A, B, C) - gaussian.dual("relu", A, B, C)
    assert np.max(np.abs(error) / np.sqrt(A * B)) < 5e-4
    error = gaussian.dual(step, A, B, C) - gaussian.dual_derivative("relu", A, B, C)
    assert np.max(np.abs(error)) < 6e-3


# One of each family of formulas; quadrature serves every smooth function alike.
NAMES = ["linear", "relu", "erf", "gelu", "sin", "cos", "sign", "exp", "tanh"]
EVERY = [*(activation(name) for name in NAMES), hermite(4), leaky_relu(-0.3)]
# ρ = ±1 at equal and unequal variances, and zero variances.
EDGES = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [2.0, 0.5, 1.0], [2.0, 0.5, -1.0], [0.0, 1.0, 0.0], [0, 0, 0]])


@functools.cache
def with_gradients(phi):
    """Both duals and both moments, (6, 4), and their derivatives by (a, b, c), (6, 4, 3), compiled once."""

    def everything(abc):
        a, b, c = abc
        duals = gaussian.dual(phi, a, b, c), gaussian.dual_derivative(phi, a, b, c)
        return jnp.stack([*duals, gaussian.second_moment(phi, a), gaussian.derivative_second_moment(phi, a)])

    derivatives_and_values = jax.jacfwd(lambda abc: (everything(abc),) * 2, has_aux=True)
    return jax.jit(jax.vmap(lambda abc: derivatives_and_values(abc)[::-1]))


@pytest.mark.parametrize("phi", EVERY, ids=lambda phi: phi.name)
def test_values_and_gradients_are_finite_at_the_edges(phi):
    values, gradients = with_gradients(phi)(EDGES)
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()
    # At zero variance φ sees the constant 0.
    np.testing.assert_allclose(values[4:, 2], float(phi(0.0)) ** 2, atol=1e-15)


@pytest.mark.parametrize("phi", EVERY, ids=lambda phi: phi.name)
def test_gradients_agree_with_differences_and_with_price_theorem(phi):
    point, step = np.array([1.2, 0.8, 0.4]), 1e-5
    shifted, _ = with_gradients(phi)(np.concatenate([point + step * np.eye(3), point - step * np.eye(3)]))
    values, gradients = (x[0] for x in with_gradients(phi)(np.broadcast_to(point, (6, 3))))
    np.testing.assert_allclose(gradients, (shifted[:3] - shifted[3:]).T / (2 * step), rtol=1e-6, atol=1e-9)
    if phi.name != "sign":  # whose derivative is that of almost everywhere, without the jump
        assert float(gradients[0, 2]) == pytest.approx(float(values[1]), rel=1e-12)


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
def test_second_derivatives_are_finite_at_full_correlation(name):
    hessian = jax.jacfwd(jax.jacfwd(lambda abc: gaussian.dual(name, abc[0], abc[1], abc[2])))
    assert np.isfinite(jax.vmap(hessian)(EDGES[:3])).all()


@pytest.mark.parametrize("name", ["relu", "erf", "tanh"])
def test_the_input_dtype_is_followed(name):
    single = np.float32(1.0), np.float32(0.5), np.float32(0.2)
    result = gaussian.dual(name, *single)
    assert result.dtype == jnp.float32
    assert float(result) == pytest.approx(float(gaussian.dual(name, 1.0, 0.5, 0.2)), rel=2e-6)
    assert gaussian.second_moment(name, single[0]).dtype == jnp.float32
    assert gaussian.dual(name, 1, [2, 3], 0).dtype == jnp.float64
    with pytest.raises(ValueError, match="complex"):
        as_float(1j)


def test_relu_survives_scales_whose_product_leaves_the_dtype():
    """In single precision ab over- or underflows here; the angle must not notice."""
    for scale in (1e-30, 1e30):
        a, b, c = (np.float32(scale * x) for x in (1.0, 1.0, 0.5))
        expected = float(gaussian.dual_derivative("relu", 1.0, 1.0, 0.5))
        assert float(gaussian.dual_derivative("relu", a, b, c)) == pytest.approx(expected, rel=1e-6)
        assert float(gaussian.dual("relu", a, b, c)) == pytest.approx(
            scale * float(gaussian.dual("relu", 1.0, 1.0, 0.5)), rel=1e-6
        )


variances = st.floats(0.01, 10.0)


@settings(max_examples=60, deadline=None)
@given(variances, variances, st.floats(-1.0, 1.0), st.sampled_from(["relu", "erf", "gelu", "sin", "sign", "abs"]))
def test_duals_are_symmetric_and_bounded_by_cauchy_schwarz(a, b, rho, name):
    c = rho * np.sqrt(a * b)
    value = float(gaussian.dual(name, a, b, c))
    assert value == pytest.approx(float(gaussian.dual(name, b, a, c)), rel=1e-12, abs=1e-14)
    bound = float(gaussian.second_moment(name, a) * gaussian.second_moment(name, b)) ** 0.5
    assert abs(value) <= bound * (1 + 1e-12)


@settings(max_examples=30, deadline=None)
@given(variances, variances, st.floats(-1.0, 1.0), st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_relu_is_homogeneous(a, b, rho, s, t):
    c = rho * np.sqrt(a * b)
    scaled = gaussian.dual("relu", s * s * a, t * t * b, s * t * c)
    # The angle at ρ = ±1 hangs on the last digit of c, where ReLU's dual has no slope beyond ½.
    assert float(scaled) == pytest.approx(s * t * float(gaussian.dual("relu", a, b, c)), rel=1e-10, abs=1e-13)
