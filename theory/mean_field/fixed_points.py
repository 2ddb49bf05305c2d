r"""Where the maps of length and correlation come to rest, how fast, and the edge of chaos.

A wide random network is in the *ordered* phase where χ₁ < 1 (all inputs become alike, c* = 1), in the *chaotic*
phase where χ₁ > 1 (they part to a common c* < 1), and critical between the two.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from scipy import optimize

from theory import gaussian
from theory.architecture import MLP, Activation
from theory.architecture import activation as find_activation
from theory.mean_field.signal import correlation_slope, length_map, pair_map, variances

# Where a length counts as zero or as infinite, when a fixed point is looked for between them.
_SMALLEST, _LARGEST = 1e-9, 1e9


@dataclass(frozen=True)
class FixedPoint:
    """Rest of the length and correlation maps.

    Attributes:
        length: q*, stable.
        correlation: c*, stable; 1 in the ordered phase and at criticality.
        chi_1: χ₁ = σ_w² E[φ'(√q* z)²], the slope of the correlation map at c = 1.
        chi_c: σ_w² E[φ'(u)φ'(v)] at c*, the slope there; equals χ₁ where c* = 1.
        length_slope: Q'(q*) = χ₁ + σ_w² E[φ(u)φ''(u)].
    """

    length: float
    correlation: float
    chi_1: float
    chi_c: float
    length_slope: float

    @property
    def phase(self) -> str:
        """'ordered', 'critical' or 'chaotic', as χ₁ is below, at (to 1e-6) or above 1."""
        if abs(self.chi_1 - 1) < 1e-6:
            return "critical"
        return "ordered" if self.chi_1 < 1 else "chaotic"

    @property
    def length_scale(self) -> float:
        """ξ_q = −1/ln |Q'(q*)| in layers: |q − q*| falls as e^{−l/ξ_q}. Source: Schoenholz et al. 2017, section 3."""
        return _depth_scale(self.length_slope)

    @property
    def correlation_scale(self) -> float:
        """ξ_c = −1/ln χ_c in layers: |c − c*| falls as e^{−l/ξ_c}, as a power where ξ_c = ∞.

        Source: Schoenholz et al. 2017, section 3. It is −1/ln χ₁ only where c* = 1.
        """
        return _depth_scale(self.chi_c)


def _depth_scale(slope: float) -> float:
    # Within the accuracy of the quadrature a slope of 1 is marginal: no exponential decay.
    if abs(slope) > 1 - 1e-9:
        return math.inf
    return 0.0 if slope == 0 else -1 / math.log(abs(slope))


def fixed_point(architecture: MLP, *, start: float = 1.0) -> FixedPoint:
    """q*, c*, and the slopes of both maps there.

    Args:
        architecture: activation and variances; its depth plays no role.
        start: length from which q* is approached. It matters where there are several fixed points, or, for a
            critical ReLU network, where every length is one.

    Returns:
        FixedPoint, numbers to about 1e-9 relative in double precision.

    Raises:
        ValueError: the length grows without limit, or its fixed point is unstable, or the length dies out, so
            that a correlation is not defined.

    Source: Poole et al. 2016, section 2; Schoenholz et al. 2017, section 3.
    """
    length = length_fixed_point(architecture, start=start)
    if length == 0:
        raise ValueError(
            f"the length dies out (q* = 0) for {_describe(architecture)}, so that a correlation c* is not defined; "
            "give a positive bias_variance or a larger weight_variance"
        )
    correlation = _correlation_fixed_point(architecture, length)
    return FixedPoint(
        length,
        correlation,
        float(correlation_slope(architecture, length, 1.0)),
        float(correlation_slope(architecture, length, correlation)),
        float(_length_slope(architecture, length)),
    )


def length_fixed_point(architecture: MLP, *, start: float = 1.0) -> float:
    """Stable q* = σ_w² E[φ(√q* z)²] + σ_b² that the length reaches from `start`.

    Args:
        architecture: activation and variances.
        start: q > 0, where the search begins.

    Returns:
        q* ≥ 0; zero if the length dies out; `start` itself where it is a (marginal) fixed point already.

    Raises:
        ValueError: start is not positive, the length grows without limit (ReLU with σ_w² > 2, or with
            σ_w² = 2 and a bias), or the fixed point is unstable.

    Source: Poole et al. 2016, section 2.1.
    """
    if not start > 0:
        raise ValueError(f"start is a length and must be positive, got {start}")

    def gain(length: float) -> float:
        # Relative, so that the sign near zero is not lost to rounding; zero means at rest.
        value = float(length_map(architecture, length)) / length - 1
        return 0.0 if abs(value) < 1e-13 else value

    if gain(start) == 0:
        return _stable(architecture, start)
    # The length moves up or down from `start` until it meets the first fixed point on its way.
    factor = 1.25 if gain(start) > 0 else 0.8
    near = start
    while _SMALLEST < near < _LARGEST:
        far = near * factor
        if gain(far) * gain(near) <= 0:
            low, high = sorted((near, far))
            return _stable(architecture, _root(gain, low, high))
        near = far
    if near <= _SMALLEST:
        return 0.0
    raise ValueError(
        f"the length has no fixed point above {start:g} for {_describe(architecture)}: it grows without limit; "
        "lower weight_variance"
    )


def _stable(architecture: MLP, length: float) -> float:
    slope = float(_length_slope(architecture, length))
    if abs(slope) > 1 + 1e-9:
        raise ValueError(
            f"the fixed point q* = {length:.6g} of the length is unstable (slope {slope:.6g}) for "
            f"{_describe(architecture)}: lengths leave it; give another start"
        )
    return length


def _correlation_fixed_point(architecture: MLP, length: float) -> float:
    """Stable c* of the correlation map at equal lengths q*.

    The map has a power series in c with coefficients ≥ 0 (Daniely et al. 2016), so it is convex on [0, 1] and
    c = 1 is attractive exactly if the slope χ₁ there is at most 1; else one c* < 1 lies below it.
    """

    def excess(correlation: float) -> float:
        return float(pair_map(architecture, length, length, correlation)[2]) - correlation

    if float(correlation_slope(architecture, length, 1.0)) <= 1 + 1e-9 or excess(0.0) <= 1e-15:
        return 1.0 if float(correlation_slope(architecture, length, 1.0)) <= 1 + 1e-9 else 0.0
    # Just below 1 the map lies under the diagonal: approach 1 until it is seen to.
    below = 0.5
    while excess(1 - below) >= 0:
        below /= 2
        if below < 1e-12:
            return 1.0
    return _root(excess, 0.0, 1 - below)


def critical_weight_variance(
    activation: str | Activation, bias_variance: float, *, largest_length: float = 100.0
) -> float:
    """Weight variance σ_w² on the edge of chaos, where χ₁ = σ_w² E[φ'(√q* z)²] = 1.

    Below it nearby inputs merge with depth (ordered phase), above it they part (chaotic phase). On the edge
    σ_w² and σ_b² are functions of q*: σ_w² = 1/E[φ'²] and σ_b² = q* − E[φ²]/E[φ'²], which is solved for q*.

    Args:
        activation: elementwise φ, with its derivative.
        bias_variance: σ_b² ≥ 0.
        largest_length: q* is looked for up to here.

    Returns:
        σ_w² > 0, to a relative accuracy of about 1e-9.

    Raises:
        ValueError: σ_b² is negative, or φ has no critical point there with a stable length (ReLU with
            σ_b² > 0; GELU with small σ_b²).

    Source: Poole et al. 2016; Hayou et al. 2019 (who trace the edge by q* too).
    """
    if not bias_variance >= 0:
        raise ValueError(f"bias_variance must be at least 0, got {bias_variance}")
    function = find_activation(activation)

    def edge_bias(length: float) -> float:
        moment = float(gaussian.second_moment(function, length))
        return length - moment / float(gaussian.derivative_second_moment(function, length))

    lengths = np.geomspace(1e-4, largest_length, 241)
    biases = np.array([edge_bias(length) for length in lengths])
    # Scale-free activations (ReLU) are critical at every length, and at zero bias only.
    if np.all(np.abs(biases) < 1e-10 * lengths):
        if bias_variance == 0:
            return 1 / float(gaussian.derivative_second_moment(function, 1.0))
    elif bias_variance == 0 and float(function(jnp.zeros(()))) == 0:
        slope = float(function.derivative(jnp.zeros(())))
        edge = MLP(1, function, 1 / slope**2, 0.0) if slope else None
        # At q* = 0: the length must fall back to zero from just above it.
        if edge is not None and float(length_map(edge, 1e-3)) < 1e-3:
            return 1 / slope**2
    for low, high in itertools.pairwise(lengths):
        below, above = edge_bias(low) - bias_variance, edge_bias(high) - bias_variance
        # Where σ_b² rises with q* along the edge the length is stable; where it falls it is not.
        if below < 0 <= above:
            length = _root(lambda q: edge_bias(q) - bias_variance, low, high)
            weight_variance = 1 / float(gaussian.derivative_second_moment(function, length))
            if float(_length_slope(MLP(1, function, weight_variance, bias_variance), length)) <= 1:
                return weight_variance
    raise ValueError(
        f"{function.name} has no critical weight variance with a stable length at bias_variance = {bias_variance:g}"
        f" (looked at lengths up to {largest_length:g}); try another bias_variance"
    )


@jax.jit
def _length_slope(architecture: MLP, length: ArrayLike) -> jax.Array:
    """Q'(q) = σ_w² E[φ'² + φφ''], by differentiation of the map: no φ'' is needed, kinks are right."""
    return jax.grad(lambda q: length_map(architecture, q))(gaussian.as_float(length))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Root between two arguments of opposite sign."""
    return optimize.brentq(function, low, high, xtol=1e-14, rtol=1e-13)  # pyright: ignore[reportReturnType, reportArgumentType] # the stubs want a NumPy rtol and forget full_output=False


def _describe(architecture: MLP) -> str:
    weight_variance, bias_variance = map(float, variances(architecture))
    name = architecture.activation.name
    return f"{name} with weight_variance = {weight_variance:g} and bias_variance = {bias_variance:g}"
