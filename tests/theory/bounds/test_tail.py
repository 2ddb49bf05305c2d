"""Test-set bounds and Occam's bound: independent inversions, exact failure probabilities, orderings."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from theory.bounds import chernoff_kl, clopper_pearson, hoeffding, occam

DELTAS = (0.5, 0.05, 1e-3, 1e-9)


def binomial_tail(k, n, p):
    """P(Bin(n, p) ≤ k) by summing its terms."""
    p = mpmath.mpf(p)
    return mpmath.fsum(mpmath.binomial(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1))


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_clopper_pearson_inverts_the_binomial_tail_from_above(n, delta):
    with mpmath.workdps(50):
        values = clopper_pearson(np.arange(n + 1), n, delta=delta).value
        assert values[n] == 1
        for k in range(n):
            assert binomial_tail(k, n, values[k]) <= delta
            # By no more than two floats further out than a relative 1e-11 of the tail explains.
            inside = np.nextafter(np.nextafter(values[k], 0), 0)
            assert binomial_tail(k, n, inside) > delta * (1 - 1e-11)


def test_clopper_pearson_is_the_beta_quantile():
    k = np.arange(0, 300, 7)
    expected = stats.beta.ppf(1 - 0.05, k + 1, 300 - k)
    np.testing.assert_allclose(clopper_pearson(k, 300, delta=0.05).value, expected, rtol=1e-10)


def test_clopper_pearson_without_errors_has_a_closed_form():
    n = np.array([1, 10, 1000, 10**6])
    np.testing.assert_allclose(clopper_pearson(0, n, delta=0.01).value, -np.expm1(np.log(0.01) / n), rtol=1e-12)


def test_hoeffding_and_chernoff_follow_their_formulas():
    np.testing.assert_allclose(hoeffding(0.25, 50, delta=0.05).value, 0.25 + math.sqrt(math.log(20) / 100), rtol=1e-15)
    value = chernoff_kl(0.25, 50, delta=0.05).value.item()
    root = mpmath.findroot(
        lambda p: 0.25 * mpmath.log(0.25 / p) + 0.75 * mpmath.log(0.75 / (1 - p)) - mpmath.log(20) / 50, 0.45
    )
    assert value == pytest.approx(float(root), rel=1e-13)


@pytest.mark.parametrize("delta", [0.2, 0.05, 0.001])
def test_failure_probability_is_at_most_delta_for_every_risk(delta):
    """The supremum over all risks, for each n, by counting: it is reached just above a value of the bound."""
    for n in range(1, 31):
        k = np.arange(n + 1)
        bounds = (
            hoeffding(k / n, n, delta=delta),
            chernoff_kl(k / n, n, delta=delta),
            clopper_pearson(k, n, delta=delta),
        )
        for certificate in bounds:
            assert np.all(np.diff(certificate.value) >= 0)
            for errors, p in enumerate(certificate.value.tolist()):
                # Where the bound is vacuous no risk exceeds it.
                rate = sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(errors + 1)) if p < 1 else 0.0
                assert rate <= delta * (1 + 1e-12)


def test_a_bound_missing_half_of_its_budget_would_be_caught():
    n, k = 20, 4
    p = chernoff_kl(k / n, n, delta=math.sqrt(0.001)).value.item()
    assert stats.binom.cdf(k, n, p) > 0.001


@given(st.integers(1, 200), st.data())
def test_the_three_bounds_are_ordered(n, data):
    k = data.draw(st.integers(0, n))
    delta = data.draw(st.floats(1e-9, 0.5))
    exact = clopper_pearson(k, n, delta=delta).value
    relaxed = chernoff_kl(k / n, n, delta=delta).value
    assert k / n <= exact <= relaxed * (1 + 1e-11)
    assert relaxed <= hoeffding(k / n, n, delta=delta).value * (1 + 1e-13)


@given(st.integers(2, 300), st.data())
def test_more_errors_less_data_or_more_confidence_raise_the_bound(n, data):
    k = data.draw(st.integers(0, n - 1))
    delta = data.draw(st.floats(1e-6, 0.4))
    value = clopper_pearson(k, n, delta=delta).value
    assert clopper_pearson(k + 1, n, delta=delta).value > value
    assert clopper_pearson(k, n + 1, delta=delta).value < value
    assert clopper_pearson(k, n, delta=delta / 2).value > value


def test_occam_is_clopper_pearson_at_the_hypothesis_share_of_delta():
    prior = np.array([0.5, 0.25, 1e-6])
    k = np.array([[0], [3], [19]])
    expected = clopper_pearson(k, 20, delta=0.05 * prior).value
    np.testing.assert_allclose(occam(k, 20, log_prior=np.log(prior), delta=0.05).value, expected, rtol=1e-12)


def test_occam_survives_code_lengths_of_a_network():
    """e^−2000 is no float, but a bound of 0.4 on 10,000 examples is."""
    value = occam(100, 10_000, log_prior=-2000.0, delta=0.05).value.item()
    with mpmath.workdps(30):
        log_tail = mpmath.log(binomial_tail(100, 10_000, value))
    assert -2000 + math.log(0.05) - 20 < log_tail <= -2000 + math.log(0.05)


def test_occam_is_continuous_where_it_changes_method():
    before, after = occam(30, 1000, log_prior=[-599.9, -600.1], delta=1 - 1e-12).value
    assert before < after < before * 1.01


def test_certificates_say_what_they_are():
    certificate = hoeffding([0.1, 0.9], 10, delta=0.05)
    assert certificate.rigour == "theorem"
    assert certificate.vacuous.tolist() == [False, True]
    assert certificate.value[1] > 1


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, np.nan])
def test_delta_outside_its_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta must lie strictly between 0 and 1, got"):
        hoeffding(0.1, 10, delta=delta)
    with pytest.raises(ValueError, match="delta must lie"):
        occam(1, 10, log_prior=-1.0, delta=[0.05, delta])


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match=r"risk must lie in \[0, 1\], got 1\.1; rescale"):
        chernoff_kl([0.2, 1.1], 10, delta=0.05)
    with pytest.raises(ValueError, match=r"n must be a whole number of examples, at least 1, got 0\.0"):
        hoeffding(0.1, 0, delta=0.05)
    with pytest.raises(ValueError, match=r"errors must be whole numbers, got 0\.3; pass how many"):
        clopper_pearson(0.3, 10, delta=0.05)
    with pytest.raises(ValueError, match="errors must lie between 0 and n, got 11"):
        clopper_pearson([1, 11], 10, delta=0.05)
    with pytest.raises(ValueError, match=r"log_prior must be at most 0, got 0\.5"):
        occam(1, 10, log_prior=0.5, delta=0.05)
