"""The exact flow of ReLU networks against integration of all their parameters."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from experiments.relu_flow import relu_flow


@pytest.mark.parametrize("target", [3.0, -1.5])
def test_the_end_is_that_of_the_flow_in_all_parameters(rng, target):
    """Networks of two inputs written out in NumPy; σ_w² and |x|²/d are not 1."""
    n, weight_variance, x = 12, 1.4, np.array([0.9, -0.4])
    kappa = float(weight_variance * np.sqrt(x @ x / 2))
    gain = weight_variance / np.sqrt(2 * n)

    def network(state):
        w, a = state[: 2 * n].reshape(n, 2), state[2 * n :]
        z = w @ x
        f = gain * a @ np.maximum(z, 0)
        gradient = gain * np.concatenate([np.outer(a * (z > 0), x).ravel(), np.maximum(z, 0)])
        return f, gradient

    def field(t, state):
        f, gradient = network(state)
        return -(f - target) * gradient

    lost = 0.0
    for _ in range(3):
        state = rng.standard_normal(3 * n)
        z, a = state[: 2 * n].reshape(1, n, 2) @ x / np.linalg.norm(x), state[None, 2 * n :]
        end = relu_flow(z, a, target, scale=kappa)
        solution = solve_ivp(field, (0, 60 / kappa**2), state, method="RK45", rtol=1e-7, atol=1e-9)
        (f, gradient), (f_0, gradient_0) = network(solution.y[:, -1]), network(state)
        np.testing.assert_allclose(f, target, atol=1e-6)
        np.testing.assert_allclose([end.output[0], end.kernel[0]], [f_0, gradient_0 @ gradient_0], rtol=1e-10)
        # The integrator steps over kinks, with an error of 1e-7 or so in what was lost there.
        np.testing.assert_allclose(end.trained_kernel[0], gradient @ gradient, rtol=1e-5)
        alive = [np.sum(s[: 2 * n].reshape(n, 2) @ x > 0) for s in (state, solution.y[:, -1])]
        assert end.lost[0] == alive[0] - alive[1]
        lost += end.lost[0]
    # The test would be empty without.
    assert lost > 0


def test_a_member_does_not_depend_on_its_neighbours(rng):
    z, a = rng.standard_normal((2, 50, 40))
    together = relu_flow(z, a, 6.0, scale=2.0)
    alone = [relu_flow(z[i : i + 1], a[i : i + 1], 6.0, scale=2.0) for i in range(50)]
    np.testing.assert_allclose(together.trained_kernel, [end.trained_kernel[0] for end in alone], rtol=1e-8)
    np.testing.assert_array_equal(together.lost, [end.lost[0] for end in alone])


def test_without_a_unit_that_is_lost_the_invariant_of_linear_networks_holds(rng):
    """Θ² − 4κ² f²/n, for output weights that push all active units away from the kink."""
    z, a = np.abs(rng.standard_normal((2, 5, 20)))
    end = relu_flow(z, a, 30.0, scale=1.5)
    coupling = 4 * 1.5**2 / 20
    before, after = end.kernel**2 - coupling * end.output**2, end.trained_kernel**2 - coupling * 30.0**2
    assert np.all(end.lost == 0)
    np.testing.assert_allclose(after, before, rtol=1e-8)


def test_what_cannot_be_learned_and_wrong_arguments_are_named():
    z, a = np.ones((1, 3)), np.ones((1, 3))
    with pytest.raises(ValueError, match="none that is active"):
        relu_flow(-z, a, 1.0, scale=1.0)
    with pytest.raises(ValueError, match="does not reach"):
        relu_flow(np.ones((1, 1)), -2 * np.ones((1, 1)), 1.0, scale=1.0)
    with pytest.raises(ValueError, match="one shape"):
        relu_flow(z, a[:, :2], 1.0, scale=1.0)
    with pytest.raises(ValueError, match="scale must be positive"):
        relu_flow(z, a, 1.0, scale=0.0)
