"""ONNX files as networks that can take their place, or why none can."""

import numpy as np
import onnx
import pytest
from onnx import helper

from compress.export import to_onnx
from compress.job import compress
from compress.onnx_import import NotImportableError, import_onnx, import_whole
from hlserve.nn.architectures import build

N = 300


def with_two_outputs(second):
    """A network's file, one more of its tensors told, by the kind of operator that makes it."""
    network = build("mlp:16,8", input_shape=(6,), n_outputs=3, task="classification", scale=0.5)
    model = to_onnx(network)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    hidden = [node.output[0] for node in model.graph.node if node.op_type == "Relu"][-1]
    name, width = (softmax.input[0], 3) if second == "scores" else (hidden, 8)
    model.graph.output.append(helper.make_tensor_value_info(name, 1, ["batch", width]))
    x = np.random.default_rng(0).standard_normal((N, 6)).astype(np.float32)
    return model, x, network.predict(x)["probabilities"].argmax(axis=1)


def test_scores_beside_their_probabilities_are_both_kept_and_trained():
    model, x, y = with_two_outputs("scores")
    found = import_whole(model, {"input": x[:8]}, labels=y)
    assert found.network.task == "classification"
    assert found.network.logits_node in found.network.outputs.values()
    result = compress(
        model, train=(x, y), max_drop="40pp", minimize="bytes", batches=(1,), prune=0.5, budget=None
    )
    assert result.best.candidate.name.startswith("pruned 50 %")
    theirs = onnx.load_model_from_string(result.best.candidate.model).graph.output
    assert [value.name for value in theirs] == [value.name for value in model.graph.output]


def test_two_outputs_that_a_loss_could_look_at_are_refused():
    model, x, y = with_two_outputs("hidden")
    assert len(import_onnx(model, {"input": x[:8]}).network.outputs) == 2
    with pytest.raises(NotImportableError, match="answers several numbers"):
        import_whole(model, {"input": x[:8]}, labels=y)


def test_an_output_that_would_be_lost_is_named():
    model, x, y = with_two_outputs("scores")
    model.graph.node.append(helper.make_node("Sin", [model.graph.output[1].name], ["sines"]))
    model.graph.output.append(helper.make_tensor_value_info("sines", 1, ["batch", 3]))
    with pytest.raises(NotImportableError, match="output 'sines' was left out"):
        import_whole(model, {"input": x[:8]}, labels=y)


def test_an_input_that_is_handed_on_is_named():
    model, x, y = with_two_outputs("scores")
    given = model.graph.input[0]
    model.graph.node.append(helper.make_node("Identity", [given.name], ["same"]))
    model.graph.output.append(helper.make_tensor_value_info("same", 1, ["batch", x.shape[1]]))
    with pytest.raises(NotImportableError, match="an input that is handed on as it came"):
        import_whole(model, {"input": x[:8]}, labels=y)


def test_labels_that_fit_no_output_are_refused():
    model, x, _ = with_two_outputs("scores")
    del model.graph.output[0]
    with pytest.raises(NotImportableError, match="do not tell what its outputs"):
        import_whole(model, {"input": x[:8]}, labels=np.full(N, 7))
