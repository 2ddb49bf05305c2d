"""Width exponents: Yang & Hu's formula and table, invariance under a change of units, one step by brute force."""

import numpy as np
import pytest

from theory.architecture import PARAMETRISATIONS, Parametrisation
from theory.scaling import scaling

ROLES = ("input", "hidden", "output")


def powers(scheme, role):
    """(a, b, c) of a layer, the width entering through the fan-in, or through the fan-out of the first layer."""
    found = getattr(PARAMETRISATIONS[scheme], role)
    return [-(of_out if role == "input" else of_in) for of_in, of_out in found]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("ntk", (0.0, 0.5, 0.5, 1.0)),
        ("standard", (1.0, 1.5, 0.5, 1.0)),
        ("mean-field", (0.0, 0.0, 0.0, 0.0)),
        ("mup", (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_known_parametrisations(scheme, expected):
    assert scaling(scheme) == expected
    assert scaling(PARAMETRISATIONS[scheme]) == expected


@pytest.mark.parametrize("scheme", ["ntk", "standard", "mup"])
def test_features_follow_yang_and_hu(scheme):
    """Their r = min(a_L + b_L, 2a_L + c) + c − 1 + min_l [2a_l + 1(l = 1)], with one c for all layers."""
    found = scaling(scheme)
    a, b, c = (
        dict(zip(ROLES, column, strict=True)) for column in zip(*(powers(scheme, r) for r in ROLES), strict=True)
    )
    assert set(c.values()) == {0.0}
    rate = found.rate
    last = min(a["output"] + b["output"], 2 * a["output"] + rate)
    assert found.later == last + rate - 1 + min(2 * a["input"] + 1, 2 * a["hidden"])


@pytest.mark.parametrize("scheme", PARAMETRISATIONS)
@pytest.mark.parametrize("theta", [-0.5, 0.5, 1.0])
def test_only_the_acting_weights_count(scheme, theta):
    """Multiplier · n^-θ, start · n^θ and rate · n^2θ change nothing (Yang & Hu 2021, section 3.2)."""
    original = PARAMETRISATIONS[scheme]
    shifted = []
    for role in ROLES:
        one = getattr(original, role)
        moved = [
            np.array(pair) + sign * theta * np.array([role != "input", role == "input"])
            for pair, sign in zip(one, (-1, 1, 2), strict=True)
        ]
        shifted.append(type(one)(*(tuple(float(p) for p in pair) for pair in moved)))
    other = Parametrisation("shifted", *shifted, scaled_parameters=original.scaled_parameters)
    assert scaling(other) == scaling(original)


@pytest.mark.parametrize("scheme", PARAMETRISATIONS)
def test_two_steps_of_numpy(scheme, rng):
    """Gradients by hand at widths 200 and 1600: the changes have the predicted ratio."""
    d, m, rate = 3, 4, 0.5
    x = rng.standard_normal((m, d))
    x *= np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.array([1.0, -1.0, 1.0, 1.0])
    found = scaling(scheme)
    changes = []
    for n in (200, 1600):
        pairs = [
            (PARAMETRISATIONS[scheme].layer(role, fan_in, fan_out))
            for role, fan_in, fan_out in (("input", d, n), ("hidden", n, n), ("output", n, 1))
        ]
        start = [s.multiplier * s.init_std for s in pairs]
        pace = [s.multiplier**2 * s.learning_rate * rate * n**-found.rate for s in pairs]
        values = []
        for _ in range(12 if n == 200 else 4):
            w = [s * rng.standard_normal(shape) for s, shape in zip(start, ((d, n), (n, n), (n, 1)), strict=True)]
            hidden = []
            for _step in range(3):
                h1 = np.tanh(x @ w[0])
                h2 = np.tanh(h1 @ w[1])
                hidden.append((h1, h2))
                error = (h2 @ w[2] - y[:, None]) / m
                d2 = error @ w[2].T * (1 - h2**2)
                d1 = d2 @ w[1].T * (1 - h1**2)
                slopes = (x.T @ d1, h1.T @ d2, h2.T @ error)
                w = [part - r * slope for part, r, slope in zip(w, pace, slopes, strict=True)]
            values.append(
                [np.sqrt(np.mean((last - first) ** 2)) for last, first in zip(hidden[-1], hidden[0], strict=True)]
            )
        changes.append(np.mean(values, axis=0))
    exponents = np.log(changes[0] / changes[1]) / np.log(8)
    # Four networks whose residuals scatter by a third: 0.17 over ln 8, twice that.
    np.testing.assert_allclose(exponents, [found.first, found.later], atol=0.16)


def test_hidden_units_must_start_at_size_one():
    wrong = PARAMETRISATIONS["standard"]
    wrong = Parametrisation("flat", wrong.input, PARAMETRISATIONS["mup"].output, wrong.output, scaled_parameters=True)
    with pytest.raises(ValueError, match="'flat' must have hidden units of size 1 at the start"):
        scaling(wrong)
    with pytest.raises(ValueError, match="unknown parametrisation"):
        scaling("nope")
