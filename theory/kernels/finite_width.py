r"""Exact moments of the output of a bias-free finite network at initialisation.

Given the last hidden layer, the output of a network with Gaussian weights is Gaussian with the variance
that the hidden layer happens to have. For ReLU and for linear units this variance is a product of
independent factors, one for each hidden layer, so every moment is known in closed form at every width:

    f = √q_out · g,    q_out = q_1 ∏_l F_l,    F_l = (σ_w² / n_l) Σ_{i ≤ n_l} φ(g_i)²,    g, g_i ~ N(0, 1),

with q_1 = σ_w² |x|² / d. Σ φ(g_i)² is a χ² variable with n_l degrees of freedom for linear units, and with
K ~ Binomial(n_l, ½) of them for ReLU units: each unit is on or off by a fair coin, whatever its size.

The same moments give the exact variance of what a finite ensemble measures. The moments grow fast with
depth/width (the tails are heavy), so that the ensemble has to be planned from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, logsumexp

ACTIVATIONS = ("relu", "linear")

# E g^(2j) for j = 0..4, the even moments of a standard Gaussian.
_EVEN_MOMENTS = (1.0, 1.0, 3.0, 15.0, 105.0)


def _check(activation: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Widths as a tuple of ints, or an error that says what is wrong."""
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}; only for these is the "
            "variance of the output a product of independent factors"
        )
    hidden = tuple(int(width) for width in widths)
    if any(width < 1 for width in hidden):
        raise ValueError(f"widths must be at least 1 unit each, got {tuple(widths)}")
    return hidden


def layer_moment(activation: str, width: int, order: int) -> float:
    r"""E F^k of the factor by which one hidden layer multiplies the variance, with E F = 1.

    With C = Σ_i φ(g_i)² and C_0 = E C (n for linear units, n/2 for ReLU):

        linear:  E F^k = (2/n)^k Γ(n/2 + k) / Γ(n/2)
        ReLU:    E F^k = (4/n)^k Σ_{m=1}^{n} 2^{-n} (n choose m) Γ(m/2 + k) / Γ(m/2)

    so that E F² = 1 + 2/n (linear) and 1 + 5/n (ReLU), exactly.

    Args:
        activation: "relu" or "linear".
        width: number n of units in the layer.
        order: k ≥ 0.

    Returns:
        E F^k, dimensionless.

    Raises:
        ValueError: another activation, a width below 1, or a negative order.

    Source: derived here; cf. Hanin & Nica 2020 for the product over layers.
    """
    (units,) = _check(activation, (width,))
    if order < 0:
        raise ValueError(f"order must be at least 0, got {order}")
    if order == 0:
        return 1.0
    if activation == "linear":
        return float(np.exp(order * np.log(2 / units) + gammaln(units / 2 + order) - gammaln(units / 2)))
    # K = 0 leaves the variance at zero and contributes nothing to a moment of positive order.
    on = np.arange(1, units + 1)
    binomial = gammaln(units + 1) - gammaln(on + 1) - gammaln(units - on + 1) - units * np.log(2)
    return float(np.exp(order * np.log(4 / units) + logsumexp(binomial + gammaln(on / 2 + order) - gammaln(on / 2))))


def variance_moment(activation: str, widths: Sequence[int], order: int) -> float:
    """E q_out^k / (E q_out)^k of the output's conditional variance: the product over the hidden layers.

    Args:
        activation: "relu" or "linear".
        widths: n_1, …, n_{L−1} of the hidden layers; empty for a network with one weight matrix.
        order: k ≥ 0.

    Returns:
        The normalised moment, 1 for k = 0 and k = 1.

    Raises:
        ValueError: another activation, a width below 1, or a negative order.

    Source: Hanin & Nica 2020; Roberts, Yaida & Hanin 2022, chapter 5 (to first order in 1/n).
    """
    hidden = _check(activation, widths)
    if order < 0:
        raise ValueError(f"order must be at least 0, got {order}")
    return float(np.prod([layer_moment(activation, width, order) for width in hidden]))


def kurtosis_ratio(activation: str, widths: Sequence[int]) -> float:
    """E f⁴ / (3 (E f²)²) of one output: ∏(1 + 5/n_l) for ReLU, ∏(1 + 2/n_l) for linear units.

    It is 1 for a Gaussian output, which a finite network has only without hidden layers.

    Args:
        activation: "relu" or "linear".
        widths: n_1, …, n_{L−1} of the hidden layers.

    Returns:
        The ratio, exact at every width.

    Raises:
        ValueError: another activation, or a width below 1.

    Source: Roberts, Yaida & Hanin 2022, chapter 5 (first order); the exact product is derived here from
        the fourth moments E φ⁴ / (E φ²)², which are 6 for ReLU and 3 for linear units.
    """
    hidden = _check(activation, widths)
    excess = {"relu": 5.0, "linear": 2.0}[activation]
    return float(np.prod([1 + excess / width for width in hidden]))


@dataclass(frozen=True)
class RatioPlan:
    """What an ensemble that measures `kurtosis_ratio` has to reckon with, all relative to the ratio.

    Attributes:
        ratio: the exact E f⁴ / (3 (E f²)²).
        variance: M · Var(estimate) / ratio², to leading order in 1/M for M members.
        bias: M · (E estimate − ratio) / ratio, to leading order.
        kurtosis: E ψ⁴ / (E ψ²)² for the heavier-tailed part ψ = S₂/E S₂ of a member's influence; many
            times more members are needed before the estimate is Gaussian.
    """

    ratio: float
    variance: float
    bias: float
    kurtosis: float

    def standard_error(self, members: int) -> float:
        """Standard error of the estimated ratio from this many independent members."""
        return self.ratio * float(np.sqrt(self.variance / members))

    def members(self, standard_error: float) -> int:
        """Fewest members whose standard error is at most this."""
        if not standard_error > 0:
            raise ValueError(f"standard_error must be positive, got {standard_error}")
        return int(np.ceil(self.variance * (self.ratio / standard_error) ** 2))


def ratio_plan(activation: str, widths: Sequence[int], *, outputs: int) -> RatioPlan:
    r"""Exact sampling variance of R = mean S₂ / (mean S₁)², over members with `outputs` = k units each.

    A member gives S₁ = (1/k) Σ_j f_j² and S₂ = (1/3k) Σ_j f_j⁴. Its outputs are independent given its last
    hidden layer, hence with m_j = E q^j / (E q)^j

        E S₁² = m₂ (1 + 2/k),    E S₁S₂ = m₃ (1 + 4/k),    E S₂² = m₄ (1 + 32/3k)      (E q = 1)

    and the delta method over members gives, with v the (co)variances of S₁/E S₁ and S₂/E S₂,

        M Var(R) / R² = v₂₂ − 4 v₁₂ + 4 v₁₁,    M (E R − R) / R = 3 v₁₁ − 2 v₁₂.

    Args:
        activation: "relu" or "linear".
        widths: n_1, …, n_{L−1} of the hidden layers.
        outputs: k ≥ 1 output units of each member.

    Returns:
        The plan; `plan.standard_error(M)` and `plan.members(standard_error)` use it.

    Raises:
        ValueError: another activation, a width below 1, or fewer than one output.

    Source: derived here.
    """
    if outputs < 1:
        raise ValueError(f"outputs must be at least 1, got {outputs}")
    _, _, second, third, fourth = (variance_moment(activation, widths, order) for order in range(5))
    v11 = second * (1 + 2 / outputs) - 1
    v12 = third * (1 + 4 / outputs) / second - 1
    v22 = fourth * (1 + 32 / (3 * outputs)) / second**2 - 1
    return RatioPlan(
        ratio=kurtosis_ratio(activation, widths),
        variance=v22 - 4 * v12 + 4 * v11,
        bias=3 * v11 - 2 * v12,
        kurtosis=variance_moment(activation, widths, 8) / fourth**2,
    )


def output_moments(activation: str, widths: Sequence[int], orders: int) -> Float[np.ndarray, " orders"]:
    """E f^(2j) / (E f²)^j for j = 1, …, orders ≤ 4: (2j − 1)!! times the moments of the variance.

    Args:
        activation: "relu" or "linear".
        widths: n_1, …, n_{L−1} of the hidden layers.
        orders: how many even moments, between 1 and 4.

    Returns:
        The normalised even moments of one output, shape (orders,).

    Raises:
        ValueError: another activation, a width below 1, or orders outside 1…4.

    Source: derived here.
    """
    if not 1 <= orders < len(_EVEN_MOMENTS):
        raise ValueError(f"orders must be between 1 and {len(_EVEN_MOMENTS) - 1}, got {orders}")
    return np.array([_EVEN_MOMENTS[j] * variance_moment(activation, widths, j) for j in range(1, orders + 1)])
