"""Functions computed in double precision within programs in single precision, with all their derivatives.

Under `jax.enable_x64` JAX traces a function in double precision. But a gradient is traced where it is taken, which is
later and outside, and there it turns parts of the way back to single precision: digits are lost, or dtypes clash. So
here the function is one operation of JAX's, whose derivatives, transpose and batches are such operations again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from theory.arrays import is_traced

# Of arrays, with a parameter `function` from arrays to a list of arrays.
_operation = Primitive("in_double")
_operation.multiple_results = True


def in_double(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments) where JAX has double precision, whatever it has here.

    Args:
        function: of trees of arrays and other leaves, to a tree of arrays. What it needs in double precision it has to
            convert itself, and its results should have the dtype of its arguments. It must not use traced values other
            than its arguments, nor functions with a derivative of their own in reverse (`jax.custom_vjp`).
        arguments: the trees. Leaves that are no arrays, such as numbers, keep their digits.

    Returns:
        The value. jit, vmap, grad and jvp, of any order, go through it in double precision.
    """
    leaves, tree = jax.tree.flatten(arguments)
    # Traced numbers get their dtype for good: in double precision they would count as double.
    traced = {i: jax.lax.convert_element_type(leaf, leaf.dtype) for i, leaf in enumerate(leaves) if is_traced(leaf)}
    if not traced or jnp.result_type(float) == jnp.float64:
        with jax.enable_x64(True):
            return function(*arguments)
    # Nothing traced may stay behind in what JAX keeps of the function.
    places, known = tuple(traced), [None if i in traced else leaf for i, leaf in enumerate(leaves)]
    structure = None

    def flat(*values: Any) -> list[Any]:
        nonlocal structure
        every = list(known)
        for i, value in zip(places, values, strict=True):
            every[i] = value
        results, structure = jax.tree.flatten(function(*jax.tree.unflatten(tree, every)))
        return results

    found = _operation.bind(*traced.values(), function=flat)
    assert structure is not None  # every way of evaluating the operation calls the function
    return jax.tree.unflatten(structure, found)


def _evaluate(*arguments: Any, function: Callable[..., list[Any]]) -> list[Any]:
    with jax.enable_x64(True):
        return function(*arguments)


def _shapes(*arguments: Any, function: Callable[..., list[Any]]) -> list[Any]:
    with jax.enable_x64(True):
        given = (jax.ShapeDtypeStruct(argument.shape, argument.dtype) for argument in arguments)
        return [ShapedArray(found.shape, found.dtype) for found in jax.eval_shape(function, *given)]


def _derivative(primals: Any, tangents: Any, *, function: Callable[..., list[Any]]) -> tuple[list[Any], list[Any]]:
    value = _operation.bind(*primals, function=function)
    # Integers have no tangents.
    moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]
    if not moving:
        return value, [ad.Zero.from_primal_value(v) for v in value]  # pyright: ignore[reportAttributeAccessIssue] # jax has no stub for it

    def slopes(*arguments: Any) -> list[Any]:
        point, moved = arguments[: len(primals)], arguments[len(primals) :]

        def along(*where: Any) -> list[Any]:
            every = list(point)
            for i, leaf in zip(moving, where, strict=True):
                every[i] = leaf
            return function(*every)

        return jax.jvp(along, tuple(point[i] for i in moving), moved)[1]

    return value, _operation.bind(*primals, *(tangents[i] for i in moving), function=slopes)


def _transpose(cotangents: Any, *arguments: Any, function: Callable[..., list[Any]]) -> list[Any]:
    """Of a function that is linear in the arguments that are not known here: its derivative at zero, backwards."""
    linear = [i for i, argument in enumerate(arguments) if ad.is_undefined_primal(argument)]
    known = [i for i in range(len(arguments)) if i not in linear]
    wanted = [i for i, cotangent in enumerate(cotangents) if not isinstance(cotangent, ad.Zero)]
    zeros = [(arguments[i].aval.shape, arguments[i].aval.dtype) for i in linear]

    def backwards(*given: Any) -> list[Any]:
        def forwards(*moved: Any) -> list[Any]:
            every = dict(zip((*known, *linear), (*given[: len(known)], *moved), strict=True))
            results = function(*(every[i] for i in range(len(every))))
            return [results[i] for i in wanted]

        _, pull_back = jax.vjp(forwards, *(jnp.zeros(shape, dtype) for shape, dtype in zeros))
        return list(pull_back(list(given[len(known) :])))

    found = _operation.bind(*(arguments[i] for i in known), *(cotangents[i] for i in wanted), function=backwards)
    by_place = dict(zip(linear, found, strict=True))
    return [by_place.get(i) for i in range(len(arguments))]


def _batch(arguments: Any, axes: Any, *, function: Callable[..., list[Any]]) -> tuple[list[Any], list[int]]:
    mapped = tuple(None if axis is batching.not_mapped else axis for axis in axes)
    found = _operation.bind(*arguments, function=jax.vmap(function, in_axes=mapped))
    return found, [0] * len(found)


def _lowered(context: Any, *arguments: Any, function: Callable[..., list[Any]]) -> Any:
    # Operations are looked at once more when they are lowered, indices for example.
    with jax.enable_x64(True):
        return mlir.lower_fun(_evaluate, multiple_results=True)(context, *arguments, function=function)


_operation.def_impl(_evaluate)
_operation.def_abstract_eval(_shapes)
ad.primitive_jvps[_operation] = _derivative
ad.primitive_transposes[_operation] = _transpose
batching.primitive_batchers[_operation] = _batch
mlir.register_lowering(_operation, _lowered)
