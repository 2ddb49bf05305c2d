r"""How far training moves the tangent kernel of a two-layer ReLU network with one example: by order n^-½, not 1/n.

Without biases, in the NTK parametrisation, with κ = σ_w² |x|/√d and z_i = w_i·x/|x|, a_i standard normal at the start,

    f = (κ/√n) Σ a_i φ(z_i),    Θ = (κ²/n) Σ 1[z_i > 0] (z_i² + a_i²),    Θ_∞ = κ².

Gradient flow on ½ (f − y)² moves active units by ż = a, ȧ = z in the clock ds = −(κ/√n) (f − y) dt, which ends at
S = (y − f_0)/(κ√n) to leading order. Inactive units have no gradient. An active unit with a_i S < 0 reaches its kink if
z_i < |a_i| tanh |S|, and stays there: its whole share in Θ, (κ²/n) a_i², is lost. Units are lost only, never won: no
cancellation. There are of order √n of them, and they have large |a|, since these cross faster:

    E[ΔΘ | f_0] = −κ² (1/√2π) ½ E|a|³ |S| + … = −(κ/π) |f_0 − y| n^-½ + b(f_0) n^-1 + O(n^-3/2).

The next order has two parts. All units grow, as those of a linear network, which conserve Θ² − 4κ² f²/n; and the loss
of kernel makes the clock run on, |S| − S²/2π = |f_0 − y|/(κ√n):

    b(f_0) = 2 (y² − f_0²) − (f_0 − y)²/(2π²).

Lost units are independent and rare, so that their number is a Poisson variable and

    Var[ΔΘ | f_0] = (κ⁴/n) (1/√2π) ½ E|a|⁵ |S| + … = (4κ³/π) |f_0 − y| n^-3/2:

fluctuations of order n^-¾ around a mean of order n^-½. As n → ∞, f_0 ~ N(0, κ²/2).
"""

from dataclasses import dataclass
from math import erf, exp, pi, sqrt


@dataclass(frozen=True)
class ReluDrift:
    """The change of the kernel over training to n^-1, and its fluctuations, for one target.

    Attributes:
        distance: E|f_0 − y|.
        mean: lim √n E ΔΘ, negative.
        next_order: lim n (E ΔΘ − mean/√n).
        variance: lim n^{3/2} Var[ΔΘ | f_0], averaged over f_0.
        lost: lim n^-½ E of the number of units that are lost, n E|S|/2π.
    """

    distance: float
    mean: float
    next_order: float
    variance: float
    lost: float

    @property
    def rate(self) -> float:
        """−mean/E|f_0 − y|, which is κ/π for every target."""
        return -self.mean / self.distance


def relu_drift(target: float, *, weight_variance: float = 2.0, square: float = 1.0) -> ReluDrift:
    """The law above, averaged over the output f_0 at the start.

    Args:
        target: y.
        weight_variance: σ_w² > 0.
        square: |x|²/d > 0.

    Returns:
        Coefficients, in units of Θ: not relative to Θ_∞ = κ².

    Raises:
        ValueError: a scale is not positive.

    Source: derived here. Networks f = √(2/n) Σ a_i φ(w_i·x) with |x| = 1 have κ = √2.
    """
    if not weight_variance > 0:
        raise ValueError(f"weight_variance must be positive, got {weight_variance}")
    if not square > 0:
        raise ValueError(f"square must be positive, got {square}; an input of zero has no kernel")
    kappa = weight_variance * sqrt(square)
    deviation = kappa / sqrt(2)
    u = target / deviation
    # E|N(0, σ²) − y|.
    distance = deviation * (sqrt(2 / pi) * exp(-0.5 * u * u) + u * erf(u / sqrt(2)))
    second = target**2 + deviation**2
    return ReluDrift(
        distance,
        -kappa / pi * distance,
        2 * (target**2 - deviation**2) - second / (2 * pi**2),
        4 * kappa**3 / pi * distance,
        distance / (2 * pi * kappa),
    )
