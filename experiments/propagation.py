"""Pairs of inputs on their way through random networks whose weights are drawn layer by layer.

A network of width 1024 and depth 100 has 10⁸ weights. Propagation needs each layer's once, so they are drawn, used by
all inputs, and forgotten.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.networks import Network

# Weights in one draw: small networks go side by side, wide ones one after the other.
DRAWS = 2**20

Signals = Float[Array, "members networks families pairs 2 width"]
Shown = Float[Array, "members networks families"]


def observe(
    networks: tuple[Network, ...], key: Key[Array, ""], inputs: Float[Array, "families pairs 2 d"], *, members: int
) -> tuple[
    Float[np.ndarray, "members networks families layers"], Float[np.ndarray, "members networks families layers"]
]:
    """What random networks show of pairs of inputs, in every hidden layer of pre-activations.

    All networks share each member's draws: each puts its own activation and variances around the same standard
    normals, as in the NTK parametrisation of `experiments.networks`.

    Args:
        networks: of equal sizes, with one width throughout, at least as large as the dimension of the inputs. Static
            in all compiled code, so that a second seed compiles nothing.
        key: of this ensemble.
        inputs: families of pairs (x, x').
        members: how many independent draws of all weights.

    Returns:
        lengths |z|²/n, averaged over a family's inputs, and gaps 1 − cos(z, z'), averaged over its pairs.

    Raises:
        ValueError: the networks differ in size, are not of one width, or the inputs do not fit them.
    """
    widths, dimension = networks[0].widths, networks[0].inputs
    if any((net.widths, net.inputs) != (widths, dimension) for net in networks) or len(set(widths)) != 1:
        raise ValueError("networks must all have the same inputs and the same width in every hidden layer")
    if inputs.shape[2:] != (2, dimension) or dimension > widths[0]:
        raise ValueError(
            f"inputs must have shape (families, pairs, 2, {dimension}), got {inputs.shape}, "
            f"and no more dimensions than the networks have units ({widths[0]})"
        )
    # Equal batches: what is drawn beyond the last member is thrown away.
    batches = -(-members // max(1, DRAWS // widths[0] ** 2))
    together = -(-members // batches)
    start = _embed(networks, inputs, together)
    shown = []
    for batch in range(batches):
        signals = start
        # A loop on the host: inside `scan` XLA draws random numbers on one core only, and these are all the work.
        for layer in range(len(widths)):
            signals, length, gap = _advance(networks, layer_key(key, batch, layer), signals)
            shown.append((length, gap))
    per_batch = [
        np.stack([np.stack(pair) for pair in shown[i : i + len(widths)]], axis=-1)
        for i in range(0, len(shown), len(widths))
    ]
    length, gap = np.concatenate(per_batch, axis=1)[:, :members]
    return length, gap


def layer_key(key: Key[Array, ""], batch: int, layer: int) -> Key[Array, ""]:
    """The key of one layer's draw for one batch of members."""
    return jax.random.fold_in(jax.random.fold_in(key, batch), layer)


def draw_layer(key: Key[Array, ""], members: int, width: int) -> tuple[Array, Array]:
    """Standard normal weights (members, width, width) and biases (members, width), in one draw."""
    normals = jax.random.normal(key, (members, width + 1, width), jnp.float32)
    return normals[:, :-1], normals[:, -1]


def _embed(networks: tuple[Network, ...], inputs: Array, members: int) -> Signals:
    """The inputs as if a hidden layer had sent them: with zeros behind them, and rescaled for its fan-in.

    So every layer has the same shape; of the first layer's weights only the first d rows are in use.
    """
    width, dimension = networks[0].widths[0], inputs.shape[-1]
    padded = jnp.pad(inputs, ((0, 0), (0, 0), (0, 0), (0, width - dimension))) * (width / dimension) ** 0.5
    return jnp.broadcast_to(padded.astype(jnp.float32), (members, len(networks), *padded.shape))


@partial(jax.jit, static_argnums=0)
def _advance(networks: tuple[Network, ...], key: Key[Array, ""], signals: Signals) -> tuple[Signals, Shown, Shown]:
    """One layer: what its pre-activations show, and what its units send on."""
    members, width = signals.shape[0], signals.shape[-1]
    weight, bias = draw_layer(key, members, width)
    # One product for all networks and inputs.
    flat = signals.reshape(members, -1, width)
    products = jnp.matmul(flat, weight, precision=jax.lax.Precision.HIGHEST).reshape(signals.shape)
    bias = bias[:, None, None, None, :]
    z = [
        (net.weight_variance / width) ** 0.5 * products[:, i] + net.bias_variance**0.5 * bias
        for i, net in enumerate(networks)
    ]
    active = jnp.stack([net.activation(part) for net, part in zip(networks, z, strict=True)], axis=1)
    stacked = jnp.stack(z, axis=1)
    norms = jnp.linalg.norm(stacked, axis=-1, keepdims=True)
    unit = stacked / norms
    # 1 − c by the difference of unit vectors: 1 minus a float32 cosine would keep no digit deep in the network.
    gap = 0.5 * jnp.sum((unit[..., 0, :] - unit[..., 1, :]) ** 2, axis=-1)
    return active, jnp.mean(norms**2, axis=(3, 4, 5)) / width, jnp.mean(gap, axis=3)
