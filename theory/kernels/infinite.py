"""Kernels of infinitely wide networks: the covariance at initialisation (NNGP) and the tangent kernel (NTK)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.architecture import MLP
from theory.arrays import ArrayLike, one_or_two
from theory.gaussian import derivative_second_moment, dual, dual_derivative, second_moment


class Kernels(NamedTuple):
    """Kernels of one layer between the inputs, and of each input with itself.

    The self-terms run beside the matrices in a recursion of their own, because a diagonal that has been
    through a matrix product is no longer at ρ = 1 to the last digit, and the kink of ReLU turns a rounding
    error ε there into √ε.
    """

    nngp: Float[Array, "n1 n2"]
    ntk: Float[Array, "n1 n2"]
    rows: "SelfKernels"
    columns: "SelfKernels"


class SelfKernels(NamedTuple):
    """K(x, x) and Θ(x, x) for each input x."""

    nngp: Float[Array, " n"]
    ntk: Float[Array, " n"]


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
    weight_variance = jnp.asarray(architecture.weight_variance, x1.dtype)
    bias_variance = jnp.asarray(architecture.bias_variance, x1.dtype)
    activation = architecture.activation

    def self_step(kernels: SelfKernels) -> SelfKernels:
        variance = weight_variance * second_moment(activation, kernels.nngp) + bias_variance
        slope = weight_variance * derivative_second_moment(activation, kernels.nngp)
        return SelfKernels(variance, variance + slope * kernels.ntk)

    def assemble(covariance: Array, tangent: Array, rows: SelfKernels, columns: SelfKernels) -> Kernels:
        if x2 is None:
            covariance = _symmetric(covariance, rows.nngp)
            tangent = _symmetric(tangent, rows.ntk)
        return Kernels(covariance, tangent, rows, columns)

    def step(kernels: Kernels, _: None) -> tuple[Kernels, None]:
        a, b, c = kernels.rows.nngp[:, None], kernels.columns.nngp[None, :], kernels.nngp
        covariance = weight_variance * dual(activation, a, b, c) + bias_variance
        tangent = covariance + weight_variance * dual_derivative(activation, a, b, c) * kernels.ntk
        rows = self_step(kernels.rows)
        columns = rows if x2 is None else self_step(kernels.columns)
        return assemble(covariance, tangent, rows, columns), None

    other = x1 if x2 is None else x2
    scale = weight_variance / x1.shape[1]
    covariance = scale * jnp.matmul(x1, other.T, precision=jax.lax.Precision.HIGHEST) + bias_variance
    squares = [scale * jnp.sum(x * x, axis=1) + bias_variance for x in (x1, other)]
    start = assemble(covariance, covariance, *(SelfKernels(q, q) for q in squares))
    # A scan compiles one layer whatever the depth.
    return jax.lax.scan(step, start, None, length=architecture.depth)[0]


def _symmetric(matrix: Float[Array, "n n"], diagonal: Float[Array, " n"]) -> Float[Array, "n n"]:
    """The matrix with that diagonal, equal to its transpose to the last bit."""
    return jnp.where(jnp.eye(len(diagonal), dtype=bool), diagonal, 0.5 * (matrix + matrix.T))
