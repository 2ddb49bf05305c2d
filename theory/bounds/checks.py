"""Checks of arguments that every bound shares: each failure names the argument, the value and the fix."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Integer

# A number, an array of either library, or nested lists and tuples of numbers.
Numbers = ArrayLike | Sequence[Any]
# What NumPy's arithmetic hands on: of arrays without dimensions it makes scalars.
Reals = np.ndarray | np.float64

_ROUNDING = 1e-12


def _refuse(name: str, values: np.ndarray, bad: np.ndarray | np.bool_, must: str, fix: str) -> None:
    if np.any(bad):
        raise ValueError(f"{name} must {must}, got {values[np.asarray(bad)].ravel()[0]}; {fix}")


def unit_interval(name: str, values: Numbers) -> Float[np.ndarray, "..."]:
    """The values as float64, each in [0, 1]; NaN is refused."""
    array = np.asarray(values, dtype=np.float64)
    # A weighted mean of numbers in [0, 1] leaves that range by rounding.
    bad = ~((array >= -_ROUNDING) & (array <= 1 + _ROUNDING))
    _refuse(name, array, bad, "lie in [0, 1]", "rescale the loss to that range")
    return np.asarray(np.clip(array, 0.0, 1.0))


def confidence(delta: Numbers) -> Float[np.ndarray, "..."]:
    """δ as float64, each in the open interval (0, 1)."""
    array = np.asarray(delta, dtype=np.float64)
    fix = "it is the probability with which the bound may fail, such as 0.05"
    _refuse("delta", array, ~((array > 0) & (array < 1)), "lie strictly between 0 and 1", fix)
    return array


def sample_size(n: Numbers) -> Float[np.ndarray, "..."]:
    """n as float64 (whole numbers), each at least 1."""
    array = np.asarray(n, dtype=np.float64)
    bad = ~((array >= 1) & (array == np.floor(array)) & np.isfinite(array))
    _refuse("n", array, bad, "be a whole number of examples, at least 1", "pass the number of examples")
    return array


def error_counts(errors: Numbers, n: Float[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
    """Whole numbers of errors, each between 0 and the n that it broadcasts against."""
    array = np.asarray(errors, dtype=np.float64)
    whole = "pass how many of the n examples were misclassified, not the rate"
    _refuse("errors", array, ~(array == np.floor(array)), "be whole numbers", whole)
    array, sizes = np.broadcast_arrays(array, n)
    _refuse("errors", array, (array < 0) | (array > sizes), "lie between 0 and n", whole)
    return array.astype(np.int64)


def divergence(name: str, values: Numbers) -> Float[np.ndarray, "..."]:
    """A relative entropy or a budget in nats, each at least 0; infinity is allowed."""
    array = np.asarray(values, dtype=np.float64)
    _refuse(name, array, ~(array >= 0), "be at least 0 nats", "a relative entropy is never negative")
    return array
