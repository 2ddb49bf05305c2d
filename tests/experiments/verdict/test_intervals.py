"""Intervals and p-values against the distributions of `scipy.stats`, which the package does not load for them."""

import numpy as np
import pytest
from scipy import stats

from experiments.verdict.intervals import ALPHA, clopper_pearson, student


@pytest.mark.parametrize("dof", [1, 2.5, 31, 1e4, np.inf])
def test_student(dof):
    law = stats.norm if np.isinf(dof) else stats.t(dof)
    effects = np.array([-30.0, -1.0, 0.0, 0.5, 3.0, 40.0])
    interval = student(effects, 0.5, -1.0, 1.0, dof)
    np.testing.assert_allclose(interval.high - effects, 0.5 * law.isf(ALPHA / 2), rtol=1e-12)
    # Two-sided: twice the tail beyond the distance to the region, in standard errors.
    expected = np.minimum(1.0, 2 * law.sf((np.abs(effects) - 1.0) / 0.5))
    np.testing.assert_allclose(interval.p_value, expected, rtol=1e-12)


def test_clopper_pearson():
    k, n = np.arange(21), 20
    interval = clopper_pearson(k, n, 0.2, 0.4)
    for i in k:
        reference = stats.binomtest(int(i), n).proportion_ci(1 - ALPHA, method="exact")
        assert (interval.low[i], interval.high[i]) == pytest.approx((reference.low, reference.high), rel=1e-10)
        tail = min(stats.binom.sf(i - 1, n, 0.4), stats.binom.cdf(i, n, 0.2))
        assert interval.p_value[i] == pytest.approx(min(1.0, 2 * tail), rel=1e-12)
    # A region that ends at 0 or 1 leaves no way to be outside on that side.
    assert clopper_pearson(5, n, 0.0, 1.0).p_value == 1.0
