"""How much of a shift-invariant target is learned by kernels, averaged over shifts or not, and by trained networks.

A share is ⟨f, f̂⟩/⟨f, f⟩, found from means of f f̂ and f² over fresh inputs, a pair of means for each data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.families import convolutional_network
from experiments.networks import Network, init_members, network
from experiments.regression import sphere_points
from experiments.shifts import SIDE, correlations, regression_kernel, small_images
from experiments.training import Momentum, Outputs, members
from theory.architecture import MLP, Convolutional

NETWORK = MLP(1, "relu", weight_variance=2.0, bias_variance=0.1)
# The ridge for images, as a share of Θ(x, x): the same image may be drawn twice. And the largest Θ(x, x) there is.
RIDGE, DIAGONAL = 1e-3, 4.3
MOMENTUM = 0.9
# Numbers of kernel entries at once.
ENTRIES = 2**20

# Data set, target, population, share to be learned, two sizes pooled, two sizes plain, how often each is drawn.
Image = tuple[str, str, int, float, tuple[int, int], tuple[int, int], tuple[int, int]]


def sphere_shares(
    d: int, pooled: bool, n: int, trials: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " trials"], Float[np.ndarray, " trials"]]:
    """Means of f f̂ and of f² over all invariant harmonics f of degree 2 and fresh points."""
    fresh = 128 if pooled else 256
    chunk = max(1, ENTRIES // (n * (n + fresh) * (d if pooled else 1)))
    shares, powers = [], []
    for start in range(0, trials, chunk):
        count = min(chunk, trials - start)
        x, z = (sphere_points(rng, (count, m), d) for m in (n, fresh))
        gram, cross = (regression_kernel(NETWORK, a, x, 1, pooled=pooled) for a in (x, z))
        truth = correlations(z)
        shares.append(np.mean(cross @ np.linalg.solve(gram, correlations(x)) * truth, axis=(1, 2)))
        powers.append(np.mean(truth**2, axis=(1, 2)))
    return np.concatenate(shares), np.concatenate(powers)


def image_shares(image: Image, pooled: bool, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression from n images of the population, each shifted at random; tested on others drawn in this way."""
    x, target = small_images(image[0], image[2], image[1])
    shares, powers = [], []
    for _ in range(image[6][0 if pooled else 1]):
        seen, new = (rng.integers(len(x), size=m) for m in (n, 128 if pooled else 512))
        known, fresh = (_shifted(x[rows], rng) for rows in (seen, new))
        gram, cross = (regression_kernel(NETWORK, a, known, 2, pooled=pooled) for a in (known, fresh))
        dual = np.linalg.solve(gram + RIDGE * DIAGONAL * np.eye(n), target[seen])
        shares.append(np.mean(cross @ dual * target[new]))
        powers.append(np.mean(target[new] ** 2))
    return np.array(shares), np.array(powers)


def _shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows, columns = ((np.arange(SIDE) - rng.integers(SIDE, size=(len(images), 1))) % SIDE for _ in range(2))
    return images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True)
class MaskedError:
    """½ Σ w |f − y|²: data sets of several sizes are filled up with examples of weight 0, and compile once."""

    network: Network

    def __call__(self, params: Any, data: tuple[Any, Any, Any]) -> Float[Array, ""]:
        x, y, weight = data
        return 0.5 * jnp.sum(weight[:, None] * (self.network.apply(params, x) - y) ** 2)


def trained_shares(
    d: int, pooled: bool, sizes: tuple[int, int], key: Key[Array, ""], *, width: int, trials: int, steps: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `sphere_shares`, from float32 networks, each trained on a data set of its own; one pair for each size."""
    fresh = 256
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    outputs = d // 2
    if pooled:
        shape = Convolutional(1, "relu", NETWORK.weight_variance, NETWORK.bias_variance, filter=(d,), readout="pool")
        half, net = (convolutional_network(shape, width=n, space=(d,), outputs=outputs) for n in (width // 2, width))
    else:
        half, net = (network(NETWORK, width=n, inputs=d, outputs=outputs) for n in (width // 2, width))
    numbers = np.repeat(sizes, trials)
    x, z = (sphere_points(rng, (2 * trials, m), d) for m in (max(sizes), fresh))
    y, truth = correlations(x), correlations(z)
    weight = np.arange(max(sizes)) < numbers[:, None]
    # |x|² = d; the convolution's images have a channel.
    x, z = (np.sqrt(d) * (points[..., None] if pooled else points) for points in (x, z))
    result = members(
        MaskedError(net),
        twins(init_members(half, key, 2 * trials)),
        tuple(a.astype(np.float32) for a in (x, y, weight)),
        # The kernel's largest eigenvalue on n examples is near 1.2 n, that of the constant.
        method=Momentum(1 / (1.2 * numbers), MOMENTUM),
        records=[steps],
        record=Outputs(net),
        probe=z.astype(np.float32),
        per_member=("data", "probe"),
    )
    share = np.mean(result.values[:, 0].astype(np.float64) * truth, axis=(1, 2))
    power = np.mean(truth**2, axis=(1, 2))
    return [(share[rows], power[rows]) for rows in (slice(0, trials), slice(trials, None))]


def twins(params: Any) -> Any:
    """Networks of double width whose output is 0: each hidden unit twice, with opposite output weights."""
    hidden, last = params
    double = {name: jnp.concatenate([value, value], axis=-1) for name, value in hidden.items()}
    weight = jnp.concatenate([last["weight"], -last["weight"]], axis=-2)
    return [double, {"weight": weight, "bias": jnp.zeros_like(last["bias"])}]
