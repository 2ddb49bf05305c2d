"""Maps of every family against the kernels of the same architecture, closed forms, and numerical Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from theory.architecture import MLP, Attention, Convolutional, LayerNorm, Residual, StandardBiases
from theory.kernels import nngp
from theory.mean_field import correlation_slope, length_map, pair_map, propagate
from theory.mean_field.families import (
    family_length_map,
    family_pair_map,
    family_propagate,
    family_slope,
)
from theory.mean_field.positions import fourier_slopes, position_map

WEIGHT, BIAS, SCALE = 1.7, 0.3, 0.7


def residual(depth, activation="erf"):
    return Residual(depth, activation, WEIGHT, BIAS, branch_scale=SCALE)


FAMILIES = {
    "residual": lambda depth: residual(depth, "relu"),
    "normalised MLP": lambda depth: LayerNorm(MLP(depth, "erf", WEIGHT, BIAS)),
    "normalised residual": lambda depth: LayerNorm(residual(depth)),
}


def covariances(track):
    q1, q2, c = (np.asarray(part) for part in track)
    return np.stack([q1, q2, c * np.sqrt(q1 * q2)])


@pytest.mark.parametrize("name", list(FAMILIES))
def test_propagation_ends_where_the_kernels_of_growing_depth_are(name, rng):
    x = rng.normal(size=(2, 3))
    gram = x @ x.T / 3
    start = gram[0, 0], gram[1, 1], gram[0, 1] / np.sqrt(gram[0, 0] * gram[1, 1])
    for depth in (1, 2, 5):
        architecture = FAMILIES[name](depth)
        kernel = np.asarray(nngp(architecture, x))
        track = covariances(family_propagate(architecture, *start))
        np.testing.assert_allclose(track[:, -1], [kernel[0, 0], kernel[1, 1], kernel[0, 1]], rtol=1e-12)
        plain = getattr(architecture, "architecture", architecture)
        assert track.shape[1] == depth + (2 if isinstance(plain, Residual) else 1)
        # The layers before are the trajectory of a shallower network, without its readout.
        shorter = covariances(family_propagate(FAMILIES[name](max(1, depth - 1)), *start))
        np.testing.assert_allclose(track[:, : shorter.shape[1] - 1], shorter[:, :-1], rtol=1e-13)


def test_a_convolution_of_inputs_alike_at_all_positions_is_an_mlp(rng):
    x = rng.normal(size=(2, 3))
    gram, images = x @ x.T / 3, np.repeat(x[:, None], 4, axis=1)
    start = gram[0, 0], gram[1, 1], gram[0, 1] / np.sqrt(gram[0, 0] * gram[1, 1])
    for norm, padding in ((False, "circular"), (True, "valid")):
        plain = Convolutional(2, "erf", WEIGHT, BIAS, filter=(2,), padding=padding)
        architecture = LayerNorm(plain) if norm else plain
        kernel = np.asarray(nngp(architecture, images))
        track = covariances(family_propagate(architecture, *start))
        np.testing.assert_allclose(track[:, -1], [kernel[0, 0], kernel[1, 1], kernel[0, 1]], rtol=1e-12)
    mlp = MLP(2, "erf", WEIGHT, BIAS)
    for one, two in zip(
        family_propagate(Convolutional(2, "erf", WEIGHT, BIAS), *start), propagate(mlp, *start), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-13)


def test_an_mlp_has_its_own_maps():
    mlp = MLP(2, "tanh", WEIGHT, BIAS)
    np.testing.assert_allclose(
        family_length_map(mlp, np.array([0.0, 0.5])), length_map(mlp, np.array([0.0, 0.5])), rtol=1e-13
    )
    np.testing.assert_allclose(family_pair_map(mlp, 0.5, 2.0, -0.3), pair_map(mlp, 0.5, 2.0, -0.3), rtol=1e-13)
    np.testing.assert_allclose(
        family_slope(mlp, 0.8, np.array([0.2, 1.0])), correlation_slope(mlp, 0.8, np.array([0.2, 1.0]))
    )
    linear = MLP(0, "linear", WEIGHT, BIAS)
    np.testing.assert_allclose(family_propagate(linear, 1.0, 2.0, 0.1).length2, [WEIGHT * 2.0 + BIAS], rtol=1e-13)


def test_lengths_of_relu_in_closed_form():
    """E relu² = q/2: growth by 1 + α²σ_w²/2 a block, a constant under a layer norm, e^{σ_w²/2} for α = 1/√L."""
    skip = Residual(3, "relu", 1.5, branch_scale=0.5)
    np.testing.assert_allclose(
        family_length_map(skip, np.array([0.0, 0.7])), [0.0, 0.7 * (1 + 0.25 * 0.75)], rtol=1e-13
    )
    np.testing.assert_allclose(family_slope(skip, 0.7, 1.0), 1 + 0.25 * 0.75, rtol=1e-13)
    np.testing.assert_allclose(
        family_length_map(LayerNorm(skip), np.array([0.0, 0.7])), [0.0, 0.7 + 0.25 * 0.75], rtol=1e-13
    )
    norm = LayerNorm(MLP(2, "relu", 2.0, 0.1))
    np.testing.assert_allclose(family_length_map(norm, np.array([0.0, 0.01, 9.0])), [0.1, 1.1, 1.1], rtol=1e-13)
    deep = Residual(1000, "relu", 1.0, branch_scale=1000**-0.5)
    # (1 + 1/2L)^L is e^{1/2} less 1/8L of it.
    np.testing.assert_allclose(family_propagate(deep).length1[-2], np.exp(0.5) * (1 - 1 / 8000), rtol=1e-6)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_slopes_are_derivatives_of_the_covariance(name):
    architecture, q, c, step = FAMILIES[name](2), 1.3, 0.4, 1e-5

    def covariance(c):
        a, b, after = family_pair_map(architecture, q, q, c)
        return float(after * jnp.sqrt(a * b))

    difference = (covariance(c + step) - covariance(c - step)) / (2 * step * q)
    # Off by step²/6 times a third derivative of order 1.
    np.testing.assert_allclose(family_slope(architecture, q, c), difference, rtol=1e-8)


def test_position_maps_lead_to_the_kernel(rng):
    """Images with |x(α)|² = c everywhere; the flattened readout is the mean over positions."""
    x = rng.normal(size=(2, 3, 4, 5))
    x *= np.sqrt(5) / np.linalg.norm(x, axis=-1, keepdims=True)
    for wrap in (lambda a: a, LayerNorm):
        architecture = wrap(Convolutional(2, "erf", WEIGHT, BIAS, filter=(2, 3)))
        q, k = WEIGHT + BIAS, WEIGHT * np.mean(x[0] * x[1], axis=-1) + BIAS
        # The first convolution, by hand.
        k = np.mean([np.roll(k, (-i, -j), (0, 1)) for i in (0, 1) for j in (-1, 0, 1)], axis=0)
        for _ in range(2):
            k, q = position_map(architecture, q, k), family_length_map(architecture, q)
        np.testing.assert_allclose(np.mean(k), nngp(architecture, x[:1], x[1:])[0, 0], rtol=1e-12)


@pytest.mark.parametrize(("filter_", "space", "norm"), [((3,), (5,), False), ((2, 3), (3, 4), True)])
def test_waves_are_eigenvectors_of_a_numerical_jacobian(filter_, space, norm):
    plain = Convolutional(1, "erf", WEIGHT, BIAS, filter=filter_)
    architecture = LayerNorm(plain) if norm else plain
    q, c, step, size = 1.4, 0.6, 1e-5, int(np.prod(space))
    moved = c * q + step * np.eye(size).reshape(size, *space), c * q - step * np.eye(size).reshape(size, *space)
    high, low = (np.asarray(position_map(architecture, q, k)).reshape(size, size) for k in moved)
    jacobian = ((high - low) / (2 * step)).T
    slopes = np.asarray(fourier_slopes(architecture, q, c, space=space))
    for k in np.ndindex(space):
        wave = np.fft.ifftn(np.eye(size)[np.ravel_multi_index(k, space)].reshape(space)).reshape(-1) * size
        # Central differences are good to 1e-10.
        np.testing.assert_allclose(jacobian @ wave, slopes[k] * wave, atol=1e-8)
    np.testing.assert_allclose(slopes.flat[0], family_slope(architecture, q, c), rtol=1e-13)
    assert np.all(np.abs(slopes.flat[1:]) < 0.95 * np.abs(slopes.flat[0]))
    assert (np.abs(np.imag(slopes)).max() < 1e-15) == all(k % 2 for k in filter_)


def test_variances_and_scales_may_be_traced():
    def length(scale):
        return family_length_map(Residual(1, "relu", 2.0, branch_scale=scale), 1.0)

    # 1 + α² has the slope 2α.
    np.testing.assert_allclose(jax.grad(length)(0.3), 0.6, rtol=1e-12)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_how_biases_are_learned_changes_no_map(name):
    plain, standard = FAMILIES[name](3), StandardBiases(FAMILIES[name](3))
    np.testing.assert_array_equal(family_length_map(standard, 1.3), family_length_map(plain, 1.3))
    np.testing.assert_array_equal(family_pair_map(standard, 1.3, 0.8, 0.4), family_pair_map(plain, 1.3, 0.8, 0.4))
    np.testing.assert_array_equal(family_slope(standard, 1.3, 0.4), family_slope(plain, 1.3, 0.4))
    np.testing.assert_array_equal(family_propagate(standard, 1.3, 0.8, 0.4), family_propagate(plain, 1.3, 0.8, 0.4))
    convolution, covariance = Convolutional(1, "erf", WEIGHT, BIAS, filter=(3,)), np.linspace(0.2, 0.9, 5)
    np.testing.assert_array_equal(
        position_map(StandardBiases(convolution), 1.0, covariance), position_map(convolution, 1.0, covariance)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: family_length_map(Convolutional(1, padding="same"), 1.0), "padding must be 'circular' or 'valid'"),
        (lambda: family_propagate(Convolutional(1, readout="pool")), "readout must be 'flatten', got 'pool'"),
        (lambda: family_propagate(residual(1), -1.0), "length1 is"),
        (lambda: family_propagate(residual(1), correlation=2.0), "correlation is the cosine"),
        (lambda: position_map(Convolutional(1, padding="valid"), 1.0, np.ones((3, 3))), "with padding='circular'"),
        (lambda: position_map(LayerNorm(MLP(1)), 1.0, np.ones((3, 3))), "with padding='circular'"),
        (lambda: position_map(Convolutional(1), 1.0, np.ones(3)), r"covariance must have 2 axes of space, got shape"),
        (lambda: position_map(Convolutional(1), 0.0, np.ones((3, 3))), "length must be one positive number, got 0.0"),
        (lambda: fourier_slopes(Convolutional(1), 1.0, 1.0, space=(3,)), "space must be 2 positive sizes"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_attention_is_refused():
    # Where annotations are checked, as in these tests, they are the first to refuse.
    with pytest.raises((ValueError, TypeCheckError), match="Attention"):
        family_length_map(Attention(1), 1.0)  # pyright: ignore[reportArgumentType]
