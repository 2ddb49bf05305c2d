"""Information planes of a short training, against direct counting and the limits that hold for any network."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.information_planes import compression, information_planes
from experiments.networks import network
from experiments.shwartz_ziv_tishby import task
from experiments.training import SGD
from theory.architecture import MLP

WIDTHS = (4, 2)


def small_network(activation, weight_variance=1.0):
    return network(
        MLP(2, activation, weight_variance), width=WIDTHS, inputs=12, outputs=2, parametrisation="standard", bias=True
    )


def planes(activation, key, *, rate, weight_variance=1.0):
    return information_planes(
        small_network(activation, weight_variance),
        method=SGD(rate, batch_size=64),
        steps=np.array([0, 20, 300]),
        count=3,
        train_examples=3000,
        bins=30,
        key=key,
    )


def test_start_against_counting(getkey):
    """With a learning rate of 0 the initial network is all there is: no compression, and its bins can be counted."""
    key = getkey()
    found = planes("tanh", key, rate=0.0)
    np.testing.assert_array_equal(compression(found.input_information), 0.0)
    np.testing.assert_array_equal(found.before[:, 0], found.before[:, -1])
    patterns, labels = task()
    net = small_network("tanh")
    for member, member_key in enumerate(jax.random.split(jax.random.split(key, 3)[0], 3)):
        z = net.preactivations(net.init(member_key), jnp.asarray(2 * patterns - 1, jnp.float32))
        for layer in range(2):
            # Edges at −1 + i/15; the bin of a value is how many of the inner ones it has passed.
            activity = np.tanh(np.asarray(z[layer], np.float64))
            rows = [tuple(row) for row in np.floor((activity + 1) * 15).astype(int)]
            counts = np.array(list(Counter(rows).values()))
            expected = np.log(4096) - np.sum(counts * np.log(counts)) / 4096
            # float32 may put a value that lies on an edge into the other bin.
            assert found.input_information[member, 0, layer] == pytest.approx(expected, abs=2e-3)
        right = np.mean(np.asarray(z[-1]).argmax(axis=1) == labels)
        pooled = (3000 * found.train_accuracy[member] + 1096 * found.test_accuracy[member]) / 4096
        assert pooled == pytest.approx(right, abs=1e-12)


@pytest.mark.parametrize(("activation", "weight_variance"), [("tanh", 1.0), ("relu", 2.0)])
def test_limits_of_information(activation, weight_variance, getkey):
    found = planes(activation, getkey(), rate=0.3, weight_variance=weight_variance)
    about_input, about_label = found.input_information, found.label_information
    units = np.array(WIDTHS)
    p = task()[1].mean()
    label_entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    for kind in (about_input, found.before, found.moving):
        assert np.all(kind >= 0)
        assert np.all(kind <= np.minimum(np.log(4096), units * np.log(30)) + 1e-12)
    assert np.all(about_label >= -1e-12)
    assert np.all(about_label <= np.minimum(about_input, label_entropy) + 1e-12)
    # It has learned something, else there would be nothing to say about learning.
    assert found.train_accuracy.max() > 0.8


def test_a_silent_network_says_nothing(getkey):
    """No weights at all: ReLU layers are silent, their range is empty, and their information is 0."""
    found = planes("relu", getkey(), rate=0.0, weight_variance=0.0)
    for kind in (found.input_information, found.label_information, found.before, found.moving):
        np.testing.assert_allclose(kind, 0.0, atol=1e-12)


def test_compression_is_the_fall_from_the_maximum():
    information = np.array([[1.0, 3.0], [2.5, 2.0], [2.0, 5.0]])
    np.testing.assert_allclose(compression(information), [0.5, 0.0])


def test_wrong_use_is_named(getkey):
    with pytest.raises(ValueError, match="activation must be one of"):
        planes("erf", getkey(), rate=0.1)
    with pytest.raises(ValueError, match="train_examples must be"):
        information_planes(
            small_network("tanh"),
            method=SGD(0.1),
            steps=np.array([0, 1]),
            count=1,
            train_examples=4096,
            bins=30,
            key=getkey(),
        )
