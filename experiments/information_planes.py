"""Information planes of trained networks: what each layer's binned activity says about the input and the label.

The networks are trained on a random part of the task of Shwartz-Ziv & Tishby, and measured on all of its 4,096
inputs, each once: binned I(X;T) is then exactly the entropy of the layer's joint bins, with no sampling error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from experiments.networks import Network, Params
from experiments.shwartz_ziv_tishby import task
from experiments.training import CrossEntropy, Method, members
from theory.information import bin_codes, entropy, mutual_information

# Ends of the activity's range; None stands for the largest value of the layer over the whole training.
RANGES: dict[str, tuple[float, float | None]] = {"tanh": (-1.0, 1.0), "relu": (0.0, None)}


@dataclass(frozen=True)
class Planes:
    """One ensemble's training, seen through bins; information in nats.

    Attributes:
        steps: of the records, the first before training.
        train_accuracy, test_accuracy: at the end, on the examples trained on and on all others.
        input_information, label_information: I(X;T) and I(T;Y) of every hidden layer's activity, with bins whose range
            stays the same over training.
        before: I(X;T) of the pre-activations, bins between their smallest and largest value over training.
        moving: I(X;T) of the activity, bins between its smallest and largest value at the record itself.
    """

    steps: Int[np.ndarray, " records"]
    train_accuracy: Float[np.ndarray, " members"]
    test_accuracy: Float[np.ndarray, " members"]
    input_information: Float[np.ndarray, "members records layers"]
    label_information: Float[np.ndarray, "members records layers"]
    before: Float[np.ndarray, "members records layers"]
    moving: Float[np.ndarray, "members records layers"]


def information_planes(
    network: Network,
    *,
    method: Method,
    steps: Int[np.ndarray, " records"],
    count: int,
    train_examples: int,
    bins: int,
    key: Key[Array, ""],
) -> Planes:
    """Trains an ensemble by cross-entropy, each member on its own random split, and measures its layers.

    Args:
        network: with 12 inputs, 2 outputs, and tanh or ReLU units.
        method: of training.
        steps: when to measure; increasing, the first 0.
        count: number of members.
        train_examples: how many of the 4,096 inputs a member is trained on.
        bins: number of bins of each unit.
        key: of initialisation, splits and minibatches.

    Raises:
        ValueError: the activation has no range here, or there are not as many examples.
        Diverged: training left the finite numbers.
    """
    if network.activation.name not in RANGES:
        raise ValueError(f"activation must be one of {', '.join(RANGES)}, got '{network.activation.name}'")
    patterns, labels = task()
    if not 0 < train_examples < len(labels):
        raise ValueError(f"train_examples must be from 1 to {len(labels) - 1}, got {train_examples}")
    # Bits as −1 and 1: centred inputs, as the initialisation supposes.
    inputs = (2 * patterns - 1).astype(np.float32)
    init_key, split_key, train_key = jax.random.split(key, 3)
    generator = np.random.default_rng(np.asarray(jax.random.key_data(split_key)))
    order = np.stack([generator.permutation(len(labels)) for _ in range(count)])
    rows = order[:, :train_examples]
    # Without jit: the draw compiles by itself, and so once for all networks of this size.
    params = jax.vmap(network.init)(jax.random.split(init_key, count))
    history = members(
        CrossEntropy(network),
        params,
        (jnp.asarray(inputs[rows]), jnp.asarray(labels[rows], jnp.int32)),
        method=method,
        records=steps,
        record=_parameters,
        key=train_key,
        per_member=("data",),
    ).values
    found = [
        _measure(network, jax.tree.map(lambda leaf, m=m: leaf[m], history), inputs, labels, bins) for m in range(count)
    ]
    correct = np.stack([one[0] for one in found])
    accuracy = np.take_along_axis(correct, order, axis=1).astype(float)
    train_accuracy, test_accuracy = (a.mean(axis=1) for a in np.split(accuracy, [train_examples], axis=1))
    return Planes(
        np.asarray(steps), train_accuracy, test_accuracy, *(np.stack([f[i] for f in found]) for i in range(1, 5))
    )


def compression(information: Float[np.ndarray, "*batch records layers"]) -> Float[np.ndarray, "*batch layers"]:
    """How far a layer's I(X;T) falls: its maximum over training less its final value, in nats."""
    return information.max(axis=-2) - information[..., -1, :]


def _parameters(params: Params, probe: Any) -> Params:
    """Record of the parameters: some 300 numbers, from which every activity can be had again."""
    return params


@partial(jax.jit, static_argnums=0)
def _layers(network: Network, params: Params, inputs: Float[Array, "n d"]) -> tuple[list[Array], list[Array]]:
    """Pre-activations of every layer, and activities of the hidden ones, each with a leading axis of records."""
    z = jax.vmap(network.preactivations, in_axes=(0, None))(params, inputs)
    return z, [network.activation(layer) for layer in z[:-1]]


def _measure(
    network: Network, params: Params, inputs: np.ndarray, labels: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One member: final correctness on every input, and the four kinds of information, `[records, layers]`."""
    z, activity = jax.tree.map(np.asarray, _layers(network, params, jnp.asarray(inputs)))
    low, high = RANGES[network.activation.name]
    columns = []
    for before, after in zip(z[:-1], activity, strict=True):
        codes = bin_codes(after, bins=bins, low=low, high=_above(low, after.max() if high is None else high))
        smallest, largest = after.min(axis=(1, 2)), after.max(axis=(1, 2))
        moving = bin_codes(after, bins=bins, low=smallest, high=_above(smallest, largest))
        wide = bin_codes(before, bins=bins, low=before.min(), high=_above(before.min(), before.max()))
        about_input, before_, moving_ = (entropy(c, enumerated=True).value for c in (codes, wide, moving))
        columns.append((about_input, mutual_information(codes, labels, enumerated=True).value, before_, moving_))
    kinds = [np.stack(kind, axis=-1) for kind in zip(*columns, strict=True)]
    return z[-1][-1].argmax(axis=-1) == labels, kinds[0], kinds[1], kinds[2], kinds[3]


def _above(low: Any, high: Any) -> Any:
    """The upper end of a range; a layer that is silent throughout gets a range all the same, and one bin of it."""
    return np.where(high > low, high, low + np.ones_like(low))
