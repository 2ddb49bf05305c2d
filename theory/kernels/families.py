"""The kernels of every family beside the MLP, by the type of the architecture."""

from __future__ import annotations

from theory.architecture import Convolutional
from theory.arrays import ArrayLike
from theory.kernels.convolutional import convolutional_kernels
from theory.kernels.pair import KernelPair

Family = Convolutional


def family_kernels(architecture: Family, x1: ArrayLike, x2: ArrayLike | None = None) -> KernelPair:
    """NNGP and NTK of an architecture other than an MLP.

    Raises:
        ValueError: there are no kernels for this type; or as the family's own function says.
    """
    if isinstance(architecture, Convolutional):
        return convolutional_kernels(architecture, x1, x2)
    raise ValueError(f"architecture must be a family of theory.architecture, got {type(architecture).__name__}")
