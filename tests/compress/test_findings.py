"""What the report is drawn from, of searches that were really run."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.candidates import Candidate, Plan
from compress.export import to_onnx
from compress.findings import Origin, findings
from compress.folding import FoldScale
from compress.job import Effort, Wishes, prepare
from compress.quantization import QuantizeStatic
from compress.recipe import Recipe
from compress.remake import remake
from compress.search import search
from compress.splits import Split
from hlserve.errors import ConfigError


def share_right(outputs, labels):
    """A metric of a user's own, that compares all rows at once."""
    return float(np.mean(outputs.argmax(axis=1) == labels))


def found_with(metric, network, data, folder):
    """The findings of a search that tries integers and a network that is wrong on one class."""
    rows = data.train
    wishes = Wishes(0.05, metric=metric, minimize="bytes", batches=(1,))
    prepared, goal = prepare(network, Split(rows, rows, None, ""), wishes, Effort(folder))
    recipe = Recipe((FoldScale(), QuantizeStatic()))
    made = Candidate.of_network("int8", "folded", recipe, remake(network, recipe, data))
    spoilt = network.copy()
    spoilt.node(spoilt.logits_node).layer.params()["bias"].value[0] = -1e4
    wrong = Candidate("wrong", to_onnx(spoilt).SerializeToString(), spoilt.n_parameters)

    def ladder(*_):
        yield made
        yield wrong

    prepared = dataclasses.replace(prepared, ladder=ladder, sensitivity=lambda _: {})
    return findings(search(prepared, goal), prepared, Origin("net.safetensors", "rows.npz"))


@pytest.mark.parametrize(
    ("metric", "of_all"), [("accuracy", True), (f"{__name__}:share_right", False)]
)
def test_intervals_that_are_slow_are_reckoned_only_near_the_choice(
    metric, of_all, trained_mlp, mlp_data, tmp_path
):
    found = found_with(metric, trained_mlp, mlp_data, tmp_path)
    good, wrong = found["tried"]
    assert wrong["refusal"]
    assert (wrong["interval"] is not None) == of_all
    for row in (found["original"], found["best"], good):
        low, high = row["interval"]
        assert low < row["value"] < high
    assert good["interval"] == found["best"]["interval"]


def two_outputs(network):
    """The network's file, which answers a hidden layer besides."""
    model = to_onnx(network)
    hidden = next(n for n in model.graph.node if n.op_type == "Gemm").output[0]
    value = helper.make_tensor_value_info(hidden, TensorProto.FLOAT, ["batch", 64])
    model.graph.output.append(value)
    onnx.checker.check_model(model)
    return model


def test_a_file_with_two_outputs_is_quantized_and_not_trained_in_vain(
    trained_mlp, mlp_rows, tmp_path
):
    split = Split(mlp_rows, mlp_rows, None, "")
    model = two_outputs(trained_mlp)
    name = model.graph.output[0].name
    wishes = Wishes(0.05, output=name, minimize="bytes", batches=(1,))
    prepared, goal = prepare(model, split, wishes, Effort(tmp_path))
    assert any(
        "cannot be trained, only quantized: it answers several numbers" in n for n in prepared.notes
    )
    result = search(prepared, goal)
    assert {verdict.candidate.family for verdict in result.tried} == {"graph"}
    assert not result.best.refusal
    pruned = dataclasses.replace(wishes, plan=Plan(ratio=0.5))
    with pytest.raises(ConfigError, match="what is trained has one"):
        prepare(model, split, pruned, Effort(tmp_path))
