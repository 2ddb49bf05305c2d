"""Canaries for two faults of JAX releases that this package excludes: they sing where such a release is installed."""

import time

import jax
import jax.numpy as jnp
import numpy as np


def test_scan_with_stacked_outputs_costs_linear_time():
    # jax #40101: copying the whole stack at every step makes it quadratic. 16 times the steps may cost
    # 16 times the time, quadratic would be 256; half-way between, in the logarithm, is 64.
    @jax.jit
    def run(carry, inputs):
        return jax.lax.scan(lambda c, x: (c + x, c * jnp.ones(8)), carry, inputs)

    def seconds(steps):
        inputs = jnp.ones(steps)
        jax.block_until_ready(run(0.0, inputs))
        times = []
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(run(0.0, inputs))
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds(16_000) / seconds(1_000) < 64


def test_compiled_and_uncompiled_agree(rng):
    # jax #39103: fused elementwise chains after a product came out wrong on CPU.
    def function(x, w):
        h = jnp.tanh(x @ w)
        q = jnp.sum(h * h, axis=-1, keepdims=True)
        return jnp.where(q > 1.0, h / jnp.sqrt(q), h) @ w.T + jnp.cumsum(h, axis=-1) @ w.T

    x, w = rng.standard_normal((33, 17)), rng.standard_normal((17, 65))
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-13)):
        a, b = x.astype(dtype), w.astype(dtype)
        with jax.disable_jit():
            plain = function(jnp.asarray(a), jnp.asarray(b))
        scale = np.abs(plain).max()
        np.testing.assert_allclose(jax.jit(function)(a, b) / scale, plain / scale, rtol=0, atol=tolerance)
