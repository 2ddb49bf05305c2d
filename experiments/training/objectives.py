"""Losses and records as hashable objects: equal by value, so that a second training compiles nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.networks import Network

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True)
class SquaredError:
    """Loss ½ Σ |f(x) − y|² over examples and outputs; with reduction="mean", ½ of the mean over both.

    The sum is the convention of the kernel theory: gradient flow on it is df/dt = −Θ (f − y).
    """

    network: Network
    reduction: Reduction = "sum"

    def __call__(self, params: Any, data: tuple[Any, Any]) -> Float[Array, ""]:
        """The loss on data = (x, y), with x (n, d) and y (n, k)."""
        x, y = data
        outputs = self.network.apply(params, x)
        y = jnp.asarray(y, outputs.dtype)
        if y.shape != outputs.shape:
            # Broadcasting (n,) against (n, 1) would silently train on n² pairs.
            raise ValueError(
                f"y must have the outputs' shape {outputs.shape}, got {y.shape}; for one output use y[:, None]"
            )
        total = 0.5 * jnp.sum((outputs - y) ** 2)
        return total if self.reduction == "sum" else total / outputs.size


@dataclass(frozen=True)
class CrossEntropy:
    """Loss −Σ ln softmax(f(x))_y in nats over examples; with reduction="mean", its mean."""

    network: Network
    reduction: Reduction = "mean"

    def __call__(self, params: Any, data: tuple[Any, Any]) -> Float[Array, ""]:
        """The loss on data = (x, y), with x (n, d) and integer labels y (n,)."""
        x, y = data
        log_probability = jax.nn.log_softmax(self.network.apply(params, x))
        chosen = jnp.take_along_axis(log_probability, jnp.asarray(y)[:, None], axis=1)
        return -jnp.sum(chosen) if self.reduction == "sum" else -jnp.mean(chosen)


@dataclass(frozen=True)
class Outputs:
    """Record of the network's outputs (n, k) on the probe x (n, d)."""

    network: Network

    def __call__(self, params: Any, probe: Any) -> Float[Array, "n k"]:
        return self.network.apply(params, probe)
