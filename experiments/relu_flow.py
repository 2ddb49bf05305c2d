r"""Gradient flow of two-layer ReLU networks with one example, to its end and without an integrator.

Only the projections z_i of the first layer's weights on the example move, and the output weights a_i. In the clock s
with ds = −(κ/√n) (f − y) dt active units follow ż = a, ȧ = z, inactive ones rest, and a unit that reaches z = 0 rests
from there on:

    f(s) = (κ/√n) Σ_active [½ (z² + a²) sinh 2s + z a cosh 2s],
    Θ(s) = (κ²/n) Σ_active [(z² + a²) cosh 2s + 2 z a sinh 2s],

with z and a at the start, and unit i active while z > 0 and tanh|s| < z/|a| or a s ≥ 0. f increases with s, and the
flow ends where f = y: one monotonic equation for each network.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# The residual at the end, in units of κ: f is a sum of n terms in double precision.
ACCURACY = 1e-11
ITERATIONS = 100


class Ends(NamedTuple):
    """Networks before and after the training: output f_0, kernels, and how many units were lost."""

    output: Float[np.ndarray, " member"]
    kernel: Float[np.ndarray, " member"]
    trained_kernel: Float[np.ndarray, " member"]
    lost: Float[np.ndarray, " member"]


def relu_flow(
    z: Float[np.ndarray, "member n"], a: Float[np.ndarray, "member n"], target: float, *, scale: float
) -> Ends:
    """Trains each network to f = y.

    Args:
        z: w_i·x/|x| of each unit.
        a: output weights.
        target: y.
        scale: κ = σ_w² |x|/√d in f = (κ/√n) Σ a φ(z).

    Raises:
        ValueError: shapes differ, scale is not positive, or a network cannot reach its target: all units that could
            carry it there are off.
    """
    if z.ndim != 2 or z.shape != a.shape:
        raise ValueError(f"z and a must be of one shape (members, n), got {z.shape} and {a.shape}")
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    members, n = z.shape
    on = np.where(z > 0, z, 0.0)
    gain = scale / np.sqrt(n)
    # Sums over active units of ½ (z² + a²) and of z a, that of all first.
    size = 0.5 * np.sum(on * on + np.where(z > 0, a * a, 0.0), axis=1)
    product = np.einsum("mi,mi->m", on, a)
    output, kernel = gain * product, 2 * gain**2 * size
    if np.any(size == 0):
        raise ValueError(f"a network of {n} units has none that is active: it cannot learn; take it wider")
    sign = np.where(target > output, 1.0, -1.0)
    product = sign * product
    distance = np.abs(target - output) / gain
    s = distance / (2 * size)
    # Few units get to their kink in the time it takes.
    within = 2 * s.max()
    rows, when, halves, products = _crossings(z, a, sign, within)
    low, high = np.zeros(members), np.full(members, np.inf)
    for _ in range(ITERATIONS):
        if s.max() > within:
            within = 2 * s.max()
            rows, when, halves, products = _crossings(z, a, sign, within)
        gone = when <= s[rows]
        p = size - np.bincount(rows[gone], halves[gone], minlength=members)
        q = product - np.bincount(rows[gone], products[gone], minlength=members)
        f = p * np.sinh(2 * s) + q * np.cosh(2 * s)
        slope = 2 * (p * np.cosh(2 * s) + q * np.sinh(2 * s))
        gap = distance - (f - product)
        done = np.abs(gap) * gain <= ACCURACY * scale
        if done.all():
            lost = np.bincount(rows[gone], minlength=members).astype(float)
            return Ends(output, kernel, gain**2 * slope, lost)
        if np.any(~done & (gap > 0) & (p <= 1e-12 * size)):
            break
        # Newton's steps, at most 1 at a time and within what is known to hold the root; else the middle of that.
        low, high = np.where(gap > 0, s, low), np.where(gap > 0, high, s)
        step = np.minimum(s + gap / np.maximum(slope, 1e-12 * size), s + 1)
        inside = (step > low) & (step < high)
        s = np.where(done, s, np.where(inside, step, 0.5 * (low + high)))
    raise ValueError(f"a network of {n} units does not reach the target {target:g}; take it wider")


def _crossings(
    z: np.ndarray, a: np.ndarray, sign: np.ndarray, within: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Units that reach their kink before s = `within`: their networks, when, ½ (z² + a²), and z a with the sign."""
    towards = -sign[:, None] * a
    rows, units = np.nonzero((z > 0) & (z < towards * np.tanh(within)))
    z, towards = z[rows, units], towards[rows, units]
    return rows, np.arctanh(z / towards), 0.5 * (z * z + towards * towards), -z * towards
