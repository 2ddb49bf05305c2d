"""Convolutional kernels: neural-tangents, the MLP they contain, mpmath, finite networks, invariances."""

from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from experiments.families import convolutional_network
from theory.architecture import MLP, Convolutional
from theory.kernels import nngp, ntk
from theory.kernels.convolutional import LIVE, convolutional_kernels
from theory.kernels.neural_tangents import nt

PADDINGS = {"circular": "CIRCULAR", "same": "SAME", "valid": "VALID"}
ACTIVATIONS = {"relu": nt.stax.Relu(), "erf": nt.stax.Erf()}


def reference(architecture, x1, x2):
    """NNGP and NTK of neural-tangents."""
    scales = {
        "W_std": float(architecture.weight_variance) ** 0.5,
        "b_std": float(architecture.bias_variance) ** 0.5,
        "parameterization": "ntk",
    }
    numbers = ("NHC", "HIO", "NHC") if len(architecture.filter) == 1 else None
    layers = []
    for _ in range(architecture.depth):
        padding = PADDINGS[architecture.padding]
        layers += [nt.stax.Conv(1, architecture.filter, padding=padding, dimension_numbers=numbers, **scales)]
        layers += [ACTIVATIONS[architecture.activation.name]]
    layers += [nt.stax.Flatten() if architecture.readout == "flatten" else nt.stax.GlobalAvgPool()]
    kernel: Any = nt.stax.serial(*layers, nt.stax.Dense(1, **scales))[2](x1, x2, ("nngp", "ntk"))
    return kernel.nngp, kernel.ntk


CASES = [
    # Filters of even size, of one and two axes; every padding and readout; a kink and none.
    ("relu", (2,), "same", "pool", 2, (4, 2)),
    ("erf", (3, 2), "circular", "flatten", 2, (3, 4, 2)),
]


@pytest.mark.parametrize(("name", "filter_", "padding", "readout", "depth", "shape"), CASES)
def test_agrees_with_neural_tangents(name, filter_, padding, readout, depth, shape, rng):
    x1, x2 = rng.normal(size=(3, *shape)), rng.normal(size=(2, *shape))
    architecture = Convolutional(depth, name, 1.7, 0.3, filter=filter_, padding=padding, readout=readout)
    found = convolutional_kernels(architecture, x1, x2)
    for kernel, expected in zip(found, reference(architecture, x1, x2), strict=True):
        np.testing.assert_allclose(kernel, expected, rtol=1e-10)


WIDE = Convolutional(1, "relu", 2.0, 0.1, filter=(5,), readout="pool")


def test_filters_as_wide_as_the_image_give_the_fully_connected_kernel_and_its_mean_over_shifts(rng):
    """The identity behind the gain from pooling; the MLP's own recursion is the oracle."""
    x = rng.normal(size=(4, 5))
    mlp, image = MLP(1, "relu", 2.0, 0.1), x[..., None]
    shifted = [np.roll(x, shift, axis=1) for shift in range(5)]
    # 4 inputs in blocks of 3, as if there were no memory for more.
    pooled = convolutional_kernels(WIDE, image, memory=3 * LIVE * 8 * 4 * 5)
    for kernel, mean in zip((nngp, ntk), pooled, strict=True):
        np.testing.assert_allclose(mean, np.mean([kernel(mlp, x, y) for y in shifted], axis=0), rtol=1e-12)
        np.testing.assert_array_equal(mean, np.transpose(mean))
    np.testing.assert_allclose(ntk(replace_readout(WIDE, "flatten"), image), ntk(mlp, x, x), rtol=1e-12)


def replace_readout(architecture, readout):
    return Convolutional(
        architecture.depth,
        architecture.activation,
        architecture.weight_variance,
        architecture.bias_variance,
        filter=architecture.filter,
        padding=architecture.padding,
        readout=readout,
    )


def by_mpmath(x, y, weight, bias):
    """One ReLU layer of filters of size 3 with zeros around, pooled, in 40 digits."""
    size, k = len(x), 3

    def value(image, position):
        return mp.mpf(float(image[position])) if 0 <= position < size else mp.mpf(0)

    def covariance(u, v, i, j):
        return weight * sum(value(u, i + b) * value(v, j + b) for b in (-1, 0, 1)) / k + bias

    total, tangent = mp.mpf(0), mp.mpf(0)
    for i in range(size):
        for j in range(size):
            a, b, c = covariance(x, x, i, i), covariance(y, y, j, j), covariance(x, y, i, j)
            rho = max(min(c / mp.sqrt(a * b), mp.mpf(1)), mp.mpf(-1))
            theta = mp.acos(rho)
            total += mp.sqrt(a * b) * (mp.sin(theta) + (mp.pi - theta) * rho) / (2 * mp.pi)
            tangent += (mp.pi - theta) / (2 * mp.pi) * c
    first = weight * total / size**2 + bias
    return float(first), float(first + weight * tangent / size**2)


@pytest.mark.parametrize("gap", [0.0, 1e-9])
def test_angles_between_like_images_keep_their_digits(gap, rng):
    """A kinked activation sees an angle of 1e-9, which products of the images lose."""
    x = rng.normal(size=5)
    y = x + gap * rng.normal(size=5)
    architecture = Convolutional(1, "relu", 2.0, 0.0, filter=(3,), padding="same", readout="pool")
    with mp.workdps(40):
        expected = by_mpmath(x, y, mp.mpf(2), mp.mpf(0))
    found = convolutional_kernels(architecture, np.stack([x, x])[..., None], np.stack([y, y])[..., None])
    for kernel, value in zip(found, expected, strict=True):
        np.testing.assert_allclose(kernel, value, rtol=1e-12)


def test_pooling_makes_circular_kernels_invariant_and_zeros_around_do_not(rng):
    x, y = rng.normal(size=(2, 2, 5, 1))
    moved = np.roll(y, 2, axis=1)
    circular = Convolutional(2, "erf", 1.5, 0.1, filter=(3,), readout="pool")
    same = Convolutional(2, "erf", 1.5, 0.1, filter=(3,), padding="same", readout="pool")
    np.testing.assert_allclose(ntk(circular, x, y), ntk(circular, x, moved), rtol=1e-12)
    assert np.abs(np.asarray(ntk(same, x, y) - ntk(same, x, moved))).max() > 1e-4


def test_variances_may_be_traced(rng):
    x = rng.normal(size=(2, 3, 1))

    def total(weight_variance):
        return jnp.sum(nngp(Convolutional(1, "erf", weight_variance, 0.1, filter=(2,)), x))

    slopes = jax.jvp(total, (2.0,), (1.0,))[1], jax.grad(total)(2.0)
    step = 1e-5
    difference = (total(2.0 + step) - total(2.0 - step)) / (2 * step)
    # The central difference is off by step²/6 times a third derivative of the kernel's own size.
    np.testing.assert_allclose(slopes, difference, rtol=1e-8)


def test_finite_networks_have_these_kernels(getkey, rng):
    """Two layers of 64 channels; kernels at the start are means over 512 networks, off by 1/width themselves."""
    members, width = 512, 64
    architecture = Convolutional(2, "erf", 1.5, 0.2, filter=(2,), padding="same", readout="pool")
    x = rng.normal(size=(2, 4, 2))
    net = convolutional_network(architecture, width=width, space=(4,), channels=2)

    def kernels(key):
        params = net.init(key, jnp.float64)
        gradients = jax.jacrev(lambda p: net.apply(p, x)[:, 0])(params)
        rows = jnp.concatenate([g.reshape(len(x), -1) for g in jax.tree.leaves(gradients)], axis=1)
        outputs = net.apply(params, x)[:, 0]
        return jnp.outer(outputs, outputs), rows @ rows.T

    samples = jax.jit(lambda keys: jax.lax.map(kernels, keys, batch_size=64))(jax.random.split(getkey(), members))
    for sample, expected in zip(samples, convolutional_kernels(architecture, x), strict=True):
        error = np.std(sample, axis=0) / members**0.5
        gap = np.abs(np.mean(sample, axis=0) - expected)
        # The bias of finite width is about the layers over the width, relatively.
        np.testing.assert_array_less(gap, 4.5 * error + 4 / width * float(expected.max()))
        # So that a factor ½ or a lost layer would be seen.
        assert np.all(4.5 * error + 4 / width * float(expected.max()) < 0.45 * float(expected.max()))


@pytest.mark.parametrize(("padding", "readout"), [("circular", "pool"), ("same", "flatten"), ("valid", "flatten")])
def test_networks_compute_what_the_definition_says(padding, readout, getkey, rng):
    """One even and one odd filter size, position by position in NumPy."""
    architecture = Convolutional(1, "square", 1.5, 0.2, filter=(2, 3), padding=padding, readout=readout)
    net = convolutional_network(architecture, width=3, space=(3, 4), channels=2, outputs=2)
    params = net.init(getkey(), jnp.float64)
    (w, b), (v, c) = ([np.asarray(layer[name]) for name in ("weight", "bias")] for layer in params)
    x = rng.normal(size=(3, 4, 2))
    left = (0, 0) if padding == "valid" else (0, 1)
    rows, columns = (2, 2) if padding == "valid" else (3, 4)
    hidden = np.zeros((rows, columns, 3))
    for i in range(rows):
        for j in range(columns):
            for p in range(2):
                for q in range(3):
                    k, m = i + p - left[0], j + q - left[1]
                    if padding == "circular":
                        k, m = k % 3, m % 4
                    if 0 <= k < 3 and 0 <= m < 4:
                        hidden[i, j] += w[p, q].T @ x[k, m]
    z = (1.5 / 12) ** 0.5 * hidden + 0.2**0.5 * b
    h = (z**2).reshape(-1) if readout == "flatten" else (z**2).mean(axis=(0, 1))
    expected = (1.5 / len(h)) ** 0.5 * h @ v + 0.2**0.5 * c
    np.testing.assert_allclose(net.apply(params, x[None])[0], expected, rtol=1e-12)


def test_standard_parametrisation_gives_the_same_function(getkey, rng):
    architecture = Convolutional(1, "relu", 1.5, 0.2, filter=(3,), readout="pool")
    x, normals = rng.normal(size=(2, 4, 1)), rng.normal(size=100)
    nets = [
        convolutional_network(architecture, width=6, space=(4,), parametrisation=name) for name in ("ntk", "standard")
    ]
    outputs = [net.apply(net.assemble(normals[: net.parameters]), x) for net in nets]
    np.testing.assert_allclose(*outputs, rtol=1e-12)
    assert nets[0].parameters == 3 * 6 + 6 + 6 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be an integer number of convolutional layers, at least 1"),
        ({"depth": 1, "filter": (3, 0)}, r"filter must be one or two sizes of at least 1, such as \(3, 3\)"),
        ({"depth": 1, "padding": "zero"}, "padding must be one of circular, same, valid"),
        ({"depth": 1, "readout": "mean"}, "readout must be one of flatten, pool"),
        ({"depth": 1, "activation": "rellu"}, "relu"),
        ({"depth": 1, "weight_variance": -1.0}, "weight_variance must be finite and at least 0"),
    ],
)
def test_wrong_architectures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Convolutional(**arguments)


def test_wrong_images_are_refused():
    architecture = Convolutional(2, filter=(3,), padding="valid")
    for x, message in (
        (np.ones((2, 6)), r"\(examples, width, channels\), got \(2, 6\); x1\[..., None\] adds a channel"),
        (np.ones((2, 4, 1)), "at least 5 positions for filters of size 3, 2 layers and 'valid' padding, got 4"),
        (np.full((2, 6, 1), np.nan), "x1 must be finite"),
        (np.ones((2, 6, 0)), "at least one position and one channel"),
    ):
        with pytest.raises(ValueError, match=message):
            ntk(architecture, x)
    with pytest.raises(ValueError, match="images of one shape"):
        ntk(architecture, np.ones((2, 6, 1)), np.ones((2, 6, 2)))
    with pytest.raises(ValueError, match="memory must be positive"):
        convolutional_kernels(architecture, np.ones((2, 6, 1)), memory=0)
    with pytest.raises(ValueError, match="space must be at least 5"):
        convolutional_network(architecture, width=4, space=(4,))
    with pytest.raises(ValueError, match="space must have 1 sizes"):
        convolutional_network(architecture, width=4, space=(8, 8))
    net = convolutional_network(architecture, width=4, space=(8,))
    params = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"x must have shape \(n, 8, 1\)"):
        net.apply(params, np.ones((2, 8)))
