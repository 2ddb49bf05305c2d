"""Regression on a few images of each digit, the task of several claims about training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.data import load, normalise

CLASSES = 10


class Task(NamedTuple):
    """Inputs with |x|² = d, training images before test images, and the targets of the training images."""

    inputs: Float[np.ndarray, "m d"]
    targets: Float[np.ndarray, "n 10"]


def ten_digits(dataset: str, train: int, test: int) -> Task:
    """The first images of each digit; targets are one-hot less 1/10.

    Args:
        dataset: name of a set of images of ten digits.
        train, test: number of images of each digit, the test images being the next ones of the training set.

    Raises:
        ValueError: a digit has too few images.
    """
    data = load(dataset)
    rows = [np.flatnonzero(data.y_train == digit)[: train + test] for digit in range(CLASSES)]
    fewest = min(len(r) for r in rows)
    if fewest < train + test:
        raise ValueError(f"train + test must be at most {fewest} images of each digit of {dataset}, got {train + test}")
    first = np.concatenate([r[:train] for r in rows])
    order = np.concatenate([first, *(r[train:] for r in rows)])
    targets = np.eye(CLASSES)[data.y_train[first]] - 1 / CLASSES
    # Without the mean image, whose large eigenvalue would hold the learning rate down for all the others.
    return Task(normalise(data.x_train[order] - data.x_train[first].mean(axis=0)), targets)
