"""Skip connections and layer norms: neural-tangents, the MLP, mpmath, finite networks."""

from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from theory.architecture import MLP, Convolutional, LayerNorm, Residual
from theory.kernels import nngp, ntk
from theory.kernels.neural_tangents import nt
from theory.kernels.residual import residual_kernels

WEIGHT, BIAS, SCALE = 1.7, 0.3, 0.7
ACTIVATIONS = {"relu": nt.stax.Relu(), "erf": nt.stax.Erf()}


def dense(scale=1.0):
    return nt.stax.Dense(1, W_std=scale * WEIGHT**0.5, b_std=scale * BIAS**0.5, parameterization="ntk")


def reference(name, norm, x1, x2):
    """Two residual blocks of neural-tangents."""
    before = (nt.stax.LayerNorm(), ACTIVATIONS[name]) if norm else (ACTIVATIONS[name],)
    branch = nt.stax.serial(*before, dense(SCALE))
    block = nt.stax.serial(nt.stax.FanOut(2), nt.stax.parallel(nt.stax.Identity(), branch), nt.stax.FanInSum())
    kernel: Any = nt.stax.serial(dense(), block, block, *before, dense())[2](x1, x2, ("nngp", "ntk"))
    return kernel.nngp, kernel.ntk


@pytest.mark.parametrize(("name", "norm"), [("relu", False), ("erf", True)])
def test_residual_kernels_agree_with_neural_tangents(name, norm, rng):
    x1, x2 = rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
    network = Residual(2, name, WEIGHT, BIAS, branch_scale=SCALE)
    found = residual_kernels(LayerNorm(network) if norm else network, x1, x2)
    for kernel, expected in zip(found, reference(name, norm, x1, x2), strict=True):
        np.testing.assert_allclose(kernel, expected, rtol=1e-10)


def test_layer_norms_in_other_families_agree_with_neural_tangents(rng):
    x1, x2 = rng.normal(size=(3, 4, 2)), rng.normal(size=(2, 4, 2))
    numbers = ("NHC", "HIO", "NHC")
    scales: dict[str, Any] = {"W_std": WEIGHT**0.5, "b_std": BIAS**0.5, "parameterization": "ntk"}
    convolution = nt.stax.Conv(1, (3,), padding="SAME", dimension_numbers=numbers, **scales)
    layers = [convolution, nt.stax.LayerNorm(), nt.stax.Erf()]
    kernel: Any = nt.stax.serial(*layers, *layers, nt.stax.GlobalAvgPool(), dense())[2](x1, x2, ("nngp", "ntk"))
    network = LayerNorm(Convolutional(2, "erf", WEIGHT, BIAS, filter=(3,), padding="same", readout="pool"))
    np.testing.assert_allclose(nngp(network, x1, x2), kernel.nngp, rtol=1e-10)
    np.testing.assert_allclose(ntk(network, x1, x2), kernel.ntk, rtol=1e-10)


def test_without_branches_or_with_homogeneous_units_the_kernels_are_known(rng):
    x = rng.normal(size=(3, 4))
    # α = 0 leaves one hidden layer. A layer norm rescales ReLU, which keeps all angles where there is no bias.
    np.testing.assert_allclose(
        ntk(Residual(3, "relu", WEIGHT, BIAS, branch_scale=0.0), x), ntk(MLP(1, "relu", WEIGHT, BIAS), x), rtol=1e-12
    )
    unit = x * (2.0 / np.linalg.norm(x, axis=1, keepdims=True))
    np.testing.assert_allclose(nngp(LayerNorm(MLP(3, "relu", 2.0)), x), nngp(MLP(3, "relu", 2.0), unit) / 2, rtol=1e-12)


def test_angles_between_like_inputs_keep_their_digits(rng):
    """One residual block of ReLU on inputs at an angle of 1e-9, in 40 digits."""
    x = rng.normal(size=3)
    y = x + 1e-9 * rng.normal(size=3)
    weight, scale = mp.mpf(2), mp.mpf(0.5)

    def relu(a, b, c):
        theta = mp.acos(max(min(c / mp.sqrt(a * b), mp.mpf(1)), mp.mpf(-1)))
        rho = mp.cos(theta)
        value = mp.sqrt(a * b) * (mp.sin(theta) + (mp.pi - theta) * rho) / (2 * mp.pi)
        return value, (mp.pi - theta) / (2 * mp.pi)

    with mp.workdps(40):
        u, v = ([mp.mpf(float(entry)) for entry in vector] for vector in (x, y))
        a, b, c = (weight * mp.fdot(p, q) / 3 for p, q in ((u, u), (v, v), (u, v)))
        value, slope = relu(a, b, c)
        gain = scale**2 * weight
        tangent = c + gain * (value + slope * c)
        value, slope = relu(a + gain * a / 2, b + gain * b / 2, c + gain * value)
        expected = float(weight * value), float(weight * (value + slope * tangent))
    found = residual_kernels(Residual(1, "relu", 2.0, branch_scale=0.5), x[None], y[None])
    np.testing.assert_allclose([float(found.nngp[0, 0]), float(found.ntk[0, 0])], expected, rtol=1e-13)


def test_finite_networks_have_these_kernels(getkey, rng):
    """One block with a layer norm over 128 units, tanh, whose kernel neural-tangents does not have; 400 networks."""
    width, members, x = 128, 400, rng.normal(size=(2, 3))

    def f(params, x):
        w, b = params
        z = (WEIGHT / 3) ** 0.5 * x @ w[0] + BIAS**0.5 * b[0]

        def unit(z):
            centred = z - z.mean(axis=1, keepdims=True)
            return jnp.tanh(centred / jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True)))

        z = z + SCALE * ((WEIGHT / width) ** 0.5 * unit(z) @ w[1] + BIAS**0.5 * b[1])
        return ((WEIGHT / width) ** 0.5 * unit(z) @ w[2] + BIAS**0.5 * b[2])[:, 0]

    def kernels(key):
        sizes = (3, width, width, 1)
        draw = jax.random.normal(key, (sum((sizes[i] + 1) * sizes[i + 1] for i in range(3)),), jnp.float64)
        w, b, start = [], [], 0
        for i in range(3):
            w.append(draw[start : start + sizes[i] * sizes[i + 1]].reshape(sizes[i : i + 2]))
            start += sizes[i] * sizes[i + 1]
            b.append(draw[start : start + sizes[i + 1]])
            start += sizes[i + 1]
        outputs, gradients = f((w, b), x), jax.jacrev(f)((w, b), x)
        rows = jnp.concatenate([g.reshape(2, -1) for g in jax.tree.leaves(gradients)], axis=1)
        return jnp.outer(outputs, outputs), rows @ rows.T

    samples = jax.jit(lambda keys: jax.lax.map(kernels, keys, batch_size=50))(jax.random.split(getkey(), members))
    expected = residual_kernels(LayerNorm(Residual(1, "tanh", WEIGHT, BIAS, branch_scale=SCALE)), x)
    for sample, value in zip(samples, expected, strict=True):
        error = np.std(sample, axis=0) / members**0.5
        # The bias of finite width is about the layers over the width, relatively.
        allowed = 4.5 * error + 4 / width * float(value.max())
        np.testing.assert_array_less(np.abs(np.mean(sample, axis=0) - value), allowed)
        assert np.all(allowed < 0.45 * float(value.max()))


def test_leaves_and_wrong_arguments():
    network = LayerNorm(Residual(2, "relu", 1.5, 0.1, branch_scale=0.5))
    leaves, structure = jax.tree.flatten(network)
    assert leaves == [1.5, 0.1, 0.5]
    assert jax.tree.unflatten(structure, leaves) == network
    with pytest.raises(ValueError, match="depth must be an integer number of residual blocks, at least 1, got 0"):
        Residual(0)
    with pytest.raises(ValueError, match="branch_scale must be finite and at least 0"):
        Residual(1, branch_scale=-1.0)
    with pytest.raises(ValueError, match="architecture must be an MLP with a hidden layer, Convolutional or Residual"):
        LayerNorm(MLP(0, "linear"))
    with pytest.raises(ValueError, match="must be fully connected, got Convolutional"):
        residual_kernels(LayerNorm(Convolutional(1)), np.ones((2, 3)))
