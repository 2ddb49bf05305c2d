"""Gradient flow of large ensembles on a handful of examples, and their tangent kernels along it, in NumPy.

With m examples the velocity of every weight matrix has rank m, −a_l Σ_γ h_{l−1,γ} r_γ δ_{l,γ}ᵀ, where a_l is its
multiplier, h what it acts on, δ_l = ∂f/∂z_l and r = f − y. So a stage of a Runge–Kutta step never forms a displaced
matrix: it multiplies by the matrix at the start of the step and adds a product of thin ones. A step costs two passes
over the weights for each stage and one to move them, nothing is compiled, and the tangent kernel

    Θ(x, x') = Σ_l a_l² (h_{l−1}·h'_{l−1}) (δ_l·δ'_l)

comes with the first stage. All in double precision.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Key

from experiments.networks import Network
from experiments.random_kernels import UNITS

# Parameters of a chunk of members: each thread's arrays stay in the cache.
CHUNK = 2**17
# Of the classical method of fourth order: where each stage stands, and its share in the step.
STAGES = ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6))


class Path(NamedTuple):
    """What an ensemble went through: outputs and tangent kernels at the recorded times, members first."""

    outputs: Float[np.ndarray, "member time example"]
    kernels: Float[np.ndarray, "member time example example"]


class _Stage(NamedTuple):
    """Layer by layer: what the weights act on, δ, and r δ; and the residuals."""

    inputs: list[np.ndarray]
    deltas: list[np.ndarray]
    driven: list[np.ndarray]
    residual: np.ndarray


def flow_path(
    net: Network,
    weights: Sequence[np.ndarray],
    x: Float[np.ndarray, "m d"],
    y: Float[np.ndarray, " m"],
    *,
    times: Sequence[float],
    steps: int,
) -> Path:
    """Gradient flow on ½ Σ (f − y)² by the classical Runge–Kutta method of order four.

    Args:
        net: bias-free, with one output and an activation of `experiments.random_kernels.UNITS`.
        weights: one array (members, fan_in, fan_out) for each layer; not changed.
        x, y: the examples.
        times: increasing, to be recorded; the flow starts at 0.
        steps: of equal length, from 0 to the last of the times; each time must be a whole number of them. The
            method is stable for steps below 2.78 over the largest eigenvalue of Θ; its error falls as steps^-4.

    Raises:
        ValueError: the network is not as above, or the steps miss one of the times.
    """
    if net.bias or net.outputs != 1 or net.activation.name not in UNITS:
        raise ValueError(
            f"net must have one output, no biases and an activation among {', '.join(UNITS)}; "
            f"got {net.outputs} outputs, bias={net.bias}, {net.activation.name!r}"
        )
    step = times[-1] / steps
    due = np.round(np.asarray(times) / step).astype(int)
    if np.any(np.diff(due) < 1) or due[0] < 0 or not np.allclose(due * step, times):
        raise ValueError(f"times must increase by whole steps of {step:g}, got {tuple(times)}; change steps or times")
    moving = [np.array(w, np.float64) for w in weights]
    multipliers = [float(scale.multiplier) for scale, _ in net.scales()]
    unit, x, y = UNITS[net.activation.name], np.asarray(x, np.float64), np.asarray(y, np.float64)
    outputs, kernels = [], []
    for now in range(steps + 1):
        first = _stage(unit, moving, multipliers, x, y, None, 0.0)
        if now in due:
            outputs.append(first.residual + y)
            kernels.append(_kernel(multipliers, first))
        if now < steps:
            stages = [first]
            for place, _ in STAGES[1:]:
                stages.append(_stage(unit, moving, multipliers, x, y, stages[-1], place * step))
            for layer, (w, a) in enumerate(zip(moving, multipliers, strict=True)):
                h = np.concatenate([s.inputs[layer] for s in stages], axis=1)
                g = [-a * step * share * s.driven[layer] for s, (_, share) in zip(stages, STAGES, strict=True)]
                w += np.swapaxes(h, 1, 2) @ np.concatenate(g, axis=1)
    return Path(np.stack(outputs, axis=1), np.stack(kernels, axis=1))


def _stage(
    unit: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    weights: list[np.ndarray],
    multipliers: list[float],
    x: np.ndarray,
    y: np.ndarray,
    last: _Stage | None,
    duration: float,
) -> _Stage:
    """One pass forward and one back, with weights displaced by `duration` times the velocity of the last stage."""
    h, z, inputs, slopes = np.broadcast_to(x, (len(weights[0]), *x.shape)), x, [], []
    for layer, (w, a) in enumerate(zip(weights, multipliers, strict=True)):
        if layer > 0:
            h, slope = unit(z)
            slopes.append(slope)
        inputs.append(h)
        z = a * (h @ w)
        if last is not None:
            z -= a * a * duration * (h @ np.swapaxes(last.inputs[layer], 1, 2)) @ last.driven[layer]
    residual = z[..., 0] - y
    delta, deltas = np.ones((*residual.shape, 1)), []
    for layer in reversed(range(len(weights))):
        deltas.append(delta)
        if layer > 0:
            a, w = multipliers[layer], weights[layer]
            back = a * (delta @ np.swapaxes(w, 1, 2))
            if last is not None:
                back -= a * a * duration * (delta @ np.swapaxes(last.driven[layer], 1, 2)) @ last.inputs[layer]
            delta = slopes[layer - 1] * back
    deltas.reverse()
    return _Stage(inputs, deltas, [residual[..., None] * d for d in deltas], residual)


def _kernel(multipliers: list[float], stage: _Stage) -> Float[np.ndarray, "member example example"]:
    grams = [
        a * a * (h @ np.swapaxes(h, 1, 2)) * (d @ np.swapaxes(d, 1, 2))
        for a, h, d in zip(multipliers, stage.inputs, stage.deltas, strict=True)
    ]
    return np.sum(grams, axis=0)


def random_weights(net: Network, rng: np.random.Generator, members: int) -> list[np.ndarray]:
    """Weights of an ensemble of bias-free networks, (members, fan_in, fan_out) for each layer."""
    return [
        weight.init_std * rng.standard_normal((members, *shape))
        for (weight, _), shape in zip(net.scales(), zip(net.sizes[:-1], net.sizes[1:], strict=True), strict=True)
    ]


def in_chunks(
    work: Callable[[np.random.Generator, int], tuple[np.ndarray, ...]],
    parameters: int,
    members: int,
    key: Key[jax.Array, ""],
) -> tuple[np.ndarray, ...]:
    """What `work(rng, count)` gives for an ensemble, done in chunks of members by threads, joined along members.

    Each chunk has a random stream of its own: the result depends on the key alone, not on how many threads there are.

    Args:
        work: gives arrays with a leading axis of `count` members.
        parameters: of one network.
        members: how many networks.
        key: a typed key of `jax.random.key`.

    Raises:
        ValueError: there are no members.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    seed = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]
    size = max(1, CHUNK // parameters)

    def one(index: int) -> tuple[np.ndarray, ...]:
        rng = np.random.Generator(np.random.SFC64([*seed, index]))
        return work(rng, min(size, members - index * size))

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        parts = list(pool.map(one, range(-(-members // size))))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
