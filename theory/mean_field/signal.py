r"""How lengths and correlations of pre-activations travel through a wide random network.

In the limit of infinite width the pre-activations of two inputs are, in every layer, a centred Gaussian pair.
Its variances q_1, q_2 (lengths) and its correlation c follow a recursion: with (u, v) the pair of layer l,

    q^{l+1} = σ_w² E[φ(u)²] + σ_b²,        c^{l+1} √(q_1^{l+1} q_2^{l+1}) = σ_w² E[φ(u) φ(v)] + σ_b².

Source: Poole et al. 2016, section 2; Schoenholz et al. 2017, section 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory import gaussian
from theory.architecture import MLP


class Trajectory(NamedTuple):
    """Lengths q_1, q_2 and correlation c of the pre-activations z_1, …, z_L, each of shape (L,)."""

    length1: Float[Array, " layers"]
    length2: Float[Array, " layers"]
    correlation: Float[Array, " layers"]


@jax.jit
def length_map(architecture: MLP, length: ArrayLike) -> Float[Array, "..."]:
    """One layer's map of the length, Q(q) = σ_w² E[φ(√q z)²] + σ_b² with z ~ N(0, 1).

    Args:
        architecture: activation and variances; its depth plays no role.
        length: q ≥ 0, of any shape.

    Returns:
        Q(q), of the shape of `length`.

    Source: Poole et al. 2016, section 2.1.
    """
    weight_variance, bias_variance = variances(architecture)
    return weight_variance * gaussian.second_moment(architecture.activation, length) + bias_variance


@jax.jit
def pair_map(
    architecture: MLP, length1: ArrayLike, length2: ArrayLike, correlation: ArrayLike
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """One layer's map (q_1, q_2, c) → (Q(q_1), Q(q_2), (σ_w² E[φ(u)φ(v)] + σ_b²) / √(Q(q_1) Q(q_2))).

    Args:
        architecture: activation and variances.
        length1, length2: variances q_1, q_2 > 0 of the pair.
        correlation: c between −1 and 1.

    Returns:
        The three quantities one layer on, of the common shape.

    Source: Poole et al. 2016, section 2.2.
    """
    q1, q2, c = jnp.broadcast_arrays(*(gaussian.as_float(v) for v in (length1, length2, correlation)))
    out1, out2 = length_map(architecture, q1), length_map(architecture, q2)
    moment = gaussian.dual(architecture.activation, q1, q2, c * jnp.sqrt(q1 * q2))
    weight_variance, bias_variance = variances(architecture)
    covariance = weight_variance * moment + bias_variance
    # Rounding may leave [−1, 1] by a few units in the last place, and stays there in all later layers.
    return out1, out2, jnp.clip(covariance / jnp.sqrt(out1 * out2), -1.0, 1.0)


@jax.jit
def correlation_slope(architecture: MLP, length: ArrayLike, correlation: ArrayLike) -> Float[Array, "..."]:
    """χ_c = σ_w² E[φ'(u)φ'(v)] at equal lengths q and correlation c: the slope of the correlation map at q*.

    At c = 1 it is χ₁ = σ_w² E[φ'(√q z)²], the factor by which a small difference between two inputs, and a
    squared gradient on its way back, grow in a layer.

    Args:
        architecture: activation and variances.
        length: q > 0.
        correlation: c between −1 and 1.

    Returns:
        χ_c, of the common shape.

    Source: Poole et al. 2016, section 2.2, for χ₁; Schoenholz et al. 2017, section 3.
    """
    q, c = jnp.broadcast_arrays(gaussian.as_float(length), gaussian.as_float(correlation))
    weight_variance, _ = variances(architecture)
    return weight_variance * gaussian.dual_derivative(architecture.activation, q, q, c * q)


def propagate(
    architecture: MLP, length1: ArrayLike = 1.0, length2: ArrayLike = 1.0, correlation: ArrayLike = 0.0
) -> Trajectory:
    """Lengths and correlation of two inputs in each of the L = depth + 1 layers of pre-activations.

    The first layer is linear in the inputs: q^1 = σ_w² |x|²/d + σ_b², c^1 √(q_1^1 q_2^1) = σ_w² x·x'/d + σ_b².

    Args:
        architecture: depth, activation and variances.
        length1, length2: |x|²/d and |x'|²/d of the two inputs, positive numbers.
        correlation: the cosine x·x' / (|x||x'|).

    Returns:
        Trajectory of z_1, …, z_L (z_L is the output).

    Raises:
        ValueError: a length is not positive, the cosine lies outside [−1, 1], or one of them is no single number.

    Source: Schoenholz et al. 2017, section 2.
    """
    check_pair(length1, length2, correlation)
    return Trajectory(*_propagate(architecture, *map(gaussian.as_float, (length1, length2, correlation))))


def variances(architecture: MLP) -> tuple[Array, Array]:
    """σ_w² and σ_b² as arrays."""
    return jnp.asarray(architecture.weight_variance), jnp.asarray(architecture.bias_variance)


def check_pair(length1: ArrayLike, length2: ArrayLike, correlation: ArrayLike) -> None:
    """Refuse lengths and cosines that no pair of inputs has; tracers have no value to look at and pass."""
    for name, value in (("length1", length1), ("length2", length2), ("correlation", correlation)):
        if np.ndim(value) != 0:
            raise ValueError(f"{name} must be one number, got shape {np.shape(value)}; use jax.vmap for several")
        if isinstance(value, Tracer):
            continue
        number = np.asarray(value).item()
        if name == "correlation" and not -1 <= number <= 1:
            raise ValueError(f"correlation is the cosine of two inputs, between -1 and 1, got {number}")
        if name != "correlation" and not 0 < number < np.inf:
            raise ValueError(f"{name} is |x|²/d of an input and must be positive and finite, got {number}")


def first_layer(architecture: MLP, length1: Array, length2: Array, correlation: Array) -> Float[Array, "3"]:
    """(q_1, q_2, c) of the first layer's pre-activations, from the inputs' lengths and cosine."""
    weight_variance, bias_variance = variances(architecture)
    overlaps = jnp.stack([length1, length2, correlation * jnp.sqrt(length1 * length2)])
    q1, q2, covariance = weight_variance * overlaps + bias_variance
    return jnp.stack([q1, q2, covariance / jnp.sqrt(q1 * q2)])


@jax.jit
def _propagate(architecture: MLP, length1: Array, length2: Array, correlation: Array) -> tuple[Array, ...]:
    start = first_layer(architecture, length1, length2, correlation)

    def layer(state: Array, _: None) -> tuple[Array, Array]:
        after = jnp.stack(pair_map(architecture, *state))
        return after, after

    _, rest = jax.lax.scan(layer, start, length=architecture.depth)
    return tuple(jnp.concatenate([start[None], rest]).T)
