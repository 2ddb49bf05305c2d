"""What every family's kernel function returns."""

from typing import NamedTuple

from jaxtyping import Array, Float


class KernelPair(NamedTuple):
    """Covariance of the outputs at initialisation (NNGP) and tangent kernel (NTK)."""

    nngp: Float[Array, "n1 n2"]
    ntk: Float[Array, "n1 n2"]
