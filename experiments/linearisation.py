"""A network's own linearisation: its tangent kernel at given parameters, and gradient descent under that kernel."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.networks import Network, Params


def tangent_kernel(network: Network, params: Params, x: Float[Array, "m d"], rows: int) -> Float[Array, "m rows k k"]:
    """Θ_ab(x_i, x_j) = ∇f_a(x_i)·∇f_b(x_j) for all inputs i, the first `rows` inputs j and all pairs of outputs.

    By layers, from activations h_l and sensitivities δ_l = ∂f/∂z_l, with multipliers a_l and c_l of weights and biases:

        Θ_ab(x, x') = Σ_l (a_l² h_{l−1}·h'_{l−1} + c_l²) δ_la·δ'_lb,

    which never forms the gradients: at width n it costs n² an input, where a product of gradients costs n² a pair.

    Args:
        network: with biases (their gradients carry the δ_l).
        params: of the network.
        x: inputs.
        rows: number of inputs x_j.

    Raises:
        ValueError: the network has no biases.

    Source: the recursion behind Jacot et al. 2018, Theorem 1.
    """
    if not network.bias:
        raise ValueError("network must have biases; theory.kernels.empirical_ntk takes any other")

    def outputs(biases: list[Array], x: Float[Array, " d"]) -> Float[Array, " k"]:
        layers = [{"weight": layer["weight"], "bias": bias} for layer, bias in zip(params, biases, strict=True)]
        return network.apply(layers, x[None])[0]

    biases = [layer["bias"] for layer in params]
    # The gradient of a bias is c_l δ_l.
    slopes = jax.vmap(jax.jacrev(outputs), in_axes=(None, 0))(biases, x)
    z = network.preactivations(params, x)
    below = [jnp.asarray(x, z[0].dtype)] + [network.activation(zl) for zl in z[:-1]]
    total = jnp.zeros((x.shape[0], rows, network.outputs, network.outputs), z[0].dtype)
    highest = jax.lax.Precision.HIGHEST
    for (weight, bias), h, slope in zip(network.scales(), below, slopes, strict=True):
        inner = (weight.multiplier / bias.multiplier) ** 2 * jnp.matmul(h, h[:rows].T, precision=highest) + 1
        total = total + inner[..., None, None] * jnp.einsum("iap,jbp->ijab", slope, slope[:rows], precision=highest)
    return total


def linearised_descent(
    kernel: Float[np.ndarray, "*members m n k k"],
    start: Float[np.ndarray, "*members m k"],
    y: Float[np.ndarray, "n k"],
    learning_rate: float,
    steps: Sequence[int],
) -> Float[np.ndarray, "*members steps m k"]:
    """Gradient descent of linearised networks on ½ Σ |f − y|², in function space: f ← f − η Θ(·, X) (f(X) − y).

    Args:
        kernel: Θ between m inputs and the training inputs, which are the first n of them.
        start: outputs at the start, on all m inputs.
        y: targets of the training inputs.
        learning_rate: η.
        steps: increasing numbers of steps at which the outputs are given.
    """
    m, n, k = kernel.shape[-4], *y.shape
    # As matrices, so that a step is one product: rows (input, output), columns (training input, output).
    matrix = np.swapaxes(kernel, -3, -2).reshape(*kernel.shape[:-4], m * k, n * k)
    f, found = start.reshape(*start.shape[:-2], m * k), {}
    for step in range(steps[-1] + 1):
        found[step] = f
        f = f - learning_rate * np.matmul(matrix, (f[..., : n * k] - y.ravel())[..., None])[..., 0]
    return np.stack([found[step] for step in steps], axis=-2).reshape(*start.shape[:-2], len(steps), m, k)
