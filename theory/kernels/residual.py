r"""Kernels of infinitely wide fully connected networks with skip connections, layer norms, or both.

    K_1 = Θ_1 = σ_w² x·x'/d + σ_b²,
    K_{l+1} = K_l + α² (σ_w² E φ(u)φ(v) + σ_b²),
    Θ_{l+1} = Θ_l + α² (σ_w² [E φ(u)φ(v) + E φ'(u)φ'(v) Θ_l] + σ_b²),    (u, v) ~ N(0, K_l),

and the readout is one more dense layer. Without skip connections the first terms are missing and α = 1. With a layer
norm u and v have unit variance, and Θ_l is divided by √(K_l(x, x) K_l(x', x')) where φ' meets it: in the limit mean and
variance over the neurons are constants.

Source: Yang & Schoenholz 2017, section 3; the layer norm as in Novak et al. 2020.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.architecture import MLP, LayerNorm, Residual
from theory.arrays import ArrayLike, one_or_two
from theory.kernels.angles import needs_angles
from theory.kernels.layers import Layer, activate, added, affine, beside, inputs, normalised, one_input
from theory.kernels.pair import KernelPair


def residual_kernels(
    architecture: Residual | LayerNorm, x1: ArrayLike, x2: ArrayLike | None = None, *, standard: bool = False
) -> KernelPair:
    """NNGP and NTK of a residual network, or of one (or an MLP) with layer norms.

    Args:
        architecture: the variances may be traced.
        x1: inputs (n1, d).
        x2: inputs (n2, d); by default x1 again, then the diagonal is exact and the result symmetric.
        standard: whether a bias counts 1 in the NTK, in place of σ_b².

    Raises:
        ValueError: an input is no matrix, has entries that are not finite, or the features do not match; or the
            architecture is another one.
    """
    plain = architecture.architecture if isinstance(architecture, LayerNorm) else architecture
    if not isinstance(plain, MLP | Residual):
        raise ValueError(f"architecture must be fully connected, got {type(plain).__name__}")
    first, second = one_or_two(x1, x2)
    return _kernels(plain, isinstance(architecture, LayerNorm), standard, first, second)


@partial(jax.jit, static_argnums=(1, 2))
def _kernels(
    architecture: MLP | Residual,
    norm: bool,
    standard: bool,
    x1: Float[Array, "n1 d"],
    x2: Float[Array, "n2 d"] | None,
) -> KernelPair:
    weight, bias = (jnp.asarray(v, x1.dtype) for v in (architecture.weight_variance, architecture.bias_variance))
    extra = beside(bias, standard=standard)
    own = jnp.eye(len(x1), dtype=bool) if x2 is None else None
    both = inputs(x1, x1 if x2 is None else x2, with_angles=needs_angles(architecture.activation))
    start = affine(both, weight, bias, extra)

    def dense(layer: Layer, scale: Array) -> Layer:
        exact = one_input(layer, own)
        features = activate(architecture.activation, normalised(exact) if norm else exact)
        return affine(features, scale * weight, scale * bias, scale * extra)

    def block(layer: Layer, _: None) -> tuple[Layer, None]:
        if isinstance(architecture, MLP):
            return dense(layer, jnp.ones((), x1.dtype)), None
        return added(layer, dense(layer, jnp.asarray(architecture.branch_scale, x1.dtype) ** 2)), None

    # An MLP's last hidden layer is followed by the readout; a residual network's last block too.
    blocks = architecture.depth - (1 if isinstance(architecture, MLP) else 0)
    last = dense(jax.lax.scan(block, start, None, length=blocks)[0], jnp.ones((), x1.dtype))
    pair = KernelPair(one_input(last, own).covariance, last.tangent)
    return pair if x2 is not None else KernelPair(*(0.5 * (part + part.T) for part in pair))
