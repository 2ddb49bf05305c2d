"""An estimate of an information-theoretic quantity: its value, its standard error, and what exactly it is of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty, in nats.

    Attributes:
        value: the estimate, of any shape.
        standard_error: its standard error, of the same shape; 0 where nothing is sampled and the value is exact.
        measures: the quantity in words. A deterministic network has no finite I(X;T) of continuous T: what an
            estimator returns in its place is the entropy of something, and this says of what.
    """

    value: Float[np.ndarray, "*batch"]
    standard_error: Float[np.ndarray, "*batch"]
    measures: str

    def interval(self, confidence: float = 0.99) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
        """Ends of the two-sided normal interval.

        Args:
            confidence: its probability, between 0 and 1.

        Raises:
            ValueError: `confidence` is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; 0.99 gives a 99 % interval")
        half_width = stats.norm.isf((1 - confidence) / 2) * self.standard_error
        return self.value - half_width, self.value + half_width
