"""What one evaluation of an objective costs, counted in its program: for any network, whatever its layers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import jax


class Cost(NamedTuple):
    """Work and memory of one evaluation.

    Attributes:
        flops: two for every multiplication with its addition in products and convolutions, one for every entry that
            another operation returns.
        widest: entries of the largest result of a product or convolution, such as (examples, width) or
            (examples, *space, channels); where there is none, of the largest result.
        entries: of all results of products together: what a backward pass has to keep, up to a factor.
    """

    flops: float
    widest: int
    entries: int


def cost(function: Callable[..., Any], *arguments: Any) -> Cost:
    """Cost of function(*arguments), found by tracing it: nothing is computed or compiled.

    Args:
        function: of trees of arrays, traceable by JAX.
        arguments: the trees, with arrays or `jax.ShapeDtypeStruct` as leaves.

    Returns:
        the counts. A scan counts as often as it runs, of a `cond` each branch, the body of a `while` once, as its
        number of rounds is not known.
    """
    flops, widest, largest, entries = 0.0, 0, 1, 0
    for equation, times in _equations(jax.make_jaxpr(function)(*arguments).jaxpr, 1):
        sizes = [prod(getattr(result.aval, "shape", ())) for result in equation.outvars]
        largest = max(largest, *sizes, 0)
        summed = _summed(equation)
        if summed is None:
            flops += times * sum(sizes)
        else:
            flops += times * 2.0 * summed * sum(sizes)
            widest = max(widest, *sizes)
            entries += times * sum(sizes)
    return Cost(flops, widest or largest, entries or largest)


def _equations(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    """The equations that do something, and how often each runs; those that hold a program give its equations."""
    for equation in jaxpr.eqns:
        # The program in a scatter or a reduction says how two entries are combined.
        pairwise = equation.primitive.name.startswith(("scatter", "reduce", "select_and_"))
        inner = [] if pairwise else [part for value in equation.params.values() for part in _programs(value)]
        for part in inner:
            yield from _equations(part, times * equation.params.get("length", 1))
        if not inner:
            yield equation, times


def _programs(value: Any) -> list[Any]:
    """Programs in a parameter of an equation, which may be one, hold one, or be several (the branches of a cond)."""
    if isinstance(value, tuple | list):
        return [part for each in value for part in _programs(each)]
    value = getattr(value, "jaxpr", value)
    return [value] if hasattr(value, "eqns") else []


def _summed(equation: Any) -> int | None:
    """Multiplications for each entry of the result of a product or convolution; None for other operations."""
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        # The filter's axes are (channels out, channels in of the group, *space) in this order.
        kernel, axes = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
        return prod(kernel) // kernel[axes[0]]
    return None
