"""Signal propagation in wide random networks: lengths, correlations, their fixed points, and the edge of chaos."""

from theory.mean_field.families import (
    family_length_map,
    family_pair_map,
    family_propagate,
    family_slope,
)
from theory.mean_field.finite_width import Corrections, corrections
from theory.mean_field.fixed_points import (
    FixedPoint,
    critical_weight_variance,
    fixed_point,
    length_fixed_point,
)
from theory.mean_field.positions import fourier_slopes, position_map
from theory.mean_field.signal import Trajectory, correlation_slope, length_map, pair_map, propagate

__all__ = [
    "Corrections",
    "FixedPoint",
    "Trajectory",
    "corrections",
    "correlation_slope",
    "critical_weight_variance",
    "family_length_map",
    "family_pair_map",
    "family_propagate",
    "family_slope",
    "fixed_point",
    "fourier_slopes",
    "length_fixed_point",
    "length_map",
    "pair_map",
    "position_map",
    "propagate",
]
