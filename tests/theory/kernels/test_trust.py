"""Errors of single precision, against the same prediction in double precision, and the warning that tells of them."""

import warnings

import numpy as np
import pytest

from theory.architecture import MLP
from theory.kernels import PrecisionWarning, nngp_posterior, ntk, predict, response, trust

MODEL = MLP(2, "erf", 1.5, 0.1)


def near_pair(rng, distance):
    """Inputs of which two are that far apart: an eigenvalue of about its square."""
    x = rng.normal(size=(8, 3))
    x[1] = x[0] + distance * rng.normal(size=3)
    return x


@pytest.mark.parametrize("distance", [1.0, 0.1, 0.02])
def test_the_estimate_bounds_the_error_of_single_precision(rng, distance):
    x, probe = near_pair(rng, distance), rng.normal(size=(20, 3))
    single = x.astype(np.float32)
    for time in (0.01, 10.0, np.inf):
        told = trust(MODEL, single, time=time)
        exact = np.asarray(
            response(MODEL, single.astype(np.float64), probe.astype(np.float32).astype(np.float64), time=time)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrecisionWarning)
            found = np.asarray(response(MODEL, single, probe.astype(np.float32), time=time), np.float64)
        error = np.linalg.norm(found - exact, 2) / np.linalg.norm(exact, 2)
        # An estimate, not a bound: a kernel entry is off by some roundings, not by one, hence the factor.
        assert error < 20 * told.error + 1e-6
    assert trust(MODEL, x).condition == pytest.approx(np.linalg.cond(np.asarray(ntk(MODEL, x))), rel=1e-6)
    assert trust(MODEL, x).lost == 0
    assert trust(MODEL, x).residual < 1e-9


def test_it_warns_where_single_precision_is_blind_and_only_there(rng):
    x, y, probe = near_pair(rng, 1e-4), rng.normal(size=8), rng.normal(size=(4, 3))
    singles = [a.astype(np.float32) for a in (x, y, probe)]
    assert trust(MODEL, singles[0]).lost == 1
    assert trust(MODEL, singles[0]).error == np.inf
    with pytest.warns(PrecisionWarning, match="float32 does not resolve this kernel.*give the inputs in float64"):
        predict(MODEL, *singles, time=np.inf)
    with pytest.warns(PrecisionWarning, match="float32"):
        response(MODEL, singles[0], singles[2], time=10**9, learning_rate=0.01, momentum=0.5)
    with pytest.warns(PrecisionWarning, match="float32"):
        nngp_posterior(MODEL, *singles)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        predict(MODEL, x, y, probe, time=np.inf)
        # Early in training the small eigenvalue has not been felt, and noise hides it.
        predict(MODEL, *singles, time=1.0)
        predict(MODEL, *singles, time=100, learning_rate=0.01)
        nngp_posterior(MODEL, *singles, noise=0.1)


def test_equal_inputs_are_lost_in_double_precision_without_a_warning(rng):
    x = rng.normal(size=(4, 3))
    told = trust(MODEL, np.concatenate([x, x[:1]]))
    assert told.lost == 1
    assert told.error < 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        predict(MODEL, np.concatenate([x, x[:1]]), rng.normal(size=5), x, time=np.inf)


def test_time_must_be_a_time(rng):
    with pytest.raises(ValueError, match="time must be at least 0"):
        trust(MODEL, rng.normal(size=(4, 3)), time=-1.0)
