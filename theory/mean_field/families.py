"""Signal propagation in every family: how lengths and covariances travel from layer to layer.

One layer takes the covariance K = E u v of the pre-activations of two inputs, of lengths q_1 and q_2, to

    MLP, Convolutional   K' = σ_w² E φ(u)φ(v) + σ_b²,
    Residual             K' = K + α² (σ_w² E φ(u)φ(v) + σ_b²),
    LayerNorm of these   the same with u/√q_1 and v/√q_2 in place of u and v inside of φ,

and lengths are the covariances of an input with itself. `StandardBiases` of any of them changes how biases are learned,
hence none of these maps: they are those of the architecture inside. For `Convolutional` this holds position by position
where the covariance is the same at all positions and padding keeps it so (circular or valid); for the others see
`theory.mean_field.positions`. `theory.mean_field.signal` has the maps of the MLP alone.

Source: Poole et al. 2016, section 2, for the MLP; Yang & Schoenholz 2017, section 3, for skip connections, here in the
order of pre-activations; Xiao et al. 2018, section 2, for convolutions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory import gaussian
from theory.architecture import MLP, Attention, Convolutional, LayerNorm, Residual, StandardBiases
from theory.arrays import is_traced
from theory.mean_field.signal import Trajectory, check_pair

Family = MLP | Convolutional | Residual | LayerNorm | StandardBiases
_Plain = MLP | Convolutional | Residual


def family_length_map(architecture: Family, length: ArrayLike) -> Float[Array, "..."]:
    """One layer's map of the length: Q(q) = K' above for an input with itself.

    It has a fixed point for MLPs; skip connections make the length grow, by the factor 1 + α² σ_w²/2 a layer for ReLU
    without biases, and under a layer norm the branch adds the same at every layer.

    Args:
        architecture: its depth plays no role.
        length: q ≥ 0, of any shape. A layer norm takes 0 to 0 before φ.

    Returns:
        Q(q), of the shape of `length`.

    Raises:
        ValueError: the architecture is of another family, or a convolution with zeros around ('same'); or a length is
            negative, or a correlation outside of [−1, 1].
    """
    split(architecture)
    _check_values(length=length)
    return _length_map(architecture, gaussian.as_float(length))


def family_pair_map(
    architecture: Family, length1: ArrayLike, length2: ArrayLike, correlation: ArrayLike
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """One layer's map (q_1, q_2, c) → (Q(q_1), Q(q_2), K'/√(Q(q_1) Q(q_2))) at K = c √(q_1 q_2).

    Args:
        architecture: its depth plays no role.
        length1, length2: q_1, q_2 > 0, of shapes that broadcast.
        correlation: c between −1 and 1.

    Returns:
        The three quantities one layer on, of the common shape.

    Raises:
        ValueError: as in `family_length_map`.
    """
    split(architecture)
    _check_values(correlation, length1=length1, length2=length2)
    parts = (gaussian.as_float(v) for v in (length1, length2, correlation))
    q1, q2, c = jnp.broadcast_arrays(*parts)
    return _correlated(*covariance_map(architecture, q1, q2, c * jnp.sqrt(q1 * q2)))


def family_slope(architecture: Family, length: ArrayLike, correlation: ArrayLike) -> Float[Array, "..."]:
    """∂K'/∂K at equal lengths q: χ = σ_w² E φ'(u)φ'(v), or 1 + α² χ with skips; under a layer norm χ at q = 1, over q.

    At c = 1 it is the factor by which a squared gradient grows on its way back through a layer. With a skip connection
    it is never below 1: gradients do not vanish. For an MLP at its fixed point it is also the slope of the correlation.

    Args:
        architecture: its depth plays no role.
        length: q > 0.
        correlation: c between −1 and 1.

    Returns:
        The slope, of the common shape.

    Raises:
        ValueError: as in `family_length_map`.

    Source: Schoenholz et al. 2017, section 3; Yang & Schoenholz 2017, section 3.
    """
    split(architecture)
    _check_values(correlation, length=length)
    return _slope(architecture, *jnp.broadcast_arrays(gaussian.as_float(length), gaussian.as_float(correlation)))


def family_propagate(
    architecture: Family, length1: ArrayLike = 1.0, length2: ArrayLike = 1.0, correlation: ArrayLike = 0.0
) -> Trajectory:
    """Lengths and correlation of two inputs in every layer of pre-activations, and of the output.

    These are z_1, …, z_L and f for L hidden layers of an MLP or `Convolutional`, z_1, …, z_{L+1} and f for L residual
    blocks. The last entry is what `nngp` of the architecture gives.

    Args:
        architecture: a `Convolutional` must be flattened.
        length1, length2: |x|²/d and |x'|²/d, positive numbers; of a `Convolutional` |x(α)|²/c, alike at all positions.
        correlation: the cosine of x and x', or of x(α) and x'(α), alike at all positions α.

    Raises:
        ValueError: as in `family_length_map`; or the readout is 'pool', which takes in the covariances between
            different positions; or a length is not positive, the cosine lies outside [−1, 1], or one of them is no
            single number.
    """
    plain, _ = split(architecture)
    if isinstance(plain, Convolutional) and plain.readout != "flatten":
        raise ValueError(
            f"readout must be 'flatten', got '{plain.readout}': it needs covariances between positions, for which "
            "there is position_map"
        )
    check_pair(length1, length2, correlation)
    return Trajectory(*_propagate(architecture, *map(gaussian.as_float, (length1, length2, correlation))))


def split(architecture: Family) -> tuple[_Plain, bool]:
    """The architecture without its layer norms, and whether it had them."""
    bare = architecture.architecture if isinstance(architecture, StandardBiases) else architecture
    plain = bare.architecture if isinstance(bare, LayerNorm) else bare
    if not isinstance(plain, MLP | Convolutional | Residual):
        hint = "; where positions attend to one another a pair of them has no map of its own"
        raise ValueError(
            "architecture must be an MLP, Convolutional, Residual, LayerNorm or StandardBiases of one of them, got "
            f"{type(plain).__name__}{hint if isinstance(plain, Attention) else ''}"
        )
    if isinstance(plain, Convolutional) and plain.padding == "same":
        raise ValueError("padding must be 'circular' or 'valid', got 'same': zeros around make positions unlike")
    return plain, isinstance(bare, LayerNorm)


def _check_values(correlation: ArrayLike | None = None, **lengths: ArrayLike) -> None:
    """Refuse negative lengths, and correlations outside of [−1, 1]; traced values pass."""
    for name, value in lengths.items():
        if not is_traced(value) and not (np.asarray(value) >= 0).all():
            raise ValueError(f"{name} must be at least 0 and a number, got {value!r}; it is a variance")
    if correlation is not None and not is_traced(correlation) and not (np.abs(np.asarray(correlation)) <= 1).all():
        raise ValueError(f"correlation must lie between -1 and 1, got {correlation!r}")


def _skip(plain: _Plain, like: Array) -> tuple[Array, Array]:
    """Factors of K and of the branch in K'."""
    one = jnp.ones((), like.dtype)
    if isinstance(plain, Residual):
        return one, jnp.asarray(plain.branch_scale, like.dtype) ** 2
    return jnp.zeros_like(one), one


def _features(norm: bool, q1: Array, q2: Array, covariance: Array) -> tuple[Array, Array, Array]:
    """What φ sees: (q_1, q_2, K), or that after a layer norm."""
    if not norm:
        return q1, q2, covariance
    size = jnp.sqrt(q1 * q2)
    one, two = (jnp.where(q > 0, 1.0, 0.0).astype(q.dtype) for q in (q1, q2))
    return one, two, jnp.where(size > 0, covariance / jnp.where(size > 0, size, 1.0), 0.0)


def _dense(architecture: Family, q1: Array, q2: Array, covariance: Array) -> tuple[Array, Array, Array]:
    """(q_1, q_2, K) after φ, weights and biases, without a skip connection."""
    plain, norm = split(architecture)
    weight, bias = (jnp.asarray(v, covariance.dtype) for v in (plain.weight_variance, plain.bias_variance))
    a, b, c = _features(norm, q1, q2, covariance)
    moments = (*(gaussian.second_moment(plain.activation, v) for v in (a, b)), gaussian.dual(plain.activation, a, b, c))
    first, second, between = (weight * moment + bias for moment in moments)
    return first, second, between


@jax.jit
def _length_map(architecture: Family, length: Array) -> Array:
    return covariance_map(architecture, length, length, length)[0]


@jax.jit
def covariance_map(architecture: Family, q1: Array, q2: Array, covariance: Array) -> tuple[Array, Array, Array]:
    kept, gain = _skip(split(architecture)[0], covariance)
    branch = _dense(architecture, q1, q2, covariance)
    first, second, between = (kept * v + gain * w for v, w in zip((q1, q2, covariance), branch, strict=True))
    return first, second, between


def _correlated(q1: Array, q2: Array, covariance: Array) -> tuple[Array, Array, Array]:
    # Rounding may leave [−1, 1] by a few units in the last place.
    return q1, q2, jnp.clip(covariance / jnp.sqrt(q1 * q2), -1.0, 1.0)


@jax.jit
def _slope(architecture: Family, length: Array, correlation: Array) -> Array:
    plain, norm = split(architecture)
    seen = jnp.ones_like(length) if norm else length
    slope = jnp.asarray(plain.weight_variance, length.dtype) * gaussian.dual_derivative(
        plain.activation, seen, seen, correlation * seen
    )
    kept, gain = _skip(plain, length)
    return kept + gain * (slope / length if norm else slope)


@jax.jit
def _propagate(architecture: Family, length1: Array, length2: Array, correlation: Array) -> tuple[Array, ...]:
    plain, _ = split(architecture)
    inputs = (length1, length2, correlation * jnp.sqrt(length1 * length2))
    weight, bias = (jnp.asarray(v, length1.dtype) for v in (plain.weight_variance, plain.bias_variance))
    start = tuple(weight * v + bias for v in inputs)

    def layer(state: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        after = covariance_map(architecture, *state)
        return after, after

    # The readout is a dense layer: an MLP's last, and one more on top of residual blocks.
    layers = plain.depth if isinstance(plain, Residual) else max(0, plain.depth - 1)
    last, between = jax.lax.scan(layer, start, length=layers)
    # A linear model has no features to read out.
    ends = [_dense(architecture, *last)] if plain.depth > 0 else []
    rows = [
        jnp.concatenate([s[None], m, *(e[None] for e in o)]) for s, m, *o in zip(start, between, *ends, strict=True)
    ]
    return _correlated(*rows)
