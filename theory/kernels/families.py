"""The kernels of every family beside the MLP, by the type of the architecture."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from theory.architecture import MLP, Attention, Convolutional, LayerNorm, Residual
from theory.arrays import ArrayLike, as_float
from theory.double_precision import in_double
from theory.kernels.attention import attention_kernels
from theory.kernels.convolutional import convolutional_kernels
from theory.kernels.pair import KernelPair
from theory.kernels.residual import residual_kernels

Family = Attention | Convolutional | Residual | LayerNorm


def family_kernels(
    architecture: Family, x1: ArrayLike, x2: ArrayLike | None = None, *, standard: bool = False
) -> KernelPair:
    """NNGP and NTK of an architecture other than an MLP; `standard` says how biases count, as in `StandardBiases`.

    Inputs in single precision are computed in double, and the result is rounded: angles lose half of the digits that
    products have.

    Raises:
        ValueError: there are no kernels for this type; or as the family's own function says.
    """
    first, second = as_float(x1), None if x2 is None else as_float(x2)
    dtype = first.dtype if second is None else jnp.result_type(first, second)
    if dtype == jnp.float64:
        return _kernels(architecture, first, second, standard)

    def rounded(family: Family, x: Array, other: Array | None) -> KernelPair:
        wide = None if other is None else other.astype(jnp.float64)
        kernels = _kernels(family, x.astype(jnp.float64), wide, standard)
        return KernelPair(*(kernel.astype(dtype) for kernel in kernels))

    return in_double(rounded, architecture, first, second)


def _kernels(architecture: Family, x1: Array, x2: Array | None, standard: bool) -> KernelPair:
    if isinstance(architecture, Attention):
        return attention_kernels(architecture, x1, x2, standard=standard)
    plain = architecture.architecture if isinstance(architecture, LayerNorm) else architecture
    if isinstance(plain, Convolutional):
        return convolutional_kernels(architecture, x1, x2, standard=standard)  # pyright: ignore[reportArgumentType] # of this family
    if isinstance(plain, Residual | MLP):
        return residual_kernels(architecture, x1, x2, standard=standard)  # pyright: ignore[reportArgumentType] # of this family
    raise ValueError(f"architecture must be a family of theory.architecture, got {type(architecture).__name__}")
