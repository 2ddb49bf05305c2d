"""From comparisons to one verdict, and the verdict's record."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.verdict import (
    Status,
    Verdict,
    coverage,
    decide,
    distribution,
    equivalence,
    exact_rate,
    exponent,
    identity,
    ordering,
    violation_rate,
)


def verdict_of(deviations, error=0.1, margin=1.0):
    return decide(
        equivalence("x", deviations, 0.0, margin, standard_error=error, sample_size=10), margin_source="the test"
    )


def test_the_three_decisions():
    assert verdict_of([0.0, 0.3]).status is Status.SUPPORTED
    assert verdict_of([0.0, 5.0]).status is Status.REFUTED
    assert verdict_of([0.0, 0.9]).status is Status.INCONCLUSIVE


def test_a_nan_is_a_failure_that_names_its_comparison():
    verdict = verdict_of([0.0, math.nan])
    assert verdict.status is Status.FAILED
    assert "x [1]" in verdict.reason


def test_a_nan_error_is_a_failure_too():
    assert verdict_of([0.0], error=math.nan).status is Status.FAILED


def test_clearance_counts_standard_errors_to_the_edge():
    # Supported while the interval ends (2.576 standard errors out) stay inside the margin.
    assert verdict_of([0.2]).clearance == pytest.approx((1.0 - 0.2) / 0.1 - 2.5758293, abs=1e-6)
    refuted = verdict_of([2.0])
    assert refuted.clearance == pytest.approx((2.0 - 1.0) / 0.1 - 2.5758293, abs=1e-6)


def test_the_decisive_comparison_is_the_weakest_of_a_support_and_the_strongest_of_a_refutation():
    assert verdict_of([0.0, 0.4, 0.1]).decisive == 1
    assert verdict_of([0.0, 2.0, 3.0]).decisive == 2


def test_refutation_is_corrected_for_the_number_of_comparisons():
    alone = decide(equivalence("x", 1.28, 0, 1.0, standard_error=0.1, sample_size=9), margin_source="t")
    assert alone.status is Status.REFUTED
    assert verdict_of([1.28, *[0.0] * 99]).status is Status.INCONCLUSIVE


def test_exact_comparisons_have_infinite_clearance():
    assert decide(identity("x", 1.0 + 1e-15, 1.0, tolerance=1e-12), margin_source="rounding").clearance == math.inf
    assert decide(identity("x", 1.0 + 1e-9, 1.0, tolerance=1e-12), margin_source="rounding").status is Status.REFUTED
    assert decide(exact_rate("r", 0.05, delta=0.05), margin_source="enumeration").status is Status.SUPPORTED
    assert decide(exact_rate("r", 0.0501, delta=0.05), margin_source="enumeration").status is Status.REFUTED


def test_identity_is_absolute_where_the_exact_value_is_zero():
    assert (
        decide(identity("x", [1e-14, 2.0], [0.0, 2.0], tolerance=1e-12), margin_source="r").status is Status.SUPPORTED
    )


@pytest.mark.parametrize(
    "comparisons",
    [
        equivalence(["a", "b"], [1.0, 2.0], [1.0, 2.1], 0.5, standard_error=0.01, sample_size=8, dof=7),
        ordering("o", 1.0, standard_error=0.1, sample_size=8),
        violation_rate("v", 0, 1000, delta=0.05, margin=0.01),
        coverage("c", 950, 1000, nominal=0.95, margin=0.05),
        distribution("d", np.linspace(0.0005, 0.9995, 1000), lambda x: x, margin=0.1),
        exponent("e", [1, 2, 4, 8], [1, 0.5, 0.25, 0.125], [0.01] * 4, prediction=1.0, margin=0.5, sample_size=9),
    ],
)
def test_a_verdict_survives_json(comparisons):
    verdict = decide(comparisons, margin_source="the test", reason="a word")
    assert verdict.status is Status.SUPPORTED
    assert Verdict.from_json(json.loads(json.dumps(verdict.as_json(), allow_nan=False))) == verdict


def test_prediction_and_effect_give_back_the_measured_value():
    (c,) = equivalence("x", 3.5, 3.0, 1.0, standard_error=0.1, sample_size=4)
    assert c.prediction + c.effect == 3.5
    (c,) = violation_rate("v", 3, 100, delta=0.05, margin=0.1)
    assert c.prediction + c.effect == pytest.approx(0.03)


@given(st.floats(-3, 3), st.floats(0.01, 1), st.floats(0.1, 2))
def test_a_wider_margin_never_takes_support_away(deviation, error, margin):
    if verdict_of([deviation], error, margin).status is Status.SUPPORTED:
        assert verdict_of([deviation], error, 2 * margin).status is Status.SUPPORTED


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: equivalence("x", 0, 0, 0.0, standard_error=1, sample_size=1), "margin must be positive"),
        (lambda: equivalence("x", 0, 0, 1.0, standard_error=-1, sample_size=1), "standard_error must not be negative"),
        (lambda: equivalence(["a"], [0, 1], 0, 1.0, standard_error=1, sample_size=1), "1 names for 2 comparisons"),
        (lambda: violation_rate("v", 5, 3, delta=0.1, margin=0.1), "0 ≤ count ≤ trials"),
        (lambda: exponent("e", [1, 2], [1, 2], [1, 1], prediction=1, margin=1, sample_size=1), "needs at least 3"),
        (lambda: distribution("d", [], lambda x: x, margin=0.1), "sample is empty"),
        (lambda: decide([], margin_source="none"), "comparisons is empty"),
    ],
)
def test_wrong_use_is_explained(call, word):
    with pytest.raises(ValueError, match=word):
        call()


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_overflow_is_a_failure_and_refutes_nothing(value):
    assert verdict_of([0.0, value]).status is Status.FAILED


def test_a_sample_without_spread_is_not_exact():
    with pytest.raises(ValueError, match="standard_error is 0 for a sample"):
        equivalence("x", 0.0, 0.0, 1.0, standard_error=0.0, sample_size=2, dof=1)
    (c,) = equivalence("x", 0.0, 0.0, 1.0, standard_error=0.0, sample_size=0)
    assert c.inside


def test_unknown_degrees_of_freedom_are_not_infinite_ones():
    comparisons = equivalence("x", 0.0, 0.0, 0.1, standard_error=0.03, sample_size=5, dof=math.nan)
    assert decide(comparisons, margin_source="the test").status is Status.FAILED


def test_an_infinite_margin_and_a_bound_that_cannot_fail_are_refused():
    with pytest.raises(ValueError, match="margin must be positive and finite, got inf"):
        equivalence("x", 5.0, 0.0, math.inf, standard_error=1.0, sample_size=5)
    with pytest.raises(ValueError, match="delta \\+ margin must be below 1"):
        violation_rate("v", 5, 5, delta=0.6, margin=0.4)


def test_few_members_widen_a_fit():
    arguments = ([1, 2, 4, 8], [1, 0.5, 0.25, 0.125], [0.01] * 4)
    settings = {"prediction": 1.0, "margin": 0.5, "sample_size": 16}
    (normal,), (student,) = exponent("e", *arguments, **settings), exponent("e", *arguments, **settings, dof=3)
    assert student.high - student.low > 2 * (normal.high - normal.low)
