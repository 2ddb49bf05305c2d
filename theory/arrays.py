"""What public functions accept: anything array-like, checked before it is compiled."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Nested lists too; jax.typing.ArrayLike leaves them out, and numpy's alias leaves out JAX's arrays in lists.
ArrayLike = jax.typing.ArrayLike | Sequence[Any]


def as_float(value: ArrayLike) -> Float[Array, "..."]:
    """The value as a floating-point array: in its own dtype, or in the default one for integers.

    Raises:
        ValueError: the value is complex.
    """
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError("a complex array was given where a real one is expected; pass its real part")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def is_traced(value: Any) -> bool:
    """Whether the value is abstract, inside jit, vmap or grad, where there is no number to look at."""
    return isinstance(value, jax.core.Tracer)  # pyright: ignore[reportAttributeAccessIssue] # jax has no stub for it


def check_finite(name: str, value: ArrayLike) -> None:
    """Refuse NaN and infinity; traced values pass."""
    if not is_traced(value) and not np.isfinite(np.asarray(value)).all():
        raise ValueError(f"{name} must be finite, but has NaN or infinite entries; drop or impute them first")


def rows(name: str, value: ArrayLike) -> Float[Array, "n d"]:
    """Inputs as a matrix with one row for each example.

    Raises:
        ValueError: the array has not two axes, no columns, or entries that are not finite.
    """
    array = as_float(value)
    if array.ndim != 2:
        hint = "use x[:, None]" if array.ndim == 1 else "flatten each example"
        raise ValueError(f"{name} must have shape (examples, features), got {array.shape}; {hint}")
    if array.shape[1] == 0:
        raise ValueError(f"{name} must have at least one feature, got shape {array.shape}")
    check_finite(name, array)
    return array


def row_pair(
    x1: ArrayLike, x2: ArrayLike, names: tuple[str, str] = ("x1", "x2")
) -> tuple[Float[Array, "n1 d"], Float[Array, "n2 d"]]:
    """Two sets of inputs, of one dtype and the same number of features.

    Raises:
        ValueError: either is no matrix, or their numbers of features differ.
    """
    first, second = rows(names[0], x1), rows(names[1], x2)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same number of features, "
            f"got {first.shape[1]} and {second.shape[1]}"
        )
    dtype = jnp.result_type(first, second)
    return first.astype(dtype), second.astype(dtype)


def example_pair(
    x1: ArrayLike, x2: ArrayLike, names: tuple[str, str] = ("x1", "x2")
) -> tuple[Float[Array, "n1 ..."], Float[Array, "n2 ..."]]:
    """Two sets of examples of any one shape: rows of features, images, sequences; of one dtype.

    Raises:
        ValueError: an example has no axis of its own, the examples have two shapes, or an entry is not finite.
    """
    first, second = as_float(x1), as_float(x2)
    for name, array in zip(names, (first, second), strict=True):
        if array.ndim < 2:
            raise ValueError(f"{name} must have shape (examples, ...), got {array.shape}; use x[:, None] for numbers")
        check_finite(name, array)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"{names[0]} and {names[1]} must have examples of one shape, got {first.shape[1:]} and {second.shape[1:]}"
        )
    dtype = jnp.result_type(first, second)
    return first.astype(dtype), second.astype(dtype)


def one_or_two(x1: ArrayLike, x2: ArrayLike | None) -> tuple[Float[Array, "n1 d"], Float[Array, "n2 d"] | None]:
    """`row_pair` for a kernel whose second argument may be left out."""
    return (rows("x1", x1), None) if x2 is None else row_pair(x1, x2)
