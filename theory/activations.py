"""Elementwise activations, each hashable, so that a compiled kernel can take one as static.

Families with a parameter (slopes, coefficients) are callable frozen dataclasses rather than closures: two
of them with the same numbers are equal, share one compilation and are recognised by the closed forms of
`theory.duals`.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array
from numpy.polynomial import hermite_e

from theory.arrays import ArrayLike, as_float


@dataclasses.dataclass(frozen=True)
class PiecewiseLinear:
    """φ(x) = positive·x for x > 0 and negative·x otherwise: linear, ReLU, leaky ReLU, absolute value."""

    negative: float
    positive: float

    def __call__(self, x: Array) -> Array:
        if self.negative == self.positive:
            return self.positive * x
        return jnp.where(x > 0, self.positive * x, self.negative * x)


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """φ(x) = Σ_m coefficients[m] x^m."""

    coefficients: tuple[float, ...]

    def __call__(self, x: Array) -> Array:
        value = jnp.full_like(x, self.coefficients[-1])
        for coefficient in reversed(self.coefficients[:-1]):
            value = value * x + coefficient
        return value

    def differentiated(self) -> "Polynomial":
        """The polynomial φ'."""
        derived = tuple(m * c for m, c in enumerate(self.coefficients) if m > 0)
        return Polynomial(derived or (0.0,))


def gelu(x: Array) -> Array:
    """φ(x) = x Φ(x) with Φ the standard normal distribution function (the exact GELU, not its tanh form)."""
    return jax.nn.gelu(x, approximate=False)


@dataclasses.dataclass(frozen=True)
class Activation:
    """An elementwise activation φ and its derivative φ'.

    Args:
        name: shown in tables and error messages.
        function: elementwise φ made of `jax.numpy` operations, hashable (a named function, not a fresh
            lambda at each call, or every call compiles anew).
        derivative_function: elementwise φ'; by default it is taken by automatic differentiation.

    Raises:
        ValueError: `function` is not callable or not hashable.
    """

    name: str
    function: Callable[[Array], Array]
    derivative_function: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function must be an elementwise callable, got {self.function!r}")
        try:
            hash(self.function)
        except TypeError:
            raise ValueError(
                f"function of activation {self.name!r} must be hashable, got {type(self.function).__name__}; "
                "use a plain function or a frozen dataclass with __call__"
            ) from None

    def __call__(self, x: ArrayLike) -> Array:
        return self.function(as_float(x))

    def derivative(self, x: ArrayLike) -> Array:
        """φ'(x), elementwise, of the shape of x."""
        x = as_float(x)
        if self.derivative_function is not None:
            return self.derivative_function(x)
        # One forward pass differentiates every element at once, because φ acts on each alone.
        return jax.jvp(self.function, (x,), (jnp.ones_like(x),))[1]


def leaky_relu(slope: float = 0.01) -> Activation:
    """φ(x) = max(x, 0) + slope·min(x, 0)."""
    return Activation(f"leaky-relu({slope:g})", PiecewiseLinear(float(slope), 1.0))


def monomial(degree: int) -> Activation:
    """φ(x) = x^degree, degree ≥ 0."""
    if degree < 0:
        raise ValueError(f"degree must be at least 0, got {degree}")
    return Activation(f"monomial({degree})", Polynomial((0.0,) * degree + (1.0,)))


def hermite(degree: int) -> Activation:
    """φ(x) = He_m(x)/√(m!), the Hermite polynomial of unit norm under the standard normal law, m = degree."""
    if degree < 0:
        raise ValueError(f"degree must be at least 0, got {degree}")
    coefficients = hermite_e.herme2poly([0.0] * degree + [1.0]) / math.sqrt(math.factorial(degree))
    return Activation(f"hermite({degree})", Polynomial(tuple(float(c) for c in coefficients)))


ACTIVATIONS = {
    "linear": Activation("linear", PiecewiseLinear(1.0, 1.0)),
    "relu": Activation("relu", PiecewiseLinear(0.0, 1.0)),
    "leaky-relu": leaky_relu(),
    "abs": Activation("abs", PiecewiseLinear(-1.0, 1.0)),
    "erf": Activation("erf", erf),
    "gelu": Activation("gelu", gelu),
    "sin": Activation("sin", jnp.sin),
    "cos": Activation("cos", jnp.cos),
    "sign": Activation("sign", jnp.sign),
    "exp": Activation("exp", jnp.exp),
    "square": Activation("square", Polynomial((0.0, 0.0, 1.0))),
    "tanh": Activation("tanh", jnp.tanh),
    "sigmoid": Activation("sigmoid", jax.nn.sigmoid),
    "softplus": Activation("softplus", jax.nn.softplus),
    "swish": Activation("swish", jax.nn.silu),
}


def activation(name_or_object: str | Activation) -> Activation:
    """The activation of that name, or the object itself.

    Args:
        name_or_object: a name of `ACTIVATIONS` (case and underscores do not matter) or an `Activation`.

    Raises:
        ValueError: there is no such name; the message gives the nearest ones.
    """
    if isinstance(name_or_object, Activation):
        return name_or_object
    if not isinstance(name_or_object, str):
        raise ValueError(
            f"activation must be a name or an Activation, got {name_or_object!r}; "
            "wrap a function as Activation('my-name', function)"
        )
    name = name_or_object.lower().replace("_", "-")
    if name not in ACTIVATIONS:
        nearest = difflib.get_close_matches(name, ACTIVATIONS, n=3) or sorted(ACTIVATIONS)
        raise ValueError(f"unknown activation {name_or_object!r}; did you mean {', '.join(nearest)}?")
    return ACTIVATIONS[name]
