"""The judges on synthetic truths and falsehoods: false alarms, power, coverage, and no support bought by noise.

Each rate comes from at least 10⁵ vectorised repetitions through the very functions that decide claims.
"""

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.verdict.decision import CODES, combine
from experiments.verdict.intervals import ALPHA, CONFIDENCE, clopper_pearson, dkw, student
from experiments.verdict.rates import fit_amplitude, fit_exponent
from experiments.verdict.status import Status

REPETITIONS = 100_000
SUPPORTED, REFUTED = CODES.index(Status.SUPPORTED), CODES.index(Status.REFUTED)


def at_most(rate: float | np.floating, nominal: float, repetitions: int = REPETITIONS) -> bool:
    """A rate does not exceed its nominal value beyond Monte Carlo error (one in 10⁵ would be flagged by chance)."""
    return bool(rate <= nominal + 4.3 * np.sqrt(nominal * (1 - nominal) / repetitions))


def equals(rate: float | np.floating, nominal: float, repetitions: int = REPETITIONS) -> bool:
    return bool(abs(rate - nominal) <= 4.5 * np.sqrt(nominal * (1 - nominal) / repetitions))


def codes(deviation, error, margin, dof=np.inf):
    low, high, p = student(deviation, error, -margin, margin, dof)
    return combine(low, high, p, -margin, margin)


def normal(rng, mean, error, comparisons=1):
    return mean + error * rng.standard_normal((REPETITIONS, comparisons))


@pytest.mark.parametrize("comparisons", [1, 10])
def test_equivalence_rarely_supports_a_deviation_at_the_margin(rng, comparisons):
    deviations = normal(rng, 0.0, 0.1, comparisons)
    deviations[:, 0] += 1.0
    assert at_most(np.mean(codes(deviations, 0.1, 1.0) == SUPPORTED), ALPHA / 2)


@pytest.mark.parametrize("comparisons", [1, 10])
def test_equivalence_rarely_refutes_a_deviation_at_the_margin(rng, comparisons):
    assert at_most(np.mean(codes(normal(rng, 1.0, 0.1, comparisons), 0.1, 1.0) == REFUTED), ALPHA)


def test_a_single_refutation_at_the_margin_has_its_nominal_rate(rng):
    # Two-sided α, of which one side counts: a test that never refuted would pass the bound above, not this.
    assert equals(np.mean(codes(normal(rng, 1.0, 0.1), 0.1, 1.0) == REFUTED), ALPHA / 2)


@pytest.mark.parametrize("comparisons", [1, 20])
def test_equivalence_has_power_at_the_sample_size_that_the_margin_asks_for(rng, comparisons):
    # Half-width at most a third of the margin, rival at twice the margin: the truth is supported, the rival refuted.
    error = 1.0 / 3 / stats.norm.isf(ALPHA / 2)
    assert np.mean(codes(normal(rng, 0.0, error, comparisons), error, 1.0) == SUPPORTED) >= 0.999
    assert np.mean(codes(normal(rng, 2.0, error, comparisons), error, 1.0) == REFUTED) >= 0.999


@pytest.mark.parametrize("dof", [3, 15, 31])
def test_student_interval_covers_at_its_nominal_rate(rng, dof):
    sample = rng.standard_normal((REPETITIONS, dof + 1))
    mean, error = sample.mean(-1), sample.std(-1, ddof=1) / np.sqrt(dof + 1)
    low, high, _ = student(mean, error, -1, 1, dof)
    assert equals(np.mean((low <= 0) & (high >= 0)), CONFIDENCE)
    # The same errors read as normal ones would be too short: the test above can fail.
    low, high, _ = student(mean, error, -1, 1, np.inf)
    assert not equals(np.mean((low <= 0) & (high >= 0)), CONFIDENCE)


def test_p_value_and_interval_agree(rng):
    deviations = normal(rng, 0.5, 1.0)[:, 0]
    low, high, p = student(deviations, 0.3, -1.0, 1.0, 7)
    np.testing.assert_array_equal(p <= ALPHA, (low > 1.0) | (high < -1.0))


@pytest.mark.parametrize("truth", [0.0, 0.5, 0.9, 1.0, 1.5])
def test_doubling_the_noise_never_raises_the_rate_of_support(rng, truth):
    rates = [np.mean(codes(normal(rng, truth, e, 3), e, 1.0) == SUPPORTED) for e in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)]
    noise = 4.3 * np.sqrt(0.25 / REPETITIONS)
    assert all(later <= earlier + noise for earlier, later in itertools.pairwise(rates))
    assert rates[-1] == 0.0


def test_noise_alone_never_decides(rng):
    # With an interval wider than the region there is no support, whatever was measured.
    assert not np.any(codes(normal(rng, 0.0, 10.0), 10.0, 1.0) == SUPPORTED)


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
def test_binomial_interval_covers_at_least_nominally(rng, rate):
    trials = 2000
    k = rng.binomial(trials, rate, REPETITIONS)
    low, high, _ = clopper_pearson(k, trials, 0, 1)
    covered = np.mean((low <= rate) & (rate <= high))
    assert at_most(1 - covered, ALPHA)


def test_a_bound_that_sits_at_delta_is_supported_and_a_loose_one_refuted(rng):
    # δ = 0.05, margin 0.02 from a rival at 0.09, 10,000 training sets.
    delta, margin, trials = 0.05, 0.02, 10_000

    def decide(rate):
        k = rng.binomial(trials, rate, (REPETITIONS, 1))
        low, high, p = clopper_pearson(k, trials, -np.inf, delta + margin)
        return combine(low, high, p, -np.inf, delta + margin)

    assert np.mean(decide(delta) == SUPPORTED) >= 0.999
    assert np.mean(decide(0.09) == REFUTED) >= 0.999
    assert at_most(np.mean(decide(delta + margin) == SUPPORTED), ALPHA / 2)
    assert at_most(np.mean(decide(delta + margin) == REFUTED), ALPHA / 2)


def test_coverage_judge_finds_an_interval_that_covers_too_rarely(rng):
    trials, margin = 5000, 0.02

    def decide(rate):
        k = rng.binomial(trials, rate, (REPETITIONS, 1))
        low, high, p = clopper_pearson(k, trials, 0.95 - margin, 0.95 + margin)
        return combine(low, high, p, 0.95 - margin, 0.95 + margin)

    assert np.mean(decide(0.95) == SUPPORTED) >= 0.999
    assert np.mean(decide(0.90) == REFUTED) >= 0.999
    assert at_most(np.mean(decide(0.93) == SUPPORTED), ALPHA / 2)


def test_ordering_does_not_take_a_tie_for_an_order(rng):
    def decide(difference):
        low, high, p = student(normal(rng, difference, 0.1), 0.1, 0.0, np.inf)
        return combine(low, high, p, 0.0, np.inf)

    assert equals(np.mean(decide(0.0) == SUPPORTED), ALPHA / 2)
    assert equals(np.mean(decide(0.0) == REFUTED), ALPHA / 2)
    assert np.mean(decide(0.6) == SUPPORTED) >= 0.999
    assert np.mean(decide(-0.6) == REFUTED) >= 0.999


def test_distribution_judge(rng):
    # 4,000 draws in a repetition; sup|F − F₀| of N(μ, 1) from N(0, 1) is 2Φ(μ/2) − 1.
    n, margin, repetitions = 4_000, 0.1, 2_000
    steps = np.arange(n + 1) / n

    def distances(mean):
        expected = stats.norm.cdf(np.sort(mean + rng.standard_normal((repetitions, n)), axis=-1))
        return np.maximum((steps[1:] - expected).max(-1), (expected - steps[:-1]).max(-1))

    def decide(mean):
        # The band of 2,000 samples, resampled to 10⁵ repetitions of the decision.
        d = rng.choice(distances(mean), (REPETITIONS, 1))
        low, high, p = dkw(d, n, margin)
        return low[:, 0], high[:, 0], combine(low, high, p, -np.inf, margin)

    _, _, status = decide(0.0)
    assert np.mean(status == SUPPORTED) >= 0.999
    truth = 2 * stats.norm.cdf(0.4 / 2) - 1
    low, high, status = decide(0.4)
    assert np.mean((low <= truth) & (truth <= high)) >= CONFIDENCE - 0.005
    mean_at_margin = 2 * stats.norm.ppf((1 + margin) / 2)
    assert np.mean(decide(mean_at_margin)[2] == SUPPORTED) <= ALPHA
    assert np.mean(decide(mean_at_margin)[2] == REFUTED) <= ALPHA
    assert np.mean(decide(2 * stats.norm.ppf((1 + 2 * margin) / 2))[2] == REFUTED) >= 0.999


SIZES = np.array([64, 128, 256, 512, 1024, 2048, 4096.0])


def power_law(rng, exponent, b, error=0.01):
    truth = 3.0 * SIZES**-exponent * (1 + b * SIZES**-0.5)
    return truth * (1 + error * rng.standard_normal((REPETITIONS, SIZES.size))), np.broadcast_to(
        truth * error, (REPETITIONS, SIZES.size)
    )


def test_amplitude_fit_covers_at_its_nominal_rate_and_tells_a_factor_apart(rng):
    values, errors = power_law(rng, 1.0, 2.0)
    fit = fit_amplitude(SIZES, values, errors, exponent=1.0, correction=0.5)
    covered = np.abs(fit.estimate - 3.0) <= stats.norm.isf(ALPHA / 2) * fit.standard_error
    # Repetitions with a lack of fit rarer than 1 in 1000 are widened, which adds that much at most.
    assert CONFIDENCE - 0.0015 <= np.mean(covered) <= CONFIDENCE + 0.0015
    rival = (fit.estimate / 6.0 - 1)[:, None], (fit.standard_error / 6.0)[:, None]
    assert np.mean(codes(*rival, margin=0.25) == REFUTED) >= 0.999
    truth = (fit.estimate / 3.0 - 1)[:, None], (fit.standard_error / 3.0)[:, None]
    assert np.mean(codes(*truth, margin=0.25) == SUPPORTED) >= 0.999


def test_exponent_fit_sees_through_the_next_order(rng):
    values, errors = power_law(rng, 0.5, 2.0)
    corrected = fit_exponent(SIZES, values, errors, correction=0.5)
    plain = fit_exponent(SIZES, values, errors, correction=None)
    # ln(1 + B/√n) is B/√n only to first order: the rest stays far below the distance to another exponent.
    assert abs(corrected.estimate.mean() - 0.5) < 0.02
    assert plain.estimate.mean() - 0.5 > 0.03
    # A line through a curve is a misfit, and its error says so.
    assert np.median(plain.goodness) < 1e-3
    np.testing.assert_array_less(plain.standard_error.mean(), corrected.standard_error.mean())


def test_exponent_fit_covers_at_its_nominal_rate(rng):
    values, errors = power_law(rng, 1.0, 0.0)
    fit = fit_exponent(SIZES, values, errors, correction=1.0)
    covered = np.abs(fit.estimate - 1.0) <= stats.norm.isf(ALPHA / 2) * fit.standard_error
    assert CONFIDENCE - 0.0015 <= np.mean(covered) <= CONFIDENCE + 0.0015


def test_fit_agrees_with_scipy(rng):
    values, errors = (a[0] for a in power_law(rng, 1.0, 2.0))
    fit = fit_amplitude(SIZES, values, errors, exponent=1.0, correction=0.5)
    from scipy.optimize import curve_fit

    best, covariance = curve_fit(
        lambda n, a, b: a / n + b / n**1.5, SIZES, values, p0=(3, 6), sigma=errors, absolute_sigma=True
    )
    np.testing.assert_allclose([fit.estimate, fit.standard_error], [best[0], covariance[0, 0] ** 0.5], rtol=1e-4)
