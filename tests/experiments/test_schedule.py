"""How members are cut into groups and batches."""

from unittest import mock

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.training.cost import Cost
from experiments.training.schedule import BATCH_ENTRIES, MEMORY, plan

costs = st.builds(
    lambda entries, products, depth: Cost(2.0 * entries * products, entries, entries * depth),
    st.integers(1, 10**8),
    st.integers(1, 10**4),
    st.integers(1, 20),
)


@given(st.integers(1, 10**8), costs, st.integers(1, 10**5), st.floats(1e-3, 100.0))
def test_groups_fit_and_batches_are_parts_of_them(parameters, loss, members, call_seconds):
    found = plan(parameters, 4, loss, members, call_seconds)
    assert 1 <= found.batch <= found.group <= members
    assert found.group == 1 or found.group * parameters * 4 <= MEMORY
    assert found.group == 1 or found.step_seconds <= 1.0001 * call_seconds
    if jax.default_backend() == "cpu":
        assert found.batch == 1 or found.batch * loss.widest <= BATCH_ENTRIES
        # A remainder is another program to compile: only where the even part would be small.
        assert found.group % found.batch == 0 or max(b for b in range(1, found.batch + 1) if found.group % b == 0) < (
            2 / 3 * found.batch
        )


@given(st.integers(1, 10**6), costs, st.integers(1, 10**5))
def test_on_an_accelerator_the_preactivations_of_a_group_fit_too(parameters, loss, members):
    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        found = plan(parameters, 4, loss, members, 1e3)
    assert found.batch == found.group
    assert found.group == 1 or found.group * (parameters + loss.entries) * 4 <= MEMORY


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an accelerator takes a whole group at once")
def test_small_networks_go_together_and_large_ones_alone():
    """One hidden layer on 32 points of 10 features: as many of width 32 as have 40 thousand pre-activations."""

    def dense(parameters: int, width: int) -> Cost:
        return Cost(2.0 * 32 * parameters, 32 * width, 32 * width)

    for width, batch in ((32, 40), (128, 10), (512, 2), (4096, 1)):
        assert plan(12 * width + 1, 4, dense(12 * width + 1, width), 10_000, 1e3).batch == batch
    assert plan(2 * 512**2, 4, dense(2 * 512**2, 512), 32, 1e3).batch == 1
