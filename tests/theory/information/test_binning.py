"""Binned entropies against direct counting, exact distributions and their own standard errors."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from theory.information import bin_codes, entropy, information_with_input, information_with_label


def counted_entropy(rows: list) -> float:
    """−Σ p ln p from a dictionary of counts."""
    p = np.array(list(Counter(rows).values())) / len(rows)
    return float(-np.sum(p * np.log(p)))


def tuples(activity: np.ndarray, bins: int, low: float, high: float) -> list[tuple]:
    """Joint bins by comparison with every edge, one row at a time."""
    edges = np.linspace(low, high, bins + 1)[1:-1]
    return [tuple(int(np.sum(value >= edges)) for value in row) for row in activity]


@pytest.mark.parametrize(("units", "bins"), [(1, 30), (3, 4), (10, 30), (40, 30)])
def test_information_against_counting(units, bins, rng):
    """40 units of 30 bins overflow an integer of 64 bits, and must not collide."""
    # Few distinct rows, so that there is something to count in 40 dimensions.
    activity = np.tanh(rng.standard_normal((25, units)))[rng.integers(25, size=300)]
    activity += 0.02 * (activity < 0.9) * rng.random(activity.shape)
    labels = rng.integers(3, size=300)
    rows = tuples(activity, bins, -1.0, 1.0)
    with_input = information_with_input(activity, bins=bins, low=-1.0, high=1.0)
    with_label = information_with_label(activity, labels, bins=bins, low=-1.0, high=1.0)
    assert with_input.value == pytest.approx(counted_entropy(rows), rel=1e-12)
    numbers = {row: i for i, row in enumerate(sorted(set(rows)))}
    expected = mutual_info_score(labels, [numbers[row] for row in rows])
    assert with_label.value == pytest.approx(expected, rel=1e-10)
    assert with_input.standard_error == 0
    assert "H(T)" in with_input.measures


def test_leading_axes_are_independent(rng):
    activity = rng.random((2, 3, 50, 4))
    labels = rng.integers(2, size=50)
    high = activity.max(axis=(-2, -1))
    together = information_with_input(activity, bins=3, low=0.0, high=high).value
    with_label = information_with_label(activity, labels, bins=3, low=0.0, high=high).value
    for i, j in itertools.product(range(2), range(3)):
        one = {"bins": 3, "low": 0.0, "high": high[i, j]}
        assert together[i, j] == pytest.approx(information_with_input(activity[i, j], **one).value, rel=1e-13)
        assert with_label[i, j] == pytest.approx(information_with_label(activity[i, j], labels, **one).value, rel=1e-13)


def test_known_states():
    """All patterns of 3 units: ln 8; a label that is one unit's sign: ln 2; a saturated layer keeps signs only."""
    patterns = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    labels = (patterns[:, 0] > 0).astype(int)
    assert information_with_input(patterns, bins=30, low=-1, high=1).value == pytest.approx(np.log(8))
    assert information_with_label(patterns, labels, bins=30, low=-1, high=1).value == pytest.approx(np.log(2))
    assert information_with_input(patterns, bins=1, low=-1, high=1).value == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 4))
def test_invariances(seed, bins, units):
    """Order of inputs and units does not matter; merging bins loses information; the bounds hold."""
    rng = np.random.default_rng(seed)
    activity, labels = rng.random((64, units)), rng.integers(2, size=64)
    value = information_with_input(activity, bins=bins, low=0.0, high=1.0).value
    shuffled = activity[rng.permutation(64)][:, rng.permutation(units)]
    assert information_with_input(shuffled, bins=bins, low=0.0, high=1.0).value == pytest.approx(value, rel=1e-12)
    assert information_with_input(activity, bins=2 * bins, low=0.0, high=1.0).value >= value - 1e-12
    assert value <= min(np.log(64), units * np.log(bins)) + 1e-12
    with_label = information_with_label(activity, labels, bins=bins, low=0.0, high=1.0).value
    assert -1e-12 <= with_label <= min(value, entropy(labels).value) + 1e-12


def test_bias_and_standard_error_of_a_sample(rng):
    """Over 4,000 repetitions: the plug-in's bias is (K−1)/2n, the correction removes it, the error is the scatter."""
    p = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    truth, n, repetitions = -np.sum(p * np.log(p)), 200, 4000
    draws = rng.choice(6, size=(repetitions, n), p=p)
    plug_in, corrected = entropy(draws), entropy(draws, correction="miller-madow")
    scatter = plug_in.value.std() / np.sqrt(repetitions)
    assert abs(plug_in.value.mean() - truth + 5 / (2 * n)) <= 4 * scatter
    assert abs(corrected.value.mean() - truth) <= 4 * scatter
    # Half the correction would miss the truth by 7 scatters.
    assert 5 / (4 * n) > 7 * scatter
    np.testing.assert_allclose(np.sqrt(np.mean(plug_in.standard_error**2)), plug_in.value.std(), rtol=0.06)
    low, high = corrected.interval(0.95)
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.02)


def test_standard_error_of_information(rng):
    """A binary symmetric channel with crossover 0.2, its output told by the sign of one unit."""
    n, repetitions = 400, 2000
    labels = np.arange(n) % 2
    flipped = rng.random((repetitions, n)) < 0.2
    activity = np.where(flipped, 1 - labels, labels)[..., None].astype(float)
    found = information_with_label(activity, labels, bins=2, low=0.0, high=1.0, enumerated=False)
    truth = np.log(2) + 0.2 * np.log(0.2) + 0.8 * np.log(0.8)
    assert found.value.mean() - truth == pytest.approx(1 / (2 * n), abs=4 * found.value.std() / np.sqrt(repetitions))
    np.testing.assert_allclose(np.sqrt(np.mean(found.standard_error**2)), found.value.std(), rtol=0.08)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activity": np.zeros(3)}, "activity must have shape"),
        ({"bins": 0}, "bins must be at least 1"),
        ({"high": 0.0}, "high must exceed low"),
        ({"high": 0.5}, "within the bins' range"),
        ({"activity": np.full((3, 1), np.nan)}, "within the bins' range"),
    ],
)
def test_wrong_use_is_named(change, message):
    arguments = {"activity": np.array([[0.1], [0.6], [0.9]]), "bins": 3, "low": 0.0, "high": 1.0} | change
    with pytest.raises(ValueError, match=message):
        bin_codes(arguments.pop("activity"), **arguments)


def test_wrong_labels_and_corrections_are_named():
    activity = np.array([[0.1], [0.6]])
    with pytest.raises(ValueError, match="labels must be 2 classes"):
        information_with_label(activity, np.array([0, 1, 1]), bins=2, low=0.0, high=1.0)
    with pytest.raises(ValueError, match="has no bias"):
        entropy(np.array([0, 1]), correction="miller-madow", enumerated=True)
    with pytest.raises(ValueError, match="confidence must lie"):
        entropy(np.array([0, 1])).interval(1.0)
