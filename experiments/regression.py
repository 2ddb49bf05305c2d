r"""Kernel regression on the sphere in plain NumPy: the NTK of ReLU networks from distances, and errors on drawn data.

Nothing here comes from `theory`, so that measurements may use it against any prediction. The kernel is the arc-cosine
recursion (Cho & Saul 2009; Jacot et al. 2018) on inputs of one length, where each layer's variance q is one number:

    K_0 = σ_w² cos θ + σ_b²,    K_{l+1} = σ_w² q_l κ_1(ρ_l)/2 + σ_b²,    Θ_{l+1} = K_{l+1} + σ_w² κ_0(ρ_l) Θ_l / 2,
    κ_0 = (π − ψ)/π,    κ_1 = (sin ψ + (π − ψ) cos ψ)/π,    cos ψ = ρ = K/q.

It is carried as 1 − ρ, which keeps the digits of close neighbours: on the circle they are 1/n apart, and 1 − ρ is 1/n².
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from theory.architecture import MLP

# Entries of the kernel at once, so that what is between fits into the cache.
BLOCK = 2**14


def relu_ntk(architecture: MLP, versine: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Θ of a ReLU network for inputs with |x|² = d, in float64.

    Args:
        architecture: its depth and variances are read; the activation must be 'relu'.
        versine: 1 − cos θ in [0, 2] for the angle θ between two inputs, of any shape; half the squared distance of the
            unit vectors.

    Raises:
        ValueError: the activation is another one, or both variances vanish.
    """
    if architecture.activation.name != "relu":
        raise ValueError(f"architecture must have activation 'relu', got '{architecture.activation.name}'")
    weight, bias = float(architecture.weight_variance), float(architecture.bias_variance)  # type: ignore[arg-type]
    if weight + bias == 0:
        raise ValueError("architecture must have a positive weight_variance or bias_variance: the kernel is 0")
    whole = np.asarray(versine, np.float64)
    tangent = np.empty(whole.size)
    for start in range(0, whole.size, BLOCK):
        block = slice(start, start + BLOCK)
        tangent[block] = _recursion(architecture.depth, weight, bias, whole.reshape(-1)[block])
    return tangent.reshape(whole.shape)


def _recursion(depth: int, weight: float, bias: float, versine: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    variance = weight + bias
    gap = weight / variance * versine
    tangent = variance * (1 - gap)
    for _ in range(depth):
        psi = 2 * np.arcsin(np.sqrt(np.clip(gap / 2, 0, 1)))
        # π(1 − κ_1) = (π − ψ)(1 − cos ψ) + ψ − sin ψ, and sin²ψ = (1 − cos ψ)(1 + cos ψ).
        drop = ((np.pi - psi) * gap + psi - np.sqrt(np.maximum(gap * (2 - gap), 0))) / np.pi
        slope = (np.pi - psi) / np.pi
        gain = weight * variance / 2
        variance = gain + bias
        gap = gain / variance * drop
        tangent = variance * (1 - gap) + weight / 2 * slope * tangent
    return tangent


def sphere_points(rng: np.random.Generator, shape: tuple[int, ...], dimension: int) -> Float[np.ndarray, "... d"]:
    """Uniform unit vectors, (*shape, d)."""
    x = rng.standard_normal((*shape, dimension))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def versines(a: Float[np.ndarray, "... n d"], b: Float[np.ndarray, "... m d"]) -> Float[np.ndarray, "... n m"]:
    """1 − cos θ between unit vectors; 0 between a vector and itself to rounding."""
    return np.clip(1 - a @ np.swapaxes(b, -1, -2), 0, 2)


def adjusted_mean(
    values: Float[np.ndarray, " trials"], control: Float[np.ndarray, " trials"], known: float
) -> tuple[float, float]:
    """Mean and its standard error, with a control variate: a quantity of the same data whose mean is known exactly.

    The regression on the control takes away the part of the scatter that comes from the data's own power.

    Args:
        values: one for each independent data set, at least 3.
        control: of the same data sets; one that is constant changes nothing.
        known: the control's expectation.
    """
    # A sum over all coordinates of a unit vector is constant but for rounding, which is no control.
    constant = np.ptp(control) < 1e-9 * abs(known)
    slope = 0.0 if constant else np.cov(values, control)[0, 1] / np.var(control, ddof=1)
    rest = values - slope * (control - known)
    return float(rest.mean()), float(np.sqrt(np.sum((rest - rest.mean()) ** 2) / (len(rest) - 2) / len(rest)))
