"""The judge and the rivals of information/compression-relu, on made-up measurements whose truth is known."""

import numpy as np
import pytest
import xarray as xr

from experiments.claims.information.compression_relu import PAPER, SMOKE, _steps, claim, predict
from theory.information import binned_entropy

MEMBERS, RECORDS, LAYERS = 16, 5, 5


def measurement(rng, *, tanh=1.5, before=0.4, relu=0.0, accuracy=0.0, idle=0):
    """Histories that rise and then fall by the given number of nats a layer, with a scatter of 0.2 among networks.

    Args:
        tanh, relu: compression of the two activations; before: of the tanh networks' pre-activations.
        accuracy: ReLU's advantage. idle: ReLU networks that learn nothing.
    """
    config_prediction = predict(SMOKE)

    def history(fall):
        falls = np.maximum(fall + 0.2 * rng.standard_normal((2, 1, MEMBERS, 1, 1)) * (np.asarray(fall) > 0), 0.0)
        shape = np.array([0.0, 0.5, 1.0, 0.5, 0.0])[:, None]
        return 4.0 + falls * shape * np.ones(LAYERS)

    dims = ("activation", "batch", "member", "step", "layer")
    columns = np.array([tanh, relu]).reshape(2, 1, 1, 1, 1)
    train = np.full((2, 1, MEMBERS), 0.98)
    train[1, 0, :idle] = 0.5
    test = 0.96 + 0.01 * rng.standard_normal((2, 1, MEMBERS)) + accuracy * np.array([0.0, 1.0])[:, None, None]
    exact = config_prediction["unit"].values[:, None, None, :]
    return xr.Dataset(
        {
            "train_accuracy": (dims[:3], train),
            "test_accuracy": (dims[:3], np.where(train > 0.75, test, 0.5)),
            "input_information": (dims, history(columns)),
            "before": (dims, history(np.array([before, 0.0]).reshape(2, 1, 1, 1, 1))),
            "moving": (dims, history(columns)),
            "unit": (
                ("activation", "batch", "member", "weight"),
                exact + 0.01 * rng.standard_normal((2, 1, MEMBERS, exact.shape[-1])),
            ),
        },
        coords={"activation": ["tanh", "relu"], "weight": list(SMOKE.weights)},
    )


def verdicts(data):
    prediction = predict(SMOKE)
    rivals = {
        rival.name: (rival.judge or claim.judge)(rival.predict(SMOKE) if rival.predict else prediction, data).status
        for rival in claim.rivals
    }
    return claim.judge(prediction, data).status, rivals


def test_saxes_world(rng):
    status, rivals = verdicts(measurement(rng, idle=2))
    assert status == "supported"
    assert set(rivals.values()) == {"refuted"}


def test_the_folklores_world(rng):
    """Where ReLU networks compress as tanh networks do, the claim is refuted and its rival supported."""
    status, rivals = verdicts(measurement(rng, relu=1.5))
    assert status == "refuted"
    assert rivals["generalisation-compresses"] == "supported"


@pytest.mark.parametrize(
    "truth",
    [
        {"tanh": 0.0, "before": 0.0},  # nobody compresses
        {"relu": 0.7},  # ReLU networks compress by a bit
        {"accuracy": -0.1},  # they do not learn as well
        {"before": 1.7},  # pre-activations compress as much
    ],
)
def test_other_worlds_are_not_supported(truth, rng):
    assert verdicts(measurement(rng, **truth))[0] == "refuted"


def test_a_kind_of_network_that_mostly_learns_nothing_is_out_of_domain(rng):
    assert verdicts(measurement(rng, idle=MEMBERS - 1))[0] == "out-of-domain"
    assert verdicts(measurement(rng, idle=MEMBERS // 4))[0] == "supported"


@pytest.mark.parametrize("config", [SMOKE, PAPER])
def test_records_and_margins(config):
    steps = _steps(config)
    assert len(steps) == config.records
    assert steps[0] == 0
    assert steps[-1] == config.steps
    assert np.all(np.diff(steps) > 0)
    prediction = predict(config)
    assert float(prediction["compression_margin"]) <= float(prediction["excess"]) / 2
    # Half the distance to the linear unit in bins of the same width, the nearest rival, everywhere.
    edges = np.arange(-900, 901) / 15
    linear = binned_entropy(np.array(config.weights), edges, activation="linear")
    distance = np.abs(linear - prediction["unit"].sel(activation="tanh").values).min()
    assert float(prediction["unit_margin"]) == pytest.approx(distance / 2, rel=1e-9)
