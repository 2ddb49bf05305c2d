r"""Kernels of infinitely wide self-attention with tied keys and queries and linear scaling.

For sequences x, x' and positions α, α' let H = E φ(u)φ(v) and H' = E φ'(u)φ'(v) under the covariance K of z(α), z'(α').
The attention weights are deterministic, A(x) = softmax of s H(x, x) over the second position, and

    K_1 = σ_w² x(α)·x'(α')/c + σ_b² = Θ_1,
    K_{l+1} = σ_w² A(x) H A(x')ᵀ + σ_b²,    Θ_{l+1} = σ_w² A(x) [2H + H' Θ_l] A(x')ᵀ + σ_b²:

values and outputs contribute σ_w² A H Aᵀ each; keys, whose gradient falls as 1/n, nothing. The readout takes means over
α = α' (flatten) or over all pairs (pool).

Source: Hron et al. 2020, theorems 3 and 4 with the scaling 1/n.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.architecture import Attention
from theory.arrays import ArrayLike, as_float, check_finite
from theory.kernels.layers import Layer, activate, beside, one_input
from theory.kernels.pair import KernelPair

# Bytes for one block of pairs of sequences, and arrays of a block's size that live at once.
MEMORY, LIVE = 5e8, 8


def attention_kernels(
    architecture: Attention,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    *,
    memory: int | float = MEMORY,
    standard: bool = False,
) -> KernelPair:
    """NNGP and NTK between the sequences x1 and x2.

    For activations with a kink angles below 1e-8 between different positions or sequences are not resolved.

    Args:
        architecture: its numbers may be traced.
        x1: sequences (n1, positions, c).
        x2: sequences (n2, positions, c); by default x1 again, then the diagonal is exact and the result symmetric.
        memory: bytes that the pairs computed at once may take; one sequence of x1 against all of x2 is the least.
        standard: whether a bias counts 1 in the NTK, in place of σ_b².

    Raises:
        ValueError: an input has the wrong shape or entries that are not finite, or `memory` is not positive.
    """
    if not memory > 0:
        raise ValueError(f"memory must be positive, a number of bytes, got {memory}")
    first = _sequences("x1", x1)
    second = first if x2 is None else _sequences("x2", x2)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"x1 and x2 must be sequences of one shape, got {first.shape[1:]} and {second.shape[1:]}")
    dtype = jnp.result_type(first, second)
    first, second = first.astype(dtype), second.astype(dtype)
    row = LIVE * dtype.itemsize * len(second) * first.shape[1] ** 2
    return _kernels(architecture, min(len(first), max(1, int(memory / row))), x2 is None, standard, first, second)


def _sequences(name: str, value: ArrayLike) -> Float[Array, "n positions c"]:
    array = as_float(value)
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise ValueError(f"{name} must have shape (examples, positions, channels), got {array.shape}")
    check_finite(name, array)
    return array


@partial(jax.jit, static_argnums=(1, 2, 3))
def _kernels(
    architecture: Attention,
    block: int,
    same: bool,
    standard: bool,
    x1: Float[Array, "n1 positions c"],
    x2: Float[Array, "n2 positions c"],
) -> KernelPair:
    """Row by row of x1, in batches of `block`."""
    weight, bias = (jnp.asarray(v, x1.dtype) for v in (architecture.weight_variance, architecture.bias_variance))
    counts = bias + beside(bias, standard=standard)
    weights2, variances2 = jax.vmap(lambda x: _alone(architecture, x), out_axes=1)(x2)

    def row(one: tuple[Array, Array]) -> KernelPair:
        x, number = one
        weights1, variances1 = _alone(architecture, x)
        # The same position of the same sequence.
        mine = jnp.eye(len(x), dtype=bool) & (number == jnp.arange(len(x2)))[:, None, None] if same else None
        products = jnp.einsum("ac,jbc->jab", x, x2, precision=jax.lax.Precision.HIGHEST) / x.shape[-1]
        start = weight * products + bias

        def features(a: Array, b: Array, covariance: Array, tangent: Array) -> Layer:
            layer = Layer(a[None, :, None], b[:, None, :], covariance, tangent, None)
            return activate(architecture.activation, one_input(layer, mine))

        def step(kernels: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
            a, b, left, right = at
            h = features(a, b, *kernels)
            mixed, learned = (
                weight * jnp.einsum("ap,jpq,jbq->jab", left, part, right, precision=jax.lax.Precision.HIGHEST)
                for part in (h.covariance, h.tangent)
            )
            return (mixed + bias, learned + 2 * mixed + counts), None

        last = jax.lax.scan(
            step, (start, start - bias + counts), (variances1[:-1], variances2[:-1], weights1, weights2)
        )[0]
        h = features(variances1[-1], variances2[-1], *last)
        if architecture.readout == "flatten":
            means = (jnp.mean(jnp.diagonal(part, axis1=1, axis2=2), axis=1) for part in (h.covariance, h.tangent))
        else:
            means = (jnp.mean(part, axis=(1, 2)) for part in (h.covariance, h.tangent))
        covariance, tangent = (weight * mean for mean in means)
        return KernelPair(covariance + bias, covariance + counts + tangent)

    found = jax.lax.map(row, (x1, jnp.arange(len(x1))), batch_size=block)
    return KernelPair(*(0.5 * (part + part.T) for part in found)) if same else found


def _alone(
    architecture: Attention, x: Float[Array, "positions c"]
) -> tuple[Float[Array, "depth positions positions"], Float[Array, "layers positions"]]:
    """Attention weights of each layer, and variances of z_1, …, z_{L+1}, of one sequence."""
    weight, bias, sharpness = (
        jnp.asarray(v, x.dtype)
        for v in (architecture.weight_variance, architecture.bias_variance, architecture.sharpness)
    )
    own = jnp.eye(len(x), dtype=bool)

    def step(kernel: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        variance = jnp.diagonal(kernel)
        layer = Layer(variance[:, None], variance[None], kernel, jnp.zeros_like(kernel), None)
        h = activate(architecture.activation, one_input(layer, own)).covariance
        attended = jax.nn.softmax(sharpness * h, axis=1)
        mixed = jnp.einsum("ap,pq,bq->ab", attended, h, attended, precision=jax.lax.Precision.HIGHEST)
        return weight * mixed + bias, (attended, variance)

    start = weight * jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST) / x.shape[1] + bias
    last, (weights, variances) = jax.lax.scan(step, start, None, length=architecture.depth)
    return weights, jnp.concatenate([variances, jnp.diagonal(last)[None]])
