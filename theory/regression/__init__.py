"""Linear regression past interpolation: isotropic inputs, chosen inputs, random features."""

from theory.regression.isotropic import (
    best_ridge,
    least_squares_limit,
    least_squares_risk,
    least_squares_variance,
    ridge_limit,
    ridge_risk,
)
from theory.regression.random_features import (
    RELU,
    Nonlinearity,
    chosen_features_risk,
    chosen_features_variance,
    random_features_risk,
)
from theory.regression.wishart import expected_sum

__all__ = [
    "RELU",
    "Nonlinearity",
    "best_ridge",
    "chosen_features_risk",
    "chosen_features_variance",
    "expected_sum",
    "least_squares_limit",
    "least_squares_risk",
    "least_squares_variance",
    "random_features_risk",
    "ridge_limit",
    "ridge_risk",
]
