r"""Training of a scaled model α (f(θ) − f_0), and its expansion in 1/α around the linearised network.

Gradient descent with learning rate η/α² on ½ Σ |F − y|², F = α (f(θ) − f_0), moves θ = θ_0 + u/α by

    u ← u − η J(θ_0 + u/α)ᵀ (F − y),        F = α (f(θ_0 + u/α) − f_0),        J = ∂f/∂θ.

With f_0 = f(θ_0) both are smooth functions of ε = 1/α, at ε = 0 too, where they are the linearised network's: so
u = u_0 + ε u_1 + …, F = F_0 + ε F_1 + …, each term by a recursion with derivatives of f at θ_0 alone. By flow,

    dF_0/dt = −Θ (F_0 − y),        dF_1/dt = −Θ F_1 − (∇Θ·u_0) (F_0 − y),        u_0 = −Jᵀ ∫ (F_0 − y) dt,

where ∇Θ·u_0 is the third-order object of the tangent hierarchy (Huang & Yau 2020), contracted with ∫ (F_0 − y).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.networks import Network, Params

# f(θ, x) → (m, k).
Model = Callable[[Any, Any], Array]


@dataclass(frozen=True)
class Combination:
    """f(θ_1, θ_2) = a_1 g(θ_1) + a_2 g(θ_2), two networks of one shape with separate parameters.

    a = (1, 0) is the network g itself (the second one does not move), a = (1, −1)/√2 with θ_1 = θ_2 at the start the
    doubled network of Chizat et al. 2019: its output starts at 0, its tangent kernel is that of g.
    """

    network: Network

    def __call__(self, params: Params, x: tuple[Any, Any]) -> Float[Array, "m k"]:
        """Outputs for parameters with a leading axis of 2, and x = (a, inputs)."""
        factors, inputs = x
        return jnp.tensordot(factors, jax.vmap(self.network.apply, in_axes=(0, None))(params, inputs), 1)


@partial(jax.jit, static_argnums=(0, 1))
def scaled_descent(
    f: Model,
    steps: int,
    start: Any,
    x: Any,
    y: Float[Array, "n k"],
    learning_rate: Float[Array, ""],
    alpha: Float[Array, ""],
    offset: Float[Array, "m k"],
) -> Float[Array, "records m k"]:
    """F = α (f − offset) at the start and after each of so many steps of rate η/α² on ½ Σ |F − y|².

    Args:
        f: hashable, f(θ, x) → outputs, one row an input.
        steps: how many.
        start: θ_0, a tree of arrays.
        x: what f takes; the first n of its rows are for training.
        y: targets of those, (n, k).
        learning_rate: η.
        alpha: α > 0.
        offset: what is taken off the outputs: f(θ_0, x), or zeros.
    """

    def step(theta: Any, _: None) -> tuple[Any, Array]:
        outputs, pull_back = jax.vjp(lambda p: f(p, x), theta)
        model = alpha * (outputs - offset)
        loss_slope = jnp.zeros_like(model).at[: len(y)].set(model[: len(y)] - y)
        (gradient,) = pull_back(alpha * loss_slope)
        return jax.tree.map(lambda p, g: p - learning_rate / alpha**2 * g, theta, gradient), model

    return jax.lax.scan(step, start, None, length=steps + 1)[1]


class Expansion(NamedTuple):
    """Terms of F = F_0 + F_1/α + F_2/α² + … at each step, and the curvature ½ ∂²f[u_0, u_0], which F_1 would be if
    training did not see that the tangent kernel changes.
    """

    terms: Float[Array, "order=3 records m k"]
    curvature: Float[Array, "records m k"]


@partial(jax.jit, static_argnums=(0, 1))
def lazy_expansion(
    f: Model,
    steps: int,
    start: Any,
    x: Any,
    y: Float[Array, "n k"],
    learning_rate: Float[Array, ""],
) -> Expansion:
    """The first terms of `scaled_descent` with offset f(θ_0, x), from derivatives of f at θ_0 up to the third.

    The coefficients of ε^k on both sides of the recursion above, where u stands for u_0 + ε u_1 + ε² u_2. Arguments
    are those of `scaled_descent`.
    """
    n = len(y)

    def along(u: list[Any], epsilon: Array) -> Any:
        powers = epsilon, epsilon**2, epsilon**3
        return jax.tree.map(lambda p, *terms: p + sum(a * b for a, b in zip(powers, terms, strict=True)), start, *u)

    def step(u: list[Any], _: None) -> tuple[list[Any], Expansion]:
        terms = jnp.stack(_taylor(lambda e: f(along(u, e), x), 3)[1:])

        def slope(epsilon: Array) -> Any:
            residual = terms[0] + epsilon * terms[1] + epsilon**2 * terms[2]
            cotangent = jnp.zeros_like(residual).at[:n].set(residual[:n] - y)
            return jax.vjp(lambda p: f(p, x), along(u, epsilon))[1](cotangent)[0]

        moved = [
            jax.tree.map(lambda a, b: a - learning_rate * b, *pair) for pair in zip(u, _taylor(slope, 2), strict=True)
        ]
        linear = jax.jvp(lambda p: f(p, x), (start,), (u[1],))[1]
        return moved, Expansion(terms, terms[1] - linear)

    zeros = jax.tree.map(jnp.zeros_like, start)
    found = jax.lax.scan(step, [zeros, zeros, zeros], None, length=steps + 1)[1]
    return found._replace(terms=jnp.moveaxis(found.terms, 1, 0))


def _taylor(function: Callable[[Array], Any], order: int) -> list[Any]:
    """Taylor coefficients at 0 of a function of one number, up to the given order."""
    tower = function
    for _ in range(order):
        tower = _with_derivative(tower)
    values, coefficients = tower(jnp.zeros(())), []
    for k in range(order + 1):
        entry = values
        # Of the 2^order values those with k derivatives: which k of the levels they come from does not matter.
        for level in range(order):
            entry = entry[int(level < k)]
        coefficients.append(jax.tree.map(partial(jnp.multiply, 1 / math.factorial(k)), entry))
    return coefficients


def _with_derivative(function: Callable[[Array], Any]) -> Callable[[Array], tuple[Any, Any]]:
    return lambda t: jax.jvp(function, (t,), (jnp.ones_like(t),))
