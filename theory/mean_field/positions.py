"""Patterns in space: how a covariance that differs from position to position travels through convolutions.

Where it is the same at all positions, `theory.mean_field.families` has its map; deviations from that travel as waves,
each with a slope of its own.

Source: Xiao et al. 2018, section 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from theory import gaussian
from theory.architecture import Convolutional, LayerNorm, StandardBiases
from theory.arrays import is_traced
from theory.mean_field.families import covariance_map, family_slope, split


def position_map(
    architecture: Convolutional | LayerNorm | StandardBiases, length: ArrayLike, covariance: ArrayLike
) -> Float[Array, "*batch_and_space"]:
    """One convolution's map of the covariance K(α) = E z(α) z'(α+δ) at some offset δ, alike for all offsets:

        K'(α) = σ_w² (1/q) Σ_β E φ(u)φ(v) + σ_b²,    (u, v) ~ N(0, [[q*, K(α+β)], [K(α+β), q*]]),

    over the q positions β of the filter, where all positions of both images have the length q*.

    Args:
        architecture: with circular padding; its depth and readout play no role.
        length: q* > 0, one number; one layer on it is `family_length_map(architecture, length)`.
        covariance: K (…, *space), with as many axes of space as the filter has.

    Returns:
        K', of the shape of `covariance`.

    Raises:
        ValueError: the architecture is no convolution with circular padding, the covariance has too few axes, or
            `length` is no single positive number.

    Source: Xiao et al. 2018, section 2, for one image.
    """
    plain = _circular(architecture)
    array = gaussian.as_float(covariance)
    if array.ndim < len(plain.filter):
        raise ValueError(f"covariance must have {len(plain.filter)} axes of space, got shape {array.shape}")
    _check_length(length)
    return _position_map(architecture, gaussian.as_float(length), array)


def fourier_slopes(
    architecture: Convolutional | LayerNorm | StandardBiases,
    length: ArrayLike,
    correlation: ArrayLike,
    *,
    space: tuple[int, ...],
) -> Complex[Array, "*space"]:
    """Factors by which the waves e^{2πi Σ_j k_j α_j/S_j} on a constant covariance c q* grow in a layer,

        λ_k = χ (1/q) Σ_β e^{2πi Σ_j k_j β_j/S_j},    χ = `family_slope`.

    They are the eigenvalues of the Jacobian of `position_map`. The constant wave has λ_0 = χ, and no other is larger in
    modulus; a wave dies out over −1/ln|λ_k| layers. For filters of odd size λ is real.

    Args:
        architecture: with circular padding.
        length, correlation: q* > 0 and c of the constant covariance, one number each.
        space: numbers of positions S_j.

    Returns:
        λ (*space), in the order of `numpy.fft.fftn`.

    Raises:
        ValueError: as in `position_map`, or `space` has not as many sizes as the filter.

    Source: Xiao et al. 2018, section 2.
    """
    plain = _circular(architecture)
    if np.ndim(correlation) != 0:
        raise ValueError(f"correlation must be one number, got shape {np.shape(correlation)}; use a loop for several")
    if np.ndim(space) != 1 or len(space) != len(plain.filter) or any(size < 1 for size in space):
        raise ValueError(f"space must be {len(plain.filter)} positive sizes, as many as the filter has, got {space}")
    _check_length(length)
    phases = jnp.ones(())
    for axis, (size, k) in enumerate(zip(space, plain.filter, strict=True)):
        angles = 2 * np.pi * np.outer(np.arange(size), _reach(k)) / size
        mean = np.mean(np.exp(1j * angles), axis=1)
        phases = phases * mean.reshape([-1 if i == axis else 1 for i in range(len(space))])
    return family_slope(architecture, length, correlation) * phases


def _circular(architecture: Convolutional | LayerNorm | StandardBiases) -> Convolutional:
    plain, _ = split(architecture)
    if not isinstance(plain, Convolutional) or plain.padding != "circular":
        raise ValueError(
            "architecture must be Convolutional with padding='circular', or LayerNorm or StandardBiases of it, got "
            f"{architecture!r}"
        )
    return plain


def _check_length(length: ArrayLike) -> None:
    if np.ndim(length) != 0 or not (is_traced(length) or float(np.asarray(length)) > 0):
        raise ValueError(f"length must be one positive number, got {length!r}")


@jax.jit
def _position_map(architecture: Convolutional | LayerNorm | StandardBiases, length: Array, covariance: Array) -> Array:
    plain = _circular(architecture)
    lengths = jnp.broadcast_to(length.astype(covariance.dtype), covariance.shape)
    after = covariance_map(architecture, lengths, lengths, covariance)[2]
    # The mean over the filter, one axis after the other; of σ_b² it is σ_b².
    for axis, k in enumerate(plain.filter, start=-len(plain.filter)):
        after = jnp.mean(jnp.stack([jnp.roll(after, -beta, axis) for beta in _reach(k)]), axis=0)
    return after


def _reach(k: int) -> range:
    """Positions that a filter of size k sees, relative to its own."""
    return range(-((k - 1) // 2), k // 2 + 1)
