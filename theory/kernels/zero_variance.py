"""What a kink's slope is where a pre-activation is zero for certain: for zero inputs in networks without biases."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.activations import Activation, PiecewiseLinear


def slope_with_zeros(
    activation: Activation, a: Float[Array, "*#shape"], b: Float[Array, "*#shape"], slope: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """E φ'(u)φ'(v), with φ'(0) = α, the slope on the left, as in gradients of finite networks (0 for ReLU).

    Only learned biases that start at zero, `StandardBiases` with σ_b² = 0, make a tangent kernel that it multiplies.
    With slopes α and β it is α² if both variances are zero and α (α + β)/2 if one is. Other slopes stay.

    Args:
        activation: φ.
        a, b: variances of u and v.
        slope: what holds for positive variances.
    """
    slopes = activation.function
    if not isinstance(slopes, PiecewiseLinear):
        return slope
    alpha, beta = slopes.negative, slopes.positive
    one = jnp.where((a == 0) | (b == 0), 0.5 * alpha * (alpha + beta), slope)
    return jnp.where((a == 0) & (b == 0), alpha * alpha, one)
