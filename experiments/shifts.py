"""Learning what cyclic shifts leave alone: kernels averaged over shifts, targets and images, in plain NumPy.

Nothing here comes from `theory`. Inputs are unit vectors with one or two axes of space.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from experiments.data import load
from experiments.regression import relu_ntk
from theory.architecture import MLP

# Side of the images after taking means over blocks of pixels.
SIDE = 8
# The man-made half of CIFAR-10's classes: airplane, automobile, ship, truck.
VEHICLES = (0, 1, 8, 9)


def overlaps(a: np.ndarray, b: np.ndarray, axes: int) -> np.ndarray:
    """x · (y shifted by s) for all shifts s, by Fourier transforms.

    Args:
        a: (..., n, *space); b: (..., m, *space), with `axes` axes of space.

    Returns:
        (..., n, m, *shifts).
    """
    space = tuple(range(-axes, 0))
    first, second = (np.fft.fftn(x, axes=space) for x in (a, b))
    product = np.expand_dims(first, -axes - 1) * np.conj(np.expand_dims(second, -axes - 2))
    return np.fft.ifftn(product, axes=space).real


def regression_kernel(architecture: MLP, a: np.ndarray, b: np.ndarray, axes: int, *, pooled: bool) -> np.ndarray:
    """The ReLU tangent kernel between unit vectors (..., n, *space) and (..., m, *space), or its mean over shifts."""
    if pooled:
        versine = np.clip(1 - overlaps(a, b, axes), 0, 2)
        return relu_ntk(architecture, versine).mean(axis=tuple(range(-axes, 0)))
    rows = [x.reshape(*x.shape[:-axes], -1) for x in (a, b)]
    return relu_ntk(architecture, np.clip(1 - rows[0] @ np.swapaxes(rows[1], -1, -2), 0, 2))


def correlations(x: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... k"]:
    """Σ_i x_i x_{i+k} for k = 1 … d/2 on the sphere, of mean 0 and mean square 1: the invariant harmonics of degree 2.

    They are orthogonal; E x_1² x_2² = 1/(d(d+2)), and at k = d/2 each product appears twice.
    """
    d = x.shape[-1]
    lags = range(1, d // 2 + 1)
    values = [np.sum(x * np.roll(x, lag, axis=-1), axis=-1) for lag in lags]
    scales = [np.sqrt((d + 2.0) / (2.0 if 2 * lag == d else 1.0)) for lag in lags]
    return np.stack([value * scale for value, scale in zip(values, scales, strict=True)], axis=-1)


def small_images(dataset: str, count: int, target: str) -> tuple[Float[np.ndarray, "n h w"], Float[np.ndarray, " n"]]:
    """The first images of a set as 8 × 8 unit vectors without their mean, and a target of mean 0 and mean square 1.

    Args:
        dataset: 'digits' or 'cifar10' (grey, means over blocks of 4 × 4 pixels).
        count: how many.
        target: 'label' (odd digits; vehicles), or 'smoothness': the correlation of neighbouring pixels, which like
            labels does not depend on where in the frame a thing is.

    Raises:
        ValueError: an unknown target.
    """
    data = load(dataset)
    x = np.asarray(data.x_train[:count], np.float64)
    if dataset == "cifar10":
        block = x.shape[1] // SIDE
        x = x.mean(axis=-1).reshape(count, SIDE, block, SIDE, block).mean(axis=(2, 4))
        label = np.isin(data.y_train[:count], VEHICLES).astype(np.float64)
    else:
        x = x.reshape(count, SIDE, SIDE)
        label = (data.y_train[:count] % 2).astype(np.float64)
    x = x - x.mean(axis=(1, 2), keepdims=True)
    x = x / np.linalg.norm(x, axis=(1, 2), keepdims=True)
    if target == "smoothness":
        label = np.sum([np.sum(x * np.roll(x, 1, axis=axis), axis=(1, 2)) for axis in (1, 2)], axis=0)
    elif target != "label":
        raise ValueError(f"target must be 'label' or 'smoothness', got '{target}'")
    centred = label - label.mean()
    return x, centred / np.sqrt(np.mean(centred**2))
