"""The regenerated task: a true icosahedron, its rule, and the symmetry that the rule must have."""

import itertools

import numpy as np
import pytest

from experiments.shwartz_ziv_tishby import ANTIPODES, EDGES, inputs, labels, task

NEIGHBOURS = {v: {b if a == v else a for a, b in EDGES if v in (a, b)} for v in range(1, 13)}


def distances(start: int) -> dict[int, int]:
    """Number of edges from one vertex to every other, breadth first."""
    found, frontier, step = {start: 0}, {start}, 0
    while frontier:
        step += 1
        frontier = {w for v in frontier for w in NEIGHBOURS[v]} - found.keys()
        found |= dict.fromkeys(frontier, step)
    return found


def isomorphisms(target: np.ndarray) -> list[tuple[int, ...]]:
    """Every numbering of the vertices 1…12 by 0…11 under which our edges are those of `target`."""
    partial: list[tuple[int, ...]] = [()]
    for vertex in range(1, 13):
        partial = [
            (*chosen, image)
            for chosen in partial
            for image in set(range(12)) - set(chosen)
            if all(target[image, chosen[v - 1]] == (v in NEIGHBOURS[vertex]) for v in range(1, vertex))
        ]
    return partial


@pytest.fixture(scope="module")
def coordinates():
    """The twelve vertices (0, ±1, ±φ) and their cyclic shifts; edges have length 2."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a, b in itertools.product((-1, 1), repeat=2)]
    return np.array([np.roll(c, shift) for shift in range(3) for c in corners])


def test_graph_is_icosahedral():
    assert len(set(EDGES)) == 30
    assert all(len(neighbours) == 5 for neighbours in NEIGHBOURS.values())
    for v in NEIGHBOURS:
        assert sorted(distances(v).values()) == [0] + [1] * 5 + [2] * 5 + [3]
        assert {frozenset((v, w)) for w, d in distances(v).items() if d == 3} <= {frozenset(p) for p in ANTIPODES}
    assert sorted(itertools.chain(*ANTIPODES)) == list(range(1, 13))


def test_graph_is_that_of_the_solid(coordinates):
    """The geometry is the second oracle: the same graph, with antipodes on opposite sides."""
    touching = np.isclose(np.linalg.norm(coordinates[:, None] - coordinates, axis=-1), 2.0)
    maps = isomorphisms(touching)
    assert len(maps) == 120
    for image in maps[:5]:
        for a, b in ANTIPODES:
            np.testing.assert_allclose(coordinates[image[a - 1]], -coordinates[image[b - 1]])


def test_inputs_are_lexicographic():
    patterns = inputs()
    assert patterns.shape == (4096, 12)
    assert [tuple(row) for row in patterns] == list(itertools.product((0, 1), repeat=12))


def test_rule_against_a_naive_one():
    patterns, y = task()
    for row, label in zip(patterns, y, strict=True):
        on = {v for v, bit in enumerate(row, start=1) if bit}
        edges = sum(len(NEIGHBOURS[v] & on) for v in on) // 2
        opposite = sum(far in on for v in on for far in _far(v)) // 2
        match len(on):
            case 5:
                expected = edges == 7
            case 6:
                expected = edges >= 7 or (edges, opposite) == (6, 0)
            case 7:
                expected = (edges, opposite) != (8, 2)
            case n:
                expected = n >= 8
        assert label == expected


def _far(vertex: int) -> list[int]:
    return [w for w in NEIGHBOURS if w != vertex and not NEIGHBOURS[w] & ({vertex} | NEIGHBOURS[vertex])]


def test_labels_are_invariant_under_the_symmetry_group():
    adjacency = np.zeros((12, 12), dtype=bool)
    for a, b in EDGES:
        adjacency[a - 1, b - 1] = adjacency[b - 1, a - 1] = True
    group = isomorphisms(adjacency)
    assert len(group) == 120
    patterns, y = task()
    for image in group:
        np.testing.assert_array_equal(labels(patterns[:, image]), y)
    # The test can fail: a transposition of two neighbours is no symmetry, and it changes labels.
    swapped = [1, 0, *range(2, 12)]
    assert np.any(labels(patterns[:, swapped]) != y)


def test_labels_are_nearly_balanced():
    """Shwartz-Ziv & Tishby 2017, section 3.1: p(y = 1) ≈ 0.5 and I(X;Y) ≈ 0.99 bits, which here is H(Y)."""
    _, y = task()
    assert y.sum() == 2118
    p = y.mean()
    bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    assert 0.99 <= bits <= 1.0


def test_bits_are_asked_for():
    with pytest.raises(ValueError, match="bits"):
        labels(2 * inputs()[:3] - 1)
