"""Rows of two inputs, values and the mask of their ends, from training to the exported model."""

from dataclasses import dataclass
from typing import final

import numpy as np
import pytest

from compress import compress
from compress.export import to_onnx
from compress.session import Session
from hlserve.datasets import Rows
from hlserve.errors import DataError
from hlserve.frontend import LogMel, Sound
from hlserve.nn import fit
from hlserve.nn.evaluation import evaluate
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Linear, ReLU, Softmax
from hlserve.nn.network import Input, Network, Node
from tests.frontend.sounds import tone

FRONT_END = LogMel(sample_rate=8000, max_frames=20, fmax=4000.0, n_mels=12)


@final
@dataclass(eq=False)
class MeanOfFrames(Layer):
    """The mean over the frames that a mask counts, (time, features, batch) -> (features, batch)."""

    def forward(self, *inputs, training, workspace):
        x, mask = inputs
        weights = (mask / mask.sum(axis=0)).astype(x.dtype)[:, None, :]

        def backward(dy, *, need_dx=True):
            return (dy[None] * weights,)

        return (x * weights).sum(axis=0), backward

    def emit(self, g, *inputs):
        x, mask = inputs
        one, two = (g.constant(np.array([axis], np.int64), "axis") for axis in (1, 2))
        weights = g.node("Unsqueeze", [g.node("Cast", [mask], to=1), two])
        total = g.node("ReduceSum", [g.node("Mul", [x, weights]), one], keepdims=0)
        return g.node("Div", [total, g.node("ReduceSum", [weights, one], keepdims=0)])

    def output_shape(self, *shapes):
        return shapes[0][1:]


@pytest.fixture
def rows() -> Rows:
    """High and low tones of every length; what is behind their ends is as loud as they are."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    sounds = [tone((400, 2000)[label], seconds=rng.uniform(0.03, 0.2)) for label in y]
    made = FRONT_END.apply([Sound(sound, 8000) for sound in sounds])
    noise = rng.normal(scale=30, size=made["input"].shape)
    made["input"] = np.where(made["mask"][..., None] == 1, made["input"], noise).astype(np.float32)
    return Rows(made, y)


@pytest.fixture
def network() -> Network:
    nodes = [
        Node("mean", MeanOfFrames(), ("input", "mask")),
        Node("hidden", Linear(12, 64), ("mean",)),
        Node("relu", ReLU(), ("hidden",)),
        Node("logits", Linear(64, 2), ("relu",)),
        Node("softmax", Softmax(), ("logits",)),
    ]
    inputs = [Input("input", (20, 12)), Input("mask", (20,), "int64")]
    network = Network(inputs, nodes, {"probabilities": "softmax"}, task="classification")
    return network.initialize(np.random.default_rng(0))


def test_a_network_with_both_inputs_learns_looks_behind_no_end_and_is_exported(
    rows: Rows, network: Network
) -> None:
    fit(network, rows.inputs, rows.y, epochs=15, progress=False)
    metric = evaluate(network, rows.inputs_for(["input", "mask"]), rows.y).metric
    assert metric is not None
    assert metric > 0.99  # the tones are far apart, once the noise is left out
    loud = np.where(rows.inputs["mask"][..., None] == 1, rows.x, 99.0).astype(np.float32)
    answers = network.predict(rows.inputs)["probabilities"]
    changed = network.predict({"input": loud, "mask": rows.inputs["mask"]})["probabilities"]
    np.testing.assert_array_equal(answers, changed)
    theirs = Session(to_onnx(network).SerializeToString()).run(dict(rows.inputs))
    # Float32 sums in another order.
    np.testing.assert_allclose(theirs["probabilities"], answers, atol=1e-5)


def test_rows_without_the_mask_are_refused(rows: Rows, network: Network) -> None:
    with pytest.raises(DataError, match=r"takes \['input', 'mask'\]"):
        fit(network, {"input": rows.x}, rows.y, progress=False)
    with pytest.raises(DataError, match="not 'mask'"):
        Rows({"input": rows.x}).inputs_for(["input", "mask"])


def test_a_network_with_both_inputs_is_compressed(rows: Rows, network: Network) -> None:
    fit(network, rows.inputs, rows.y, epochs=15, progress=False)
    result = compress(
        network,
        train=rows,
        valid=rows,
        max_drop="5pp",
        minimize="bytes",
        batches=(1,),
        prune=0.5,
        quantize="none",
    )
    session = Session(result.best.candidate.model)
    assert {port.name for port in session.inputs} == {"input", "mask"}
    answers = session.run(dict(rows.inputs))["probabilities"].argmax(axis=1)
    assert (answers == rows.y).mean() > 0.94
