"""Networks drawn layer by layer are the networks of `experiments.networks`."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.networks import network
from experiments.propagation import _advance, draw_layer, layer_key, observe
from theory.architecture import MLP

WIDTH, DEPTH = 16, 3
ARCHITECTURES = (MLP(DEPTH, "tanh", 1.7, 0.3), MLP(DEPTH, "relu", 2.0, 0.0))


def networks(width=WIDTH, inputs=8):
    return tuple(network(a, width=width, inputs=inputs) for a in ARCHITECTURES)


@pytest.fixture
def pairs(rng):
    return jnp.asarray(rng.standard_normal((2, 3, 2, 8)), jnp.float32)


def test_a_member_shows_what_its_network_computes(getkey, pairs):
    key, members = getkey(), 5
    length, gap = observe(networks(), key, pairs, members=members)
    assert length.shape == gap.shape == (members, 2, 2, DEPTH)
    draws = [draw_layer(layer_key(key, 0, layer), members, WIDTH) for layer in range(DEPTH)]
    for i, net in enumerate(networks()):
        for member in (0, 4):
            params = [{"weight": w[member], "bias": b[member]} for w, b in draws]
            # Of the first layer's rows only those that meet an input are in use; the output is not looked at.
            params[0]["weight"] = params[0]["weight"][:8]
            params.append({"weight": jnp.zeros((WIDTH, 1)), "bias": jnp.zeros(1)})
            z = net.preactivations(params, pairs.reshape(-1, 8))[:DEPTH]
            for layer in range(DEPTH):
                u = np.asarray(z[layer], np.float64).reshape(2, 3, 2, WIDTH)
                np.testing.assert_allclose(length[member, i, :, layer], np.mean(u**2, axis=(1, 2, 3)), rtol=1e-5)
                cosine = np.sum(u[:, :, 0] * u[:, :, 1], -1) / np.prod(np.linalg.norm(u, axis=-1), axis=-1)
                np.testing.assert_allclose(gap[member, i, :, layer], 1 - cosine.mean(axis=1), rtol=1e-4, atol=1e-6)


def test_members_are_independent_and_reproducible(getkey, pairs):
    key = getkey()
    first, again = (observe(networks(), key, pairs, members=5)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first[:, 0, 0, -1])) == 5
    other = observe(networks(), getkey(), pairs, members=5)[0]
    assert not np.any(first == other)


def test_batches_are_joined(getkey, pairs, monkeypatch):
    monkeypatch.setattr("experiments.propagation.DRAWS", 2 * WIDTH**2)
    length, gap = observe(networks(), getkey(), pairs, members=5)
    assert length.shape == gap.shape == (5, 2, 2, DEPTH)
    assert len(np.unique(length[:, 0, 0, 0])) == 5


def test_gaps_of_almost_parallel_inputs_keep_their_digits(getkey):
    """A linear network keeps gaps in proportion, down to far below the rounding error of a float32 cosine."""
    nets = (network(MLP(DEPTH, "linear", 1.0, 0.0), width=WIDTH, inputs=8),)
    x = np.zeros((2, 1, 2, 8), np.float32)
    x[..., 0] = 1
    x[0, 0, 1, 1], x[1, 0, 1, 1] = 1e-2, 1e-5
    _, gap = observe(nets, getkey(), jnp.asarray(x), members=3)
    np.testing.assert_allclose(gap[:, 0, 1] / gap[:, 0, 0], 1e-6, rtol=0.1)


def test_networks_that_cannot_share_draws_are_refused(getkey, pairs):
    with pytest.raises(ValueError, match="same inputs and the same width"):
        observe((networks()[0], networks(width=12)[1]), getkey(), pairs, members=1)
    with pytest.raises(ValueError, match="inputs must have shape"):
        observe(networks(), getkey(), pairs[..., :4], members=1)
    with pytest.raises(ValueError, match="no more dimensions"):
        observe(networks(width=4), getkey(), pairs, members=1)


def compiled() -> int:
    return _advance._cache_size()  # pyright: ignore[reportAttributeAccessIssue] # JAX's stubs lack it


def test_a_second_key_compiles_nothing(getkey, pairs):
    observe(networks(), getkey(), pairs, members=5)
    before = compiled()
    observe(networks(), getkey(), pairs, members=5)
    assert compiled() == before
