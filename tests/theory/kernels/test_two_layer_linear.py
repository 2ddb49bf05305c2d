"""Two numbers against whole networks: parameters integrated by SciPy, and stepped by hand."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory.kernels.two_layer_linear import Motion, coupling, descent_step, edges, flow, invariant


class Brute:
    """A network of width n in NumPy, with its gradient written out."""

    def __init__(self, rng, n, *, d=3, variance=1.7, square=None):
        self.n, self.d, self.variance = n, d, variance
        self.x = rng.normal(size=d)
        if square is not None:
            self.x *= np.sqrt(square * d) / np.linalg.norm(self.x)
        self.theta = rng.normal(size=n * (d + 1))
        self.coupling = coupling(n, weight_variance=variance, square=self.x @ self.x / d)

    def output(self, theta):
        v, w = theta[: self.n], theta[self.n :].reshape(self.n, self.d)
        return np.sqrt(self.variance / self.n) * v @ (np.sqrt(self.variance / self.d) * w @ self.x)

    def gradient(self, theta):
        v, w = theta[: self.n], theta[self.n :].reshape(self.n, self.d)
        scale = self.variance / np.sqrt(self.n * self.d)
        return scale * np.concatenate([w @ self.x, np.outer(v, self.x).ravel()])

    def motion(self, theta):
        gradient = self.gradient(theta)
        return Motion(self.output(theta), gradient @ gradient)

    def descend(self, theta, y, rate):
        return theta - rate * (self.output(theta) - y) * self.gradient(theta)


@pytest.fixture
def brute(rng):
    return Brute(rng, 7)


def test_the_gradient_written_out_is_the_gradient(brute, rng):
    """Central differences: exact for a quadratic function but for rounding."""
    for i in rng.choice(brute.theta.size, 5, replace=False):
        step = np.zeros_like(brute.theta)
        step[i] = 1e-3
        slope = (brute.output(brute.theta + step) - brute.output(brute.theta - step)) / 2e-3
        np.testing.assert_allclose(slope, brute.gradient(brute.theta)[i], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("target", [0.0, 4.0, -30.0])
def test_the_flow_is_that_of_all_parameters(target, brute):
    start = brute.motion(brute.theta)
    times = np.linspace(0, 3 / start.kernel, 7)

    def field(t, theta):
        return -(brute.output(theta) - target) * brute.gradient(theta)

    solution = solve_ivp(field, (0, times[-1]), brute.theta, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-13)
    expected = [brute.motion(theta) for theta in solution.y.T]
    found = flow(*start, target=target, time=times, coupling=brute.coupling)
    # The integrator's steps of 1e-12 add up over some hundred of them.
    np.testing.assert_allclose(found.output, [m.output for m in expected], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.kernel, [m.kernel for m in expected], rtol=1e-9)
    conserved = invariant(found.output, found.kernel, brute.coupling)
    np.testing.assert_allclose(conserved, invariant(start.output, start.kernel, brute.coupling), rtol=1e-9)


def test_the_flow_solves_its_equations_and_joins_itself(rng):
    """Derivatives in time, and going on from the middle; for many starts and couplings at once."""
    k = rng.uniform(0.0, 2.0, 50)
    f, y = rng.normal(size=(2, 50))
    theta = np.sqrt(k) * np.abs(f) + rng.uniform(0.1, 3.0, 50)
    t, h = rng.uniform(0.1, 1.0, 50), 1e-5
    before, now, after = (flow(f, theta, target=y, time=s, coupling=k) for s in (t - h, t, t + h))
    # Central differences err by h² = 1e-10 times third derivatives of order 100.
    np.testing.assert_allclose((after.output - before.output) / (2 * h), -now.kernel * (now.output - y), atol=1e-7)
    expected = -k * now.output * (now.output - y)
    np.testing.assert_allclose((after.kernel - before.kernel) / (2 * h), expected, atol=1e-7)
    joined = flow(*now, target=y, time=2.0, coupling=k)
    whole = flow(f, theta, target=y, time=t + 2.0, coupling=k)
    np.testing.assert_allclose(joined.output, whole.output, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(joined.kernel, whole.kernel, rtol=1e-12)


def test_limits_of_the_flow():
    times = np.array([0.0, 0.5, 60.0])
    infinite = flow(0.3, 2.0, target=1.0, time=times, coupling=0.0)
    np.testing.assert_allclose(infinite.output, 1 - 0.7 * np.exp(-2 * times), rtol=1e-14)
    np.testing.assert_array_equal(infinite.kernel, 2.0)
    # The change of the kernel is linear in a small coupling: dΘ/dt = −K f (f − y).
    small = flow(0.3, 2.0, target=1.0, time=times, coupling=1e-6)
    np.testing.assert_allclose(small.kernel[-1], np.sqrt(4 + 1e-6 * (1 - 0.09)), rtol=1e-14)
    # Target 0: tanh(q/2) decays exponentially.
    found = flow(0.8, 2.0, target=0.0, time=times, coupling=4.0)
    root = np.sqrt(4 - 4 * 0.64)
    q = 2 * np.arctanh(np.tanh(np.arcsinh(1.6 / root) / 2) * np.exp(-root * times))
    np.testing.assert_allclose(found.output, root / 2 * np.sinh(q), rtol=1e-13)
    np.testing.assert_allclose(found.kernel, root * np.cosh(q), rtol=1e-13)


@pytest.mark.parametrize("target", [0.0, 2.5])
def test_the_map_is_a_step_of_all_parameters(target, brute):
    theta, motion = brute.theta, brute.motion(brute.theta)
    rate = 0.9 / motion.kernel
    for _ in range(6):
        step = descent_step(*motion, target=target, learning_rate=rate, coupling=brute.coupling)
        theta = brute.descend(theta, target, rate)
        np.testing.assert_allclose(step, brute.motion(theta), rtol=1e-12, atol=1e-13)
        factor = (1 - brute.coupling * rate**2 * (motion.output - target) ** 2 / 4) ** 2
        before = invariant(motion.output, motion.kernel, brute.coupling)
        after = invariant(step.output, step.kernel, brute.coupling)
        np.testing.assert_allclose(after, factor * before, rtol=1e-11)
        motion = step


def test_the_map_as_published():
    """f' = (1 − ηλ + η²f²/n) f and λ' = λ + (ηf²/n)(ηλ − 4), Lewkowycz et al. 2020, section 2."""
    f, kernel, eta, n = 1.3, 2.1, 1.4, 10
    found = descent_step(f, kernel, target=0.0, learning_rate=eta, coupling=coupling(n))
    np.testing.assert_allclose(found.output, (1 - eta * kernel + eta**2 * f**2 / n) * f, rtol=1e-14)
    np.testing.assert_allclose(found.kernel, kernel + eta * f**2 / n * (eta * kernel - 4), rtol=1e-14)


def trained(brute, speed, steps):
    """|f| along gradient descent of all parameters at ηΘ_0 = speed, and ηΘ at the end."""
    theta = brute.theta
    rate = speed / brute.motion(theta).kernel
    sizes = [abs(brute.output(theta))]
    for _ in range(steps):
        theta = brute.descend(theta, 0.0, rate)
        sizes.append(abs(brute.output(theta)))
        if sizes[-1] > 1e6:
            break
    return np.array(sizes), rate * brute.motion(theta).kernel


@pytest.mark.parametrize("n", [5, 40])
def test_the_edges_are_those_of_whole_networks(n, rng):
    judged = 0
    for _ in range(12):
        brute = Brute(rng, n)
        f, kernel = brute.motion(brute.theta)
        share = brute.coupling * (f / kernel) ** 2 / 4
        # ηΘ_0 = ℓ with ℓ = 2 + c_0², c_0² = share · ℓ².
        if 8 * share >= 1 or not 1e-8 < 4 * share < 0.2:
            continue
        judged += 1
        lower = (1 - np.sqrt(1 - 8 * share)) / (2 * share)
        assert lower == pytest.approx(edges(share * lower**2).growth, rel=1e-9)
        below, _ = trained(brute, lower - 0.1 * share, 30)
        # Down to where rounding takes over.
        assert (np.diff(below[below > 1e-12]) < 0).all()
        above, _ = trained(brute, lower + 0.1 * share, 1)
        assert above[1] > above[0]
        upper = float(edges(0.0).divergence)
        inside, end = trained(brute, upper - 1e-3, 400)
        assert inside.max() > inside[0]
        # The last kernels may be close to 0 or 2, where the end is slow.
        assert end < 2
        assert inside[-1] < inside.max() / 2
        outside, _ = trained(brute, upper + 1e-3, 400)
        assert outside[-1] > 1e6
    assert judged >= 6


def test_each_step_keeps_the_side_of_the_upper_edge(rng):
    c = rng.uniform(-1.0, 1.0, 100)
    speed = 2 * np.abs(c) + rng.uniform(0.0, 4.0, 100)
    moved = descent_step(c, speed, target=0.0, learning_rate=1.0, coupling=4.0)
    np.testing.assert_allclose(moved.kernel - 4, (speed - 4) * (1 + c**2), rtol=1e-12, atol=1e-13)


def test_on_the_upper_edge_the_map_is_chebyshevs():
    phi = 0.3
    motion = Motion(np.array(2 * np.cos(phi)), np.array(4.0))
    for i in range(1, 9):
        motion = descent_step(*motion, target=0.0, learning_rate=1.0, coupling=4.0)
        # Rounding grows threefold a step.
        np.testing.assert_allclose(motion, [2 * np.cos(3**i * phi), 4.0], atol=1e-15 * 3.0 ** (i + 2))


def test_why_the_lower_edge_needs_a_small_first_step():
    """From c² = 2.2, above 1, the loss falls in the first step and grows in a later one."""
    c, sizes = np.sqrt(2.2), []
    motion = Motion(np.array(c), np.array(3.9))
    for _ in range(4):
        sizes.append(abs(float(motion.output)))
        motion = descent_step(*motion, target=0.0, learning_rate=1.0, coupling=4.0)
    assert motion.kernel < 4
    assert sizes[1] < sizes[0]
    assert (np.diff(sizes) > 0).any()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: coupling(0), "width"),
        (lambda: coupling(4, weight_variance=-1.0), "weight_variance"),
        (lambda: coupling(4, square=0.0), "square"),
        (lambda: invariant(3.0, 1.0, 1.0), "kernel"),
        (lambda: invariant(np.nan, 1.0, 1.0), "kernel"),
        (lambda: invariant(1.0, 2.0, -1.0), "coupling"),
        (lambda: flow(1.0, 2.0, target=0.0, time=-1.0, coupling=1.0), "time"),
        (lambda: flow(1.0, 1.0, target=0.0, time=1.0, coupling=1.0), "output"),
        (lambda: edges(1.5), "squared_step"),
        (lambda: edges(-0.1), "squared_step"),
    ],
)
def test_wrong_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
