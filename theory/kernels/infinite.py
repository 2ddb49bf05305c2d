"""Kernels of infinitely wide networks: the covariance at initialisation (NNGP) and the tangent kernel (NTK)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.architecture import MLP
from theory.arrays import ArrayLike, one_or_two
from theory.gaussian import derivative_second_moment, dual, dual_derivative, second_moment


class Kernels(NamedTuple):
    """Kernels of one layer: between the inputs (`nngp`, `ntk`), and of each input with itself.

    The self-terms run beside the matrices in their own recursion, because a diagonal that has been through
    a matrix product is no longer at ρ = 1 to the last digit, and the kink of ReLU turns a rounding error ε
    there into √ε.
    """

    nngp: Float[Array, "n1 n2"]
    ntk: Float[Array, "n1 n2"]
    self_nngp: tuple[Float[Array, " n1"], Float[Array, " n2"]]
    self_ntk: tuple[Float[Array, " n1"], Float[Array, " n2"]]


def nngp(architecture: MLP, x1: ArrayLike, x2: ArrayLike | None = None) -> Float[Array, "n1 n2"]:
    """Covariance of the outputs of the infinitely wide network at initialisation.

    K_0(x, x') = σ_w² x·x'/d + σ_b² and, for each hidden layer, K_{l+1} = σ_w² E[φ(u)φ(v)] + σ_b² with (u, v)
    centred Gaussian of covariance K_l.

    Args:
        architecture: the variances may be traced; vmap and grad over them work.
        x1: inputs (n1, d), with any d ≥ 1.
        x2: inputs (n2, d); by default x1 again, then the diagonal is exact and the result symmetric.

    Returns:
        K_depth(x1, x2), in the inputs' dtype.

    Raises:
        ValueError: an input is no matrix, has entries that are not finite, or the features do not match.

    Source: Lee et al. 2018, eq. (3); Matthews et al. 2018, eq. (5).
    """
    return _kernels(architecture, *one_or_two(x1, x2)).nngp


def ntk(architecture: MLP, x1: ArrayLike, x2: ArrayLike | None = None) -> Float[Array, "n1 n2"]:
    """Tangent kernel Θ = Σ_θ ∂f(x)/∂θ ∂f(x')/∂θ of the infinitely wide network, over all weights and biases.

    Θ_0 = K_0 and Θ_{l+1} = K_{l+1} + σ_w² E[φ'(u)φ'(v)] Θ_l, in the NTK parametrisation: the biases count
    with their multiplier σ_b. Arguments, result and errors are those of `nngp`.

    Source: Jacot et al. 2018, Theorem 1.
    """
    return _kernels(architecture, *one_or_two(x1, x2)).ntk


@jax.jit
def _kernels(architecture: MLP, x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"] | None) -> Kernels:
    """All kernels of the output layer; compiled once for a depth, an activation and the shapes."""
    dtype = x1.dtype
    weight_variance = jnp.asarray(architecture.weight_variance, dtype)
    bias_variance = jnp.asarray(architecture.bias_variance, dtype)
    activation = architecture.activation
    symmetric = x2 is None

    def with_exact_diagonal(matrix: Array, diagonal: Array) -> Array:
        if not symmetric:
            return matrix
        # Rounding in the dual may depend on the order of its arguments: the mean is symmetric to the last bit.
        return jnp.where(jnp.eye(len(diagonal), dtype=bool), diagonal, 0.5 * (matrix + matrix.T))

    def step(kernels: Kernels, _: None) -> tuple[Kernels, None]:
        first, second = kernels.self_nngp
        a, b, c = first[:, None], second[None, :], kernels.nngp
        covariance = weight_variance * dual(activation, a, b, c) + bias_variance
        slope = weight_variance * dual_derivative(activation, a, b, c)
        variances = tuple(weight_variance * second_moment(activation, q) + bias_variance for q in (first, second))
        tangents = tuple(
            variance + weight_variance * derivative_second_moment(activation, q) * theta
            for variance, q, theta in zip(variances, kernels.self_nngp, kernels.self_ntk, strict=True)
        )
        return Kernels(
            with_exact_diagonal(covariance, variances[0]),
            with_exact_diagonal(covariance + slope * kernels.ntk, tangents[0]),
            variances,
            tangents,
        ), None

    start = _input_kernels(weight_variance, bias_variance, x1, x2)
    start = start._replace(
        nngp=with_exact_diagonal(start.nngp, start.self_nngp[0]), ntk=with_exact_diagonal(start.ntk, start.self_ntk[0])
    )
    # A scan compiles one layer whatever the depth.
    return jax.lax.scan(step, start, None, length=architecture.depth)[0]


def _input_kernels(weight_variance: Array, bias_variance: Array, x1: Array, x2: Array | None) -> Kernels:
    """K_0 = Θ_0 = σ_w² x·x'/d + σ_b²."""
    other = x1 if x2 is None else x2
    scale = weight_variance / x1.shape[1]
    covariance = scale * jnp.matmul(x1, other.T, precision=jax.lax.Precision.HIGHEST) + bias_variance
    first, second = (scale * jnp.sum(x * x, axis=1) + bias_variance for x in (x1, other))
    return Kernels(covariance, covariance, (first, second), (first, second))
