"""Training methods that go step by step: gradient descent and its relatives, and Langevin dynamics.

A method is a frozen dataclass and a pytree: its rates are leaves (numbers, or one number a member), what changes
the program (batch size, decay rates of Adam) is static. A learning rate may also be a tree of numbers, one for each
array of parameters, as `Network.learning_rates` gives; a zero there freezes the array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

Objective = Callable[[Any, Any], Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Where one member stands: enough to go on as if it had never stopped.

    Attributes:
        params: parameters.
        memory: the method's own variables (velocities, moments, the order of the examples); zeros at the start.
        key: the member's random key; step k draws from `fold_in(key, k)`.
        diverged: the step or time at which the loss or a parameter was first seen not to be finite; −1 if never.
    """

    params: Any
    memory: Any
    key: Any
    diverged: Any


class Method:
    """What `members` asks of a method."""

    # Whether the clock is a time (else it counts steps), and whether the method draws random numbers.
    continuous: ClassVar[bool]
    random: ClassVar[bool]
    # Examples in a step; None for all of them.
    batch_size: int | None = None

    def memory(self, params: Any, examples: int) -> Any:
        """The variables beside the parameters; only shapes and dtypes are used, every entry starts at zero."""
        raise NotImplementedError

    def advance(self, objective: Objective, state: State, data: Any, start: Array, stop: Array) -> State:
        """Train one member from `start` to `stop` (traced), on the loss objective(params, data)."""
        raise NotImplementedError

    def report(self, memory: Any) -> dict[str, Any]:
        """Scalars about the method itself, kept at every record."""
        return {}


def scaled(rate: Any, tree: Any) -> Any:
    """rate · tree, where rate is a number or a tree of numbers; dtypes are those of `tree`."""

    def scale(factor: Any, branch: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(factor, leaf.dtype) * leaf, branch)

    return jax.tree.map(scale, rate, tree)


def subtract(first: Any, second: Any) -> Any:
    """first − second, leaf by leaf."""
    return jax.tree.map(jnp.subtract, first, second)


class Stepwise(Method):
    """What all stepwise methods share: the loop, minibatches, and the watch on the loss."""

    continuous: ClassVar[bool] = False
    random: ClassVar[bool] = False

    def slots(self, params: Any) -> Any:
        """The optimiser's variables, zero at the start."""
        return ()

    def update(self, params: Any, slots: Any, gradient: Any, key: Any) -> tuple[Any, Any]:
        """One step: new parameters and variables."""
        raise NotImplementedError

    def memory(self, params: Any, examples: int) -> Any:
        order = None if self.batch_size is None else jnp.zeros(examples, jnp.int32)
        return {"slots": self.slots(params), "order": order}

    def advance(self, objective: Objective, state: State, data: Any, start: Array, stop: Array) -> State:
        def step(k: Array, state: State) -> State:
            order, batch = self._minibatch(state, data, k)
            loss, gradient = jax.value_and_grad(objective)(state.params, batch)
            params, slots = self.update(state.params, state.memory["slots"], gradient, jax.random.fold_in(state.key, k))
            # The loss comes with the gradient for free, and once it is not finite it never is again.
            broken = (state.diverged < 0) & ~jnp.isfinite(loss)
            diverged = jnp.where(broken, k.astype(state.diverged.dtype), state.diverged)
            return State(params, {"slots": slots, "order": order}, state.key, diverged)

        return jax.lax.fori_loop(start, stop, step, state)

    def _minibatch(self, state: State, data: Any, k: Array) -> tuple[Any, Any]:
        """Examples of step k: each epoch visits them in a fresh random order, without the incomplete last batch."""
        if self.batch_size is None:
            return None, data
        order = state.memory["order"]
        batches = order.shape[0] // self.batch_size
        # k is the same for all members, so that under vmap this stays a branch: one shuffle an epoch.
        order = jax.lax.cond(
            k % batches == 0,
            lambda: jax.random.permutation(jax.random.fold_in(state.key, k), order.shape[0]).astype(jnp.int32),
            lambda: order,
        )
        rows = jax.lax.dynamic_slice_in_dim(order, k % batches * self.batch_size, self.batch_size)
        return order, jax.tree.map(lambda array: array[rows], data)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GradientDescent(Stepwise):
    """θ ← θ − η ∇L(θ) with the loss L of all examples."""

    learning_rate: Any

    def update(self, params: Any, slots: Any, gradient: Any, key: Any) -> tuple[Any, Any]:
        return subtract(params, scaled(self.learning_rate, gradient)), slots


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SGD(Stepwise):
    """θ ← θ − η ∇L_B(θ), the loss of a minibatch B drawn without replacement within an epoch.

    The loss of a minibatch is the objective on its rows: a mean estimates the mean over all examples; a sum is
    smaller than that over all examples by the factor batch_size/examples. An epoch that the batch size does not
    divide leaves out a different remainder each time.
    """

    learning_rate: Any
    batch_size: int | None = field(default=32, metadata={"static": True})
    random: ClassVar[bool] = True

    def update(self, params: Any, slots: Any, gradient: Any, key: Any) -> tuple[Any, Any]:
        return subtract(params, scaled(self.learning_rate, gradient)), slots


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Momentum(Stepwise):
    """Heavy ball: v ← β v + ∇L(θ), θ ← θ − η v, starting from v = 0.

    Warning: with this convention the steady learning rate is η/(1 − β); others write v ← β v + (1 − β) ∇L.
    """

    learning_rate: Any
    momentum: Any = 0.9
    batch_size: int | None = field(default=None, metadata={"static": True})

    def slots(self, params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(self, params: Any, slots: Any, gradient: Any, key: Any) -> tuple[Any, Any]:
        velocity = jax.tree.map(jnp.add, scaled(self.momentum, slots), gradient)
        return subtract(params, scaled(self.learning_rate, velocity)), velocity


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Adam(Stepwise):
    """Adam with bias correction (Kingma & Ba 2015, Algorithm 1), as in optax."""

    learning_rate: Any
    first_decay: float = field(default=0.9, metadata={"static": True})
    second_decay: float = field(default=0.999, metadata={"static": True})
    epsilon: float = field(default=1e-8, metadata={"static": True})
    batch_size: int | None = field(default=None, metadata={"static": True})

    def _transformation(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(b1=self.first_decay, b2=self.second_decay, eps=self.epsilon)

    def slots(self, params: Any) -> Any:
        return self._transformation().init(params)

    def update(self, params: Any, slots: Any, gradient: Any, key: Any) -> tuple[Any, Any]:
        direction, slots = self._transformation().update(gradient, slots, params)
        return subtract(params, scaled(self.learning_rate, direction)), slots


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Langevin(Stepwise):
    """Unadjusted Langevin dynamics, whose stationary density is p(θ) ∝ exp(−L(θ)/T) · N(θ; 0, s² I).

        θ ← θ − η (∇L(θ) + T θ/s²) + √(2ηT) ξ,    ξ ~ N(0, I).

    With L = ½ Σ (f − y)² this is the Bayesian posterior under noise of variance T and the prior of the NTK
    parametrisation at s = 1. A finite step biases the law: along a direction of curvature h (of L + T|θ|²/2s²)
    the variance is (T/h) / (1 − ηh/2), so that η h_max ≪ 1 is wanted. s = ∞ switches the prior off.

    Args:
        learning_rate: η.
        temperature: T ≥ 0.
        prior_variance: s².

    Source: Welling & Teh 2011 (full-batch case); the bias follows from the recursion of the variance.
    """

    learning_rate: Any
    temperature: Any
    prior_variance: Any = 1.0
    random: ClassVar[bool] = True

    def update(self, params: Any, slots: Any, gradient: Any, key: Any) -> tuple[Any, Any]:
        leaves, structure = jax.tree.flatten(params)
        noise = structure.unflatten(
            jax.random.normal(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
        )
        drift = jax.tree.map(jnp.add, gradient, scaled(self.temperature / self.prior_variance, params))
        spread = jax.tree.map(lambda rate: jnp.sqrt(2 * rate * self.temperature), self.learning_rate)
        moved = subtract(params, scaled(self.learning_rate, drift))
        return jax.tree.map(jnp.add, moved, scaled(spread, noise)), slots
