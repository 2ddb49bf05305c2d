"""The largest stable rate, and the time that steps amount to: against the recursions themselves."""

import jax.numpy as jnp
import numpy as np
import pytest

from theory.architecture import MLP
from theory.kernels import maximal_learning_rate, ntk, predict, response, time_of

MODEL = MLP(1, "relu", 2.0, 0.1)


@pytest.fixture
def x(rng):
    return rng.normal(size=(6, 3))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("loss", "outputs"), [("sum", 1), ("mean", 3)])
def test_just_below_it_converges_and_just_above_it_diverges(x, rng, momentum, loss, outputs):
    """Gradient descent on the loss itself, with its gradient by outputs."""
    theta = np.asarray(ntk(MODEL, x))
    limit = float(maximal_learning_rate(MODEL, x, momentum=momentum, loss=loss, outputs=outputs))
    count = 1 if loss == "sum" else 6 * outputs
    for factor, grows in ((0.98, False), (1.02, True)):
        f = start = rng.normal(size=(6, outputs))
        velocity = np.zeros_like(f)
        for _ in range(2000):
            velocity = momentum * velocity + theta @ f / count
            f = f - factor * limit * velocity
        assert (np.abs(f).max() > np.abs(start).max()) == grows


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_small_steps_take_the_time_it_says(x, rng, momentum):
    """To first order in η at every number of steps: halving η quarters the error of what is learned."""
    y, probe = rng.normal(size=6), rng.normal(size=(4, 3))
    largest = float(np.linalg.eigvalsh(np.asarray(ntk(MODEL, x)))[-1])
    errors = []
    for rate in (2e-3 / largest, 1e-3 / largest):
        steps = np.array([1, 3, 10, 1000])
        times = time_of(rate, steps, momentum=momentum)
        flow = predict(MODEL, x, y, probe, time=times).mean
        errors.append(
            np.abs(predict(MODEL, x, y, probe, time=steps, learning_rate=rate, momentum=momentum).mean - flow)
        )
    assert np.all(errors[1][:3] < 0.27 * errors[0][:3])
    # 1000 steps of half the rate are half the time: there the error is first order in η, η λ/(1 − β)² relatively.
    assert errors[1].max() < 1e-3 / (1 - momentum) ** 2 * np.abs(y).max()


def test_the_mean_loss_is_the_sum_at_a_smaller_rate(x, rng):
    y, probe = rng.normal(size=(6, 2)), rng.normal(size=(4, 3))
    assert float(time_of(0.3, 40, loss="mean", examples=6, outputs=2)) == pytest.approx(0.3 * 40 / 12, rel=1e-14)
    # A brute-force descent on the mean loss.
    theta = np.asarray(ntk(MODEL, np.concatenate([x, probe]), x))
    f = np.zeros((10, 2))
    for _ in range(4000):
        f -= 0.002 * theta @ (f[:6] - y) / 12
    time = time_of(0.002, 4000, loss="mean", examples=6, outputs=2)
    # ηλ/2 is the relative error of the time.
    np.testing.assert_allclose(predict(MODEL, x, y, probe, time=time).mean, f[6:], atol=3e-3)


def test_no_steps_no_time_and_no_momentum_no_lag():
    np.testing.assert_array_equal(time_of(0.1, [0, 1, 5]), jnp.array([0.0, 0.1, 0.5]))
    assert float(time_of(0.1, 0, momentum=0.9)) == 0.0
    # One step moves by η, two by η (1 + (1 + β)).
    np.testing.assert_allclose(time_of(0.1, [1, 2], momentum=0.9), [0.1, 0.1 * 2.9], rtol=1e-13)
    assert float(time_of(0.1, jnp.inf, momentum=0.9)) == np.inf


def test_the_largest_rate_is_that_of_the_response(x):
    limit = float(maximal_learning_rate(MODEL, x, momentum=0.5))
    response(MODEL, x, x, time=np.inf, learning_rate=0.999 * limit, momentum=0.5)
    with pytest.raises(ValueError, match="diverges"):
        response(MODEL, x, x, time=np.inf, learning_rate=1.001 * limit, momentum=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: maximal_learning_rate(MODEL, x, momentum=1.0), "momentum must be at least 0 and below 1"),
        (lambda x: maximal_learning_rate(MODEL, x, loss="total"), "loss must be 'sum' or 'mean'"),
        (lambda x: maximal_learning_rate(MODEL, x, outputs=0), "outputs must be at least 1"),
        (lambda x: time_of(-0.1, 3), "learning_rate must be at least 0"),
        (lambda x: time_of(0.1, -3), "steps must be at least 0"),
        (lambda x: time_of(0.1, 3, loss="mean"), "examples must be given"),
    ],
)
def test_wrong_arguments_are_refused(x, call, message):
    with pytest.raises(ValueError, match=message):
        call(x)
