"""The claim on the staircase: its targets, where a step is said to be, and what its judge can tell apart."""

from math import comb

import jax
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk import staircase
from experiments.claims.ntk.staircase import (
    PAPER,
    SMOKE,
    TREAD,
    Config,
    cells,
    choose,
    crossing,
    dimensions,
    examples,
    measure,
    predict,
    products,
)
from experiments.regression import sphere_points

SMALL = Config(
    steps=(1,), linear=(8, 16), quadratic=(), cubic=(), tread=(16, 24), labels=(1_200, 2_000), least=12, targets=32
)


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_fits_leave_little_out_and_the_grid_is_full(config):
    assert all(assumption.holds for assumption in staircase.assumptions(config))
    assert {len(sizes) for sizes in dimensions(config).values()} == {len(config.tread)}
    assert len(config.labels) == len(dimensions(config))
    assert len(cells(config)) == len(dimensions(config)) * len(config.tread)
    assert max(max(examples(place, d)) for place, sizes in dimensions(config).items() for d in sizes) <= 2500


def test_positions_are_where_the_equations_learn_one_half():
    """Two ways to say where n_ℓ is; between the sizes around it ln L/(1−L) is straight to a percent."""
    prediction = predict(SMOKE)
    for place in ("step 1", "step 2"):
        for i, d in enumerate(dimensions(SMOKE)[place]):
            position, low, high = prediction["value"].sel(place=place).values[i]
            between = crossing(examples(place, d), [(low, 0.01), (high, 0.01)])[0]
            assert between == pytest.approx(position, rel=0.01)
            assert low < 0.5 < high


def test_products_are_orthonormal_and_different(rng):
    d, count = 6, 200_000
    for degree in (1, 2, 3):
        subsets = choose(32, d, degree, rng)
        assert len({tuple(s) for s in subsets}) == len(subsets) == min(32, comb(d, degree))
        assert all(len(set(s)) == degree for s in subsets.tolist())
        f = products(sphere_points(rng, (count,), d), subsets[:4])
        # Five standard errors; the kurtosis is below 27, that of a product of three normals.
        np.testing.assert_allclose(f.T @ f / count, np.eye(4), atol=5 * 27**0.5 / count**0.5)
    many = choose(128, 40, 2, rng)
    assert many.shape == (128, 2)
    assert np.all(many[:, 0] < many[:, 1])


def test_a_logistic_curve_crosses_where_it_should(rng):
    sizes, position, slope = (80, 125), 97.0, 0.9

    def share(n):
        return 1 / (1 + (position / np.asarray(n)) ** slope)

    found, error = crossing(sizes, [(s, 0.004) for s in share(sizes)])
    assert found == pytest.approx(position, rel=1e-12)
    drawn = [crossing(sizes, [(s, 1.0) for s in share(sizes) + 0.004 * rng.standard_normal(2)])[0] for _ in range(4000)]
    # 4000 draws give a standard deviation to 1 %, and the curve is straight over one of them to a few percent.
    assert error == pytest.approx(np.std(drawn), rel=0.07)


def made_up(prediction, value=None):
    value = prediction["value"] if value is None else value
    return xr.Dataset(
        {"value": value, "error": 2e-3 * prediction["value"]},
    ).assign(trials=(("place", "size"), np.full(prediction["dimension"].shape, 50)))


def test_truth_is_supported_and_rivals_are_refuted():
    prediction = predict(PAPER)
    measurement = made_up(prediction)
    assert staircase.judge(prediction, measurement).status == "supported"
    for rival in staircase.claim.rivals:
        assert rival.predict is not None
        assert staircase.judge(rival.predict(PAPER), measurement).status == "refuted"


def test_falsehoods_are_refuted():
    prediction = predict(PAPER)
    dimension = prediction["dimension"]
    for place, quantity, power in (("step 2", 0, -0.5), (TREAD, 1, 0.5), (TREAD, 2, 0.5), (TREAD, 0, -0.05)):
        value = prediction["value"].copy(deep=True)
        value.loc[{"place": place, "quantity": quantity}] *= dimension.sel(place=place) ** power
        assert staircase.judge(prediction, made_up(prediction, value)).status == "refuted", (place, quantity)


def test_small_measurements_agree_with_the_equations_and_repeat_themselves():
    prediction = predict(SMALL)
    for place in ("step 1", TREAD):
        found = measure(SMALL, {"place": place, "size": 1}, jax.random.key(4))
        xr.testing.assert_identical(found, measure(SMALL, {"place": place, "size": 1}, jax.random.key(4)))
        exact = prediction["value"].sel(place=place).values[1]
        # The equations' own error, E₀(E₀−1)/n ~ 0.3/n, at n = 22 and more.
        assert np.all(abs(found["value"].values - exact) < 4 * found["error"].values + 0.015 * exact)
