"""The closed form of one unit's binned entropy, against mpmath, quadrature, sampling and its limits."""

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from theory.information import bin_probabilities, binned_entropy, equal_bins

TANH_BINS = equal_bins(30, -1.0, 1.0)
WEIGHTS = np.array([0.05, 0.3, 1.0, 3.0, 20.0])


def mpmath_entropy(weight: float, edges: np.ndarray) -> float:
    """−Σ p ln p for tanh with 40 digits, from erfc alone."""
    with mpmath.workdps(40):
        ends = [-mpmath.inf, *(mpmath.atanh(mpmath.mpf(float(b))) / weight for b in edges[1:-1]), mpmath.inf]
        p = [mpmath.ncdf(b) - mpmath.ncdf(a) for a, b in itertools.pairwise(ends)]
        return float(-sum(q * mpmath.log(q) for q in p if q > 0))


def test_tanh_against_mpmath():
    expected = [mpmath_entropy(w, TANH_BINS) for w in WEIGHTS]
    np.testing.assert_allclose(binned_entropy(WEIGHTS, TANH_BINS), expected, rtol=1e-13)


def test_tanh_against_the_density_of_activity():
    """The density of T = tanh(wX) is N(atanh(t)/w) / (w (1 − t²)); quadrature over each bin knows no Φ."""
    weight, edges = 0.8, TANH_BINS
    expected = [
        integrate.quad(lambda t: stats.norm.pdf(np.arctanh(t) / weight) / (weight * (1 - t * t)), a, b)[0]
        for a, b in itertools.pairwise(edges)
    ]
    np.testing.assert_allclose(bin_probabilities(weight, TANH_BINS), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "function", "edges"),
    [
        ("tanh", np.tanh, equal_bins(7, -1.0, 1.0)),
        ("sigmoid", lambda u: 1 / (1 + np.exp(-u)), equal_bins(7, 0.0, 1.0)),
        ("relu", lambda u: np.maximum(u, 0.0), equal_bins(7, -0.5, 2.0)),
        ("linear", lambda u: u, equal_bins(7, -1.5, 2.0)),
    ],
)
def test_probabilities_against_sampling(name, function, edges, rng):
    """Each of 7 frequencies within 4.5 standard errors: a slip of one per cent in a probability shows."""
    draws = 400_000
    for weight in (0.4, 2.5):
        activity = function(weight * rng.standard_normal(draws))
        inner = np.asarray(edges)[1:-1]
        counts = np.bincount(np.searchsorted(inner, activity, side="right"), minlength=7)
        p = np.asarray(bin_probabilities(weight, edges, activation=name))
        assert np.all(np.abs(counts / draws - p) <= 4.5 * np.sqrt(p * (1 - p) / draws))


def test_tanh_limits():
    odd = equal_bins(31, -1.0, 1.0)
    assert binned_entropy(1e-3, TANH_BINS) == pytest.approx(np.log(2), abs=1e-12)
    assert binned_entropy(1e-3, odd) == pytest.approx(0.0, abs=1e-12)
    # The mass left between the outermost bins is that of |X| < atanh(b)/w, of order 1/w.
    for edges in (TANH_BINS, odd):
        assert binned_entropy(1e9, edges) == pytest.approx(np.log(2), abs=1e-7)


def test_tanh_has_one_maximum_in_between():
    entropy = np.asarray(binned_entropy(np.geomspace(1e-2, 1e3, 400), TANH_BINS))
    peak = int(entropy.argmax())
    assert 0 < peak < 399
    assert np.log(2) + 2 < entropy[peak] < np.log(30)
    assert np.all(np.diff(entropy[: peak + 1]) > -1e-12)
    assert np.all(np.diff(entropy[peak:]) < 1e-12)


def test_unsaturated_units_only_gain():
    """Both asymptotes follow from the density of wX, whose differential entropy is ½ ln(2πe w²)."""
    width, weight = 0.1, np.array([40.0, 80.0])
    edges = np.arange(-8000, 8001) * width
    linear = binned_entropy(weight, edges, activation="linear")
    relu = binned_entropy(weight, edges[8000:], activation="relu")
    np.testing.assert_allclose(linear, 0.5 * np.log(2 * np.pi * np.e * weight**2) - np.log(width), rtol=1e-6)
    expected = np.log(2) + 0.25 * np.log(np.pi * np.e * weight**2 / 2) - 0.5 * np.log(width)
    # The first bin holds the ReLU's silent half as well, a correction of order (Δ/w) ln(w/Δ).
    np.testing.assert_allclose(relu, expected, atol=3 * width / weight.min() * np.log(weight.max() / width))
    assert relu[1] - relu[0] == pytest.approx(0.5 * np.log(2), abs=0.02)


def test_tails_keep_their_digits():
    p = np.asarray(bin_probabilities(1.0, np.array([0.0, 20.0, 21.0, 22.0]), activation="linear"))
    assert p[1] == pytest.approx(stats.norm.sf(20.0) - stats.norm.sf(21.0), rel=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.02, 50.0))
def test_symmetry_and_refinement(weight):
    p = bin_probabilities(weight, TANH_BINS)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-14)
    np.testing.assert_allclose(p, p[::-1], rtol=1e-8, atol=1e-300)
    np.testing.assert_allclose(p, bin_probabilities(-weight, TANH_BINS))
    # Halving every bin adds information, and at most one bit of it.
    gain = binned_entropy(weight, equal_bins(60, -1.0, 1.0)) - binned_entropy(weight, TANH_BINS)
    assert -1e-12 <= gain <= np.log(2) + 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, TANH_BINS, "erf"), "activation must be one of"),
        ((1.0, [0.0, 0.0, 1.0], "tanh"), "edges must increase"),
        ((1.0, [0.0], "tanh"), "at least 2"),
        ((0.0, TANH_BINS, "tanh"), "weight must not be 0"),
    ],
)
def test_wrong_use_is_named(arguments, message):
    weight, edges, name = arguments
    with pytest.raises(ValueError, match=message):
        binned_entropy(weight, edges, activation=name)


def test_empty_ranges_are_named():
    with pytest.raises(ValueError, match="bins must be at least 1"):
        equal_bins(0, -1.0, 1.0)
    with pytest.raises(ValueError, match="low must be below high"):
        equal_bins(3, 1.0, -1.0)
