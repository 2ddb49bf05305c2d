"""How learning scales with width, from the powers of the width in a parametrisation (Yang & Hu 2021).

In terms of the weights that act (multiplier · parameter), an abc-parametrisation is their size at the start, n^-s_l,
and the factor n^-ρ_l on the learning rate η = n^-γ of each layer: s = a + b, ρ = 2a + c. With hidden units of size 1
and residuals of size 1, a few steps of gradient descent on a network with one output move

    the output's weights         by n^-(γ + ρ_L), so that their size is n^-σ, σ = min(s_L, γ + ρ_L),
    the first hidden layer       by |x|² · η n^-ρ_1 · ∂f/∂z = n^-(γ + ρ_1 + σ),
    a later one                  by h·h · η n^-ρ_l · ∂f/∂z = n^-(γ + ρ_l + σ − 1), and by what the first one passes on,
    the output, through layer l  by a sum over n units of ∂f/∂z · Δz = n^(1 − σ) · Δz_l,
    the output, through its own weights, by n^(1 − γ − ρ_L).

The largest rate under which the output's change stays of size 1 is the one that learns best.
"""

from typing import NamedTuple

from theory.architecture import Parametrisation, parametrisation


class Scaling(NamedTuple):
    """Exponents: a quantity falls as n^-exponent with the width n.

    `rate`: the best global learning rate. The others are at that rate: `first`, `later`: change of a unit's value in
    the first hidden layer, and in later ones; `kernel`: relative change of the tangent kernel (smooth activations).
    """

    rate: float
    first: float
    later: float
    kernel: float


def scaling(scheme: str | Parametrisation) -> Scaling:
    """Width exponents of training with gradient descent at the best rate, for networks of two and more hidden layers.

    Features are learned where `later` is 0. The kernel averages over units: where their changes are small, n^-q, their
    first order has random signs (those of the output's weights at the start) and their second order adds up, both of
    size n^-2q with q = ½; at q = 0 the change is of size 1.

    Args:
        scheme: a name or a `Parametrisation`, whose hidden units are of size 1 at the start.

    Returns:
        The exponents.

    Raises:
        ValueError: hidden units do not have size 1 at the start, or the name is unknown.

    Source: Yang & Hu 2021, section 3: their r is `later`, and their condition of stability gives `rate`.
    """
    found = parametrisation(scheme)
    start, pace = {}, {}
    for role in ("input", "hidden", "output"):
        powers = getattr(found, role)
        # The input layer's fan-in is the dimension of x, the output's fan-out is 1: neither grows.
        exponents = [
            -(0.0 if role == "input" else of_in) - (0.0 if role == "output" else of_out) for of_in, of_out in powers
        ]
        start[role] = exponents[0] + exponents[1]
        pace[role] = 2 * exponents[0] + exponents[2]
    if start["input"] != 0 or start["hidden"] != 0.5:
        raise ValueError(
            f"scheme '{found.name}' must have hidden units of size 1 at the start: weights of size n^0 in the input "
            f"layer and n^-½ in hidden ones, got exponents {start['input']} and {start['hidden']}"
        )

    def moved(rate: float) -> tuple[float, float, float]:
        """Exponents of Δz of the first layer, of later ones, and of the output's change."""
        size = min(start["output"], rate + pace["output"])
        first = rate + pace["input"] + size
        later = min(first, rate + pace["hidden"] + size - 1)
        return first, later, min(size - 1 + later, rate + pace["output"] - 1)

    # The output's exponent grows with that of the rate, at a slope of 1 to 2, so that bisection finds its zero.
    low, high = -8.0, 8.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle)[2] < 0 else (low, middle)
    # All exponents are multiples of a quarter or coarser.
    rate = round(4 * high) / 4 + 0.0
    first, later, _ = moved(rate)
    # The first order in the features' change is odd in the output's signs: n^-½ in the mean over units.
    return Scaling(rate, first, later, later + min(later, 0.5))
