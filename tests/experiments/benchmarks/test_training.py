"""The benchmark runs, and compares two ways that end at the same parameters (it raises otherwise)."""

from experiments.benchmarks import training


def test_both_ways_are_timed(monkeypatch):
    monkeypatch.setattr(training, "FEWEST", 20)
    monkeypatch.setattr(training, "MOST", 20)
    row = training.compare(1, 8, 2)
    assert (row.depth, row.width, row.members, row.steps) == (1, 8, 32, 20)
    assert row.ratio > 0


def test_a_loop_over_some_of_many_members(monkeypatch):
    monkeypatch.setattr(training, "MEMBERS", 3)
    row = training.compare(1, 8, 1, count=7, steps=5)
    assert (row.members, row.steps) == (7, 5)
    assert row.ratio > 0
