"""Gradient descent by low-rank factors against plain training of the networks themselves, in every parametrisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.networks import init_members, network
from experiments.training import GradientDescent, SquaredError, members
from experiments.wide_descent import descend
from theory.architecture import MLP, PARAMETRISATIONS

SCHEMES = tuple(PARAMETRISATIONS)
RATES = (0.3, 0.02, 0.4, 0.6)


def test_it_is_gradient_descent(rng):
    x, y = rng.normal(size=(5, 3)), rng.normal(size=5)
    nets = [network(MLP(2, "erf", 1.7), width=12, inputs=3, parametrisation=s, bias=False) for s in SCHEMES]
    normals = init_members(nets[SCHEMES.index("ntk")], jax.random.key(2), 2)
    found = descend(nets, RATES, normals, x, y, 3)
    for run, (net, rate) in enumerate(zip(nets, RATES, strict=True)):
        scales = [weight.init_std for weight, _ in net.scales()]
        start = [{"weight": scale * layer["weight"]} for scale, layer in zip(scales, normals, strict=True)]
        rates = net.learning_rates(rate)
        result = members(
            SquaredError(net, "mean"),
            start,
            (x, y[:, None]),
            method=GradientDescent(rates),
            records=(0, 1, 2, 3),
        )
        np.testing.assert_allclose(found.loss[:, run], result.values, rtol=1e-4)
        for member in range(2):
            before, after = (jax.tree.map(lambda leaf: leaf[member], p) for p in (start, result.params))  # noqa: B023
            hidden = [[jax.scipy.special.erf(z) for z in net.preactivations(p, x)[:2]] for p in (before, after)]
            for name, first, last in zip(("first", "second"), *hidden, strict=True):
                change = np.sqrt(np.mean((np.asarray(last) - np.asarray(first)) ** 2))
                np.testing.assert_allclose(getattr(found, name)[member, run], change, rtol=1e-3)
            kernels = [tangent(net, p, rates, x) for p in (before, after)]
            moved = np.linalg.norm(kernels[1] - kernels[0]) / np.linalg.norm(kernels[0])
            np.testing.assert_allclose(found.kernel[member, run], moved, rtol=1e-3)


def tangent(net, params, rates, x):
    """Σ over parameters of rate · ∂f(x)/∂θ ∂f(x')/∂θ, from the gradients themselves."""
    slopes = jax.jacrev(lambda p: net.apply(p, jnp.asarray(x, jnp.float32))[:, 0])(params)
    parts = [r["weight"] * np.reshape(s["weight"], (len(x), -1)) for r, s in zip(rates, slopes, strict=True)]
    return sum(part @ np.reshape(s["weight"], (len(x), -1)).T for part, s in zip(parts, slopes, strict=True))


def test_wrong_networks_are_refused(rng):
    x, y = rng.normal(size=(5, 3)), rng.normal(size=5)
    good = network(MLP(2, "erf"), width=4, inputs=3)
    normals = init_members(good, jax.random.key(0), 1)
    for other in (
        network(MLP(2, "erf"), width=5, inputs=3),
        network(MLP(2, "tanh"), width=4, inputs=3),
        network(MLP(2, "erf", 1.0, 0.1), width=4, inputs=3),
        network(MLP(2, "erf"), width=4, inputs=3, outputs=2),
    ):
        with pytest.raises(ValueError, match="networks must share sizes and activation"):
            descend([good, other], [1.0, 1.0], normals, x, y, 1)
    with pytest.raises(ValueError, match="networks must share sizes"):
        descend([network(MLP(3, "erf"), width=4, inputs=3)], [1.0], normals, x, y, 1)
    with pytest.raises(ValueError, match="rates must be one for each of the 1 networks, got 2"):
        descend([good], [1.0, 2.0], normals, x, y, 1)
