r"""Training of two-layer ReLU networks of any width by one compiled program.

In the NTK parametrisation, with m training inputs x_j in R^d,

    f_j = σ_w/√n Σ_u a_u h_uj + σ_b c,    h_uj = max(0, z_uj),    z_uj = σ_w/√d w_u·x_j + σ_b b_u.

A sweep over widths would compile each of them. Here all networks of one call are cut into blocks of as many units, and
a network of width n is n/(units in a block) of them: its width is only in the matrix that adds up blocks.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.networks import Network, Params
from theory.architecture import ACTIVATIONS

BLOCK = 32


class Blocks(NamedTuple):
    """Parameters, block by block: hidden weights w and biases b, output weights a, and the output bias c."""

    w: Float[Array, "blocks units d"]
    b: Float[Array, "blocks units"]
    a: Float[Array, "blocks units"]
    c: Float[Array, " blocks"]


def train_two_layer(
    network: Network,
    params: Params,
    x: Float[np.ndarray, "m d"],
    y: Float[np.ndarray, " m"],
    *,
    learning_rate: float,
    steps: tuple[int, ...],
) -> Float[np.ndarray, "members records m"]:
    """Outputs on the training inputs after steps of full-batch gradient descent on ½ Σ_j (f_j − y_j)².

    Calls with as many units in all (members times width), inputs and steps compile once, whatever the width and σ_b.

    Args:
        network: of one hidden layer of ReLU units in the NTK parametrisation, with one output and a width that is a
            multiple of 32.
        params: of an ensemble, as `init_members` gives them.
        x: inputs.
        y: targets.
        learning_rate: η.
        steps: numbers of steps after which to record, increasing.

    Raises:
        ValueError: the network is another one.
    """
    (width, *deeper), k = network.widths, network.outputs
    if (
        deeper
        or k != 1
        or network.activation != ACTIVATIONS["relu"]
        or network.parametrisation.name != "ntk"
        or width % BLOCK
    ):
        raise ValueError(
            "network must have one hidden layer of ReLU units in the NTK parametrisation, one output and a multiple of "
            f"{BLOCK} units, got {network}"
        )
    weights = [np.asarray(layer["weight"]) for layer in params]
    members = len(weights[0])
    real, count = weights[0].dtype, members * width // BLOCK
    biases = [
        np.asarray(p["bias"]) if network.bias else np.zeros((members, s), real)
        for p, s in zip(params, (width, 1), strict=True)
    ]
    owner = np.repeat(np.arange(members), width // BLOCK)
    start = (
        np.swapaxes(weights[0], 1, 2).reshape(count, BLOCK, -1),
        biases[0].reshape(count, BLOCK),
        weights[1].reshape(count, BLOCK),
        biases[1][owner, 0],
    )
    blocks = Blocks(*(jnp.asarray(array) for array in start))
    sigma = np.sqrt([network.weight_variance / x.shape[1], network.weight_variance / width, network.bias_variance])
    outputs = _train(
        steps,
        blocks,
        (owner[:, None] == owner).astype(real),
        x.astype(real),
        y.astype(real),
        sigma.astype(real),
        real.type(learning_rate),
    )
    return np.asarray(outputs)[:, :: width // BLOCK].swapaxes(0, 1)


@partial(jax.jit, static_argnums=0)
def _train(
    steps: tuple[int, ...], blocks: Blocks, same: Array, x: Array, y: Array, sigma: Array, rate: Array
) -> Float[Array, "records blocks m"]:
    """Each block carries its network's outputs; `same` tells which blocks are of one network."""

    def forward(p: Blocks) -> tuple[Array, Array]:
        h = jnp.maximum(sigma[0] * jnp.einsum("kud,md->kum", p.w, x) + sigma[2] * p.b[..., None], 0)
        parts = jnp.einsum("ku,kum->km", p.a, h)
        return h, sigma[1] * jnp.matmul(same, parts, precision=jax.lax.Precision.HIGHEST) + sigma[2] * p.c[:, None]

    def step(_: Array, p: Blocks) -> Blocks:
        h, f = forward(p)
        r = f - y
        back = jnp.where(h > 0, (sigma[1] * p.a)[..., None] * r[:, None], 0)
        return Blocks(
            p.w - rate * sigma[0] * jnp.einsum("kum,md->kud", back, x),
            p.b - rate * sigma[2] * back.sum(axis=-1),
            p.a - rate * sigma[1] * jnp.einsum("kum,km->ku", h, r),
            p.c - rate * sigma[2] * r.sum(axis=-1),
        )

    def stretch(p: Blocks, ends: Array) -> tuple[Blocks, Array]:
        p = jax.lax.fori_loop(ends[0], ends[1], step, p)
        return p, forward(p)[1]

    ends = jnp.array([(0, *steps[:-1]), steps]).T
    return jax.lax.scan(stretch, blocks, ends)[1]
