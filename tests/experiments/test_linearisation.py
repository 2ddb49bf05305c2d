"""The tangent kernel by layers against contracted Jacobians, and the recursion against networks linearised by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.linearisation import linearised_descent, tangent_kernel
from experiments.networks import network
from theory.architecture import MLP
from theory.kernels import empirical_ntk

NET = network(MLP(2, "erf", 1.2, 0.3), width=7, inputs=3, outputs=2)


@pytest.mark.parametrize("parametrisation", ["ntk", "mup"])
def test_layers_and_jacobians_give_one_kernel(parametrisation, getkey, rng):
    net = network(MLP(2, "erf", 1.2, 0.3), width=7, inputs=3, outputs=2, parametrisation=parametrisation)
    params, x = net.init(getkey(), jnp.float64), rng.normal(size=(5, 3))
    ours = tangent_kernel(net, params, jnp.asarray(x), 4)
    np.testing.assert_allclose(ours, empirical_ntk(net.apply, params, x, x[:4], full=True), rtol=1e-11)


def test_descent_in_function_space_is_descent_of_the_linearised_network(getkey, rng):
    """The linearised network f_0 + J (θ − θ_0), trained on its parameters."""
    params, x, y = NET.init(getkey(), jnp.float64), jnp.asarray(rng.normal(size=(5, 3))), rng.normal(size=(3, 2))
    rate, n = 0.05, 3

    def linearised(theta):
        shift = jax.tree.map(jnp.subtract, theta, params)
        value, tangent = jax.jvp(lambda p: NET.apply(p, x), (params,), (shift,))
        return value + tangent

    step = jax.jit(jax.grad(lambda theta: 0.5 * jnp.sum((linearised(theta)[:n] - y) ** 2)))
    theta, found = params, {}
    for k in range(8):
        found[k] = linearised(theta)
        theta = jax.tree.map(lambda p, g: p - rate * g, theta, step(theta))
    kernel = np.asarray(tangent_kernel(NET, params, x, n))
    start = np.asarray(NET.apply(params, x))
    # Two members at once: the second starts from other outputs.
    both = linearised_descent(np.stack([kernel, kernel]), np.stack([start, start + 1]), y, rate, [0, 2, 7])
    np.testing.assert_allclose(both[0], [found[0], found[2], found[7]], rtol=1e-11)
    assert np.abs(both[1] - both[0]).max() > 0.1


def test_biases_are_needed(getkey):
    net = network(MLP(1, "relu"), width=4, inputs=3)
    with pytest.raises(ValueError, match="must have biases"):
        tangent_kernel(net, net.init(getkey()), jnp.ones((2, 3)), 1)
