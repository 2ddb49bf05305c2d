"""Kernels of infinitely wide networks: the covariance at initialisation (NNGP) and the tangent kernel (NTK)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.architecture import MLP, PiecewiseLinear, StandardBiases
from theory.arrays import ArrayLike, one_or_two
from theory.double_precision import in_double
from theory.gaussian import derivative_second_moment, second_moment
from theory.hermite_series import duals
from theory.kernels.angles import after_layer, gram, needs_angles
from theory.kernels.families import Family, family_kernels
from theory.kernels.tiles import is_tiled, tiled
from theory.kernels.zero_variance import slope_with_zeros


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
    sine2: Float[Array, "n1 n2"] | None  # 1 − ρ² of nngp, for activations with a kink or a jump


class SelfKernels(NamedTuple):
    """K(x, x) and Θ(x, x) for each input x."""

    nngp: Float[Array, " n"]
    ntk: Float[Array, " n"]


def nngp(
    architecture: MLP | Family | StandardBiases, x1: ArrayLike, x2: ArrayLike | None = None
) -> Float[Array, "n1 n2"]:
    """Covariance of the outputs of the infinitely wide network at initialisation.

    For an MLP K_0(x, x') = σ_w² x·x'/d + σ_b² and, for each hidden layer, K_{l+1} = σ_w² E[φ(u)φ(v)] + σ_b² with (u, v)
    centred Gaussian of covariance K_l.

    Args:
        architecture: an MLP or another family of `theory.architecture`; the variances may be traced, vmap and grad over
            them work.
        x1: inputs (n1, d), with any d ≥ 1; of the shape that the family's own kernel function says.
        x2: inputs (n2, d); by default x1 again, then the diagonal is exact and the result symmetric.

    Returns:
        K_depth(x1, x2), in the inputs' dtype.

    Raises:
        ValueError: an input is no matrix, has entries that are not finite, or the features do not match.

    Source: Lee et al. 2018, eq. (3); Matthews et al. 2018, eq. (5).
    """
    plain, _ = _bare(architecture)
    if not isinstance(plain, MLP):
        return family_kernels(plain, x1, x2).nngp
    return in_double(partial(_kernel, tangent=False, standard=False), plain, *one_or_two(x1, x2))


def ntk(
    architecture: MLP | Family | StandardBiases, x1: ArrayLike, x2: ArrayLike | None = None
) -> Float[Array, "n1 n2"]:
    """Tangent kernel Θ = Σ_θ ∂f(x)/∂θ ∂f(x')/∂θ of the infinitely wide network, over all weights and biases.

    For an MLP Θ_0 = K_0 and Θ_{l+1} = K_{l+1} + σ_w² E[φ'(u)φ'(v)] Θ_l, in the NTK parametrisation: the biases count
    with their multiplier σ_b. Wrapped in `StandardBiases` they count 1: each K_l here has 1 in place of its σ_b².
    Arguments, result and errors are those of `nngp`.

    Source: Jacot et al. 2018, Theorem 1.
    """
    plain, standard = _bare(architecture)
    if not isinstance(plain, MLP):
        return family_kernels(plain, x1, x2, standard=standard).ntk
    return in_double(partial(_kernel, tangent=True, standard=standard), plain, *one_or_two(x1, x2))


def _bare(architecture: MLP | Family | StandardBiases) -> tuple[MLP | Family, bool]:
    """The architecture, and whether its biases are in standard parametrisation."""
    if isinstance(architecture, StandardBiases):
        return architecture.architecture, True
    return architecture, False


class ByDepth(NamedTuple):
    """Kernels of the networks with 0, 1, … hidden layers."""

    nngp: Float[Array, "depths n1 n2"]
    ntk: Float[Array, "depths n1 n2"]


def kernels_by_depth(architecture: MLP | StandardBiases, x1: ArrayLike, x2: ArrayLike | None = None) -> ByDepth:
    """NNGP and NTK of the networks with 0, 1, …, `architecture.depth` hidden layers, in one pass.

    Entry l is the kernel of the architecture with depth l; entry 0 is the linear model's. Arguments,
    conventions and errors are those of `nngp`.

    Returns:
        Two arrays of shape (depth + 1, n1, n2), in the inputs' dtype.
    """
    first, second = one_or_two(x1, x2)
    plain, standard = _bare(architecture)
    if not isinstance(plain, MLP):
        raise ValueError(f"architecture must be an MLP, got {type(plain).__name__}; loop over depths with nngp and ntk")

    def every(architecture: MLP, *inputs: Array | None) -> ByDepth:
        wide = (None if x is None else x.astype(jnp.float64) for x in inputs)
        return jax.tree.map(lambda kernel: kernel.astype(first.dtype), _kernels_by_depth(architecture, *wide, standard))

    return in_double(every, plain, first, second)


@partial(jax.jit, static_argnames=("tangent", "standard"))
def _kernel(
    architecture: MLP, x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"] | None, *, tangent: bool, standard: bool
) -> Float[Array, "n1 n2"]:
    """One of the two kernels, to the precision of the inputs' dtype."""
    if not is_tiled(architecture, x1, x2):
        return _dense(architecture, x1, x2, tangent, standard)

    def exact(left: Array, right: Array) -> Array:
        return _dense(architecture, left, right, tangent, standard)

    # The tiles go round a loop that has no reverse derivative, and their polynomials have none to trust.
    @jax.custom_jvp
    def whole(a: MLP, first: Array, second: Array | None) -> Array:
        return tiled(a, first, second, exact, tangent=tangent, standard=standard)

    @whole.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        return jax.jvp(lambda a, first, second: _dense(a, first, second, tangent, standard), primals, tangents)

    return whole(architecture, x1, x2)


def _dense(
    architecture: MLP, x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"] | None, tangent: bool, standard: bool
) -> Float[Array, "n1 n2"]:
    """All pairs at once, in double precision whatever the dtype: an angle loses half the digits of a product."""
    with jax.enable_x64(True):
        first, second = (None if x is None else x.astype(jnp.float64) for x in (x1, x2))
        kernels = _kernels(architecture, first, second, standard)
        return (kernels.ntk if tangent else kernels.nngp).astype(x1.dtype)


@partial(jax.jit, static_argnums=3)
def _kernels(architecture: MLP, x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"] | None, standard: bool) -> Kernels:
    """All kernels of the output layer; compiled once for a depth, an activation and the shapes."""
    start, layer = _recursion(architecture, x1, x2, standard)
    # A scan compiles one layer whatever the depth.
    last: Kernels = jax.lax.scan(lambda kernels, _: (layer(kernels), None), start, None, length=architecture.depth)[0]
    return last if x2 is not None else last._replace(nngp=_symmetric(last.nngp), ntk=_symmetric(last.ntk))


@partial(jax.jit, static_argnums=3)
def _kernels_by_depth(
    architecture: MLP, x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"] | None, standard: bool
) -> ByDepth:
    start, layer = _recursion(architecture, x1, x2, standard)

    def step(kernels: Kernels, _: None) -> tuple[Kernels, ByDepth]:
        return layer(kernels), ByDepth(kernels.nngp, kernels.ntk)

    last, before = jax.lax.scan(step, start, None, length=architecture.depth)
    every = ByDepth(*(jnp.concatenate([a, b[None]]) for a, b in zip(before, (last.nngp, last.ntk), strict=True)))
    return every if x2 is not None else ByDepth(_symmetric(every.nngp), _symmetric(every.ntk))


def _symmetric(matrices: Float[Array, "*depths n n"]) -> Float[Array, "*depths n n"]:
    # Rounding may depend on the order of the arguments; the mean with the transpose does not. Once at the
    # end: within the loop the compiler would compute each entry twice for it.
    return 0.5 * (matrices + jnp.swapaxes(matrices, -1, -2))


def _recursion(
    architecture: MLP, x1: Float[Array, "n1 d"], x2: Float[Array, "n2 d"] | None, standard: bool
) -> tuple[Kernels, Callable[[Kernels], Kernels]]:
    """The kernels before the first hidden layer, and the map from one layer to the next."""
    weight_variance = jnp.asarray(architecture.weight_variance, x1.dtype)
    bias_variance = jnp.asarray(architecture.bias_variance, x1.dtype)
    # What biases add to Θ beside their share in K.
    learned = 1.0 - bias_variance if standard else jnp.zeros_like(bias_variance)
    activation = architecture.activation

    def self_step(kernels: SelfKernels) -> SelfKernels:
        variance = weight_variance * second_moment(activation, kernels.nngp) + bias_variance
        q = kernels.nngp
        slope = weight_variance * slope_with_zeros(activation, q, q, derivative_second_moment(activation, q))
        return SelfKernels(variance, variance + learned + slope * kernels.ntk)

    def with_diagonal(matrix: Array, diagonal: Array | float) -> Array:
        return jnp.where(jnp.eye(*matrix.shape, dtype=bool), diagonal, matrix) if x2 is None else matrix

    def exact(kernels: Kernels) -> Kernels:
        rows, sine2 = kernels.rows, kernels.sine2
        return kernels._replace(
            nngp=with_diagonal(kernels.nngp, rows.nngp),
            ntk=with_diagonal(kernels.ntk, rows.ntk),
            sine2=None if sine2 is None else with_diagonal(sine2, 0.0),
        )

    def layer(kernels: Kernels) -> Kernels:
        a, b = kernels.rows.nngp[:, None], kernels.columns.nngp[None, :]
        c, r = kernels.nngp, kernels.sine2
        dual, slope = duals(activation, a, b, c, r)
        slope = slope_with_zeros(activation, a, b, slope)
        covariance = weight_variance * dual + bias_variance
        tangent = covariance + learned + weight_variance * slope * kernels.ntk
        rows = self_step(kernels.rows)
        columns = rows if x2 is None else self_step(kernels.columns)
        sine2 = None
        if r is not None:
            wide = jnp.broadcast_arrays(a, b)
            sine2 = after_layer(activation.function, wide[0], wide[1], c, r, weight_variance, bias_variance)
        return exact(Kernels(covariance, tangent, rows, columns, sine2))

    return exact(_input_kernels(weight_variance, bias_variance, learned, x1, x2, needs_angles(activation))), layer


def _input_kernels(
    weight_variance: Array, bias_variance: Array, learned: Array, x1: Array, x2: Array | None, with_angles: bool
) -> Kernels:
    """K_0 = σ_w² x·x'/d + σ_b² and Θ_0, which is the same up to what biases add."""
    if with_angles:
        first, second, inner, sine2 = gram(x1, x2)
        a, b = jnp.broadcast_arrays(first[:, None], second[None])
        # The first layer is dense alone: φ(x) = x, whose two slopes of 1 make the gain σ_w².
        sine2 = after_layer(PiecewiseLinear(1.0, 1.0), a, b, inner, sine2, weight_variance, bias_variance)
    else:
        other, sine2 = x1 if x2 is None else x2, None
        inner = jnp.matmul(x1, other.T, precision=jax.lax.Precision.HIGHEST) / x1.shape[1]
        first, second = (jnp.mean(x * x, axis=1) for x in (x1, other))
    covariance, variance1, variance2 = (weight_variance * q + bias_variance for q in (inner, first, second))
    rows, columns = (SelfKernels(variance, variance + learned) for variance in (variance1, variance2))
    return Kernels(covariance, covariance + learned, rows, columns, sine2)
