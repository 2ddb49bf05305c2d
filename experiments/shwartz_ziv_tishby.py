"""The classification task of Shwartz-Ziv & Tishby, regenerated from its rule.

The twelve input bits are twelve points spread evenly over a sphere, the vertices of an icosahedron, and the label is a
threshold on the rotation-invariant power spectrum of the pattern, Σ_ij x_i x_j P_l(cos θ_ij). Two vertices are
neighbours, opposite each other, or neither, so every such spectrum is a function of three counts: how many bits are
one, how many pairs of those are neighbours, and how many are opposite. The rule below is written in them.

Source: Shwartz-Ziv & Tishby 2017, section 3.1 (all 4,096 patterns equally likely, both labels nearly so).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

BITS = 12

# Vertices are numbered from 1, as bits are: bit 1 is the first column and the most significant.
EDGES: tuple[tuple[int, int], ...] = tuple(
    (vertex, neighbour)
    for vertex, neighbours in {
        1: (2, 4, 6, 11, 12),
        2: (3, 4, 5, 12),
        3: (4, 5, 9, 10),
        4: (9, 11),
        5: (7, 10, 12),
        6: (7, 8, 11, 12),
        7: (8, 10, 12),
        8: (9, 10, 11),
        9: (10, 11),
    }.items()
    for neighbour in neighbours
)
ANTIPODES: tuple[tuple[int, int], ...] = ((1, 10), (2, 8), (3, 6), (4, 7), (5, 11), (9, 12))


def inputs() -> Int[np.ndarray, "4096 12"]:
    """All patterns of twelve bits in lexicographic order: row i is i in binary, bit 1 most significant."""
    return (np.arange(2**BITS)[:, None] >> np.arange(BITS - 1, -1, -1)) & 1


def labels(patterns: Int[np.ndarray, "n 12"]) -> Int[np.ndarray, " n"]:
    """Label 0 or 1 of each pattern.

    With n ones, e edges and a antipodal pairs among them, y = 1 if and only if

        n ≥ 8,  or  n = 7 and (e, a) ≠ (8, 2),  or  n = 6 and (e ≥ 7 or (e, a) = (6, 0)),  or  n = 5 and e = 7.

    Args:
        patterns: bits, 0 or 1.

    Returns:
        Labels, `[n]`.

    Raises:
        ValueError: an entry of `patterns` is neither 0 nor 1.
    """
    if not np.isin(patterns, (0, 1)).all():
        raise ValueError("patterns must hold bits, 0 or 1; centred inputs (−1 and 1) are (x + 1) // 2 of theirs")
    ones = patterns.sum(axis=1)
    edges = _pairs_of_ones(patterns, EDGES)
    antipodes = _pairs_of_ones(patterns, ANTIPODES)
    positive = (
        (ones >= 8)
        | ((ones == 7) & ~((edges == 8) & (antipodes == 2)))
        | ((ones == 6) & ((edges >= 7) | ((edges == 6) & (antipodes == 0))))
        | ((ones == 5) & (edges == 7))
    )
    return positive.astype(np.int64)


def task() -> tuple[Int[np.ndarray, "4096 12"], Int[np.ndarray, " 4096"]]:
    """The whole task: every input once, and its label."""
    patterns = inputs()
    return patterns, labels(patterns)


def _pairs_of_ones(patterns: Int[np.ndarray, "n 12"], pairs: tuple[tuple[int, int], ...]) -> Int[np.ndarray, " n"]:
    first, second = np.array(pairs).T - 1
    return (patterns[:, first] * patterns[:, second]).sum(axis=1)
