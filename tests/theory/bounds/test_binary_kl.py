"""kl between coins and its inverses against mpmath, closed forms, and their outward rounding."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.bounds import bernoulli_kl, kl_inverse_lower, kl_inverse_upper

EPS = np.finfo(np.float64).eps


def precise_kl(q, p):
    """kl(q‖p) for the very floats (or mpf) given; enough digits for 1−1e-100."""
    q, p = mpmath.mpf(q), mpmath.mpf(p)
    first = q * mpmath.log(q / p) if q > 0 else mpmath.mpf(0)
    second = (1 - q) * mpmath.log((1 - q) / (1 - p)) if q < 1 else mpmath.mpf(0)
    return first + second


def probabilities(rng, size):
    """Uniform, near 0, near 1 and extremely near 0."""
    u, near = rng.random(size), 10 ** (-14 * rng.random(size))
    tiny = 10 ** (-90 * rng.random(size))
    return np.choose(rng.integers(0, 4, size), [u, near, 1 - near, tiny])


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(220):
        yield


def test_kl_is_accurate_everywhere_and_near_the_diagonal(rng):
    q = probabilities(rng, 1200)
    factor = 1 + 10 ** (-14 * rng.random(600)) * rng.choice([-1, 1], 600)
    p = np.concatenate([np.clip(q[:600] * factor, 1e-300, np.nextafter(1, 0)), probabilities(rng, 600)])
    values = bernoulli_kl(q, p)
    for a, b, value in zip(q.tolist(), p.tolist(), values.tolist(), strict=True):
        exact = precise_kl(a, b)
        assert abs(value - exact) <= 20 * EPS * exact


@pytest.mark.parametrize(
    ("q", "p", "expected"),
    [(0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.5, 0.0, np.inf), (0.5, 1.0, np.inf), (0.0, 1.0, np.inf), (1.0, 0.0, np.inf)],
)
def test_kl_at_the_corners(q, p, expected):
    assert bernoulli_kl(q, p) == expected


def test_inverses_are_never_on_the_wrong_side(rng):
    q = np.concatenate([probabilities(rng, 800), np.zeros(100), np.ones(100)])
    budget = np.exp(rng.uniform(-35, 6.5, q.size))
    upper, lower = kl_inverse_upper(q, budget), kl_inverse_lower(q, budget)
    for a, c, u, low in zip(q.tolist(), budget.tolist(), upper.tolist(), lower.tolist(), strict=True):
        assert a <= u <= 1
        assert u == 1 or precise_kl(a, u) >= c
        assert 0 <= low <= a
        assert low == 0 or precise_kl(a, low) >= c


def test_inverses_are_no_further_out_than_rounding(rng):
    q = np.concatenate([rng.random(300), 10 ** (-8 * rng.random(300))])
    budget = 10 ** rng.uniform(-9, 0.5, q.size)
    for a, c, u, low in zip(q, budget, kl_inverse_upper(q, budget), kl_inverse_lower(q, budget), strict=True):
        # Moved inwards by 1e-12 of the distance, and by two spacings of the floats, the budget is no longer spent.
        inside = mpmath.mpf(u) - (mpmath.mpf(u) - a) * mpmath.mpf(1e-12) - 4 * EPS * u
        assert inside <= a or precise_kl(a, inside) < c
        # Far below q the inverse is e^{−c/q} and its relative accuracy is that of c times c/q.
        inside = mpmath.mpf(low) * (1 + 1e-13 * c / a) + (a - mpmath.mpf(low)) * mpmath.mpf(1e-12) + 4 * EPS * low
        assert low == 0 or inside >= a or precise_kl(a, inside) < c


def test_inverses_have_their_closed_forms():
    c = np.array([1e-8, 1e-3, 0.1, 1.0, 5.0])
    np.testing.assert_allclose(kl_inverse_upper(0.0, c), -np.expm1(-c), rtol=1e-13)
    np.testing.assert_allclose(kl_inverse_lower(1.0, c), np.exp(-c), rtol=1e-13)
    # kl(½‖p) = −½ ln 4p(1−p).
    root = np.sqrt(-np.expm1(-2 * c))
    np.testing.assert_allclose(kl_inverse_upper(0.5, c), (1 + root) / 2, rtol=1e-13)
    np.testing.assert_allclose(kl_inverse_lower(0.5, c), np.exp(-2 * c) / (1 + root) / 2, rtol=1e-12)


def test_inverses_at_the_ends():
    assert kl_inverse_upper([0.0, 0.3, 1.0], np.inf).tolist() == [1.0, 1.0, 1.0]
    assert kl_inverse_lower([0.0, 0.3, 1.0], np.inf).tolist() == [0.0, 0.0, 0.0]
    assert kl_inverse_upper([0.0, 0.3, 1.0], 0.0).tolist() == [0.0, 0.3, 1.0]
    assert kl_inverse_lower([0.0, 0.3, 1.0], 0.0).tolist() == [0.0, 0.3, 1.0]


def test_blocks_and_broadcasting_change_nothing(rng):
    q, budget = rng.random((3, 1, 4001)), rng.random((2, 1))
    together = kl_inverse_upper(q, budget)
    assert together.shape == (3, 2, 4001)
    np.testing.assert_allclose(together[2, 1, :50], kl_inverse_upper(q[2, 0, :50], budget[1, 0]), rtol=1e-13)
    assert kl_inverse_upper(np.zeros((0, 3)), 0.1).shape == (0, 3)


@given(st.floats(0, 1), st.floats(1e-12, 10), st.floats(1, 3))
def test_a_larger_budget_reaches_further(q, budget, factor):
    assert kl_inverse_upper(q, budget * factor) >= kl_inverse_upper(q, budget) * (1 - 1e-13)
    assert kl_inverse_lower(q, budget * factor) <= kl_inverse_lower(q, budget) * (1 + 1e-9) + 1e-300


@given(st.integers(0, 64), st.floats(1e-6, 5))
def test_swapping_success_and_failure_mirrors_the_inverses(k, budget):
    # k/64 and its complement are both exact floats.
    np.testing.assert_allclose(kl_inverse_lower(k / 64, budget), 1 - kl_inverse_upper(1 - k / 64, budget), atol=1e-13)


@pytest.mark.parametrize("function", [kl_inverse_upper, kl_inverse_lower])
def test_bad_input_is_named(function):
    with pytest.raises(ValueError, match=r"q must lie in \[0, 1\], got 1\.5"):
        function([0.2, 1.5], 0.1)
    with pytest.raises(ValueError, match=r"budget must be at least 0 nats, got -0\.1"):
        function(0.2, -0.1)
    with pytest.raises(ValueError, match="q must lie in"):
        function(np.nan, 0.1)
    with pytest.raises(ValueError, match="p must lie in"):
        bernoulli_kl(0.5, -1e-9)
