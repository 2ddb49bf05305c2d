"""Information, in nats: estimators that say what they measure, and closed forms to hold them against."""

from theory.information.binning import (
    bin_codes,
    entropy,
    information_with_input,
    information_with_label,
    mutual_information,
)
from theory.information.estimate import Estimate
from theory.information.saturation import bin_probabilities, binned_entropy, equal_bins

__all__ = [
    "Estimate",
    "bin_codes",
    "bin_probabilities",
    "binned_entropy",
    "entropy",
    "equal_bins",
    "information_with_input",
    "information_with_label",
    "mutual_information",
]
