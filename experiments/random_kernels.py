"""The tangent kernel of large ensembles of random networks, weight matrix by weight matrix.

Θ(x, x') = Σ_ℓ a_ℓ² (h_{ℓ−1}·h'_{ℓ−1}) (δ_ℓ·δ'_ℓ) with a_ℓ the multiplier of weight matrix ℓ, h_{ℓ−1} what it acts on
and δ_ℓ = ∂f/∂z_ℓ: one pass forward and one back, with no Jacobian. In NumPy, so that a sweep over widths and depths
compiles nothing: networks in float32, products and sums over units in float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import Float, Key
from scipy.special import erf

from experiments.networks import Network

# Normals drawn at once by each thread: large enough for vector code, small enough for the cache.
DRAWS = 2**19

# φ and φ' of an array of pre-activations. At the kink of ReLU φ' is the derivative from the left, which has no weight.
UNITS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "relu": lambda z: (np.maximum(z, 0), (z > 0).astype(z.dtype)),
    "linear": lambda z: (z, np.ones_like(z)),
    "erf": lambda z: (erf(z), z.dtype.type(2 / np.sqrt(np.pi)) * np.exp(-z * z)),
}


def contributions(
    net: Network, normals: Float[np.ndarray, "member parameter"], x: Float[np.ndarray, "input feature"]
) -> Float[np.ndarray, "member matrix input input"]:
    """The share of each weight matrix in Θ(x, x') of each member, for one output and no biases.

    Args:
        net: bias-free, with one output and an activation of `UNITS`, in any parametrisation.
        normals: standard normals, one row for the parameters of each network.
        x: the inputs, one a row.

    Returns:
        (member, matrix, input, input), matrix 1 first, in float64.

    Raises:
        ValueError: the network has biases, several outputs, or another activation.
    """
    name = net.activation.name
    if net.bias or net.outputs != 1 or name not in UNITS:
        raise ValueError(
            f"net must have one output, no biases and an activation among {', '.join(UNITS)}; "
            f"got {net.outputs} outputs, bias={net.bias}, {name!r}"
        )
    weights = [layer["weight"] for layer in net.assemble(normals)]
    multipliers = [normals.dtype.type(weight.multiplier) for weight, _ in net.scales()]
    h, slopes, grams = np.asarray(x, normals.dtype), [], []
    for i, (weight, multiplier) in enumerate(zip(weights, multipliers, strict=True)):
        grams.append(np.float64(multiplier) ** 2 * _gram(h))
        if i < len(weights) - 1:
            h, slope = UNITS[name](multiplier * (h @ weight))
            slopes.append(slope)
    # From the output back: δ_L = 1, δ_ℓ = φ'(z_ℓ) ∘ a_{ℓ+1} W_{ℓ+1} δ_{ℓ+1}.
    shares = [np.broadcast_to(grams[-1], (len(normals), len(x), len(x)))]
    delta = np.ones((len(normals), len(x), 1), normals.dtype)
    for i in reversed(range(len(slopes))):
        delta = slopes[i] * (multipliers[i + 1] * (delta @ np.swapaxes(weights[i + 1], -1, -2)))
        shares.append(grams[i] * _gram(delta))
    return np.stack(shares[::-1], axis=1)


def _gram(rows: np.ndarray) -> Float[np.ndarray, "... input input"]:
    exact = rows.astype(np.float64)
    return exact @ np.swapaxes(exact, -1, -2)


def total(
    statistic: Callable[[Float[np.ndarray, "member parameter"]], np.ndarray],
    parameters: int,
    members: int,
    key: Key[jax.Array, ""],
) -> np.ndarray:
    """Sum over chunks of an ensemble of what `statistic` makes of the standard normals of each chunk.

    Chunks run in threads, each with a random stream of its own: the result depends on the key alone, not on how many
    threads there are.

    Args:
        statistic: normals (chunk, parameters) in float32 → any array, summed over the chunk's members.
        parameters: of one network.
        members: how many networks.
        key: a typed key of `jax.random.key`.

    Raises:
        ValueError: there are no members.
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    seed = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]

    def one(task: tuple[int, int]) -> np.ndarray:
        index, size = task
        rng = np.random.Generator(np.random.SFC64([*seed, index]))
        return statistic(rng.standard_normal((size, parameters), dtype=np.float32))

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        # Added in the order of the chunks, so that the last digits are the same at every run.
        return np.sum(list(pool.map(one, _chunks(parameters, members))), axis=0)


def _chunks(parameters: int, members: int) -> Iterator[tuple[int, int]]:
    size = max(1, DRAWS // parameters)
    for index, start in enumerate(range(0, members, size)):
        yield index, min(size, members - start)
