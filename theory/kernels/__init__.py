"""Infinite-width kernels, empirical kernels, and what they predict for a trained network."""

from theory.kernels.cross_entropy import classifier_path, predict_classifier
from theory.kernels.empirical import empirical_ntk
from theory.kernels.first_order import FirstOrder, first_order
from theory.kernels.infinite import ByDepth, kernels_by_depth, nngp, ntk
from theory.kernels.learning_rates import maximal_learning_rate, time_of
from theory.kernels.posterior import nngp_posterior
from theory.kernels.prediction import Prediction, predict, response
from theory.kernels.trust import PrecisionWarning, Trust, trust

__all__ = [
    "ByDepth",
    "FirstOrder",
    "PrecisionWarning",
    "Prediction",
    "Trust",
    "classifier_path",
    "empirical_ntk",
    "first_order",
    "kernels_by_depth",
    "maximal_learning_rate",
    "nngp",
    "nngp_posterior",
    "ntk",
    "predict",
    "predict_classifier",
    "response",
    "time_of",
    "trust",
]
