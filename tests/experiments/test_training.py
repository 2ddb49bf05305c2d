"""Each method against an oracle of its own, and the invariances of the way an ensemble is cut into calls."""

import pickle
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import linalg, stats

from experiments.networks import network
from experiments.training import (
    SGD,
    Adam,
    CrossEntropy,
    Diverged,
    GradientDescent,
    GradientFlow,
    Langevin,
    Momentum,
    Outputs,
    SquaredError,
    members,
    train,
)
from theory.architecture import MLP

LINEAR = network(MLP(0, "linear", weight_variance=1.0), width=1, inputs=3)
NET = network(MLP(1, "tanh", weight_variance=2.0, bias_variance=0.1), width=6, inputs=3)
RECORDS = [0, 1, 5, 40]


@pytest.fixture
def data(rng):
    return rng.normal(size=(8, 3)), rng.normal(size=(8, 1))


@pytest.fixture
def ensemble(getkey):
    return jax.vmap(lambda key: NET.init(key, jnp.float64))(jax.random.split(getkey(), 6))


def weights(params, probe):
    return params[0]["weight"][:, 0]


def quadratic(params, data):
    return 0.5 * jnp.sum(data * params**2)


def values(params, probe):
    return params


def tally(params, data):
    """A loss whose gradient is the number of times that an example is in the minibatch."""
    return jnp.sum(data @ params)


def residual(params, data):
    return 0.5 * jnp.sum((data @ params - 1) ** 2)


def quartic_hill(params, data):
    return -jnp.sum(params**4)


@pytest.fixture
def regression(data, getkey):
    """A linear model with its curvature H = XᵀX/d, solution and start: everything has a closed form."""
    x, y = data
    params = LINEAR.init(getkey(), jnp.float64)
    features = x / np.sqrt(3)
    curvature = features.T @ features
    solution = np.linalg.lstsq(features, y[:, 0], rcond=None)[0]
    return params, curvature, solution, np.asarray(params[0]["weight"][:, 0])


def test_gradient_descent_on_a_linear_model_contracts_by_its_curvature(data, regression):
    params, curvature, solution, start = regression
    result = train(SquaredError(LINEAR), params, data, method=GradientDescent(0.1), records=RECORDS, record=weights)
    contraction = np.eye(3) - 0.1 * curvature
    for step, ours in zip(RECORDS, result.values, strict=True):
        exact = solution + np.linalg.matrix_power(contraction, step) @ (start - solution)
        np.testing.assert_allclose(ours, exact, rtol=1e-12)
    np.testing.assert_array_equal(result.records, RECORDS)


def test_momentum_is_the_power_of_a_companion_matrix(data, regression):
    """(θ − θ*, v) ↦ ((1 − ηH)(θ − θ*) − ηβ v, βv + H(θ − θ*))."""
    params, curvature, solution, start = regression
    rate, decay = 0.05, 0.8
    companion = np.block([[np.eye(3) - rate * curvature, -rate * decay * np.eye(3)], [curvature, decay * np.eye(3)]])
    result = train(SquaredError(LINEAR), params, data, method=Momentum(rate, decay), records=RECORDS, record=weights)
    for step, ours in zip(RECORDS, result.values, strict=True):
        exact = np.linalg.matrix_power(companion, step) @ np.concatenate([start - solution, np.zeros(3)])
        np.testing.assert_allclose(ours, solution + exact[:3], rtol=1e-11)


def test_gradient_flow_is_the_matrix_exponential_within_its_own_error(data, regression):
    params, curvature, solution, start = regression
    times = [0.0, 0.03, 1.0, 20.0]
    result = train(SquaredError(LINEAR), params, data, method=GradientFlow(), records=times, record=weights)
    for time, ours, error in zip(times, result.values, result.report["error"], strict=True):
        exact = solution + linalg.expm(-curvature * time) @ (start - solution)
        assert np.linalg.norm(ours - exact) <= error + 1e-14
        assert error < 1e-4
    loose = train(SquaredError(LINEAR), params, data, method=GradientFlow(relative=1e-3), records=times, record=weights)
    assert loose.report["steps"][-1] < result.report["steps"][-1]
    assert loose.report["error"][-1] > result.report["error"][-1]


def test_gradient_flow_is_the_limit_of_gradient_descent(data, ensemble):
    """On a network: halving the rate halves the distance between them (ratio 2 to first order)."""
    flow = members(SquaredError(NET), ensemble, data, method=GradientFlow(relative=1e-9), records=[0.5])
    gaps = []
    for steps in (100, 200):
        method = GradientDescent(0.5 / steps)
        descent = members(SquaredError(NET), ensemble, data, method=method, records=[steps])
        gaps.append(np.abs(descent.values - flow.values))
    # The second order is a relative step size, of a few per cent here.
    np.testing.assert_allclose(gaps[0] / gaps[1], 2.0, rtol=0.1)


def test_adam_matches_a_loop_over_optax(data, ensemble):
    loss = SquaredError(NET)
    params = jax.tree.map(lambda leaf: leaf[0], ensemble)
    result = train(loss, params, data, method=Adam(0.01, first_decay=0.8), records=[20])
    optimiser = optax.adam(0.01, b1=0.8)
    slots = optimiser.init(params)
    step = jax.jit(lambda p, s: optimiser.update(jax.grad(loss)(p, data), s, p))
    for _ in range(20):
        updates, slots = step(params, slots)
        params = optax.apply_updates(params, updates)
    for ours, theirs in zip(jax.tree.leaves(result.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_minibatches_visit_every_example_once_an_epoch(getkey):
    result = train(
        tally,
        jnp.zeros(12),
        np.eye(12),
        method=SGD(1.0, batch_size=3),
        records=[1, 2, 3, 4, 8],
        record=values,
        key=getkey(),
    )
    visits = -result.values
    np.testing.assert_array_equal(visits.sum(axis=1), [3, 6, 9, 12, 24])
    assert visits[:3].max() == 1
    np.testing.assert_array_equal(visits[3], 1)
    np.testing.assert_array_equal(visits[4], 2)
    # The order of the second epoch is another one.
    half = train(tally, jnp.zeros(12), np.eye(12), method=SGD(1.0, 3), records=[1, 4, 5], record=values, key=getkey())
    assert not np.array_equal(-half.values[0], -half.values[2] - 1)


def test_langevin_reaches_the_stated_law_with_the_stated_bias(getkey):
    """Var θ = (T/h)/(1 − ηh/2) with h = curvature + T/s²; the bias alone (9%) is eight standard errors."""
    copies, rate, temperature, prior = 3000, 0.1, 0.7, 2.0
    curvature = np.repeat([0.5, 1.0, 1.5], copies)
    method = Langevin(rate, temperature, prior_variance=prior)
    result = train(
        quadratic, jnp.zeros(3 * copies), curvature, method=method, records=[200, 300], record=values, key=getkey()
    )
    h = np.array([0.5, 1.0, 1.5]) + temperature / prior
    expected = temperature / h / (1 - rate * h / 2)
    # Between the records correlations decay by exp(−0.1 · 100 · h): the two are independent draws.
    variance = np.mean(result.values.reshape(2, 3, copies) ** 2, axis=(0, 2))
    tolerance = stats.norm.ppf(1 - 1e-3 / 6) * np.sqrt(2 / (2 * copies))
    np.testing.assert_allclose(variance / expected, 1.0, atol=tolerance)


METHODS = [
    GradientDescent(0.02),
    SGD(0.02, batch_size=3),
    Momentum(0.01, batch_size=2),
    Adam(0.01),
    Langevin(0.001, 0.5),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_calls_of_any_length_and_a_continued_training_give_the_same_bits(method, rng, getkey):
    options = {"method": method, "record": values, "key": getkey()}
    start, data = jnp.ones(3), rng.normal(size=(8, 3))
    whole = train(residual, start, data, records=[0, 7, 30], **options)
    calls = []
    cut = train(residual, start, data, records=[0, 7, 30], call_seconds=1e-9, progress=calls.append, **options)
    assert len(calls) == 30
    np.testing.assert_array_equal(whole.values, cut.values)
    first = train(residual, start, data, records=[0, 4, 7], **options)
    second = train(residual, first, data, records=[8, 20, 30], **options)
    np.testing.assert_array_equal(first.values[2], whole.values[1])
    np.testing.assert_array_equal(second.values[2], whole.values[2])
    assert not np.array_equal(first.values[2], second.values[0])


def test_a_flow_cut_anywhere_stays_within_its_error(data, rng):
    options = {"method": GradientFlow(), "record": values}
    start, data = jnp.ones(3), rng.normal(size=(8, 3))
    whole = train(residual, start, data, records=[0.1, 2.0], **options)
    calls = []
    cut = train(residual, start, data, records=[0.1, 2.0], call_seconds=3e-4, progress=calls.append, **options)
    assert len(calls) > 10
    assert np.abs(whole.values - cut.values).max() < whole.report["error"].max() < 1e-4


@pytest.mark.parametrize(
    # A flow's steps depend on rounding through its controller, so that only its tolerance is promised.
    ("method", "tolerance"),
    [(SGD(0.02, batch_size=3), 1e-11), (GradientFlow(), 1e-6)],
    ids=["SGD", "GradientFlow"],
)
def test_members_in_batches_are_members_one_by_one(method, tolerance, data, ensemble, getkey):
    """Per-member rates, data and keys included."""
    count = 6
    rates = np.linspace(0.01, 0.05, count)
    x, y = data
    targets = y[None] * np.linspace(0.5, 1.0, count)[:, None, None]
    inputs = np.broadcast_to(x, (count, *x.shape))
    keys = jax.random.split(getkey(), count)
    records = [0, 3, 9]
    together = members(
        SquaredError(NET),
        ensemble,
        (inputs, targets),
        method=replace(method, learning_rate=rates),
        records=records,
        key=keys,
        per_member=("data",),
    )
    for i in range(0, count, 2):
        alone = train(
            SquaredError(NET),
            jax.tree.map(lambda leaf, i=i: leaf[i], ensemble),
            (x, targets[i]),
            method=replace(method, learning_rate=rates[i]),
            records=records,
            key=keys[i],
        )
        np.testing.assert_allclose(together.values[i], alone.values, rtol=tolerance)


def test_groups_of_members_do_not_change_the_result(data, ensemble, getkey):
    """A call aimed at no time at all takes the members one by one."""
    options = {"method": SGD(0.02, 4), "records": [10], "key": getkey()}
    fractions = []
    together = members(SquaredError(NET), ensemble, data, **options)
    apart = members(SquaredError(NET), ensemble, data, call_seconds=1e-9, progress=fractions.append, **options)
    np.testing.assert_allclose(together.values, apart.values, rtol=1e-12)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_divergence_names_the_member_and_the_step(data, ensemble):
    """Rate 0.02 is stable and 100 explodes; the loss is quadratic in the last layer, so it overflows in no time."""
    rates = np.array([0.02, 0.02, 100.0, 0.02, 0.02, 0.02])
    relu = network(MLP(1, "relu", weight_variance=2.0), width=6, inputs=3)
    params = [{"weight": layer["weight"].astype(jnp.float32)} for layer in ensemble]
    options = {"method": GradientDescent(rates), "records": [0, 100]}
    with pytest.raises(Diverged, match="member 2 was not finite at step") as caught:
        members(SquaredError(relu), params, data, **options)
    assert caught.value.member == 2
    assert 1 <= caught.value.clock <= 20
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.member, copy.clock, str(copy)) == (2, caught.value.clock, str(caught.value))
    result = members(SquaredError(relu), params, data, on_divergence="flag", **options)
    assert result.diverged[2] == caught.value.clock
    assert (np.delete(result.diverged, 2) == -1).all()
    assert np.isfinite(np.delete(result.values, 2, axis=0)).all()


def test_a_flow_that_explodes_in_finite_time_is_stopped_there():
    """θ' = 4θ³ from 1 is infinite at t = 1/8."""
    with pytest.raises(Diverged, match=r"at time 0\.12") as caught:
        train(quartic_hill, jnp.ones(1), None, method=GradientFlow(), records=[1.0])
    # It stops where the values overflow, which is short of the pole by 1/8θ² for the largest θ still taken.
    np.testing.assert_allclose(caught.value.clock, 0.125, rtol=1e-3)


def test_a_second_training_compiles_nothing(data, ensemble, getkey):
    compilations = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "backend_compile" in event:
            compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for seed, records in enumerate(([0, 2, 30], [1, 9, 11])):
            compilations.clear()
            # Made anew each time: equality by value is what counts.
            loss, outputs = SquaredError(NET, "mean"), Outputs(NET)
            method = SGD(0.01 * (seed + 1), batch_size=5)
            members(loss, ensemble, data, method=method, records=records, record=outputs, probe=data[0], key=getkey())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compilations == []


def test_cross_entropy_and_frozen_layers(ensemble, data):
    """The gradient of −ln softmax is p − onehot; a rate of zero leaves the first layer alone."""
    net = network(MLP(1, "tanh", weight_variance=2.0, bias_variance=0.1), width=6, inputs=3, outputs=4)
    params = net.init(jax.random.key(3), jnp.float64)
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    hidden = np.tanh(net.preactivations(params, data[0])[0])
    probabilities = np.exp(net.apply(params, data[0]))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    slope = np.sqrt(2.0 / 6) * hidden.T @ (probabilities - np.eye(4)[labels]) / 8
    rates = [{"weight": 0.0, "bias": 0.0}, {"weight": 0.5, "bias": 0.0}]
    result = train(CrossEntropy(net), params, (data[0], labels), method=GradientDescent(rates), records=[1])
    np.testing.assert_array_equal(result.params[0]["weight"], params[0]["weight"])
    np.testing.assert_allclose(result.params[1]["weight"], params[1]["weight"] - 0.5 * slope, rtol=1e-10)


def test_a_number_in_the_data_takes_the_type_of_what_it_meets():
    def objective(params, data):
        x, factor = data
        start = (x * params).astype(jnp.bfloat16)
        scaled, _ = jax.lax.scan(lambda carry, _: (carry * factor, None), start, length=3)
        return jnp.sum(scaled.astype(jnp.float32))

    result = members(objective, jnp.ones((2, 3)), (jnp.ones(3), 2.0), method=GradientDescent(0.125), records=[1])
    np.testing.assert_array_equal(result.params, 0.0)


def test_single_precision_stays_single(data, getkey):
    for method, records in ((GradientDescent(0.01), [3]), (GradientFlow(relative=1e-4), [0.1])):
        result = train(SquaredError(NET), NET.init(getkey()), data, method=method, records=records)
        assert {leaf.dtype for leaf in jax.tree.leaves(result.params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"records": [3, 3]}, "strictly increasing steps"),
        ({"records": [-1]}, "before the start"),
        ({"records": [0.5]}, "whole steps"),
        ({"records": []}, "strictly increasing"),
        ({"method": SGD(0.1, 3)}, "key must be given"),
        ({"method": Momentum(0.1, batch_size=9)}, "between 1 and the 8 examples"),
        ({"method": GradientDescent(np.array([0.1, 0.2]))}, "learning_rate"),
        ({"method": GradientDescent(-0.1)}, "at least 0"),
        ({"per_member": ("data",)}, "data must have a leading axis of 6 members"),
        ({"data": (np.zeros((8, 3)), np.zeros(8))}, r"y must have the outputs' shape \(8, 1\)"),
    ],
)
def test_bad_arguments_are_named(options, message, ensemble, data):
    arguments = {"data": data, "method": GradientDescent(0.1), "records": [1], **options}
    with pytest.raises(ValueError, match=message):
        members(SquaredError(NET), ensemble, **arguments)
