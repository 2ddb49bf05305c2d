"""Learning rates of wide networks: the largest stable one, and the time of gradient flow that steps amount to.

Two conventions of the squared loss differ by a factor that has to be right: "sum" is ½ Σ (f − y)² over n examples and k
outputs, "mean" is that over nk. Gradient flow on the sum is df/dt = −Θ (f − y) for each output; on the mean, time runs
nk times slower. For the mean cross-entropy, which averages over examples alone, give `outputs=1`.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.arrays import ArrayLike, as_float, is_traced
from theory.kernels.examples import AnyArchitecture, train_and_test
from theory.kernels.infinite import ntk

Loss = Literal["sum", "mean"]


def maximal_learning_rate(
    architecture: AnyArchitecture,
    x_train: ArrayLike,
    *,
    momentum: float = 0.0,
    loss: Loss | str = "sum",
    outputs: int = 1,
) -> Float[Array, ""]:
    """The learning rate below which full-batch gradient descent on the squared loss converges: 2 (1 + β)/λ_max.

    An eigenvalue λ of Θ goes through r_{t+1} = (1 + β − ηλ) r_t − β r_{t−1}, whose roots lie within the unit circle for
    ηλ < 2 (1 + β). Each of the k outputs has the same eigenvalues, so that their number matters to the mean loss alone,
    where η counts only as η/(nk).

    Args:
        architecture: an MLP, or another family: its examples then have the shapes that its kernel takes.
        x_train: inputs (n, d).
        momentum: β of the heavy ball v ← βv + ∇L, θ ← θ − ηv.
        loss: "sum" for ½ Σ (f − y)², "mean" for the mean over examples and outputs in place of the sum.
        outputs: k, for the mean.

    Returns:
        The infinite network's; one of finite width n deviates by about n^-½ relatively, so stay below.

    Raises:
        ValueError: an input is no finite matrix, the momentum is outside [0, 1), or loss or outputs are none.

    Source: Lee et al. 2019, Section 2.2; with momentum Polyak 1964.
    """
    train, _ = train_and_test(architecture, x_train, x_train)
    factor = _examples_in_mean(loss, train.shape[0], outputs)
    _check_momentum(momentum)
    return factor * 2 * (1 + momentum) / jnp.linalg.eigvalsh(ntk(architecture, train))[-1]


def time_of(
    learning_rate: ArrayLike,
    steps: ArrayLike,
    *,
    momentum: float = 0.0,
    loss: Loss | str = "sum",
    examples: int | None = None,
    outputs: int = 1,
) -> Float[Array, "..."]:
    """The time t of gradient flow on ½ Σ (f − y)² that some steps of gradient descent amount to, for small rates.

        t = η/(1 − β) · [s − β (1 − β^s)/(1 − β)],    for the mean loss divided by nk.

    Without momentum this is ηs. With it the velocity first has to build up, which costs β/(1 − β) steps. To first
    order in η this is exact for every eigenvalue λ and every s; the relative error of t is about ηλ/2 without
    momentum, and ηλ/(1 − β)² with it. `response` with `learning_rate` has no such error.

    Args:
        learning_rate: η.
        steps: s ≥ 0, a number or an array.
        momentum: β of the heavy ball v ← βv + ∇L, θ ← θ − ηv.
        loss: "sum", or "mean" over examples and outputs.
        examples: n, needed for the mean.
        outputs: k, for the mean; 1 for the mean cross-entropy.

    Raises:
        ValueError: a rate or number of steps is negative, the momentum is outside [0, 1), or n is missing.
    """
    rate, count = as_float(learning_rate), as_float(steps)
    for name, value in (("learning_rate", rate), ("steps", count)):
        if not is_traced(value) and not (np.asarray(value) >= 0).all():
            raise ValueError(f"{name} must be at least 0 and not NaN, got {value}")
    if loss == "mean" and examples is None:
        raise ValueError("examples must be given for loss='mean', which divides by their number")
    _check_momentum(momentum)
    # β = 0 is exact too: 0^s is 0 but for s = 0, and is multiplied by 0.
    lag = momentum * -jnp.expm1(count * jnp.log(momentum)) / (1 - momentum) if momentum else 0.0
    return rate * (count - lag) / (1 - momentum) / _examples_in_mean(loss, examples, outputs)


def _examples_in_mean(loss: str, examples: int | None, outputs: int) -> int:
    if loss not in ("sum", "mean"):
        raise ValueError(f"loss must be 'sum' or 'mean', got {loss!r}")
    if outputs < 1 or (examples is not None and examples < 1):
        raise ValueError(f"examples and outputs must be at least 1, got {examples} and {outputs}")
    return 1 if loss == "sum" or examples is None else examples * outputs


def _check_momentum(momentum: float) -> None:
    if not is_traced(momentum) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum!r}")
