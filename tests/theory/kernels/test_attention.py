"""Attention kernels: neural-tangents, a recursion in NumPy, limits and invariances."""

from typing import Any

import jax
import numpy as np
import pytest

from theory.architecture import MLP, Attention
from theory.kernels import nngp, ntk
from theory.kernels.attention import LIVE, attention_kernels
from theory.kernels.neural_tangents import nt

WEIGHT, BIAS, SHARPNESS = 1.7, 0.3, 2.5
NETWORK = Attention(2, "erf", WEIGHT, BIAS, sharpness=SHARPNESS, readout="pool")


@pytest.mark.filterwarnings("ignore:Linear scaling attention used")
def test_agrees_with_neural_tangents(rng):
    x1, x2 = rng.normal(size=(3, 4, 2)), rng.normal(size=(2, 4, 2))
    scales: dict[str, Any] = {"W_std": WEIGHT**0.5, "b_std": BIAS**0.5, "parameterization": "ntk"}
    attention = nt.stax.GlobalSelfAttention(
        1, 1, 1, 1, W_key_std=SHARPNESS, W_value_std=WEIGHT**0.5, b_std=BIAS**0.5, linear_scaling=True
    )
    layers = [nt.stax.Dense(1, **scales)] + [nt.stax.Erf(), attention] * 2 + [nt.stax.Erf()]
    kernel: Any = nt.stax.serial(*layers, nt.stax.GlobalAvgPool(), nt.stax.Dense(1, **scales))[2](
        x1, x2, ("nngp", "ntk")
    )
    # Through the public functions, and in blocks of one sequence.
    np.testing.assert_allclose(nngp(NETWORK, x1, x2), kernel.nngp, rtol=1e-10)
    np.testing.assert_allclose(ntk(NETWORK, x1, x2), kernel.ntk, rtol=1e-10)


def test_agrees_with_a_recursion_in_numpy(rng):
    """One layer with flattening and the quadratic unit, whose dual is ab + 2c²; blocks do not show."""
    x = rng.normal(size=(3, 4, 2))
    network = Attention(1, "square", 0.8, 0.2, sharpness=0.5)
    positions = x.reshape(12, 2)
    k = 0.8 * positions @ positions.T / 2 + 0.2

    def square(k):
        return np.outer(np.diag(k), np.diag(k)) + 2 * k**2

    h, slope = square(k), 4 * k
    blocks = [slice(4 * i, 4 * i + 4) for i in range(3)]
    a = np.zeros((12, 12))
    for block in blocks:
        weights = np.exp(0.5 * h[block, block])
        a[block, block] = weights / weights.sum(axis=1, keepdims=True)
    mixed = 0.8 * a @ h @ a.T
    k2, tangent = mixed + 0.2, 0.8 * a @ (slope * k) @ a.T + 2 * mixed + 0.2
    top, learned = square(k2), 4 * k2 * tangent
    means = [np.array([[np.mean(np.diag(m[p, q])) for q in blocks] for p in blocks]) for m in (top, learned)]
    expected = 0.8 * means[0] + 0.2, 0.8 * (means[0] + means[1]) + 0.2
    for memory in (1e9, LIVE * 8 * 3 * 16):
        for found, value in zip(attention_kernels(network, x, memory=memory), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-12)


def test_one_position_is_a_fully_connected_network_and_order_does_not_matter(rng):
    x = rng.normal(size=(3, 4, 2))
    # With one position attention is a dense layer, made of two factors that are both trained.
    np.testing.assert_allclose(nngp(NETWORK, x[:, :1]), nngp(MLP(3, "erf", WEIGHT, BIAS), x[:, 0]), rtol=1e-12)
    np.testing.assert_allclose(ntk(NETWORK, x, x[:, ::-1]), ntk(NETWORK, x), rtol=1e-12)


def test_leaves_and_wrong_arguments():
    leaves, structure = jax.tree.flatten(NETWORK)
    assert leaves == [WEIGHT, BIAS, SHARPNESS]
    assert jax.tree.unflatten(structure, leaves) == NETWORK
    with pytest.raises(ValueError, match="depth must be an integer number of attention layers, at least 1, got 0"):
        Attention(0)
    with pytest.raises(ValueError, match="sharpness must be finite and at least 0"):
        Attention(1, sharpness=-1.0)
    with pytest.raises(ValueError, match=r"x1 must have shape \(examples, positions, channels\), got \(2, 3\)"):
        nngp(NETWORK, np.ones((2, 3)))
    with pytest.raises(ValueError, match="sequences of one shape"):
        attention_kernels(NETWORK, np.ones((2, 3, 1)), np.ones((2, 4, 1)))
    with pytest.raises(ValueError, match="memory must be positive"):
        attention_kernels(NETWORK, np.ones((2, 3, 1)), memory=0)
