"""Finite networks of every family at the start against the infinite kernels of the same architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.attention_networks import attention_network
from experiments.family_networks import family_network
from theory.architecture import MLP, Attention, Convolutional, LayerNorm, Residual
from theory.kernels import nngp, ntk

WEIGHT, BIAS, SCALE, SHARPNESS = 1.7, 0.3, 0.7, 2.5
ATTENTION = Attention(2, "erf", WEIGHT, BIAS, sharpness=SHARPNESS, readout="pool")
FAMILIES = {
    "residual": (Residual(2, "erf", WEIGHT, BIAS, branch_scale=SCALE), (3,)),
    "normalised MLP": (LayerNorm(MLP(2, "erf", WEIGHT, BIAS)), (3,)),
    "normalised residual": (LayerNorm(Residual(2, "relu", WEIGHT, BIAS, branch_scale=SCALE)), (3,)),
    "normalised convolution": (LayerNorm(Convolutional(1, "erf", WEIGHT, BIAS, filter=(2,), padding="same")), (4, 2)),
    "attention, pooled": (ATTENTION, (3, 2)),
    "attention, flattened": (Attention(1, "relu", WEIGHT, BIAS, sharpness=SHARPNESS), (3, 2)),
}


def build(name, width, outputs=16):
    architecture, shape = FAMILIES[name]
    heads = 4 if isinstance(architecture, Attention) else None
    return family_network(architecture, width=width, shape=shape, outputs=outputs, heads=heads)


def sample(net, members, key, x):
    """Products of outputs, meant over the outputs, and tangent kernels of the first output, of each member."""

    def one(key):
        params = net.init(key, jnp.float64)
        outputs = net.apply(params, x)
        gradients = jax.jacrev(lambda p: net.apply(p, x)[:, 0])(params)
        rows = [leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(gradients)]
        return outputs @ outputs.T / outputs.shape[1], sum(row @ row.T for row in rows)

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=16))
    return [np.asarray(part) for part in run(jax.random.split(key, members))]


# Pooled attention over two layers has a test of its own below.
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "attention, pooled"])
def test_kernels_at_the_start_are_those_of_the_limit(name, getkey, rng):
    """Width 64, 16 outputs, 400 members: errors of 1 to 2 %, and a bias of finite width of the order 1/64."""
    architecture, shape = FAMILIES[name]
    x, width, count = rng.normal(size=(2, *shape)), 64, 400
    found = sample(build(name, width), count, getkey(), x)
    for values, kernel in zip(found, (nngp(architecture, x), ntk(architecture, x)), strict=True):
        error = values.std(axis=0) / count**0.5
        size = float(np.max(kernel))
        # The relative bias is b/width, with |b| at most 2.2 ± 0.2 in all of these (5000 members of width 24).
        allowed = 4 * error + 3 / width * size
        np.testing.assert_array_less(np.abs(values.mean(axis=0) - kernel), allowed)
        # So that values alone, keys counted like them, or a lost factor √H would be seen.
        assert np.all(allowed < 0.2 * size)


def test_attention_meets_its_limit_when_extrapolated_in_the_width(getkey, rng):
    """Twice the kernels of width 32 less those of 16: what is left of the bias is of second order, 1/(2·16²)·b²."""
    x, count = rng.normal(size=(2, 3, 2)), 800
    small, large = (sample(build("attention, pooled", width), count, getkey(), x) for width in (16, 32))
    for one, two, kernel in zip(small, large, (nngp(ATTENTION, x), ntk(ATTENTION, x)), strict=True):
        error = (one.var(axis=0) + 4 * two.var(axis=0)) ** 0.5 / count**0.5
        gap = np.abs(2 * two.mean(axis=0) - one.mean(axis=0) - kernel)
        np.testing.assert_array_less(gap, 4 * error + 0.5 * (3 / 16) ** 2 * float(np.max(kernel)))


def test_keys_are_trained_and_their_share_of_the_tangent_kernel_falls_with_the_width(getkey, rng):
    """The limit's tangent kernel has no keys: a share of order 1/width, so a quarter at four times the width."""
    x = rng.normal(size=(2, 3, 2))
    architecture, shares = Attention(1, "erf", WEIGHT, BIAS, sharpness=SHARPNESS), []
    for width in (16, 64):
        net = attention_network(architecture, width=width, heads=2, positions=3, channels=2)

        def share(key, net=net):
            params = net.init(key, jnp.float64)
            squares = jax.tree.map(lambda g: jnp.sum(g**2), jax.jacrev(lambda p: net.apply(p, x)[0, 0])(params))
            return squares[1]["weight"], squares[2]["weight"], squares[3]["weight"]

        parts = np.asarray(jax.jit(jax.vmap(share))(jax.random.split(getkey(), 200)))
        keys, values, outputs = parts.mean(axis=1)
        shares.append(keys / (values + outputs))
        # Values and outputs count alike in the limit.
        np.testing.assert_allclose(values / outputs, 1.0, atol=4 * np.std(parts[1] / parts[2]) / 200**0.5 + 3 / width)
    assert shares[0] > 1e-3
    # Means over 200 members to 6 % each; the second order is below 3/16.
    np.testing.assert_allclose(4 * shares[1] / shares[0], 1.0, atol=4 * 2**0.5 * 0.06 + 3 / 16)
