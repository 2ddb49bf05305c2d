"""Gradient flow: dθ/dt = −∇L(θ), integrated with an adaptive Runge–Kutta method and its own error estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.training.methods import Method, Objective, State, scaled

# The estimate belongs to the fourth-order companion of the fifth-order step, hence the exponent 1/5 of the
# controller; 0.9 and the limits on a change of step are the usual ones (Hairer, Nørsett & Wanner 1993, II.4).
ORDER, SAFETY, SHRINK, GROW = 5, 0.9, 0.2, 5.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GradientFlow(Method):
    """dθ/dt = −r ∇L(θ) by diffrax's Tsit5 (Tsitouras 2011), a step accepted when its error estimate e satisfies

        rms_i( e_i / (absolute + relative · max(|θ_i|, |θ_i'|)) ) ≤ 1.

    The method is explicit: a step cannot exceed about 3.3/λ_max of the Hessian, however small the error asked for.

    Every record reports `error`, the sum of |e|₂ over the steps so far, and the number of `steps`, rejected ones
    included. Where the flow does not drive neighbours apart, `error` estimates (generously: it belongs to the
    companion of lower order) how far θ is from the exact solution.

    Args:
        learning_rate: r, a number or a tree of numbers like the parameters'.
        relative, absolute: tolerances; in float32 below about 1e-6 they ask for more than rounding allows.
    """

    learning_rate: Any = 1.0
    relative: Any = 1e-6
    absolute: Any = 1e-8
    continuous: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def memory(self, params: Any, examples: int) -> Any:
        real = jax.tree.leaves(params)[0].dtype
        return {"step": jnp.zeros((), float), "error": jnp.zeros((), real), "steps": jnp.zeros((), jnp.int32)}

    def report(self, memory: Any) -> dict[str, Any]:
        return {"error": memory["error"], "steps": memory["steps"]}

    def advance(self, objective: Objective, state: State, data: Any, start: Array, stop: Array) -> State:
        import diffrax

        def field(t: Any, params: Any, args: Any) -> Any:
            return jax.tree.map(jnp.negative, scaled(self.learning_rate, jax.grad(objective)(params, data)))

        solver, term = diffrax.Tsit5(), diffrax.ODETerm(field)
        zero = jnp.zeros((), jax.tree.leaves(state.params)[0].dtype)
        size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        # A first guess (zero means none yet): move by a hundredth of the parameters' length, if they have one.
        guess = 0.01 * _norm(state.params) / (_norm(field(start, state.params, None)) + 1e-12)
        guess = jnp.maximum(guess.astype(start.dtype), 1e-6 * (stop - start))
        step = jnp.where(state.memory["step"] > 0, state.memory["step"], guess)
        memory = {**state.memory, "step": step}

        def unfinished(carry: Any) -> Array:
            t, state, _ = carry
            return (t < stop) & (state.diverged < 0)

        def attempt(carry: Any) -> Any:
            t, state, solver_state = carry
            wanted = state.memory["step"]
            last = wanted >= stop - t
            taken = jnp.where(last, stop - t, wanted)
            # The flow is autonomous, and a clock of another dtype would change that of the parameters.
            duration = taken.astype(zero.dtype)
            proposal, error, _, solver_proposal, _ = solver.step(
                term, zero, duration, state.params, None, solver_state, made_jump=False
            )
            ratio = self._ratio(error, state.params, proposal, size)
            accepted = ratio <= 1
            # A ratio that is not a number (a step into overflow) is a refusal too.
            factor = jnp.clip(SAFETY * ratio ** (-1 / ORDER), SHRINK, GROW)
            following = taken * jnp.where(jnp.isnan(factor), SHRINK, factor).astype(taken.dtype)
            # A step cut short to meet a record says nothing against the longer one wanted before.
            following = jnp.where(accepted & last, jnp.maximum(following, wanted), following)
            # Where even the smallest step that moves the clock is refused, the flow has no continuation.
            stuck = ~accepted & (t + following <= t)

            def choose(new: Any, old: Any) -> Any:
                return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)

            memory = {
                "step": following,
                "error": state.memory["error"] + jnp.where(accepted, _norm(error), 0),
                "steps": state.memory["steps"] + 1,
            }
            arrived = jnp.where(accepted, jnp.where(last, stop, t + taken), t)
            diverged = jnp.where(stuck, t.astype(state.diverged.dtype), state.diverged)
            moved = State(choose(proposal, state.params), memory, state.key, diverged)
            return arrived, moved, choose(solver_proposal, solver_state)

        start_state = State(state.params, memory, state.key, state.diverged)
        solver_state = solver.init(term, zero, zero, state.params, None)
        _, state, _ = jax.lax.while_loop(unfinished, attempt, (start, start_state, solver_state))
        return state

    def _ratio(self, error: Any, old: Any, new: Any, size: int) -> Array:
        """Root mean square of the error estimate in units of the tolerance."""

        def squares(e: Array, a: Array, b: Array) -> Array:
            allowed = self.absolute + self.relative * jnp.maximum(jnp.abs(a), jnp.abs(b))
            return jnp.sum((e / allowed.astype(e.dtype)) ** 2)

        return jnp.sqrt(jax.tree.reduce(jnp.add, jax.tree.map(squares, error, old, new)) / size)


def _norm(tree: Any) -> Array:
    """Euclidean length of a tree of arrays."""
    return jnp.sqrt(jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: jnp.sum(leaf**2), tree)))
