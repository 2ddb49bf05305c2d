"""The benchmark runs, and compares two ways that end at the same parameters (it raises otherwise)."""

from experiments.benchmarks import training


def test_both_ways_are_timed(monkeypatch):
    monkeypatch.setattr(training, "MOST", 20)
    row = training.compare(1, 8, 2)
    assert (row.depth, row.width, row.steps) == (1, 8, 20)
    assert row.ratio > 0
