"""Gradient descent on wide networks with two hidden layers, in many parametrisations and at many rates from one start.

The weights between the hidden layers, n² of them, move by a matrix of low rank: after t steps on m examples

    W_2(t) = W_2(0) − r_2 Σ_{s<t} h_1(s)ᵀ δ_2(s),

with the first layer's activations h_1 (m, n) and the loss's gradients δ_2 (m, n) at z_2. Kept as those factors, all
runs share one W_2(0): a step of all of them is two products with it, and no matrix of size n² is ever written. The
first layer is followed by its z_1 alone, which a step moves by −r_1 (x xᵀ) δ_1. The steps are those of gradient descent
on the arrays themselves, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.networks import Network, Params
from theory.architecture import Activation


class Descent(NamedTuple):
    """What `descend` finds, for each member and run.

    Attributes:
        loss: ½ mean (f − y)² after 0, 1, …, `steps` steps; infinite or NaN where a run diverges.
        first, second: root mean square change of the activations of each hidden layer, over units and examples.
        kernel: relative change |Θ − Θ(0)|/|Θ(0)| of the tangent kernel on the examples, in Frobenius norm. The kernel
            weighs each layer with its rate: η Θ is what moves the outputs.
    """

    loss: Float[np.ndarray, "members runs times"]
    first: Float[np.ndarray, "members runs"]
    second: Float[np.ndarray, "members runs"]
    kernel: Float[np.ndarray, "members runs"]


def descend(
    networks: Sequence[Network],
    rates: Sequence[float],
    normals: Params,
    x: Float[np.ndarray, "m d"],
    y: Float[np.ndarray, " m"],
    steps: int,
) -> Descent:
    """Trains every member in every run by full-batch gradient descent on ½ mean (f − y)².

    Args:
        networks: of each run, alike but for parametrisation and σ_w: two hidden layers of one width, one output, no
            biases.
        rates: the global learning rate η of each run; `Network.learning_rates` says what it means for each array.
        normals: standard normals in place of all weights, with a leading axis of members, such as `init_members`
            gives for a network in the NTK parametrisation; all runs start from them.
        x, y: inputs and targets.
        steps: how many.

    Raises:
        ValueError: the networks are not of this kind, or there is not one rate for each.
    """
    first = networks[0]
    if len(rates) != len(networks):
        raise ValueError(f"rates must be one for each of the {len(networks)} networks, got {len(rates)}")
    for net in networks:
        alike = net.sizes == first.sizes and net.activation == first.activation
        if not alike or net.bias or net.outputs != 1 or len(net.widths) != 2 or len(set(net.widths)) != 1:
            raise ValueError(
                "networks must share sizes and activation, with two hidden layers of one width, one output, no biases"
            )
    # Weights that act: multiplier · parameter, so that a rate on the parameter counts with the multiplier squared.
    scales = [[weight for weight, _ in net.scales()] for net in networks]
    start = np.array([[s.multiplier * s.init_std for s in run] for run in scales], np.float32)
    pace = [[s.multiplier**2 * s.learning_rate * rate for s in run] for run, rate in zip(scales, rates, strict=True)]
    arrays = [layer["weight"] for layer in normals]
    found = _descend(first.activation, steps, start, np.array(pace, np.float32), np.float32(x), np.float32(y), arrays)
    return Descent(*(np.asarray(values) for values in found))


@partial(jax.jit, static_argnums=(0, 1))
def _descend(
    activation: Activation, steps: int, start: Array, pace: Array, x: Array, y: Array, arrays: list[Array]
) -> tuple[Array, Array, Array, Array]:
    m, runs = x.shape[0], start.shape[0]
    matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    inner = matmul(x, x.T)
    (a1, a2, a3), (r1, r2, r3) = ([part[:, i, None, None] for i in range(3)] for part in (start, pace))

    def transposed(array: Array) -> Array:
        return jnp.swapaxes(array, -1, -2)

    def member(weights: list[Array]) -> tuple[Array, Array, Array, Array]:
        w1, w2, w3 = weights
        width = w2.shape[0]

        def evaluate(z1: Array, last: Array, below: Array, above: Array) -> tuple[Array, ...]:
            """Activations, outputs, and the outputs' gradients at z_1 and z_2: all (runs, m, n)."""
            h1, slope1 = jax.jvp(activation, (z1,), (jnp.ones_like(z1),))
            z2 = a2 * matmul(h1.reshape(-1, width), w2).reshape(h1.shape)
            z2 = z2 - r2 * matmul(matmul(h1, transposed(below)), above)
            h2, slope2 = jax.jvp(activation, (z2,), (jnp.ones_like(z2),))
            f = jnp.sum(h2 * last, axis=-1)
            g2 = last * slope2
            back = a2 * matmul(g2.reshape(-1, width), w2.T).reshape(h1.shape)
            g1 = (back - r2 * matmul(matmul(g2, transposed(above)), below)) * slope1
            return h1, h2, f, g1, g2

        def step(carry: Any, k: Array) -> tuple[Any, tuple[Array, ...]]:
            z1, last, below, above, first = carry
            h1, h2, f, g1, g2 = evaluate(z1, last, below, above)
            kernel = r1 * inner * matmul(g1, transposed(g1))
            kernel = kernel + r2 * matmul(h1, transposed(h1)) * matmul(g2, transposed(g2))
            kernel = kernel + r3 * matmul(h2, transposed(h2))
            first = jax.tree.map(lambda old, new: jnp.where(k == 0, new, old), first, (h1, h2, kernel))
            moved1, moved2 = (
                jnp.sqrt(jnp.mean((h - h0) ** 2, axis=(-2, -1))) for h, h0 in zip((h1, h2), first, strict=False)
            )
            moved = jnp.linalg.norm(kernel - first[2], axis=(-2, -1)) / jnp.linalg.norm(first[2], axis=(-2, -1))
            loss = 0.5 * jnp.mean((f - y) ** 2, axis=-1)
            error = ((f - y) / m)[..., None]
            z1 = z1 - r1 * matmul(inner, error * g1)
            last = last - r3 * matmul(transposed(error), h2)
            below = jax.lax.dynamic_update_slice_in_dim(below, h1, k * m, axis=1)
            above = jax.lax.dynamic_update_slice_in_dim(above, error * g2, k * m, axis=1)
            return (z1, last, below, above, first), (loss, moved1, moved2, moved)

        blank = jnp.zeros((runs, m, width), w2.dtype)
        history = jnp.zeros((runs, (steps + 1) * m, width), w2.dtype)
        carry = (
            a1 * matmul(x, w1),
            a3 * w3.T,
            history,
            history,
            (blank, blank, jnp.zeros((runs, m, m), w2.dtype)),
        )
        _, (loss, *moved) = jax.lax.scan(step, carry, jnp.arange(steps + 1))
        return loss.T, moved[0][-1], moved[1][-1], moved[2][-1]

    return jax.lax.map(member, arrays)
