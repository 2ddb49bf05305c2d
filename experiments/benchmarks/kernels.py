"""Kernels against their peers, side by side in one run.

    python -m experiments.benchmarks.kernels [--repetitions 5] [--inputs 8192] [--points 256] [--width 1024]

First the tangent kernel of infinitely wide networks on many inputs, symmetric and in single precision, against
neural-tangents compiled by the same JAX, and the memory of both programs as the compiler plans it, which is that of the
result alone for a peer that fuses all layers. A second table says where our time goes and what limits it: memory for
the result, half of the bare product of all inputs with all, at the speed of one large product, and the loop over all
layers of a tile's entries (from angles and polynomials) are needed by any such program. "At most" is the ratio that
these three alone would leave.

Then the tangent kernel of a finite network, against NTK–vector products of neural-tangents and against contracted
Jacobians (what torch.func's recipe does); with it the bare matrix products that it needs. Ways of one row, all but
these Jacobians, take turns, with a pause between; times are medians after a first run that compiles: programs that
return as much as these wait for memory, which the best of many runs would hide.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.networks import network
from theory.activations import PiecewiseLinear
from theory.architecture import MLP
from theory.kernels import empirical_ntk, ntk, tiles
from theory.kernels.layerwise import Dense, layerwise_ntk
from theory.kernels.tile_layers import kinked_layers, smooth_layers

FEATURES = 784
INFINITE = (("relu", 3), ("erf", 3), ("gelu", 3), ("relu", 10))
# Points a side that the slow ways are timed on, by which their time on all points is taken to grow as a square. That is
# too much where a part of it does not: on 2 cores 256 points would take the products 117 s by 16 points, 92 by 32, 71
# by 64 and 63 by 128. Jacobians of 32 points take minutes; those of all would take 30 GB.
PRODUCTS, JACOBIANS = 64, 16
# Seconds between two runs. Memory is given back after a run has returned, and whatever runs next would wait for it: by
# 0.2 s behind a peer that holds 2.4 GB.
PAUSE = 0.2


class Way(NamedTuple):
    """One way to the same result: its time, and by how much it is to be multiplied for the sizes of the row."""

    name: str
    run: Callable[[], Array]
    scale: float = 1.0


def race(
    ways: list[Way],
    repetitions: int,
    choose: Callable[[list[float]], float] = statistics.median,
    pause: float = PAUSE,
) -> dict[str, float]:
    """Median (or other choice of) seconds of each way, taking turns after a first run of each."""
    for way in ways:
        jax.block_until_ready(way.run())
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(repetitions):
        for way in ways:
            time.sleep(pause)
            began = time.perf_counter()
            jax.block_until_ready(way.run())
            times[way.name].append(way.scale * (time.perf_counter() - began))
    return {name: choose(seconds) for name, seconds in times.items()}


def megabytes(function: Callable[..., Any], *arguments: Any) -> float:
    """What the compiled program holds beside its arguments, its result included."""
    plan = jax.jit(function).lower(*arguments).compile().memory_analysis()
    if plan is None:
        return float("nan")
    return (plan.temp_size_in_bytes + plan.output_size_in_bytes) / 1e6


def infinite(activation: str, depth: int, x: Float[Array, "n d"], repetitions: int) -> dict[str, float]:
    """The tangent kernel of the inputs with themselves.

    Raises:
        RuntimeError: the two disagree.
    """
    from theory.kernels.neural_tangents import nt

    stax: Any = nt.stax
    nonlinearity = {"relu": stax.Relu, "erf": stax.Erf, "gelu": stax.Gelu}[activation]
    layers = [layer for _ in range(depth) for layer in (stax.Dense(1, W_std=2**0.5, b_std=0.1), nonlinearity())]
    peer = stax.serial(*layers, stax.Dense(1, W_std=2**0.5, b_std=0.1))[2]
    architecture = MLP(depth, activation, weight_variance=2.0, bias_variance=0.01)

    def theirs(x: Array) -> Array:
        return peer(x, None, "ntk")

    def ours(x: Array) -> Array:
        return ntk(architecture, x)

    def product(x: Array) -> Array:
        return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)

    def filled(x: Array) -> Array:
        return jnp.full((len(x), len(x)), x[0, 0])

    few = x[:512]
    scale = float(jnp.max(ours(few)))
    # The peer takes the arccosine of a single-precision product, which is off by 1.5e-4 on the diagonal, in each layer.
    if not np.allclose(jax.jit(theirs)(few), ours(few), atol=5e-4 * depth * scale):
        raise RuntimeError(f"neural-tangents gives another kernel for {activation} at depth {depth}")
    ways = {"peer": theirs, "ours": ours, "product": product, "result": filled}
    compiled = {name: jax.jit(f) for name, f in ways.items()}
    found = race([Way(name, lambda f=f: f(x)) for name, f in compiled.items()], repetitions)
    found |= _profile(architecture, x, repetitions)
    return found | {"peer memory": megabytes(theirs, x), "our memory": megabytes(ours, x)}


def _profile(architecture: MLP, x: Float[Array, "n d"], repetitions: int) -> dict[str, float]:
    """Seconds of the products and of the layers of all tiles, each from one tile of far inputs."""
    side = min(tiles.SIDE, len(x) // 2)
    points, _ = jax.jit(partial(tiles._points, architecture, tangent=True, standard=False))(x)
    left, right = (points.tile(jnp.int32(start), side) for start in (0, side))
    layers = kinked_layers if isinstance(architecture.activation.function, PiecewiseLinear) else smooth_layers
    product = jax.jit(partial(tiles._product, products=tiles.products(architecture, points.unit.shape[1])))
    entries = jax.jit(partial(layers, architecture, tangent=True, standard=False))
    cosine = product(left.unit, right.unit)
    # Often enough for times of milliseconds, and the best of them: in the loop over tiles no thread falls asleep.
    found = race(
        [
            Way("tiles' products", lambda: product(left.unit, right.unit)),
            Way("tiles' layers", lambda: entries(left, right, cosine)),
        ],
        20 * repetitions,
        min,
        pause=0.0,
    )
    rows = -(-len(x) // side)
    return {name: seconds * rows * (rows + 1) / 2 for name, seconds in found.items()}


def finite(width: int, points: int, repetitions: int) -> dict[str, float]:
    """The tangent kernel of a network with three hidden layers and 10 outputs, its mean over the outputs.

    Raises:
        RuntimeError: the ways disagree.
    """
    from theory.kernels.neural_tangents import nt

    reference: Any = nt
    architecture = MLP(3, "relu", weight_variance=2.0, bias_variance=0.01)
    net = network(architecture, width=width, inputs=FEATURES, outputs=10)
    params = net.init(jax.random.key(0))
    layers = [
        Dense(layer["weight"], layer["bias"], weight.multiplier, bias.multiplier)
        for layer, (weight, bias) in zip(params, net.scales(), strict=True)
    ]
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.standard_normal((points, FEATURES)), jnp.float32)
    few, fewest = x[: min(PRODUCTS, points)], x[: min(JACOBIANS, points)]
    products = reference.NtkImplementation.NTK_VECTOR_PRODUCTS
    peer = jax.jit(reference.empirical_ntk_fn(net.apply, trace_axes=(-1,), vmap_axes=0, implementation=products))
    ours = layerwise_ntk("relu", layers, few)
    # Sums over a thousand units in single precision, taken in another order.
    if not np.allclose(peer(few, None, params), ours, rtol=1e-3, atol=1e-3 * float(jnp.max(ours))):
        raise RuntimeError("neural-tangents by NTK–vector products gives another kernel")

    def jacobians() -> Array:
        return empirical_ntk(net.apply, params, fewest, method="jacobians")

    ways = [
        Way("NTK–vector products", lambda: peer(few, None, params), (points / len(few)) ** 2),
        Way("ours", lambda: layerwise_ntk("relu", layers, x)),
        Way("bare products", _bare(x, layers)),
    ]
    # By themselves: behind the gigabytes that Jacobians give back the peer takes half as long again.
    return race(ways, repetitions) | race([Way("Jacobians", jacobians, (points / len(fewest)) ** 2)], repetitions)


def _bare(x: Float[Array, "n d"], layers: list[Dense]) -> Callable[[], Array]:
    """The matrix products of a layer-wise kernel on stand-ins of the right shapes, with nothing between them."""
    n, k = x.shape[0], layers[-1].weight.shape[1]
    widths = [layer.weight.shape[1] for layer in layers[:-1]]
    highest = jax.lax.Precision.HIGHEST

    @jax.jit
    def products(x: Array, weights: list[Array], slopes: list[Array]) -> Array:
        h, total = x, jnp.zeros((), x.dtype)
        for weight, slope in zip(weights[:-1], slopes, strict=True):
            total = total + jnp.matmul(h, h.T, precision=highest) * jnp.matmul(slope, slope.T, precision=highest)
            h = jnp.matmul(h, weight, precision=highest)
        total = total + jnp.matmul(h, h.T, precision=highest)
        for weight, slope in zip(weights[1:-1], slopes[1:], strict=True):
            back = jnp.matmul(slope.reshape(n * k, -1), weight.T, precision=highest)
            total = total + back[:n, :1]
        return total

    slopes = [jnp.ones((n, k * width), x.dtype) for width in widths]
    weights = [layer.weight for layer in layers]
    return lambda: products(x, weights, slopes)


def main() -> None:
    """Prints both tables."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--inputs", type=int, default=8192)
    parser.add_argument("--points", type=int, default=256)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    console = Console()
    device = jax.devices()[0].device_kind
    x = jnp.asarray(np.random.default_rng(0).standard_normal((options.inputs, FEATURES)), jnp.float32)
    title = f"NTK of {options.inputs} inputs of {FEATURES} features, float32, on {device}"
    table = Table("activation", "depth", "peer, s", "ours, s", "ratio", "memory, ours / peer", title=title)
    headings = (
        "activation",
        "depth",
        "result, s",
        "half product, s",
        "tiles' products, s",
        "tiles' layers, s",
        "the rest, s",
        "at most",
    )
    where = Table(*headings, title="where our time goes")
    for activation, depth in INFINITE:
        row = infinite(activation, depth, x, options.repetitions)
        table.add_row(
            activation,
            str(depth),
            f"{row['peer']:.2f}",
            f"{row['ours']:.2f}",
            f"{row['peer'] / row['ours']:.1f}",
            f"{row['our memory'] / row['peer memory']:.2f}",
        )
        result, products, entries = row["result"], row["tiles' products"], row["tiles' layers"]
        half = (row["product"] - result) / 2
        seconds = (result, half, products, entries, row["ours"] - result - products - entries)
        at_most = row["peer"] / (result + half + entries)
        where.add_row(activation, str(depth), *(f"{s:.2f}" for s in seconds), f"{at_most:.1f}")
    console.print(table)
    console.print(where)
    row = finite(options.width, options.points, options.repetitions)
    title = f"empirical NTK, 3 × {options.width} units, 10 outputs, {options.points}² points, on {device}"
    table = Table("way", "s", "times ours", title=title)
    for name, seconds in row.items():
        table.add_row(name, f"{seconds:.3g}", f"{seconds / row['ours']:.3g}")
    console.print(table)


if __name__ == "__main__":
    main()
