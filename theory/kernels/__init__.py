"""Infinite-width kernels, empirical kernels, and what they predict for a trained network."""

from theory.kernels.empirical import empirical_ntk
from theory.kernels.infinite import ByDepth, kernels_by_depth, nngp, ntk
from theory.kernels.posterior import nngp_posterior
from theory.kernels.prediction import Prediction, predict, response

__all__ = [
    "ByDepth",
    "Prediction",
    "empirical_ntk",
    "kernels_by_depth",
    "nngp",
    "nngp_posterior",
    "ntk",
    "predict",
    "response",
]
