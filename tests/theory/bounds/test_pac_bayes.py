"""PAC-Bayes bounds: constants against mpmath, each formula by a second route, orderings, exact failure rates."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from theory.bounds import (
    bernoulli_kl,
    catoni,
    discrete_kl,
    kl_inverse_upper,
    maurer_constant,
    mcallester,
    pac_bayes_kl,
    quadratic,
)

BOUNDS = (pac_bayes_kl, mcallester, catoni, quadratic)
SETTINGS = given(st.floats(0, 1), st.floats(0, 50), st.integers(1, 10_000), st.floats(1e-9, 0.5))


@pytest.mark.parametrize("n", [1, 2, 3, 8, 50, 301])
def test_maurer_constant_is_its_defining_sum(n):
    with mpmath.workdps(40):
        terms = (
            mpmath.binomial(n, k) * mpmath.mpf(k) ** k * mpmath.mpf(n - k) ** (n - k) / mpmath.mpf(n) ** n
            for k in range(n + 1)
        )
        assert abs(maurer_constant(n).item() / mpmath.fsum(terms) - 1) < 1e-14


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.97])
def test_maurer_constant_is_the_moment_for_every_risk(p):
    n = 40
    k = np.arange(n + 1)
    moment = binom.pmf(k, n, p) @ np.exp(n * bernoulli_kl(k / n, p))
    assert moment == pytest.approx(maurer_constant(n).item(), rel=1e-12)


def test_maurer_constant_lies_between_root_n_and_twice_that():
    n = np.concatenate([np.arange(1, 400), [10**4, 10**6, 10**8]])
    xi = maurer_constant(n)
    assert np.all(np.sqrt(n) <= xi)
    assert np.all(xi <= 2 * np.sqrt(n) * (1 + 1e-15))
    # The next term of the expansion is √(π/2n)/12 (Flajolet et al. 1995).
    tail = xi - np.sqrt(np.pi * n / 2) - 2 / 3
    np.testing.assert_allclose(tail[-3:], np.sqrt(np.pi / (2 * n[-3:])) / 12, rtol=0.05)


def test_kl_bound_spends_its_budget():
    value = pac_bayes_kl(0.1, 5.0, 1000, delta=0.05).value
    assert bernoulli_kl(0.1, value) == pytest.approx((5 + math.log(2 * math.sqrt(1000) / 0.05)) / 1000, rel=1e-12)
    sharper = pac_bayes_kl(0.1, 5.0, 1000, delta=0.05, exact=True).value
    assert bernoulli_kl(0.1, sharper) == pytest.approx((5 + math.log(maurer_constant(1000) / 0.05)) / 1000, rel=1e-12)
    assert sharper < value


def test_mcallester_by_hand():
    # KL = 0, n = 4, δ = 4e⁻⁸: ln(2√n/δ) = 8, so that the root is √(8/8).
    assert mcallester(0.25, 0.0, 4, delta=4 * math.exp(-8)).value == pytest.approx(1.25, rel=1e-15)


@SETTINGS
def test_quadratic_solves_its_inequality(risk, kl, n, delta):
    value = quadratic(risk, kl, n, delta=delta).value
    budget = (kl + math.log(2 * math.sqrt(n) / delta)) / n
    assert (value - risk) ** 2 == pytest.approx(2 * value * budget, rel=1e-9)
    assert value >= risk


@given(st.floats(0.01, 0.9), st.floats(0, 20), st.integers(10, 5000), st.floats(1e-6, 0.5))
def test_catoni_at_the_best_parameter_is_the_kl_inverse(risk, kl, n, delta):
    """The envelope over C of Catoni's curves is kl⁻¹, reached at C = ln(p(1−p̂)/(p̂(1−p)))."""
    p = kl_inverse_upper(risk, (kl - math.log(delta)) / n).item()
    best = math.log(p / risk) + math.log1p(-risk) - math.log1p(-min(p, 1 - 1e-16))
    if best > 30:
        return
    value = catoni(risk, kl, n, delta=delta, grid=[best]).value
    assert value == pytest.approx(p, rel=1e-9)
    for other in (0.8 * best, 1.25 * best):
        assert catoni(risk, kl, n, delta=delta, grid=[other]).value >= value * (1 - 1e-12)


def test_catoni_pays_for_its_grid():
    grid = (0.1, 0.5, 1.0, 2.0)
    together = catoni(0.2, 3.0, 100, delta=0.04, grid=grid).value
    alone = [catoni(0.2, 3.0, 100, delta=0.01, grid=[c]).value for c in grid]
    np.testing.assert_allclose(together, np.min(alone), rtol=1e-14)


@SETTINGS
def test_relaxations_never_beat_the_kl_bound(risk, kl, n, delta):
    tightest = pac_bayes_kl(risk, kl, n, delta=delta).value * (1 - 1e-13)
    assert pac_bayes_kl(risk, kl, n, delta=delta, exact=True).value <= tightest * (1 + 2e-13)
    # Pinsker, and its refinement (p−q)²/2p.
    assert tightest <= mcallester(risk, kl, n, delta=delta).value
    assert tightest <= quadratic(risk, kl, n, delta=delta).value


@given(st.sampled_from(BOUNDS), st.floats(0, 0.9), st.floats(0, 30), st.integers(2, 2000), st.floats(1e-6, 0.4))
def test_bounds_grow_with_risk_complexity_and_confidence(bound, risk, kl, n, delta):
    value = bound(risk, kl, n, delta=delta).value
    slack = 1 - 1e-12
    assert bound(risk + 0.05, kl, n, delta=delta).value >= value * slack
    assert bound(risk, kl + 1.0, n, delta=delta).value >= value * slack
    assert bound(risk, kl, n, delta=delta / 2).value >= value * slack
    assert bound(risk, kl, 4 * n, delta=delta).value <= value / slack


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("delta", [0.2, 0.05, 0.001])
def test_failure_probability_with_one_hypothesis_is_at_most_delta(bound, delta):
    """The supremum over all risks, by counting: it is reached just above a value of the bound."""
    for n in range(1, 25):
        k = np.arange(n + 1)
        value = bound(k / n, 0.0, n, delta=delta).value
        assert np.all(np.diff(value) >= -1e-15)
        rate = np.where(value < 1, binom.cdf(k, n, np.minimum(value, 1.0)), 0.0).max()
        assert rate <= delta * (1 + 1e-12)


@pytest.mark.parametrize("exact", [False, True])
def test_failure_probability_with_two_hypotheses_and_any_posterior(exact):
    """All outcomes of two independent hypotheses, the posterior chosen against the bound on a fine grid."""
    n, delta, weight = 6, 0.1, np.linspace(0, 1, 101)[:, None, None]
    prior, risks = np.array([0.7, 0.3]), np.array([0.55, 0.62])
    k = np.arange(n + 1)
    probability = np.outer(binom.pmf(k, n, risks[0]), binom.pmf(k, n, risks[1]))
    kl = discrete_kl(np.concatenate([weight, 1 - weight], axis=-1), prior)[..., None]
    gibbs = weight * k[:, None] / n + (1 - weight) * k / n
    fails = (
        weight * risks[0] + (1 - weight) * risks[1]
        > pac_bayes_kl(gibbs, kl[..., 0, None], n, delta=delta, exact=exact).value
    )
    rate = probability[fails.any(axis=0)].sum()
    assert 0 < rate <= delta


def test_discrete_kl():
    assert discrete_kl([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.5 * math.log(4 / 3), rel=1e-15)
    assert discrete_kl([1.0, 0.0, 0.0], [0.125, 0.5, 0.375]) == pytest.approx(math.log(8), rel=1e-15)
    assert discrete_kl([0.5, 0.5], [1.0, 0.0]) == np.inf
    prior = np.full(7, 1 / 7)
    assert discrete_kl(prior, prior) == 0


@pytest.mark.parametrize("bound", BOUNDS)
def test_bad_input_is_named(bound):
    with pytest.raises(ValueError, match=r"risk must lie in \[0, 1\], got -0\.1"):
        bound(-0.1, 1.0, 10, delta=0.05)
    with pytest.raises(ValueError, match=r"kl must be at least 0 nats, got -1\.0"):
        bound(0.1, -1.0, 10, delta=0.05)
    with pytest.raises(ValueError, match="n must be a whole number of examples"):
        bound(0.1, 1.0, [10, 2.5], delta=0.05)
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1"):
        bound(0.1, 1.0, 10, delta=2.0)


def test_an_empty_or_negative_grid_is_refused():
    with pytest.raises(ValueError, match="grid must hold positive values of C"):
        catoni(0.1, 1.0, 10, delta=0.05, grid=[])
    with pytest.raises(ValueError, match=r"grid must hold positive values of C, got \(0\.5, -1\.0\)"):
        catoni(0.1, 1.0, 10, delta=0.05, grid=[0.5, -1.0])
