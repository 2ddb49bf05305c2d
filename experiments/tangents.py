"""Empirical tangent kernels of random networks of every depth at once.

The first l hidden layers of a deep network are, with one unit of the next layer as the output, a network of depth l.
One pass forward and one back give the tangent kernels of all of them, layer by layer, from activations h and
sensitivities δ = ∂f/∂z:

    Θ(x, x') = Σ_k (σ_w²/n h_{k−1}·h'_{k−1} + σ_b²) δ_k·δ'_k

in the NTK parametrisation of `experiments.networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.networks import Network

# Normals in one draw.
DRAWS = 2**23


def tangent_kernels_by_depth(
    networks: tuple[Network, ...],
    key: Key[Array, ""],
    x: Float[np.ndarray, "m d"],
    depths: tuple[int, ...],
    members: int,
) -> Iterator[Float[np.ndarray, "members networks depths m m"]]:
    """Tangent kernels of one output of random networks, in batches of members.

    All networks share each member's draws: each puts its own activation and variances around the same standard
    normals.

    Args:
        networks: of equal sizes, with one width throughout, at least as large as the dimension of the inputs.
        key: of this ensemble.
        x: inputs.
        depths: numbers of hidden layers, increasing, at most those of the networks.
        members: how many independent draws of all weights; rounded up to full batches.

    Yields:
        the kernels of one batch, in single precision.

    Raises:
        ValueError: the networks differ in size, are not of one width, the inputs do not fit, or a depth is missing.
    """
    first = networks[0]
    if any(net.sizes[:-1] != first.sizes[:-1] for net in networks) or len(set(first.widths)) != 1:
        raise ValueError("networks must all have the same inputs and the same width in every hidden layer")
    width, layers = first.widths[0], len(first.widths)
    if x.ndim != 2 or x.shape[1] != first.inputs or first.inputs > width:
        raise ValueError(
            f"x must have shape (m, {first.inputs}), got {x.shape}, and no more features than units ({width})"
        )
    if list(depths) != sorted(set(depths)) or not 1 <= depths[0] <= depths[-1] <= layers:
        raise ValueError(f"depths must increase from at least 1 to at most {layers}, got {depths}")
    batches = -(-members // max(1, DRAWS // ((layers + 1) * width * (width + 1))))
    together = -(-members // batches)
    # As if a hidden layer had sent the inputs: with zeros behind them, and rescaled for its fan-in.
    start = np.pad(x, ((0, 0), (0, width - x.shape[1]))).astype(np.float32) * (width / x.shape[1]) ** 0.5
    # Networks of one activation are one program, run for all their variances.
    groups = {name: [i for i, net in enumerate(networks) if net.activation == name] for name in _activations(networks)}
    for batch in range(batches):
        normals = _draw(jax.random.fold_in(key, batch), together, layers + 1, width)
        kernels = np.empty((together, len(networks), len(depths), len(x), len(x)), np.float32)
        for activation, chosen in groups.items():
            scales = np.array([(networks[i].weight_variance, networks[i].bias_variance) for i in chosen], np.float32)
            kernels[:, chosen] = _kernels(activation, depths, scales, start, *normals)
        yield kernels


def _activations(networks: tuple[Network, ...]) -> list:
    return list(dict.fromkeys(net.activation for net in networks))


@partial(jax.jit, static_argnums=(1, 2, 3))
def _draw(key: Key[Array, ""], members: int, layers: int, width: int) -> tuple[Array, Array]:
    """Standard normal weights (members, layers, width, width) and biases (members, layers, width), in one draw."""
    normals = jax.random.normal(key, (members, layers, width + 1, width), jnp.float32)
    return normals[:, :, :-1], normals[:, :, -1]


@partial(jax.jit, static_argnums=(0, 1))
def _kernels(
    activation: Callable[[Array], Array],
    depths: tuple[int, ...],
    scales: Float[Array, "networks 2"],
    x: Float[Array, "m width"],
    weights: Float[Array, "members layers width width"],
    biases: Float[Array, "members layers width"],
) -> Float[Array, "members networks depths m m"]:
    width, highest = x.shape[1], jax.lax.Precision.HIGHEST

    def member(scale: Array, weights: Array, biases: Array) -> Array:
        gain, offset = jnp.sqrt(scale[0] / width), jnp.sqrt(scale[1])

        def forward(below: tuple[Array, Array], layer: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple]:
            h, slope = below
            weight, bias = layer
            z = gain * jnp.matmul(h, weight, precision=highest) + offset * bias
            above = jax.jvp(activation, (z,), (jnp.ones_like(z),))
            return above, (h, slope, jnp.matmul(h, h.T, precision=highest))

        _, (_, slopes, inner) = jax.lax.scan(forward, (x, jnp.ones_like(x)), (weights, biases))
        # Layer k + 1 has the network of depth k for its first unit.
        begins = jnp.arange(1, weights.shape[0] + 1)[:, None] == jnp.array(depths)[None] + 1
        unit = jnp.zeros(width).at[0].set(1.0)

        def back(carry: tuple[Array, Array], layer: tuple[Array, Array, Array, Array]) -> tuple[tuple, None]:
            delta, total = carry
            weight, slope, gram, begin = layer
            delta = jnp.where(begin[:, None, None], unit, delta)
            products = jnp.einsum("dip,djp->dij", delta, delta, precision=highest)
            total = total + (gain**2 * gram + offset**2) * products
            return (gain * jnp.matmul(delta, weight.T, precision=highest) * slope, total), None

        zero = jnp.zeros((len(depths), x.shape[0], width)), jnp.zeros((len(depths), x.shape[0], x.shape[0]))
        return jax.lax.scan(back, zero, (weights, slopes, inner, begins), reverse=True)[0][1]

    over_networks = jax.vmap(member, in_axes=(0, None, None))
    return jax.vmap(over_networks, in_axes=(None, 0, 0))(scales, weights, biases)
