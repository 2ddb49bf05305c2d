"""Infinite-width kernels, empirical kernels, and what they predict for a trained network."""

from theory.kernels.empirical import empirical_ntk
from theory.kernels.infinite import nngp, ntk
from theory.kernels.prediction import Prediction, predict, response

__all__ = ["Prediction", "empirical_ntk", "nngp", "ntk", "predict", "response"]
