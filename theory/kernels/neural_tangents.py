"""neural-tangents 0.6.5 on the JAX of today: the reference for every architecture that both know.

    from theory.kernels.neural_tangents import nt

Nobody maintains it. It asks for names that JAX has since moved, and imports TensorFlow for a conversion of
TensorFlow's own models. `adapt` sets what is missing and nothing else; all but implementation 3 of its
empirical kernels works then (structured derivatives read internals of JAX that have changed).
"""

import importlib.util
import sys
import types

import jax
import jax.core
from jax._src import ad_util, core, util
from jax.interpreters import ad

_CORE = (
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Var",
    "Primitive",
    "AbstractValue",
    "Value",
    "ShapedArray",
    "eval_context",
)
_TENSORFLOW_PART = "neural_tangents.experimental"


def adapt() -> list[str]:
    """Set the names that neural-tangents asks for and this JAX lacks.

    Returns:
        The dotted names that were set; a second call sets none.
    """
    done = [f"jax.core.{name}" for name in _CORE if _set_missing(jax.core, name, vars(core)[name])]
    if _set_missing(ad, "zeros_like_p", ad_util.zeros_like_p):
        done.append("jax.interpreters.ad.zeros_like_p")
    try:
        import jax.util as moved  # pyright: ignore[reportMissingImports] # gone in the JAX that is installed
    except ModuleNotFoundError:
        moved = types.ModuleType("jax.util", "Removed from JAX; set for neural-tangents.")
        sys.modules["jax.util"] = moved
        done.append("jax.util")
    done += [f"jax.util.{name}" for name in ("safe_map", "safe_zip") if _set_missing(moved, name, vars(util)[name])]
    # The one subpackage that converts TensorFlow's models; the rest never uses it.
    complete = all(importlib.util.find_spec(name) is not None for name in ("tensorflow", "tf2jax"))
    if not complete and _TENSORFLOW_PART not in sys.modules:
        sys.modules[_TENSORFLOW_PART] = types.ModuleType(_TENSORFLOW_PART, "Left out: needs TensorFlow.")
        done.append(_TENSORFLOW_PART)
    return done


def _set_missing(module: types.ModuleType, name: str, value: object) -> bool:
    if hasattr(module, name):
        return False
    setattr(module, name, value)
    return True


if importlib.util.find_spec("neural_tangents") is None:
    raise ImportError(
        "neural-tangents is not installed; it comes with the extra 'reference': pip install 'unmagic[reference]'"
    )

adapted = adapt()

import neural_tangents as nt  # noqa: E402 (it must find the names that were just set)

__all__ = ["adapt", "adapted", "nt"]
