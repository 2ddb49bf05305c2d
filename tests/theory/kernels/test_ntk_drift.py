"""The law of the kernel's change over training, against closed forms, automatic derivatives and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.special import erf

from theory.kernels import nngp, ntk
from theory.kernels.ntk_drift import _expectations, two_layer_drift

X = np.array([[1.0, 1.0], [1.2, -0.3]])
Y = np.array([0.8, -1.1])


@pytest.mark.parametrize("time", [0.3, np.inf])
def test_one_example_of_linear_units_follows_the_conserved_quantity(time):
    """Θ² − 4κ² f²/n is conserved, so that n ΔΘ → 2κ² (f_t² − f_0²)/Θ_∞ with Θ_∞ = 2κ² and f_0 ~ N(0, κ²)."""
    s2, y = 1.5, 1.3
    kappa2 = s2**2 * 0.8
    law = two_layer_drift("linear", np.full((1, 3), np.sqrt(0.8)), np.array([y]), weight_variance=s2, time=time)
    # f_t = p + q f_0.
    q = np.exp(-2 * kappa2 * time)
    p = y * (1 - q)
    mean = p**2 + (q**2 - 1) * kappa2
    variance = 4 * p**2 * q**2 * kappa2 + 2 * (q**2 - 1) ** 2 * kappa2**2
    np.testing.assert_allclose(law.limit, 2 * kappa2, rtol=1e-12)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(law.square, mean**2 + variance, rtol=1e-12)


def test_one_example_of_erf_units_by_hand():
    """The derivatives along the field (ȧ = φ, ḣ = q a φ') written out, with SciPy's quadrature."""
    q, y = 1.2, 1.3

    def expect(g):
        return quad(lambda z: g(z * np.sqrt(q)) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi), -12, 12, epsabs=1e-13)[0]

    p = erf

    def p1(h):
        return 2 / np.sqrt(np.pi) * np.exp(-h * h)

    def p2(h):
        return -2 * h * p1(h)

    def p3(h):
        return (4 * h * h - 2) * p1(h)

    limit = q * expect(lambda h: p(h) ** 2 + q * p1(h) ** 2)
    outputs = q * expect(lambda h: p(h) ** 2)
    # T = φ² + q a² φ'²: its first derivative along the field is 4q a φφ'² + 2q² a³ φ'²φ''.
    second = expect(
        lambda h: (
            4 * q * (p(h) * p1(h)) ** 2
            + 14 * q**2 * p(h) * p1(h) ** 2 * p2(h)
            + 4 * q**2 * p1(h) ** 4
            + 12 * q**3 * (p1(h) * p2(h)) ** 2
            + 6 * q**3 * p1(h) ** 3 * p3(h)
        )
    )
    cross = np.sqrt(q) * expect(lambda h: 4 * q * (p(h) * p1(h)) ** 2 + 6 * q**2 * p(h) * p1(h) ** 2 * p2(h))
    own = expect(
        lambda h: (
            16 * (q * p(h) * p1(h) ** 2) ** 2
            + 48 * q**3 * p(h) * p1(h) ** 4 * p2(h)
            + 60 * (q**2 * p1(h) ** 2 * p2(h)) ** 2
        )
    )
    # n ΔΘ = q (s G + ½ s² M) with s = √q (y − f_0)/Θ_∞; moments of two correlated Gaussians.
    c = np.sqrt(q) / limit
    mean = q * (-c * cross + 0.5 * second * c**2 * (y**2 + outputs))
    s2, s4 = c**2 * (y**2 + outputs), c**4 * (y**4 + 6 * y**2 * outputs + 3 * outputs**2)
    s2g2 = s2 * own + 2 * (c * cross) ** 2
    s3g = -3 * s2 * c * cross
    square = q**2 * (s2g2 + second * s3g + 0.25 * second**2 * s4)
    law = two_layer_drift("erf", np.ones((1, 2)), np.array([y]), weight_variance=q)
    np.testing.assert_allclose([law.limit[0, 0], law.mean[0, 0]], [limit, mean], rtol=1e-10)
    np.testing.assert_allclose(law.square[0, 0], square, rtol=1e-10)


def test_expectations_of_a_unit_by_automatic_derivatives():
    """Derivatives along the fields by JAX, the quadrature over (a, h_1, h_2) by Gauss and Hermite."""
    k = X @ X.T / 2
    unit = _expectations("sin", 0.7 * k)
    k = 0.7 * jnp.asarray(k)

    def outputs(state):
        return state[0] * jnp.sin(state[1:])

    def field(g, state):
        a, h = state[0], state[1:]
        return jnp.concatenate([jnp.sin(h[g])[None], a * jnp.cos(h[g]) * k[:, g]])

    def along_all(function):
        """Derivatives along each of the fields, as a new last axis."""
        return lambda state: jax.vmap(lambda g: jax.jvp(function, (state,), (field(g, state),))[1], out_axes=-1)(
            jnp.arange(2)
        )

    def values(state):
        kernel = along_all(outputs)
        first = along_all(kernel)
        # The library has the derivative that acts last, δ, before γ.
        return outputs(state), kernel(state), first(state), jnp.swapaxes(along_all(first)(state), -1, -2)

    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    grid = np.stack(np.meshgrid(nodes, nodes, nodes, indexing="ij")).reshape(3, -1)
    weight = np.prod(np.stack(np.meshgrid(weights, weights, weights, indexing="ij")), axis=0).ravel()
    weight /= weight.sum()
    states = np.concatenate([grid[:1], np.linalg.cholesky(np.asarray(k)) @ grid[1:]]).T
    u, kernel, first, second = (np.asarray(v) for v in jax.jit(jax.vmap(values))(jnp.asarray(states)))
    first = first.reshape(len(first), -1)
    # 24 nodes are good to 1e-7 for products of six sines.
    np.testing.assert_allclose(unit.outputs, (u.T * weight) @ u, atol=1e-10)
    np.testing.assert_allclose(unit.kernel, np.einsum("z,zab->ab", weight, kernel), atol=1e-10)
    np.testing.assert_allclose(unit.cross, (u.T * weight) @ first, atol=1e-6)
    np.testing.assert_allclose(unit.own, (first.T * weight) @ first, atol=1e-6)
    np.testing.assert_allclose(unit.second, np.einsum("z,zabcd->abcd", weight, second), atol=1e-6)


def test_moments_of_the_quadratic_form_by_sampling(rng):
    """f_0 and G drawn, the driven paths s(t) integrated by SciPy, for two examples at a finite time."""
    s2, time, count = 0.7, 3.0, 40_000
    law = two_layer_drift("erf", X, Y, weight_variance=s2, time=time)
    unit = _expectations("erf", s2 * X @ X.T / 2)

    # s(t) and the iterated integrals are linear and quadratic in r(0): one integration for each pair of unit vectors.
    def field(t, state):
        r, s = state[:2], state[2:4]
        return np.concatenate([-law.limit @ r, -r, -np.outer(r, s).ravel()])

    def end(r):
        return solve_ivp(field, (0, time), [*r, 0, 0, 0, 0, 0, 0], rtol=1e-10, atol=1e-12).y[:, -1]

    basis = np.eye(2)
    once = np.array([end(b)[2:4] for b in basis])
    # Polarisation of the quadratic ones, [γ, δ] with γ the later.
    whole = {(i, j): end(basis[i] + basis[j])[4:].reshape(2, 2) for i in range(2) for j in range(2)}
    single = [end(b)[4:].reshape(2, 2) for b in basis]
    twice = np.array([[0.5 * (whole[i, j] - single[i] - single[j]) for j in range(2)] for i in range(2)])
    cross = np.sqrt(s2) * unit.cross
    covariance = np.block([[s2 * unit.outputs, cross], [cross.T, unit.own]])
    draws = rng.multivariate_normal(np.zeros(10), covariance, size=count, method="eigh")
    r, g = draws[:, :2] - Y, draws[:, 2:].reshape(-1, 2, 2, 2)
    path = s2**0.5 * r @ once
    iterated = s2 * np.einsum("zi,zj,ijgd->zgd", r, r, twice)
    change = s2 * (np.einsum("zg,zabg->zab", path, g) + np.einsum("zgd,abdg->zab", iterated, unit.second))
    # The largest of 6 deviations of 40,000 draws.
    for values, expected in ((change, law.mean), (change**2, law.square)):
        deviation = (values.mean(0) - expected) / (values.std(0) / np.sqrt(count))
        assert np.abs(deviation).max() < 4


def test_the_limit_and_the_outputs_are_those_of_the_library():
    from theory.architecture import MLP

    law = two_layer_drift("erf", X, Y, weight_variance=0.7)
    architecture = MLP(1, "erf", 0.7)
    np.testing.assert_allclose(law.limit, ntk(architecture, X), rtol=1e-10)
    np.testing.assert_allclose(0.7 * _expectations("erf", 0.35 * X @ X.T).outputs, nngp(architecture, X), rtol=1e-10)


def test_nothing_changes_at_the_start_and_the_order_of_examples_does_not_matter():
    still = two_layer_drift("tanh", X, Y, time=0.0)
    assert np.abs(still.mean).max() < 1e-12
    assert still.relative < 1e-6
    law = two_layer_drift("tanh", X, Y, time=2.0)
    swapped = two_layer_drift("tanh", X[::-1], Y[::-1], time=2.0)
    np.testing.assert_allclose(swapped.mean[::-1, ::-1], law.mean, rtol=1e-9)
    np.testing.assert_allclose(law.mean, law.mean.T, rtol=1e-9)
    np.testing.assert_allclose(two_layer_drift("tanh", X, -Y, time=2.0).mean, law.mean, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "activation must be one of"),
        ({"y": np.ones(3)}, "x must be"),
        ({"weight_variance": 0.0}, "weight_variance must be positive"),
        ({"time": -1.0}, "time must not be negative"),
        ({"x": np.ones((2, 2))}, "singular"),
        ({"x": np.eye(3), "y": np.ones(3)}, "one to 2 dimensions"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"activation": "erf", "x": X, "y": Y, **change}
    with pytest.raises(ValueError, match=message):
        two_layer_drift(arguments.pop("activation"), arguments.pop("x"), arguments.pop("y"), **arguments)
