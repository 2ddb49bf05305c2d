"""The first order in 1/n against simulated networks of three widths, extrapolated to infinite width."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.networks import network
from theory.architecture import MLP
from theory.kernels.first_order import first_order
from theory.kernels.layerwise import Dense, layerwise_ntk

WIDTHS = (6, 12, 24)
# What removes the next two orders of 1/n from values at the three widths.
EXTRAPOLATION = np.array([1.0, -6.0, 8.0]) / 3


@partial(jax.jit, static_argnums=(0, 1, 2))
def simulate(architecture, width, members, x, key):
    """G, Θ_ij and f of networks with two outputs: (members, N, N), (members, N, N, 2, 2) and (members, N, 2)."""
    net = network(architecture, width=width, inputs=x.shape[1], outputs=2)

    def one(key):
        params = net.init(key, jnp.float64)
        layers = [
            Dense(layer["weight"], layer.get("bias"), weight.multiplier, bias.multiplier)
            for layer, (weight, bias) in zip(params, net.scales(), strict=True)
        ]
        z = net.preactivations(params, x)
        h = architecture.activation(z[-2])
        g = architecture.weight_variance * h @ h.T / width + architecture.bias_variance
        return g, layerwise_ntk(architecture.activation, layers, x, full=True), z[-1]

    return jax.lax.map(one, jax.random.split(key, members), batch_size=500)


def extrapolated(values):
    """Mean and standard error of the limit, from samples (members, …) at each of the three widths."""
    mean = sum(c * np.mean(v, axis=0) for c, v in zip(EXTRAPOLATION, values, strict=True))
    variance = sum(c**2 * np.var(v, axis=0) / len(v) for c, v in zip(EXTRAPOLATION, values, strict=True))
    return mean, np.sqrt(variance)


@pytest.mark.parametrize(
    ("architecture", "inputs", "members"),
    [(MLP(2, "relu", 2.0, 0.1), 3, 35_000), (MLP(3, "tanh", 1.5, 0.2), 2, 50_000)],
)
def test_fluctuations_of_kernels_and_outputs(architecture, inputs, members, getkey):
    x = np.random.default_rng(3).standard_normal((inputs, 4))
    theory = first_order(architecture, x)
    samples = {}
    for width in WIDTHS:
        g, theta, f = map(np.asarray, simulate(architecture, width, members, jnp.asarray(x), getkey()))
        dg, d1, d2 = g - theory.nngp, theta[..., 0, 0] - theory.ntk, theta[..., 1, 1] - theory.ntk
        off = theta[..., 0, 1]

        def product(one, other, width=width):
            return width * np.einsum("mab,mcd->mabcd", one, other)

        parts = {
            "nngp_covariance": product(dg, dg),
            "cross_covariance": 0.5 * (product(dg, d1) + product(dg, d2)),
            "ntk_between": 0.5 * (product(d1, d2) + product(d2, d1)),
            "ntk_covariance": 0.5 * (product(d1, d1) + product(d2, d2)),
            "ntk_off_diagonal": product(off, off),
            "output_ntk": width * np.einsum("ma,mb,mcd->mabcd", f[..., 0], f[..., 1], off),
        }
        for name, part in parts.items():
            samples.setdefault(name, []).append(part)
    for name, values in samples.items():
        expected = getattr(theory, name)
        found, error = extrapolated(values)
        assert np.max(np.abs(found - expected) / error) < 4, name
        # A factor of two, or a lost term, would be seen.
        assert 0.5 * np.max(np.abs(expected) / error) > 4, name


def test_mean_shift_with_biases(getkey):
    """Inputs at equal angles have one shift in every pair. On the diagonal ReLU has none, at any width: a control."""
    architecture, n = MLP(3, "relu", 2.0, 0.1), 4
    x = np.eye(n) + 0.2
    x *= 2 / np.linalg.norm(x[0])
    theory = first_order(architecture, x)
    pairs = np.triu_indices(n, 1)
    shifts = {"nngp_shift": [], "ntk_shift": []}
    for width in WIDTHS:
        g, theta, _ = map(np.asarray, simulate(architecture, width, 60_000, jnp.asarray(x), getkey()))
        kernels = {"nngp_shift": (g, theory.nngp), "ntk_shift": (np.einsum("mabii->mab", theta) / 2, theory.ntk)}
        diagonals = [np.einsum("maa->m", kernel - limit) for kernel, limit in kernels.values()]
        controls = np.stack(diagonals, axis=1)
        for name, (kernel, limit) in kernels.items():
            values = width * np.mean((kernel - limit)[:, *pairs], axis=1)
            slope = np.linalg.lstsq(controls - controls.mean(axis=0), values - values.mean(), rcond=None)[0]
            shifts[name].append(values - controls @ slope)
    for name, values in shifts.items():
        expected = getattr(theory, name)[0, 1]
        found, error = extrapolated(values)
        assert abs(found - expected) < 4 * error
        assert abs(expected) > 8 * error
