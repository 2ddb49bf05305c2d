"""Angles against 60-digit arithmetic: between inputs, and carried through layers."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from theory.activations import PiecewiseLinear
from theory.kernels.angles import after_layer, gram


def close_pairs(rng, gap, dimension, dtype):
    """Rows of many scales, and others at an angle θ with 1 − cos θ = gap to them, or to their opposites."""
    x = rng.normal(size=(6, dimension))
    across = rng.normal(size=(6, dimension))
    across -= x * np.sum(x * across, axis=1, keepdims=True) / np.sum(x * x, axis=1, keepdims=True)
    across *= np.linalg.norm(x, axis=1, keepdims=True) / np.linalg.norm(across, axis=1, keepdims=True)
    y = (1 - gap) * x + np.sqrt(gap * (2 - gap)) * across
    scales = np.array([1.0, -1.0, 3.0, 1e-3, 1e5, -0.1])[:, None]
    return x.astype(dtype), (scales * y).astype(dtype)


def exact_sine2(x, y):
    x, y = ([mp.mpf(float(entry)) for entry in vector] for vector in (x, y))
    return 1 - mp.fdot(x, y) ** 2 / (mp.fdot(x, x) * mp.fdot(y, y))


@pytest.mark.parametrize("dimension", [3, 200])
@pytest.mark.parametrize(("dtype", "gap", "tolerance"), [(np.float64, 1e-12, 1e-8), (np.float32, 1e-4, 1e-3)])
def test_angles_of_inputs_keep_their_digits(rng, dtype, gap, tolerance, dimension):
    """A product in the same precision would leave errors of 1e-4 and 1e-3 in single entries, or more."""
    x, y = close_pairs(rng, gap, dimension, dtype)
    result = gram(jnp.asarray(x), jnp.asarray(y))
    with mp.workdps(60):
        expected = [float(exact_sine2(x[i], y[i])) for i in range(6)]
    np.testing.assert_allclose(np.diag(result.sine2), expected, rtol=tolerance)
    rounding = 10 * np.finfo(dtype).eps
    np.testing.assert_allclose(result.inner, x.astype(float) @ y.T.astype(float) / dimension, rtol=1e3 * rounding)
    np.testing.assert_allclose(result.first, np.mean(x.astype(float) ** 2, axis=1), rtol=rounding)
    np.testing.assert_allclose(result.second, np.mean(y.astype(float) ** 2, axis=1), rtol=rounding)


def test_rows_with_themselves_and_zero_rows(rng):
    x = np.concatenate([rng.normal(size=(3, 40)), np.zeros((1, 40))])
    thrice = gram(jnp.asarray(x), jnp.asarray(3.0 * x))
    # Sines, not their squares, are what a kinked kernel sees: 1e-11 where ρ alone would give 1e-8.
    assert np.all(np.diag(thrice.sine2) < 1e-21)
    for result in (gram(jnp.asarray(x), None), gram(jnp.asarray(x), jnp.asarray(-2.0 * x))):
        assert np.all(np.diag(result.sine2) == 0)
        assert np.isfinite(result.sine2).all()


def test_rows_apart_in_their_last_digits_keep_their_angle():
    """Rows whose norms, inner product and upper digits agree."""
    for small in (8e-11, 1e-13):
        x = jnp.asarray([[1.0, small], [1.0, -small]])
        for sign in (1.0, -1.0):
            sine2 = gram(x[:1], sign * x[1:]).sine2
            assert float(sine2[0, 0]) == pytest.approx(4 * small**2, rel=1e-14)
    # Opposite but for the rounding of a cosine: an angle of 1e-16, and nothing like 1e-12 beside it.
    angle = np.linspace(0.0, np.pi, 100)
    x, y = (np.stack([np.cos(t), np.sin(t)], axis=1) for t in (angle, angle + np.pi))
    assert np.diag(gram(jnp.asarray(x), jnp.asarray(y)).sine2).max() < 1e-30


SLOPES = [PiecewiseLinear(0.0, 1.0), PiecewiseLinear(-1.0, 1.0), PiecewiseLinear(0.2, 1.0), PiecewiseLinear(1.0, 1.0)]


@pytest.mark.parametrize("slopes", SLOPES, ids=["relu", "abs", "leaky", "linear"])
@pytest.mark.parametrize("bias_variance", [0.0, 0.3])
def test_angles_after_a_layer_keep_their_digits(slopes, bias_variance):
    """a'b' − c'² formed from the dual of Cho & Saul in 60 digits, from one angle in every quadrant's corner."""
    a, b = 1.5, 0.7
    with mp.workdps(60):
        for theta in ("1e-9", "1e-3", "0.5", "1.5707", "2.5", "3.1415"):
            angle = mp.mpf(theta)
            alpha, beta = mp.mpf(slopes.negative), mp.mpf(slopes.positive)

            def bend(psi):
                return mp.sin(psi) - psi * mp.cos(psi)

            root = mp.sqrt(mp.mpf(a) * b)
            dual = root * ((alpha**2 + beta**2) * bend(mp.pi - angle) - 2 * alpha * beta * bend(angle)) / (2 * mp.pi)
            gain, bias = mp.mpf(1.7) * (alpha**2 + beta**2) / 2, mp.mpf(bias_variance)
            cosine = (mp.mpf(1.7) * dual + bias) / mp.sqrt((gain * a + bias) * (gain * b + bias))
            c, sine2 = jnp.asarray(float(root * mp.cos(angle))), jnp.asarray(float(mp.sin(angle) ** 2))
            variances = jnp.asarray(1.7), jnp.asarray(bias_variance)
            value = after_layer(slopes, jnp.asarray(a), jnp.asarray(b), c, sine2, *variances)
            assert float(value) == pytest.approx(float(1 - cosine**2), rel=2e-14), theta


@pytest.mark.parametrize("bias_variance", [0.0, 0.3])
def test_angles_after_a_jump_keep_their_digits(bias_variance):
    """sin² θ' of c' = σ_w²(1 − 2θ/π) + σ_b² in 60 digits; where an input is zero, of c' = σ_b²."""
    variances = jnp.asarray(1.7), jnp.asarray(bias_variance)
    with mp.workdps(60):
        for theta in ("0", "1e-9", "1e-3", "0.5", "1.5707", "2.5", "3.1415"):
            angle = mp.mpf(theta)
            cosine = (mp.mpf(1.7) * (1 - 2 * angle / mp.pi) + mp.mpf(bias_variance)) / (mp.mpf(1.7) + bias_variance)
            c, sine2 = jnp.asarray(float(mp.sqrt(1.05) * mp.cos(angle))), jnp.asarray(float(mp.sin(angle) ** 2))
            value = after_layer(jnp.sign, jnp.asarray(1.5), jnp.asarray(0.7), c, sine2, *variances)
            assert float(value) == pytest.approx(float(1 - cosine**2), rel=2e-14), theta
    alone = after_layer(jnp.sign, jnp.asarray(1.5), jnp.zeros(()), jnp.zeros(()), jnp.zeros(()), *variances)
    assert float(alone) == pytest.approx(1.7 / (1.7 + bias_variance) if bias_variance else 0.0, rel=1e-14)


def test_gradients_pass_through_the_slices(rng):
    """The cut into slices is constant by pieces, and must not stop the derivative."""
    x, y = jnp.asarray(rng.normal(size=(2, 5))), jnp.asarray(rng.normal(size=(3, 5)))

    def plain(x):
        inner, first, second = x @ y.T / 5, jnp.mean(x * x, axis=1)[:, None], jnp.mean(y * y, axis=1)[None]
        return inner, 1 - inner**2 / (first * second)

    # Linear in the direction: one at random tells all.
    direction = jnp.asarray(rng.normal(size=x.shape))
    ours = jax.jit(lambda x, v: jax.jvp(lambda x: gram(x, y)[2:], (x,), (v,))[1])(x, direction)
    expected = jax.jit(lambda x, v: jax.jvp(plain, (x,), (v,))[1])(x, direction)
    for left, right in zip(ours, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-12)
