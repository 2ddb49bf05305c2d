"""What an infinitely wide network predicts after training by gradient descent on the squared loss.

With the loss ½ Σ (f − y)² over the training set, all parameters trained from an NTK initialisation:
df/dt = −Θ (f − y), so that f_t(x*) = f_0(x*) + A_t (y − f_0(X)) with A_t = Θ* Θ⁻¹ (I − e^(−Θt)).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.arrays import ArrayLike, as_float, check_finite, is_traced
from theory.kernels.examples import AnyArchitecture, train_and_test
from theory.kernels.infinite import nngp, ntk
from theory.kernels.learning_rates import time_of
from theory.kernels.trust import warn_if_unresolved


class Prediction(NamedTuple):
    """Law of the trained outputs over initialisations: Gaussian, independent and alike for each output.

    `mean`: (*times, m) or (*times, m, k), like the targets. `covariance`: (*times, m, m).
    """

    mean: Float[Array, "..."]
    covariance: Float[Array, "..."]


def predict(
    architecture: AnyArchitecture,
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike,
    *,
    time: ArrayLike,
    learning_rate: ArrayLike | None = None,
    momentum: ArrayLike = 0.0,
) -> Prediction:
    """Mean A_t y and covariance K** + A_t K A_tᵀ − A_t K* − (A_t K*)ᵀ of the trained outputs.

    K is the NNGP kernel, A_t the `response`. At t = 0 it is the law at initialisation, at t = ∞ that of
    networks trained to the end; it is not the NNGP posterior, where A = K* K⁻¹.

    Args:
        architecture: an MLP, or another family: its examples then have the shapes that its kernel takes.
        x_train: inputs (n, d).
        y_train: targets (n,) or (n, k).
        x_test: inputs (m, d); the training inputs themselves are allowed.
        time: t ≥ 0, a number or an array, `jnp.inf` included; the number of steps where `learning_rate` is
            given.
        learning_rate: η of full-batch gradient descent f ← f − ηΘ(f − y); by default gradient flow.
        momentum: β of the heavy ball v ← βv + ∇L, θ ← θ − ηv, from v = 0.

    Returns:
        The mean with the shape of `time` before that of the test targets, and the covariance.

    Raises:
        ValueError: shapes do not match, an entry is not finite, a time is negative or NaN, a number of steps
            is no integer, the momentum is outside [0, 1) or without a rate, or the steps diverge towards t = ∞.

    Warns:
        PrecisionWarning: the dtype leaves a relative error above 1 %; see `theory.kernels.trust`.

    Source: Lee et al. 2019, Section 2.2, eqs. (13)–(15), with the sum in place of their mean in the loss.
    """
    train, test = train_and_test(architecture, x_train, x_test)
    y = as_float(y_train)
    if y.ndim not in (1, 2) or y.shape[0] != train.shape[0]:
        raise ValueError(f"y_train must have shape ({train.shape[0]},) or ({train.shape[0]}, k), got {y.shape}")
    check_finite("y_train", y)
    a = response(architecture, train, test, time=time, learning_rate=learning_rate, momentum=momentum)
    kernels = nngp(architecture, train), nngp(architecture, test, train), nngp(architecture, test)
    return _law(a, y.astype(a.dtype), *kernels)


def response(
    architecture: AnyArchitecture,
    x_train: ArrayLike,
    x_test: ArrayLike,
    *,
    time: ArrayLike,
    learning_rate: ArrayLike | None = None,
    momentum: ArrayLike = 0.0,
) -> Float[Array, "*times m n"]:
    """The linear map A_t in f_t(x*) = f_0(x*) + A_t (y − f_0(X)): A_t = Θ* Θ⁻¹ (I − e^(−Θt)).

    With `learning_rate` η, t counts the steps of gradient descent and (I − ηΘ)^t replaces e^(−Θt). With `momentum` β
    the residual along an eigenvalue λ follows r_{t+1} = (1 + β − ηλ) r_t − β r_{t−1}, r_{−1} = r_0, whose value at t,
    the power of a 2 × 2 matrix, takes the place of (1 − ηλ)^t: below ηλ = 2 (1 + β) it converges.

    Where Θ is singular (equal inputs, or more of them than features in a linear model), f never moves along
    its null space: directions with an eigenvalue below n·ε·λ_max, ε the rounding error of the dtype, are
    left out, at t = ∞ as at any t. Give float64 where Θ is ill-conditioned.

    Args and Raises: those of `predict`, without the targets.

    Returns:
        A_t (*times, m, n), for `time` of shape (*times).
    """
    train, test = train_and_test(architecture, x_train, x_test)
    times = _checked_times(time, learning_rate).astype(train.dtype)
    _check_momentum(momentum, learning_rate)
    eigenvalues, vectors = eigendecomposition(ntk(architecture, train))
    rate = None if learning_rate is None else jnp.asarray(learning_rate, train.dtype)
    plain = not is_traced(momentum) and float(np.asarray(momentum)) == 0.0
    beta = None if plain else jnp.asarray(momentum, train.dtype)
    if not any(is_traced(value) for value in (eigenvalues, times, rate, momentum)):
        latest = np.max(np.asarray(times, np.float64), initial=0.0)
        if rate is not None:
            limit = 2.0 * (1.0 + float(np.asarray(momentum))) / float(eigenvalues[-1])
            if float(rate) >= limit and np.isinf(latest):
                raise ValueError(
                    f"learning_rate {learning_rate} diverges, so that time=inf has no limit; "
                    f"give less than 2(1 + momentum)/λ_max = {limit:.4g}"
                )
            latest = float(time_of(float(rate), latest, momentum=float(np.asarray(momentum))))
        warn_if_unresolved(eigenvalues, latest)
    return _response(ntk(architecture, test, train), eigenvalues, vectors, times, rate, beta)


def _check_momentum(momentum: ArrayLike, learning_rate: ArrayLike | None) -> None:
    if is_traced(momentum):
        return
    beta = np.asarray(momentum)
    if beta.ndim != 0 or not 0.0 <= float(beta) < 1.0:
        raise ValueError(f"momentum must be one number, at least 0 and below 1, got {momentum!r}")
    if learning_rate is None and float(beta) > 0.0:
        raise ValueError("momentum belongs to gradient descent: give learning_rate as well")


def _checked_times(time: ArrayLike, learning_rate: ArrayLike | None) -> Float[Array, "*times"]:
    times = as_float(time)
    if learning_rate is not None and not is_traced(learning_rate):
        rate = np.asarray(learning_rate)
        if rate.ndim != 0 or not 0.0 < float(rate) < np.inf:
            raise ValueError(f"learning_rate must be one positive finite number, got {learning_rate!r}")
    if is_traced(times):
        return times
    numbers = np.asarray(times)
    if np.isnan(numbers).any() or (numbers < 0).any():
        raise ValueError(f"time must be at least 0 and not NaN, got {time!r}")
    if learning_rate is not None and (np.isfinite(numbers) & (numbers != np.round(numbers))).any():
        raise ValueError(f"time counts steps where learning_rate is given and must be whole, got {time!r}")
    return times


@jax.jit
def eigendecomposition(theta: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues in increasing order, and eigenvectors as columns."""
    eigenvalues, vectors = jnp.linalg.eigh(theta)
    return eigenvalues, vectors


@jax.jit
def _response(
    theta_star: Float[Array, "m n"],
    eigenvalues: Float[Array, " n"],
    vectors: Float[Array, "n n"],
    times: Float[Array, "*times"],
    learning_rate: Float[Array, ""] | None,
    momentum: Float[Array, ""] | None,
) -> Float[Array, "*times m n"]:
    """Σ_i (Θ* v_i) [1 − decay_i(t)]/λ_i v_iᵀ."""
    floor = len(eigenvalues) * jnp.finfo(eigenvalues.dtype).eps * eigenvalues[-1]
    moving = eigenvalues > floor
    rates = jnp.where(moving, eigenvalues, 1.0)
    t = times[..., None]
    if learning_rate is None:
        learned = -jnp.expm1(-rates * t)
    elif momentum is None:
        learned = _learned_in_steps(learning_rate * rates, t)
    else:
        learned = _learned_with_momentum(learning_rate * rates, t, momentum)
    gains = jnp.where(moving, learned / rates, 0.0)
    projected = _product(theta_star, vectors)
    return _product(projected * gains[..., None, :], vectors.T)


def _learned_in_steps(step: Float[Array, " n"], t: Float[Array, "*times 1"]) -> Float[Array, "*times n"]:
    """1 − (1 − s)^t, without cancellation for small s, for any sign of 1 − s."""
    # Past s = 1 the residual flips its sign at each step.
    flips = (step > 1) & (jnp.mod(jnp.where(jnp.isinf(t), 0.0, t), 2) == 1)
    logarithm = jnp.where(step < 1, jnp.log1p(-jnp.minimum(step, 0.5)), 0.0)
    logarithm = jnp.where(step > 0.5, jnp.log(jnp.abs(1.0 - step)), logarithm)
    # At t = 0 nothing is learned, s = 1 included, whose logarithm is −∞.
    exponent = jnp.where(t == 0, 0.0, t * logarithm)
    return jnp.where(flips, 1.0 + jnp.exp(exponent), -jnp.expm1(exponent))


def _learned_with_momentum(
    step: Float[Array, " n"], t: Float[Array, "*times 1"], momentum: Float[Array, ""]
) -> Float[Array, "*times n"]:
    """1 − r_t of the heavy ball, for s = ηλ.

    What is learned, L = 1 − r, and its last change D obey L' = L + D', D' = βD + s(1 − L), an affine map whose t-th
    power comes from repeated squaring: exact for any t, whether its roots are real, equal or complex, and without
    cancellation where s is small.
    """
    infinite = jnp.isinf(t)
    left = jnp.where(infinite, 0.0, t)
    beta = jnp.broadcast_to(momentum, step.shape)
    matrix = jnp.stack([jnp.stack([1 - step, beta], -1), jnp.stack([-step, beta], -1)], -2)
    shift = jnp.stack([step, step], -1)
    state = jnp.zeros((*jnp.broadcast_shapes(t.shape, step.shape), 2), step.dtype)

    def apply(matrix: Array, vector: Array) -> Array:
        return jnp.sum(matrix * vector[..., None, :], axis=-1)

    def double(_: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        matrix, shift, state, left = carry
        odd = jnp.mod(left, 2) == 1
        state = jnp.where(odd[..., None], apply(matrix, state) + shift, state)
        squared = jnp.sum(matrix[..., :, :, None] * matrix[..., None, :, :], axis=-2)
        return squared, apply(matrix, shift) + shift, state, jnp.floor(left / 2)

    # As many binary digits as the dtype's integers have.
    digits = jnp.finfo(step.dtype).nmant + 1
    state = jax.lax.fori_loop(0, digits, double, (matrix, shift, state, left))[2]
    return jnp.where(infinite, jnp.where(step < 2 * (1 + momentum), 1.0, jnp.nan), state[..., 0])


@jax.jit
def _law(
    a: Float[Array, "*times m n"],
    y: Float[Array, "n *k"],
    k_train: Float[Array, "n n"],
    k_star: Float[Array, "m n"],
    k_test: Float[Array, "m m"],
) -> Prediction:
    mean = _product(a, y if y.ndim == 2 else y[:, None])
    mixed = _product(a, k_star.T)
    covariance = k_test + _product(_product(a, k_train), jnp.swapaxes(a, -1, -2))
    covariance = covariance - mixed - jnp.swapaxes(mixed, -1, -2)
    # The product A K Aᵀ is symmetric up to rounding only.
    covariance = 0.5 * (covariance + jnp.swapaxes(covariance, -1, -2))
    return Prediction(mean if y.ndim == 2 else mean[..., 0], covariance)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
