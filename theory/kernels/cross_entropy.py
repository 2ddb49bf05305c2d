"""What an infinitely wide network predicts after training on the cross-entropy.

With the loss −Σ ln softmax(f)_y over the training set, gradient flow in function space is df/dt = −Θ (softmax(f) − y)
for training points, and the same with Θ* for all others. It has no closed form, and no end: outputs grow for ever.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from theory.arrays import ArrayLike, as_float, check_finite, is_traced
from theory.kernels.examples import AnyArchitecture, train_and_test
from theory.kernels.infinite import nngp, ntk


class Draws(NamedTuple):
    """Trained outputs (draws, *times, m, k) from independent initialisations; the law is not Gaussian."""

    outputs: Float[Array, "draws *times m k"]

    @property
    def mean(self) -> Float[Array, "*times m k"]:
        """Mean over initialisations."""
        return jnp.mean(self.outputs, axis=0)

    @property
    def standard_error(self) -> Float[Array, "*times m k"]:
        """Of the mean, by the spread of the draws."""
        return jnp.std(self.outputs, axis=0, ddof=1) / len(self.outputs) ** 0.5

    @property
    def covariance(self) -> Float[Array, "*times k m m"]:
        """Covariance over initialisations between test points, for each output."""
        centred = self.outputs - self.mean
        return jnp.einsum("s...mk,s...lk->...kml", centred, centred) / (len(self.outputs) - 1)


def predict_classifier(
    architecture: AnyArchitecture,
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike,
    *,
    time: ArrayLike,
    draws: int,
    key: Key[Array, ""],
    learning_rate: ArrayLike | None = None,
    momentum: ArrayLike = 0.0,
) -> Draws:
    """Outputs after training on the cross-entropy, for draws of the outputs at initialisation from the NNGP.

    Args:
        architecture: an MLP, or another family: its examples then have the shapes that its kernel takes.
        x_train: inputs (n, d).
        y_train: integer labels (n,), or probabilities (n, k).
        x_test: inputs (m, d); the training inputs themselves are allowed.
        time: t ≥ 0 of gradient flow on the summed loss, finite, of any shape; the number of steps where `learning_rate`
            is given.
        draws: number of initialisations.
        key: a typed key of `jax.random.key`.
        learning_rate, momentum: of gradient descent with the heavy ball v ← βv + ∇L, θ ← θ − ηv; by default flow.

    Returns:
        The outputs, one for each draw.

    Raises:
        ValueError: shapes do not match, an entry is not finite, or a time is negative, infinite, or no whole step.
        RuntimeError: the integrator needed too many steps.

    Source: Lee et al. 2019, Section 2.2, eqs. (5)–(6), with the sum in place of their mean.
    """
    train, test = train_and_test(architecture, x_train, x_test)
    targets = _targets(y_train, train)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    n, k = targets.shape
    eigenvalues, vectors = jnp.linalg.eigh(nngp(architecture, jnp.concatenate([train, test])))
    normals = jax.random.normal(key, (draws, len(eigenvalues), k), train.dtype)
    # Not Cholesky: the kernel is singular where an input is in both sets.
    root = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0.0))
    start = jnp.einsum("ij,sjk->sik", root, normals, precision=jax.lax.Precision.HIGHEST)
    theta, theta_star = ntk(architecture, train), ntk(architecture, test, train)
    outputs = classifier_path(
        theta,
        theta_star,
        targets,
        start[:, :n],
        start[:, n:],
        time=time,
        learning_rate=learning_rate,
        momentum=momentum,
    )
    return Draws(outputs)


def classifier_path(
    theta: ArrayLike,
    theta_star: ArrayLike,
    targets: ArrayLike,
    start: ArrayLike,
    start_star: ArrayLike,
    *,
    time: ArrayLike,
    learning_rate: ArrayLike | None = None,
    momentum: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """Outputs f* = f*_0 + Θ* α at test points, where dα/dt = y − softmax(f_0 + Θ α) with α = 0 at the start.

    Any kernel will do: infinite, empirical (its linearised network), convolutional. Θ need not be invertible. For the
    mean network (a doubled initialisation, f_0 = 0) give zeros.

    Args:
        theta: kernel between training inputs (n, n).
        theta_star: kernel from test to training inputs (m, n).
        targets: probabilities (n, k), one-hot for labels.
        start: outputs at training inputs before training (*draws, n, k).
        start_star: outputs at test inputs before training (*draws, m, k).
        time, learning_rate, momentum: as for `predict_classifier`.

    Returns:
        The outputs at test inputs, for `time` of shape (*times), in the dtype of `theta`. Gradient flow is integrated
        to a relative 1e-8 (in single precision 1e-5).

    Raises:
        ValueError: shapes do not match, or a time is negative, infinite, or no whole step.
        RuntimeError: the integrator needed more than 100,000 steps; λ_max t is too large.
    """
    k_train = as_float(theta)
    arrays = [jnp.asarray(value, k_train.dtype) for value in (theta_star, targets, start, start_star)]
    k_star, y, f, f_star = arrays
    n, m = k_train.shape[0], k_star.shape[0]
    expected = {"theta": (n, n), "theta_star": (m, n), "targets": (n, y.shape[-1])}
    for (name, shape), value in zip(expected.items(), (k_train, k_star, y), strict=True):
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    if f.shape[-2:] != y.shape or f_star.shape != (*f.shape[:-2], m, y.shape[1]):
        raise ValueError(
            f"start and start_star must have shapes (*draws, {n}, {y.shape[1]}) and (*draws, {m}, {y.shape[1]}), "
            f"got {f.shape} and {f_star.shape}"
        )
    times = _checked(time, learning_rate, momentum).astype(k_train.dtype)
    order = jnp.argsort(times.ravel())
    sorted_times = times.ravel()[order]
    flat = f.reshape(-1, *y.shape)
    if learning_rate is None:
        dual, done = _flow(k_train, y, flat, sorted_times)
        if not is_traced(done) and not bool(done.all()):
            raise RuntimeError(
                "the integrator needed more than 100,000 steps: λ_max times the last time is too large; give earlier "
                "times, or learning_rate for steps of gradient descent"
            )
    else:
        rates = jnp.asarray(learning_rate, k_train.dtype), jnp.asarray(momentum, k_train.dtype)
        dual = _descent(k_train, y, flat, sorted_times, *rates)
    dual = dual[:, jnp.argsort(order)]
    moved = jnp.einsum("mn,stnk->stmk", k_star, dual, precision=jax.lax.Precision.HIGHEST)
    outputs = f_star.reshape(-1, 1, m, y.shape[1]) + moved
    return outputs.reshape(*f.shape[:-2], *times.shape, m, y.shape[1])


def _error(k_train: Array, y: Array, f: Array, dual: Array) -> Float[Array, "n k"]:
    moved = jnp.matmul(k_train, dual, precision=jax.lax.Precision.HIGHEST)
    return y - jax.nn.softmax(f + moved) * jnp.sum(y, axis=-1, keepdims=True)


@jax.jit
def _flow(
    k_train: Float[Array, "n n"], y: Float[Array, "n k"], f: Float[Array, "s n k"], times: Float[Array, " t"]
) -> tuple[Float[Array, "s t n k"], Array]:
    """α at the times for each start, and whether the integrator arrived."""
    import diffrax

    accuracy = 1e-8 if k_train.dtype == jnp.float64 else 1e-5
    # A last time beyond all others keeps the interval from being empty where only t = 0 is asked for.
    end = times[-1] + jnp.where(times[-1] > 0, 0.0, 1e-6)

    def one(start: Float[Array, "n k"]) -> tuple[Float[Array, "t n k"], Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, dual, args: _error(k_train, y, start, dual)),
            diffrax.Dopri8(),
            t0=0.0,
            t1=end,
            dt0=None,
            y0=jnp.zeros_like(y),
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=accuracy, atol=1e-2 * accuracy),
            max_steps=100_000,
            throw=False,
        )
        return jnp.asarray(solution.ys), solution.result == diffrax.RESULTS.successful

    # One start after the other: a batch would go at the pace of its slowest member at every step.
    return jax.lax.map(one, f)


@jax.jit
def _descent(
    k_train: Float[Array, "n n"],
    y: Float[Array, "n k"],
    f: Float[Array, "s n k"],
    times: Float[Array, " t"],
    learning_rate: Float[Array, ""],
    momentum: Float[Array, ""],
) -> Float[Array, "s t n k"]:
    """α after the given numbers of steps, for each start."""
    counts = times.astype(jnp.int32)

    def one(start: Float[Array, "n k"]) -> Float[Array, "t n k"]:
        def step(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            dual, velocity = carry
            velocity = momentum * velocity + _error(k_train, y, start, dual)
            return dual + learning_rate * velocity, velocity

        def to_next(carry: tuple[Array, tuple[Array, Array]], count: Array) -> tuple[tuple[Array, tuple], Array]:
            done, state = carry
            state = jax.lax.fori_loop(done, count, step, state)
            return (count, state), state[0]

        zeros = jnp.zeros_like(y)
        return jax.lax.scan(to_next, (jnp.int32(0), (zeros, zeros)), counts)[1]

    return jax.vmap(one)(f)


def _targets(y_train: ArrayLike, train: Float[Array, "n ..."]) -> Float[Array, "n k"]:
    y = jnp.asarray(y_train)
    if y.ndim not in (1, 2) or y.shape[0] != train.shape[0]:
        raise ValueError(f"y_train must have shape ({train.shape[0]},) or ({train.shape[0]}, k), got {y.shape}")
    if y.ndim == 2:
        check_finite("y_train", y)
        if y.shape[1] < 2:
            raise ValueError(f"y_train must have a column for each class, at least 2, got {y.shape}; give labels (n,)")
        probabilities = np.asarray(y, np.float64)
        # Single precision rounds a sum of k probabilities to about k·1e-7.
        if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-4):
            raise ValueError("y_train must have rows of probabilities, at least 0 and of sum 1; normalise them")
        return y.astype(train.dtype)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(f"y_train must be integer labels where it has one axis, got {y.dtype}; cast them to int")
    if int(y.min()) < 0:
        raise ValueError(f"labels must be at least 0, got {int(y.min())}")
    return jax.nn.one_hot(y, max(int(y.max()) + 1, 2), dtype=train.dtype)


def _checked(time: ArrayLike, learning_rate: ArrayLike | None, momentum: ArrayLike) -> Float[Array, "*times"]:
    times = as_float(time)
    if not is_traced(times):
        numbers = np.asarray(times)
        if not np.isfinite(numbers).all() or (numbers < 0).any():
            raise ValueError(
                f"time must be finite and at least 0, got {time!r}; under cross-entropy outputs never settle"
            )
        if learning_rate is not None and (numbers != np.round(numbers)).any():
            raise ValueError(f"time counts steps where learning_rate is given and must be whole, got {time!r}")
    if learning_rate is not None and not is_traced(learning_rate) and not 0 < float(np.asarray(learning_rate)) < np.inf:
        raise ValueError(f"learning_rate must be one positive finite number, got {learning_rate!r}")
    if not is_traced(momentum) and not 0 <= float(np.asarray(momentum)) < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum!r}")
    if learning_rate is None and not is_traced(momentum) and float(np.asarray(momentum)) > 0:
        raise ValueError("momentum belongs to gradient descent: give learning_rate as well")
    return times
