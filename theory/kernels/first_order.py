r"""Finite width to first order in 1/n: kurtosis, fluctuations and mean shifts of the NNGP and tangent kernels.

For an MLP with any activation, biases, L hidden layers of n units each, NTK parametrisation, and inputs a, b, c, …
Given the layers below, units i of layer ℓ are independent Gaussians z_i of covariance G_ℓ, and their tangent kernel is

    Θ_ij = δ_ij R_ℓ + X_ij,    X_ij,cd = (σ_w²/n) Σ_kl (W_ik W_jl − δ_ij δ_kl) φ'_k^c φ'_l^d Θ_kl,cd^(ℓ−1),

with R its mean over the weights W of the layer. X is quadratic in W, of order n^(−½), and all that it does to first
order is in two second moments, both of order 1/n,

    E[F(z_i) H(z_j) X_ij,cd] = Σ_ef P^ef_cd E ∂_e F · E ∂_f H  (i ≠ j),    E[F(z_i) X_ii,cd] = Σ_ef P^ef_cd E ∂_e ∂_f F,
    E[X_ij,ab X_kl,cd] = δ_ik δ_jl Q_ab,cd + δ_il δ_jk Q_ab,dc,

by Stein's lemma and Wick's theorem. With expectations at z ~ N(0, G) as functions of G,

    V_ab = σ_w² E φ_a φ_b + σ_b²,    V̇_ab = σ_w² E φ'_a φ'_b,
    U_ab = V_ab + V̇_ab R_ab,         u_ab = σ_w² (φ_a φ_b + φ'_a φ'_b R_ab),

and ∂ the derivatives in the entries of G, the next layer has, at order 1/n (C for covariances, Δ for shifts of means),

    C'(G, G) = ∂V C(G, G) ∂Vᵀ + Cov(σ_w² φφ, σ_w² φφ),
    C'(G, R) = ∂V [C(G, G) ∂Uᵀ + C(G, R) V̇ᵀ] + Cov(σ_w² φφ, u),
    C'(R, R) = [∂U, V̇] C [∂U, V̇]ᵀ + Cov(u, u),
    ΔG' = ∂V ΔG + ½ ∂²V : C(G, G),
    ΔR'_ab = ∂U_ab ΔG + V̇_ab ΔR_ab + ½ ∂²U_ab : C(G, G) + ∂V̇_ab C(G, R_ab) + σ_w² Σ_ef P^ef_ab E ∂_e ∂_f (φ'_a φ'_b),
    P'^ab_cd = σ_w⁴ [R_cd E φ_a φ_b φ'_c φ'_d + Σ_ef E ∂_e (φ_a φ'_c) · E ∂_f (φ_b φ'_d) P^ef_cd],
    Q'_ab,cd = σ_w⁴ [R_ab R_cd E φ'_a φ'_b φ'_c φ'_d + E φ'_a φ'_c · E φ'_b φ'_d Q_ab,cd],

from G = R = σ_w² x·x'/d + σ_b² and P = Q = 0 in the first. Given the layers below, what the units of a layer contribute
to G' and R' is independent, so that neither P nor Q enters C: they close among themselves. In the end

    Cov(Θ_ii,ab, Θ_ii,cd) = C(R_ab, R_cd) + Q_ab,cd + Q_ab,dc.

In the names of Roberts, Yaida & Hanin 2022, chapters 4 and 8, C(G, G), C(G, R), C(R, R), P and Q are V, D, A, F and B,
up to the order of their indices. Guillen, Misof & Gerken 2025 draw the same expansion as Feynman diagrams.

The next order is (L/n)²: each layer multiplies fluctuations, so that 1/n comes with a factor L (Hanin & Nica 2020), and
what is left out is about half the square of the relative correction. That is c·L/n, with c = 5 for ReLU and 2 for
linear networks at one input without biases, and ⅔ for deep tanh networks at criticality: below a tenth for L/n up to
0.02, 0.05 and 0.15. `FirstOrder.relative`, `coefficient` and `radius` give these numbers for any other network.

Source: derived here, beyond the mean of `theory.kernels.ntk_mean_shift`.
"""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from theory.architecture import MLP
from theory.arrays import ArrayLike, is_traced, rows
from theory.kernels.first_order_layer import advance, layer_moments, matrix, start
from theory.kernels.gaussian_tensors import pairs

# Relative first-order correction above which `at` warns: what is left out is half its square, or 0.5 %.
TOLERATED = 0.1


class ExpansionWarning(UserWarning):
    """A width so small that the expansion in 1/n is no longer good at first order."""


class Relative(NamedTuple):
    """Largest coefficients of 1/n among the inputs, relative to √(K_aa K_bb) or √(Θ_aa Θ_bb) of the limits.

    `nngp_shift`, `ntk_shift`: of the mean kernels. `kurtosis`: of E f⁴/(3 (E f²)²), the relative variance of G_aa.
    `ntk_variance`: of the relative variance of Θ_ab.
    """

    nngp_shift: float
    ntk_shift: float
    kurtosis: float
    ntk_variance: float


class AtWidth(NamedTuple):
    """First order at one width n: means, standard deviations of one network's kernels, and kurtosis ratios.

    `nngp`, `ntk`: E G and E Θ, (N, N). `nngp_deviation`, `ntk_deviation`: of G_ab and Θ_ab between networks, (N, N).
    `kurtosis`: E f⁴/(3 (E f²)²), (N,). `correction`: the largest relative correction; its square is left out.
    """

    nngp: Float[np.ndarray, "n n"]
    ntk: Float[np.ndarray, "n n"]
    nngp_deviation: Float[np.ndarray, "n n"]
    ntk_deviation: Float[np.ndarray, "n n"]
    kurtosis: Float[np.ndarray, " n"]
    correction: float


@dataclass(frozen=True)
class FirstOrder:
    """Limits n → ∞ at fixed depth; i ≠ j are output units, a, b, c, d inputs.

    G is the covariance of the outputs given the hidden layers, Θ_ij the tangent kernel of outputs i and j.

    Attributes:
        depth: L, the number of hidden layers.
        nngp: K_ab = lim E G_ab.
        nngp_shift: lim n (E G_ab − K_ab).
        nngp_covariance: lim n Cov(G_ab, G_cd), the four-point vertex.
        ntk: Θ_ab = lim E Θ_ii,ab.
        ntk_shift: lim n (E Θ_ii,ab − Θ_ab).
        ntk_covariance: lim n Cov(Θ_ii,ab, Θ_ii,cd), of one output.
        ntk_between: lim n Cov(Θ_ii,ab, Θ_jj,cd), of two outputs.
        ntk_off_diagonal: lim n E Θ_ij,ab Θ_ij,cd. Its mean is 0, and Θ_ji,cd = Θ_ij,dc.
        cross_covariance: lim n Cov(G_ab, Θ_ii,cd).
        output_ntk: lim n E f_i(a) f_j(b) Θ_ij,cd.
    """

    depth: int
    nngp: Float[np.ndarray, "n n"]
    nngp_shift: Float[np.ndarray, "n n"]
    nngp_covariance: Float[np.ndarray, "n n n n"]
    ntk: Float[np.ndarray, "n n"]
    ntk_shift: Float[np.ndarray, "n n"]
    ntk_between: Float[np.ndarray, "n n n n"]
    ntk_off_diagonal: Float[np.ndarray, "n n n n"]
    cross_covariance: Float[np.ndarray, "n n n n"]
    output_ntk: Float[np.ndarray, "n n n n"]

    @property
    def ntk_covariance(self) -> Float[np.ndarray, "n n n n"]:
        """lim n Cov(Θ_ii,ab, Θ_ii,cd), of one output."""
        return self.ntk_between + self.ntk_off_diagonal + np.swapaxes(self.ntk_off_diagonal, 2, 3)

    @property
    def connected_four_point(self) -> Float[np.ndarray, "n n n n"]:
        """lim n (E f_a f_b f_c f_d − E f_a f_b E f_c f_d − two more pairings), all of one output."""
        v = self.nngp_covariance
        return v + np.einsum("abcd->acbd", v) + np.einsum("abcd->adcb", v)

    @property
    def kurtosis(self) -> Float[np.ndarray, " n"]:
        """lim n (E f⁴/(3 (E f²)²) − 1) at each input."""
        return np.einsum("aaaa->a", self.nngp_covariance) / np.diag(self.nngp) ** 2

    @property
    def relative(self) -> Relative:
        """The largest relative coefficients of 1/n."""
        k, theta = np.diag(self.nngp), np.diag(self.ntk)
        variance = np.einsum("abab->ab", self.ntk_covariance)
        return Relative(
            float(np.max(np.abs(self.nngp_shift) / np.sqrt(np.outer(k, k)))),
            float(np.max(np.abs(self.ntk_shift) / np.sqrt(np.outer(theta, theta)))),
            float(np.max(self.kurtosis)),
            float(np.max(variance / np.outer(theta, theta))),
        )

    @property
    def coefficient(self) -> float:
        """c, with c·L/n the largest relative correction at width n: 5 for ReLU networks without biases."""
        return max(self.relative) / self.depth

    def correction(self, width: int) -> float:
        """c·L/n, which should be small.

        Raises:
            ValueError: the width is below 1.
        """
        if width < 1:
            raise ValueError(f"width must be at least 1 unit, got {width}")
        return max(self.relative) / width

    def radius(self, tolerance: float = TOLERATED) -> float:
        """Largest ratio L/n of depth to width where no relative correction exceeds the tolerance.

        Raises:
            ValueError: the tolerance is not positive.
        """
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {tolerance}")
        return tolerance / self.coefficient if self.coefficient > 0 else math.inf

    def valid(self, width: int, tolerance: float = TOLERATED) -> bool:
        """Whether L/n is within the radius."""
        return width >= self.needed(tolerance)

    def needed(self, tolerance: float = TOLERATED) -> int:
        """Smallest width where no relative correction exceeds the tolerance."""
        # Rounding of the coefficients is no reason for one unit more.
        return max(1, math.ceil(self.depth / self.radius(tolerance) * (1 - 1e-10)))

    def at(self, width: int) -> AtWidth:
        """Means, standard deviations and kurtosis at width n.

        Warns:
            ExpansionWarning: a correction is above a tenth.

        Raises:
            ValueError: a correction is above one: there is no telling what it stands for.
        """
        correction = self.correction(width)
        says = (
            f"at width {width} the first correction is {correction:.2g} of the limit, {self.coefficient:.2g} L/n with "
            f"L = {self.depth}, and the next order about half its square"
        )
        if width < self.needed(1.0):
            raise ValueError(f"{says}; the width must be at least {self.needed(1.0)}")
        if not self.valid(width):
            message = f"{says}; it is below {TOLERATED:g} from width {self.needed()} on"
            warnings.warn(message, ExpansionWarning, stacklevel=2)
        deviations = (
            np.sqrt(np.maximum(np.einsum("abab->ab", covariance), 0.0) / width)
            for covariance in (self.nngp_covariance, self.ntk_covariance)
        )
        nngp_deviation, ntk_deviation = deviations
        return AtWidth(
            nngp=self.nngp + self.nngp_shift / width,
            ntk=self.ntk + self.ntk_shift / width,
            nngp_deviation=nngp_deviation,
            ntk_deviation=ntk_deviation,
            kurtosis=1 + self.kurtosis / width,
            correction=correction,
        )


def first_order(architecture: MLP, x: ArrayLike) -> FirstOrder:
    """Kernels of a finite network at initialisation to first order in 1/n, at N inputs.

    Args:
        architecture: an MLP with L ≥ 1 hidden layers, any activation, and variances that are numbers.
        x: inputs (N, d). Time grows as N⁴, memory as N⁶: seconds for N = 4, half a minute a layer for N = 8, a second
            for piecewise linear activations; 0.6 GB for N = 22. Equal inputs are counted once.

    Returns:
        Limits and coefficients in double precision, relatively to 1e-10 for piecewise linear activations, and for tanh,
        erf, GELU and other smooth ones 1e-10 with up to three inputs and 1e-9 with more, at variances up to 3. Details
        in `theory.kernels.four_points` and `theory.kernels.pair_moments`.

    Warns:
        PrecisionWarning: an activation that is not smooth has kinks elsewhere than at zero, or nearly parallel inputs.

    Raises:
        ValueError: no MLP, no hidden layer, traced variances, x is no matrix, an input has pre-activations of variance
            zero, or two inputs are parallel in a layer, without being equal, and φ is not smooth.

    Source: as for the module.
    """
    if not isinstance(architecture, MLP):
        raise ValueError(f"architecture must be an MLP, got {type(architecture).__name__}")
    if architecture.depth < 1:
        raise ValueError("depth must be at least 1 hidden layer: without one the output is Gaussian, and Θ constant")
    if is_traced(architecture.weight_variance) or is_traced(architecture.bias_variance):
        raise ValueError("weight_variance and bias_variance must be numbers here; the quadrature is not traced")
    weight, bias = (np.asarray(v, np.float64) for v in (architecture.weight_variance, architecture.bias_variance))
    if weight.size != 1 or bias.size != 1:
        shapes = f"{weight.shape} and {bias.shape}"
        raise ValueError(f"weight_variance and bias_variance must be one number each, got shapes {shapes}; use a loop")
    weight, bias = weight.item(), bias.item()
    with jax.enable_x64(True):
        inputs = np.asarray(rows("x", x), np.float64)
    # Distinct inputs in the order of the caller's, so that errors name his.
    if len(inputs) == 0:
        raise ValueError(f"x must have at least one input, got shape {inputs.shape}")
    _, first, where = np.unique(inputs, axis=0, return_index=True, return_inverse=True)
    points, where = inputs[np.sort(first)], np.argsort(np.argsort(first))[where.ravel()]
    n, names = len(points), [int(i) for i in np.sort(first)]
    state = start(weight * points @ points.T / points.shape[1] + bias)
    for _ in range(architecture.depth):
        state = advance(state, layer_moments(architecture.activation, state.g, n, names), weight, bias)
    two = np.ix_(where, where)
    four = np.ix_(where, where, where, where)
    index = matrix(np.arange(len(pairs(n)), dtype=np.float64), n).astype(int)[two]
    vertex, cross, between = (c[index[:, :, None, None], index] for c in (state.gg, state.gr, state.rr))
    return FirstOrder(
        depth=architecture.depth,
        nngp=matrix(state.g, n)[two],
        nngp_shift=matrix(state.dg, n)[two],
        nngp_covariance=vertex,
        ntk=matrix(state.r, n)[two],
        ntk_shift=matrix(state.dr, n)[two],
        ntk_between=between,
        ntk_off_diagonal=state.q[four],
        cross_covariance=cross,
        output_ntk=state.p[four],
    )
