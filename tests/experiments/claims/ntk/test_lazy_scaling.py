"""The claim's own arithmetic on made-up networks, and its measurement against networks trained here by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.claims.ntk.lazy_scaling import (
    ARCHITECTURE,
    CORRECTIONS,
    EXPONENTS,
    SMOKE,
    claim,
    exponents,
    judge,
    measure,
    predict,
)
from experiments.networks import init_members, network
from experiments.ten_digits import ten_digits

TINY = replace(SMOKE, widths=(4,), members=2, alphas=(2.0, 16.0), steps=2)
KINDS = (*EXPONENTS, "centred-left-by-curvature")


def made_up(rng, **rates: float) -> xr.Dataset:
    """Distances A α^-p (1 + B α^-r) with a scatter of A and B over networks."""
    alphas, members = np.array(SMOKE.alphas), 16
    every = EXPONENTS | {"centred-left-by-curvature": 1.0} | {k.replace("_", "-"): v for k, v in rates.items()}
    shape = (1, 1, members, 1)
    distance = [
        rng.uniform(0.5, 2, shape)
        * alphas ** -every[kind]
        * (1 + rng.uniform(0, 0.3, shape) * alphas ** -CORRECTIONS.get(kind, 1.0))
        for kind in KINDS
    ]
    return xr.Dataset(
        {"distance": (("kind", "width", "batch", "member", "alpha"), np.stack(distance))},
        coords={"kind": list(KINDS), "width": [32], "batch": [0], "alpha": alphas},
    )


@pytest.mark.parametrize(
    ("rates", "status"),
    [
        ({}, "supported"),
        ({"centred": 0.0}, "refuted"),
        ({"centred": 2.0}, "refuted"),
        ({"doubled": 1.0}, "refuted"),
        ({"raw": 1.0}, "refuted"),
        ({"centred_left": 1.0}, "refuted"),
        ({"doubled_left": 2.0}, "refuted"),
    ],
)
def test_the_verdict_follows_the_exponents(rates, status, rng):
    assert judge(predict(SMOKE), made_up(rng, **rates)).status == status


def test_every_rival_is_refuted_where_the_claim_holds(rng):
    measurement = made_up(rng)
    for rival in claim.rivals:
        assert rival.predict is not None
        assert judge(rival.predict(SMOKE), measurement).status == "refuted", rival.name


def test_an_exponent_is_exact_with_its_correction(rng):
    alphas = np.array(SMOKE.alphas)
    found = exponents(np.exp(0.3 / alphas) * alphas**-1.0, alphas, 1.0)
    np.testing.assert_allclose(found, 1, rtol=1e-12)


def test_a_correction_of_its_own_size_moves_the_exponent_by_less_than_a_fifth_of_the_margin():
    """What the docstring says of A α^-p (1 + B α^-r) with |B| ≤ 1, which is not of the fitted form."""
    alphas = np.array(SMOKE.alphas)
    for correction in (1.0, 2.0):
        for b in (-0.5, 1.0):
            assert abs(exponents(alphas**-1.0 * (1 + b * alphas**-correction), alphas, correction) - 1) < 0.05


def test_assumptions_hold_at_the_smoke_tier_and_can_fail():
    assert all(assumption.holds for assumption in claim.assumptions(SMOKE))
    failing = {a.name for a in claim.assumptions(replace(SMOKE, learning_rate=1.0, steps=1)) if not a.holds}
    assert "the learning rate is below the critical one" in failing


def test_distances_are_those_of_networks_trained_by_hand(getkey):
    """Centred and raw: both networks stepped through their parameters, the linear one as well."""
    key = getkey()
    measured = measure(TINY, {"width": 4, "batch": 0}, key)
    x, y = ten_digits("digits", 1, 1)
    net = network(ARCHITECTURE, width=4, inputs=64, outputs=10)
    first = jax.tree.map(lambda leaf: leaf[1], init_members(net, key, TINY.members, np.float64))
    alpha, n = 16.0, len(y)

    def linear(theta):
        shift = jax.tree.map(jnp.subtract, theta, first)
        value, tangent = jax.jvp(lambda p: net.apply(p, x), (first,), (shift,))
        return value + tangent

    @jax.jit
    def distance(offset):
        def descend(f):
            theta, path = first, []
            for _ in range(TINY.steps):
                loss = jax.grad(lambda p: 0.5 * jnp.sum((alpha * (f(p)[:n] - offset[:n]) - y) ** 2))
                theta = jax.tree.map(lambda p, g: p - TINY.learning_rate / alpha**2 * g, theta, loss(theta))
                path.append(alpha * (f(theta)[n:] - offset[n:]))
            return jnp.stack(path)

        gap = descend(lambda p: net.apply(p, x)) - descend(linear)
        return jnp.max(jnp.linalg.norm(gap, axis=-1))

    start = net.apply(first, x)
    for kind, offset in (("centred", start), ("raw", jnp.zeros_like(start))):
        found = measured["distance"].sel(kind=kind, alpha=alpha, member=1)
        np.testing.assert_allclose(found, distance(offset), rtol=1e-8)
