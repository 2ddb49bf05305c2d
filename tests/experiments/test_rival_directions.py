"""Moments along directions towards rivals, at infinite width."""

import numpy as np
import pytest
import xarray as xr

from experiments.rival_directions import compare_moments
from experiments.verdict import Status, decide

WIDTHS = np.array([32.0, 64.0, 128.0, 256.0])
RIVALS = ("one", "other")


@pytest.mark.parametrize(("at_law", "status"), [(0.2, Status.SUPPORTED), (1.2, Status.REFUTED)])
def test_a_moment_is_compared_where_there_is_a_direction_and_behind_its_correction(at_law, status):
    directions = np.zeros((2, 3, 2))
    directions[1] = 1.0
    prediction = xr.Dataset(
        {
            "mean_direction": (("rival", "test", "output"), directions),
            "mean_value": ("rival", [9.0, 0.2]),
            "margin": 0.5,
        }
    )
    # 40/n at width 32 is more than the distance of the rival, which is 1.
    values = np.stack([np.full(4, np.nan), at_law + 40.0 / WIDTHS])
    found = {"mean": (values, np.full((2, 4), 0.01))}
    compared = compare_moments(prediction, WIDTHS, found, 20, lambda moment, rival: f"{moment}: {RIVALS[rival]}")
    assert [comparison.label for comparison in compared] == ["mean: other"]
    # The values follow the fitted form exactly: what is left is rounding of the least squares.
    assert compared[0].effect + 0.2 == pytest.approx(at_law, abs=1e-9)
    assert decide(compared, margin_source="half the distance").status is status
