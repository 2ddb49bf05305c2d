"""Gradient flow in NumPy against the package's own integrator and tangent kernels by Jacobians."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

from experiments.networks import network
from experiments.small_flows import flow_path, in_chunks, random_weights
from experiments.training import SquaredError
from theory.architecture import MLP
from theory.kernels import empirical_ntk

X = np.array([[1.0, 0.4, -0.3], [0.2, -1.3, 0.8]])
Y = np.array([0.9, -0.6])
TIMES = (0.0, 0.5, 1.5)


def test_outputs_and_kernels_are_those_of_the_networks(rng):
    net = network(MLP(2, "erf", 1.3), width=7, inputs=3)
    weights = random_weights(net, rng, 2)
    path = flow_path(net, weights, X, Y, times=TIMES, steps=60)
    gradient = jax.jit(jax.grad(SquaredError(net)))
    for member in range(2):
        flat, tree = ravel_pytree([{"weight": w[member]} for w in weights])

        def field(t, state, tree=tree):
            return -np.asarray(ravel_pytree(gradient(tree(state), (X, Y[:, None])))[0])

        solution = solve_ivp(field, (0, TIMES[-1]), flat, method="DOP853", t_eval=TIMES, rtol=1e-9, atol=1e-9)
        for i, state in enumerate(solution.y.T):
            # A step is h = 0.025 with eigenvalues below 2: (hλ)⁴ is 6e-6, and the error's coefficients are below 1/100.
            np.testing.assert_allclose(path.outputs[member, i], net.apply(tree(state), X)[:, 0], atol=1e-6)
            np.testing.assert_allclose(path.kernels[member, i], empirical_ntk(net.apply, tree(state), X), atol=1e-6)


def test_the_method_is_of_fourth_order(rng):
    net = network(MLP(1, "erf", 1.0), width=16, inputs=3)
    weights = random_weights(net, rng, 4)
    kept = [w.copy() for w in weights]
    ends = [flow_path(net, weights, X, Y, times=(3.0,), steps=steps).kernels for steps in (6, 12, 96)]
    errors = [np.abs(end - ends[-1]).max() for end in ends[:2]]
    # Sixteen in the limit of short steps.
    assert 10 < errors[0] / errors[1] < 25
    for before, after in zip(kept, weights, strict=True):
        np.testing.assert_array_equal(before, after)


def test_chunks_depend_on_the_key_alone(getkey):
    key = getkey()

    def work(rng, count):
        return (rng.standard_normal(count), np.arange(count))

    first, second = (in_chunks(work, 2**15, 10, key) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert np.unique(first[0]).shape == (10,)
    np.testing.assert_array_equal(first[1], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])


def test_wrong_arguments_are_named(getkey, rng):
    net = network(MLP(1, "erf", 1.0), width=4, inputs=3)
    weights = random_weights(net, rng, 1)
    with pytest.raises(ValueError, match="times must increase by whole steps"):
        flow_path(net, weights, X, Y, times=(0.1, 1.0), steps=7)
    biased = network(MLP(1, "erf", 1.0, 0.1), width=4, inputs=3)
    with pytest.raises(ValueError, match="net must have one output, no biases"):
        flow_path(biased, weights, X, Y, times=(1.0,), steps=7)
    with pytest.raises(ValueError, match="members must be at least 1"):
        in_chunks(lambda rng, count: (np.zeros(count),), 1, 0, getkey())
