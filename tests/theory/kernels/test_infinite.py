"""Kernels of infinite width: neural-tangents, mpmath, finite networks in NumPy, limits and invariances."""

from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import erf, ndtr

from theory.architecture import MLP, Activation
from theory.kernels import kernels_by_depth, nngp, ntk
from theory.kernels.neural_tangents import nt

DEPTHS = 10
WEIGHT_VARIANCE, BIAS_VARIANCES = 1.7, np.array([0.0, 0.4])


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(11)
    return rng.normal(size=(4, 5)), rng.normal(size=(3, 5))


def reference_kernels(activation, bias_variance, x):
    """NNGP and NTK of neural-tangents after each depth from 1 to 10, layer by layer through one block."""

    def dense():
        bias = float(np.sqrt(bias_variance)) if bias_variance else None
        return nt.stax.Dense(1, W_std=float(np.sqrt(WEIGHT_VARIANCE)), b_std=bias, parameterization="ntk")

    first, block = nt.stax.serial(dense()), nt.stax.serial(activation, dense())
    # Its annotations give every kernel function the union of all that any of them may return.
    kernel: Any = first[2](x, None, None)
    for _ in range(DEPTHS):
        kernel = block[2](kernel)
        yield kernel.nngp, kernel.ntk


@pytest.mark.parametrize(
    ("name", "activation"), [("relu", nt.stax.Relu()), ("erf", nt.stax.Erf()), ("gelu", nt.stax.Gelu())]
)
def test_agrees_with_neural_tangents_from_depth_1_to_10(name, activation, inputs):
    x1, x2 = inputs
    both = np.concatenate(inputs)
    references = [list(reference_kernels(activation, sb, both)) for sb in BIAS_VARIANCES]
    # Without and with biases; the variances are data, so that both use one compiled kernel.
    for reference, bias_variance in zip(references, BIAS_VARIANCES, strict=True):
        kernels = kernels_by_depth(MLP(DEPTHS, name, WEIGHT_VARIANCE, bias_variance), both)
        for depth in range(1, DEPTHS + 1):
            for every, expected in zip(kernels, reference[depth - 1], strict=True):
                np.testing.assert_allclose(every[depth], expected, rtol=1e-10, err_msg=f"depth {depth}")
        for depth in (2, DEPTHS):
            mlp = MLP(depth, name, WEIGHT_VARIANCE, bias_variance)
            for kernel, every in zip((nngp, ntk), kernels, strict=True):
                np.testing.assert_allclose(kernel(mlp, both), every[depth], rtol=1e-13)
        between = kernels_by_depth(MLP(DEPTHS, name, WEIGHT_VARIANCE, bias_variance), x1, x2)
        for block, whole in zip(between, kernels, strict=True):
            np.testing.assert_allclose(block, whole[:, : len(x1), len(x1) :], rtol=1e-10)


def by_mpmath(x, y, depth, weight_variance, bias_variance):
    """The ReLU recursions in 60 digits, with arccos as printed by Cho & Saul."""
    x, y = ([mp.mpf(float(entry)) for entry in vector] for vector in (x, y))
    weight_variance, bias_variance = mp.mpf(weight_variance), mp.mpf(bias_variance)

    def covariance(left, right):
        return weight_variance * mp.fdot(left, right) / len(left) + bias_variance

    a, b, c = covariance(x, x), covariance(y, y), covariance(x, y)
    tangent = c
    for _ in range(depth):
        rho = max(min(c / mp.sqrt(a * b), mp.mpf(1)), mp.mpf(-1))
        theta = mp.acos(rho)
        slope = weight_variance * (mp.pi - theta) / (2 * mp.pi)
        mean = mp.sqrt(a * b) * (mp.sin(theta) + (mp.pi - theta) * rho) / (2 * mp.pi)
        a, b = (weight_variance * q / 2 + bias_variance for q in (a, b))
        c = weight_variance * mean + bias_variance
        tangent = c + slope * tangent
    return float(c), float(tangent)


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_relu_agrees_with_mpmath_at_extreme_correlations(gap, sign):
    """ρ = ±1, ±(1 − 1e-12), 0 between inputs, alone and as one entry of a symmetric matrix."""
    x = np.array([0.6, -1.1, 0.3, 2.0])
    across = np.array([1.1, 0.6, -2.0, 0.3])  # orthogonal to x and of its length
    y = sign * ((1 - gap) * x + np.sqrt(gap * (2 - gap)) * across)
    for depth in (1, 10):
        for bias_variance in (0.0, 0.3):
            mlp = MLP(depth, "relu", 2.0, bias_variance)
            with mp.workdps(60):
                expected = by_mpmath(x, y, depth, 2.0, bias_variance)
            pair = np.stack([x, y])
            for value, reference in zip((nngp, ntk), expected, strict=True):
                # At ρ = −1 and depth 1 the kernels vanish: there the scale is that of the diagonal.
                results = value(mlp, x[None], y[None])[0, 0], value(mlp, pair)[0, 1]
                np.testing.assert_allclose(results, reference, rtol=1e-11, atol=1e-11)


FUNCTIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "erf": (erf, lambda z: 2 / np.sqrt(np.pi) * np.exp(-z * z)),
    "gelu": (lambda z: z * ndtr(z), lambda z: ndtr(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sin": (np.sin, np.cos),
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_agrees_with_finite_networks_of_one_hidden_layer(name, inputs, rng):
    """NNGP and NTK of depth 1 are means over independent units: Monte Carlo over 100,000 of them, at 5σ."""
    x, units, (phi, slope) = inputs[0][:2], 100_000, FUNCTIONS[name]
    weight_variance, bias_variance = 1.7, 0.4
    d = x.shape[1]
    z = np.sqrt(weight_variance / d) * rng.normal(size=(units, d)) @ x.T + np.sqrt(bias_variance) * rng.normal(
        size=(units, 1)
    )
    readout = rng.normal(size=units)
    first_layer = weight_variance * (x @ x.T) / d + bias_variance
    hidden = weight_variance * phi(z)[:, :, None] * phi(z)[:, None, :] + bias_variance
    tangents = hidden + weight_variance * (readout[:, None, None] ** 2) * (
        slope(z)[:, :, None] * slope(z)[:, None, :] * first_layer
    )
    mlp = MLP(1, name, weight_variance, bias_variance)
    for sample, kernel in ((hidden, nngp(mlp, x)), (tangents, ntk(mlp, x))):
        error = sample.std(axis=0) / np.sqrt(units)
        assert np.all(np.abs(sample.mean(axis=0) - kernel) < 5 * error)
        assert np.all(5 * error < 0.1 * np.abs(kernel).max())  # so that a factor ½ would be seen


def test_deep_networks_approach_the_covariance(rng, inputs):
    """Mean of f(x)f(x') over 3-layer networks of width 256; the theory's own error there is of order 1/256."""
    x, width, members = inputs[0][:2], 256, 400
    samples = []
    for _ in range(members):
        h = x
        for fan_in in (x.shape[1], width, width):
            weights = rng.normal(size=(fan_in, width)) * np.sqrt(1.5 / fan_in)
            h = np.tanh(h @ weights + np.sqrt(0.2) * rng.normal(size=width))
        samples.append(1.5 * h @ h.T / width + 0.2)
    kernel = np.asarray(nngp(MLP(3, "tanh", 1.5, 0.2), x))
    error = np.std(samples, axis=0) / np.sqrt(members)
    np.testing.assert_array_less(np.abs(np.mean(samples, axis=0) - kernel), 5 * error + 2 * kernel.max() / width)


def test_the_linear_model_and_linear_networks():
    x, y = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[3.0, 1.0]])
    inner = x @ y.T / 2
    np.testing.assert_allclose(nngp(MLP(0, "linear", 3.0, 0.5), x, y), 3.0 * inner + 0.5, rtol=1e-15)
    np.testing.assert_allclose(ntk(MLP(0, "linear", 3.0, 0.5), x, y), 3.0 * inner + 0.5, rtol=1e-15)
    # L equal terms of a deep linear network without biases: Θ = L σ_w^{2L} x·x'/d.
    np.testing.assert_allclose(ntk(MLP(4, "linear", 1.5), x, y), 5 * 1.5**5 * inner, rtol=1e-14)


def test_relu_at_criticality_keeps_norms_and_its_correlations_drift_to_one():
    x = np.array([[1.0, 1.0], [1.0, -1.0]])
    kernel = np.asarray(nngp(MLP(400, "relu"), x))
    np.testing.assert_allclose(np.diag(kernel), 2.0, rtol=1e-12)
    # θ_l → 3π/l from θ' = θ − θ²/3π, with a logarithmic correction at this depth.
    assert np.arccos(kernel[0, 1] / 2.0) == pytest.approx(3 * np.pi / 400, rel=0.1)


def test_the_diagonal_is_exact_and_the_matrix_symmetric(inputs):
    x = np.concatenate([inputs[0], inputs[0][:1]])  # with one input twice
    for name in ("relu", "tanh"):
        mlp = MLP(3, name, 2.0, 0.1)
        for kernel in (nngp(mlp, x), ntk(mlp, x)):
            np.testing.assert_array_equal(kernel, kernel.T)
            assert float(kernel[0, 4]) == pytest.approx(float(kernel[0, 0]), rel=1e-7)
        # As it is for each input alone, where every layer has ρ = 1.
        for kernel in (nngp, ntk):
            alone = [float(kernel(mlp, row[None])[0, 0]) for row in x]
            np.testing.assert_allclose(np.diag(kernel(mlp, x)), alone, rtol=1e-14)


vectors = arrays(np.float64, (4, 3), elements=st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3))


@settings(max_examples=25, deadline=None)
@given(vectors, st.sampled_from(["relu", "erf", "gelu"]))
def test_kernels_are_symmetric_and_positive_semidefinite(x, name):
    mlp = MLP(2, name, 1.5, 0.1)
    for kernel in (nngp(mlp, x), ntk(mlp, x)):
        np.testing.assert_array_equal(kernel, kernel.T)
        eigenvalues = np.linalg.eigvalsh(np.asarray(kernel))
        # Equal or parallel inputs make the kernel of ReLU singular; rounding enters there as √ε.
        assert eigenvalues[0] >= -1e-7 * eigenvalues[-1]


@settings(max_examples=25, deadline=None)
@given(vectors, st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_relu_kernels_are_homogeneous(x, a, b):
    mlp = MLP(2, "relu")
    for kernel in (nngp, ntk):
        scaled, plain = kernel(mlp, a * x, b * x[::-1]), a * b * kernel(mlp, x, x[::-1])
        np.testing.assert_allclose(scaled, plain, rtol=1e-6, atol=1e-8 * a * b * np.max(x * x))


def test_vmap_and_grad_over_the_variances(inputs):
    x, shift = inputs[0], 1e-6

    def total(w, b):
        return jnp.sum(ntk(MLP(3, "relu", w, b), x))

    # In one compiled sweep: the kernels, their derivatives, and the values that these must agree with.
    weights = np.array([1.5, 1.5 + shift, 1.5 - shift, 1.5, 1.5])
    biases = np.array([0.1, 0.1, 0.1, 0.1 + shift, 0.1 - shift])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(total, argnums=(0, 1))))(weights, biases)
    assert float(slopes[0][0]) == pytest.approx(float(values[1] - values[2]) / (2 * shift), rel=1e-6)
    assert float(slopes[1][0]) == pytest.approx(float(values[3] - values[4]) / (2 * shift), rel=1e-6)
    assert float(values[0]) == pytest.approx(float(total(1.5, 0.1)), rel=1e-13)


def test_gradients_by_the_inputs_are_finite_on_the_diagonal(inputs):
    """The symmetric case has ρ = 1 there, where a careless gradient is NaN."""
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(ntk(MLP(2, "relu"), x))))(inputs[0])
    assert np.isfinite(gradient).all()
    # Homogeneity: Σ x·∂Θ/∂x = 2 Σ Θ.
    total = float(jnp.sum(ntk(MLP(2, "relu"), inputs[0])))
    assert float(jnp.sum(gradient * inputs[0])) == pytest.approx(2 * total, rel=1e-10)


def test_a_custom_activation_gives_the_kernel_of_its_named_twin(inputs):
    custom = Activation("my-erf", lambda x: jax.scipy.special.erf(x))
    for kernel in (nngp, ntk):
        expected = kernel(MLP(2, "erf", 1.5, 0.1), *inputs)
        np.testing.assert_allclose(kernel(MLP(2, custom, 1.5, 0.1), *inputs), expected, rtol=1e-11)


def test_dtypes_lists_and_integers():
    x, y = [[1, 2], [3, 4]], [[2, 1]]
    single, other = np.array(x, np.float32), np.array(y, np.float32)
    assert nngp(MLP(2), x, y).dtype == jnp.float64
    assert nngp(MLP(2), single, other).dtype == jnp.float32
    np.testing.assert_allclose(ntk(MLP(2), single, other), ntk(MLP(2), x, y), rtol=3e-6)


def test_zero_inputs_give_no_nan():
    x = np.zeros((2, 3))
    x[1] = 1.0
    for name in ("relu", "erf", "sign", "tanh"):
        assert np.isfinite(ntk(MLP(2, name), x)).all()


@pytest.mark.parametrize(
    ("x1", "x2", "message"),
    [
        (np.ones(3), None, r"x1 must have shape \(examples, features\), got \(3,\)"),
        (np.ones((2, 2, 2)), None, "flatten each example"),
        (np.ones((2, 3)), np.ones((2, 4)), "same number of features, got 3 and 4"),
        (np.array([[1.0, np.nan]]), None, "x1 must be finite"),
        (np.ones((2, 1)), np.array([[np.inf]]), "x2 must be finite"),
        (np.ones((2, 0)), None, "at least one feature"),
    ],
)
def test_wrong_inputs_are_refused(x1, x2, message):
    with pytest.raises(ValueError, match=message):
        nngp(MLP(1), x1, x2)
