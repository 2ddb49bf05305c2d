r"""First corrections of signal propagation at finite width n.

Given one layer, the next layer's units are independent and identically distributed. The state y = (q_1, q_2, c)
therefore is a Markov chain that is driven by averages over n units: with the statistics

    s(u, v) = (φ(u)², φ(u)φ(v), φ(v)², u², uv, v²),    s̄ = E_y[s] + ε/√n,    Cov ε = V(y) = Cov_y[s],

a layer maps y to G(s̄): the next layer's variances and correlation, and, from the last three statistics, the lengths
and correlation that are observed on the n units of this layer. With h(y) = G(E_y[s]) and J = ∂h, covariance C/n and
mean shift k/n of the state follow

    C' = J C Jᵀ + ∂G V ∂Gᵀ,        k' = J k + ½ ∂²h : C + ½ ∂²G : V,

up to terms of order 1/n². All hidden layers have the same width.

Source: derived here; cf. Roberts, Yaida & Hanin 2022, chapter 4, for the same expansion of the kernels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from theory import gaussian, quadrature
from theory.architecture import MLP
from theory.mean_field.signal import check_pair, first_layer, variances


class Corrections(NamedTuple):
    """Leading finite-width behaviour of what one network shows on its units in layers 1, …, depth.

    Attributes:
        mean: q_1, q_2 and c at infinite width.
        shift: n · (E observed − mean).
        covariance: n · Cov(observed in layer l, observed in layer m), with indices [l, m, ·, ·].
    """

    mean: Float[Array, "layers 3"]
    shift: Float[Array, "layers 3"]
    covariance: Float[Array, "layers layers 3 3"]


def corrections(
    architecture: MLP, length1: ArrayLike = 1.0, length2: ArrayLike = 1.0, correlation: ArrayLike = 0.0
) -> Corrections:
    """Mean, 1/n shift of the mean, and 1/n covariance of observed lengths and correlation, layer by layer.

    Args:
        architecture: depth, activation and variances; the output layer is not counted.
        length1, length2: |x|²/d and |x'|²/d of the two inputs.
        correlation: the cosine of the two inputs, strictly between −1 and 1.

    Returns:
        Corrections, for depth layers. The covariance is that of a single network; multiply by 1/n.

    Raises:
        ValueError: a length is not positive, or the inputs are parallel, where the expansion degenerates.

    Source: as for the module.
    """
    check_pair(length1, length2, correlation)
    if abs(np.asarray(correlation).item()) == 1:
        raise ValueError(f"correlation must lie strictly between -1 and 1, got {correlation}; parallel inputs stay so")
    return Corrections(*_corrections(architecture, *map(gaussian.as_float, (length1, length2, correlation))))


def _statistics_mean(architecture: MLP, state: Float[Array, "3"]) -> Float[Array, "6"]:
    """E_y[s], differentiable also for kinked φ."""
    q1, q2, c = state
    covariance = c * jnp.sqrt(q1 * q2)
    phi = architecture.activation
    own1, own2 = gaussian.second_moment(phi, q1), gaussian.second_moment(phi, q2)
    return jnp.stack([own1, gaussian.dual(phi, q1, q2, covariance), own2, q1, covariance, q2])


def _expanded(function: Callable[[Array], Array], at: Array) -> tuple[Array, Array, Array]:
    """Value, first and second derivatives, in one nest of derivatives: three traces would compile thrice as long."""

    def value_twice(x: Array) -> tuple[Array, Array]:
        value = function(x)
        return value, value

    def first(x: Array) -> tuple[Array, tuple[Array, Array]]:
        slope, value = jax.jacfwd(value_twice, has_aux=True)(x)
        return slope, (value, slope)

    curvature, (value, slope) = jax.jacfwd(first, has_aux=True)(at)
    return value, slope, curvature


def _statistics_covariance(architecture: MLP, state: Float[Array, "3"]) -> Float[Array, "6 6"]:
    """V(y) = Cov_y[s], by the trapezoidal rule on the plane."""
    nodes, weights = (jnp.asarray(x, state.dtype) for x in quadrature.trapezoid(9.0, 8))
    q1, q2, c = state
    u = jnp.sqrt(q1) * nodes[:, None] + jnp.zeros_like(nodes)
    # Rounding could push c past 1 in a deep ordered network.
    v = jnp.sqrt(q2) * (c * nodes[:, None] + jnp.sqrt(jnp.maximum(1 - c * c, 0.0)) * nodes)
    f, g = architecture.activation(u), architecture.activation(v)
    statistics = jnp.stack([f * f, f * g, g * g, u * u, u * v, v * v])
    joint = weights[:, None] * weights
    centred = statistics - jnp.sum(joint * statistics, (1, 2), keepdims=True)
    return jnp.einsum("aij,bij,ij->ab", centred, centred, joint)


def _outcome(architecture: MLP, statistics: Float[Array, "6"]) -> Float[Array, "6"]:
    """G: the next layer's (q_1, q_2, c), and (q_1, q_2, c) as observed on the units themselves."""
    weight_variance, bias_variance = variances(architecture)
    kernel = weight_variance * statistics[:3] + bias_variance
    both = jnp.stack([kernel, statistics[3:]])
    ratio = both[:, 1] / jnp.sqrt(both[:, 0] * both[:, 2])
    return jnp.stack([both[:, 0], both[:, 2], ratio], axis=1).ravel()


@jax.jit
def _corrections(architecture: MLP, length1: Array, length2: Array, correlation: Array) -> tuple[Array, ...]:
    start = first_layer(architecture, length1, length2, correlation)
    depth = architecture.depth

    def outcome(statistics: Array) -> Array:
        return _outcome(architecture, statistics)

    def layer(carry, index):
        mean, shift, covariance, cross = carry
        average, tilt, bow = _expanded(lambda state: _statistics_mean(architecture, state), mean)
        following_mean, gain, bend = _expanded(outcome, average)
        noise = _statistics_covariance(architecture, mean)
        slope = gain @ tilt
        curvature = jnp.einsum("as,sbc->abc", gain, bow) + jnp.einsum("ast,sb,tc->abc", bend, tilt, tilt)
        joint = slope @ covariance @ slope.T + gain @ noise @ gain.T
        shifts = slope @ shift + 0.5 * (
            jnp.einsum("abc,bc->a", curvature, covariance) + jnp.einsum("abc,bc->a", bend, noise)
        )
        # Rows of `cross`: Cov(observed in an earlier layer, state of this one). What is observed in this layer
        # depends on the state through its mean alone, whose derivative is the identity.
        column = cross.at[index].set(joint[3:, 3:])
        following = (cross @ slope[:3].T).at[index].set(joint[3:, :3])
        carry = (following_mean[:3], shifts[:3], joint[:3, :3], following)
        return carry, (mean, shifts[3:], column)

    zeros = jnp.zeros((3, 3), start.dtype)
    carry = (start, jnp.zeros_like(start), zeros, jnp.zeros((depth, 3, 3), start.dtype))
    _, (mean, shift, columns) = jax.lax.scan(layer, carry, jnp.arange(depth))
    # columns[m, l] is filled for l ≤ m only; the other half is its mirror image.
    upper = jnp.swapaxes(columns, 0, 1)
    keep = np.triu(np.ones((depth, depth)))[:, :, None, None]
    mirrored = jnp.swapaxes(jnp.swapaxes(upper, 0, 1), 2, 3)
    covariance = jnp.where(keep == 1, upper, mirrored)
    return mean, shift, covariance
