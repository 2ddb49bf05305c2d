"""Moments of an ensemble along directions that lead from its law to each rival's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float

from experiments.verdict import Comparison, equivalence
from experiments.verdict.rates import fit_amplitude


def compare_moments(
    prediction: xr.Dataset,
    widths: Float[np.ndarray, " width"],
    found: Mapping[str, tuple[Float[np.ndarray, "*at width"], Float[np.ndarray, "*at width"]]],
    units: int,
    label: Callable[..., str],
) -> list[Comparison]:
    """⟨moment, u⟩ at infinite width against the law's own value, wherever there is a direction u.

    Args:
        prediction: with `{moment}_direction`, whose last two dimensions are the moment's and all 0 where a rival is not
            told apart, `{moment}_value` and `margin`.
        widths: n, from which the first correction, in 1/n, is extrapolated.
        found: ⟨moment, u⟩ of each moment and its standard error.
        units: independent groups of members that the errors come from.
        label: what a comparison is called, from the moment and the place of the direction.
    """
    comparisons = []
    for moment, (values, errors) in found.items():
        compared = np.argwhere(np.any(prediction[f"{moment}_direction"].values != 0, axis=(-2, -1)))
        at = tuple(compared.T)
        fit = fit_amplitude(widths, values[at], errors[at], exponent=0.0, correction=1.0)
        comparisons += equivalence(
            [label(moment, *place) for place in compared],
            fit.estimate,
            prediction[f"{moment}_value"].values[at],
            float(prediction["margin"]),
            standard_error=fit.standard_error,
            sample_size=units * len(widths),
            dof=units - 1,
        )
    return comparisons
