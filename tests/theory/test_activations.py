"""Names, derivatives and hashing of activations."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from theory.activations import (
    ACTIVATIONS,
    Activation,
    PiecewiseLinear,
    Polynomial,
    activation,
    hermite,
    leaky_relu,
    monomial,
)


@dataclasses.dataclass
class Scaled:
    """Mutable, and so without a hash."""

    factor: float

    def __call__(self, x):
        return self.factor * x


POINTS = np.array([-2.3, -0.7, 0.4, 1.9])


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_derivative_agrees_with_finite_differences(name):
    phi, step = activation(name), 1e-6
    numerical = (phi(POINTS + step) - phi(POINTS - step)) / (2 * step)
    np.testing.assert_allclose(phi.derivative(jnp.asarray(POINTS)), numerical, rtol=1e-8, atol=1e-9)


def test_values_agree_with_their_definitions():
    for name, expected in {
        "relu": np.maximum(POINTS, 0),
        "leaky-relu": np.where(POINTS > 0, POINTS, 0.01 * POINTS),
        "abs": np.abs(POINTS),
        "linear": POINTS,
        "square": POINTS**2,
        "sigmoid": 1 / (1 + np.exp(-POINTS)),
    }.items():
        np.testing.assert_allclose(activation(name)(jnp.asarray(POINTS)), expected, rtol=1e-14)


def test_an_explicit_derivative_is_used():
    phi = Activation("step", jnp.sign, derivative_function=jnp.cos)
    np.testing.assert_allclose(phi.derivative(jnp.asarray(POINTS)), np.cos(POINTS))


def test_names_forgive_case_and_underscores():
    assert activation("Leaky_ReLU") is ACTIVATIONS["leaky-relu"]
    phi = Activation("mine", jnp.tanh)
    assert activation(phi) is phi


def test_unknown_names_get_the_nearest_ones():
    with pytest.raises(ValueError, match=r"unknown activation 'rellu'.*relu"):
        activation("rellu")
    with pytest.raises(ValueError, match="must be hashable"):
        Activation("scaled", Scaled(2.0))


def test_families_with_equal_numbers_are_equal_and_hash_alike():
    assert leaky_relu(0.1) == leaky_relu(0.1)
    assert hash(PiecewiseLinear(0.0, 1.0)) == hash(PiecewiseLinear(0.0, 1.0))
    assert leaky_relu(0.1) != leaky_relu(0.2)


def test_hermite_polynomials_are_orthonormal_and_monomials_are_powers():
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    values = np.stack([hermite(m)(jnp.asarray(nodes)) for m in range(6)])
    gram = (values * weights / weights.sum()) @ values.T
    np.testing.assert_allclose(gram, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(monomial(3)(jnp.asarray(POINTS)), POINTS**3)
    assert Polynomial((2.0,)).differentiated() == Polynomial((0.0,))


@pytest.mark.parametrize("family", [hermite, monomial])
def test_negative_degrees_are_refused(family):
    with pytest.raises(ValueError, match="degree must be at least 0"):
        family(-1)
