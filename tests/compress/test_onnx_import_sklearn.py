"""scikit-learn's networks in ONNX as skl2onnx spells them: MLPs with labels beside probabilities.

The oracle is ``predict_proba``.
"""

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from compress.onnx_import import NotImportableError, import_onnx
from hlserve.errors import ModelFileError
from hlserve.nn.layers import Linear, Softmax, Standardize

ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}


def fitted(n_classes, names, activation="relu", seed=0):
    """A pipeline's scaler and classifier, fitted for a moment, and the rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (60, 5)).astype(np.float32)
    y = np.array(names)[np.arange(60) % n_classes]
    scaler = StandardScaler().fit(x)
    model = MLPClassifier((8, 6), activation=activation, max_iter=3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that three epochs have not converged
        model.fit(scaler.transform(x), y)
    return scaler, model, x


def as_onnx(scaler, model, *, zipped=False):
    """The graph of a pipeline of both as skl2onnx 1.19 spells it."""
    nodes = [
        helper.make_node(
            "Scaler",
            ["X"],
            ["variable"],
            domain="ai.onnx.ml",
            offset=scaler.mean_.astype(np.float32),
            scale=(1 / scaler.scale_).astype(np.float32),
        )
    ]
    weights, value, last = [], "variable", len(model.coefs_) - 1
    for n, (w, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        weights.append(numpy_helper.from_array(w.astype(np.float32), f"coefficient{n}"))
        weights.append(numpy_helper.from_array(b.astype(np.float32)[None], f"intercepts{n}"))
        nodes.append(helper.make_node("MatMul", [value, f"coefficient{n}"], [f"mul{n}"]))
        nodes.append(helper.make_node("Add", [f"mul{n}", f"intercepts{n}"], [f"add{n}"]))
        value = f"next_activations{n}"
        kind = ACTIVATIONS[model.activation]
        if n == last:
            kind = "Sigmoid" if len(model.classes_) == 2 else "Softmax"
        attributes = {"axis": 1} if kind == "Softmax" else {}
        nodes.append(helper.make_node(kind, [f"add{n}"], [value], **attributes))
    inner = "probabilities_inner" if zipped else "probabilities"
    if len(model.classes_) == 2:
        weights.append(numpy_helper.from_array(np.array(1, np.float32), "unity"))
        nodes.append(helper.make_node("Sub", ["unity", value], ["negative"]))
        nodes.append(helper.make_node("Concat", ["negative", value], [inner], axis=1))
    else:
        nodes.append(helper.make_node("Identity", [value], [inner]))
    return _finished(nodes, weights, model, inner, zipped=zipped)


def _finished(nodes, weights, model, inner, *, zipped):
    is_text = model.classes_.dtype.kind == "U"
    names = np.char.encode(model.classes_, "utf-8").astype(object) if is_text else model.classes_
    weights.append(numpy_helper.from_array(names if is_text else names.astype(np.int32), "classes"))
    weights.append(numpy_helper.from_array(np.array([-1]), "shape"))
    ml = {"domain": "ai.onnx.ml"}
    nodes += [
        helper.make_node("ArgMax", [inner], ["argmax"], axis=1),
        helper.make_node("ArrayFeatureExtractor", ["classes", "argmax"], ["extracted"], **ml),
    ]
    if is_text:
        nodes.append(helper.make_node("Reshape", ["extracted", "shape"], ["label"]))
    else:
        nodes += [
            helper.make_node("Cast", ["extracted"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["cast", "shape"], ["reshaped"]),
            helper.make_node("Cast", ["reshaped"], ["label"], to=TensorProto.INT64),
        ]
    kind = TensorProto.STRING if is_text else TensorProto.INT64
    label = helper.make_tensor_value_info("label", kind, [None])
    floats = [None, len(model.classes_)]
    answers = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, floats)
    if zipped:
        named = {"classlabels_strings": list(names)} if is_text else {"classlabels_int64s": names}
        nodes.append(helper.make_node("ZipMap", [inner], ["probabilities"], **ml, **named))
        key = TensorProto.STRING if is_text else TensorProto.INT64
        value_type = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        maps = helper.make_sequence_type_proto(helper.make_map_type_proto(key, value_type))
        answers = helper.make_value_info("probabilities", maps)
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, model.n_features_in_])
    graph = helper.make_graph(nodes, "mlp", [x], [label, answers], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="skl2onnx")


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
@pytest.mark.parametrize("names", [[1, 2, 3], ["a", "b", "c"], ["no", "yes"]])
def test_the_probabilities_of_a_pipeline_are_imported_and_its_labels_left_out(names, activation):
    scaler, model, x = fitted(len(names), names, activation)
    found = import_onnx(as_onnx(scaler, model), {"X": x})
    assert list(found.network.outputs) == ["probabilities"]
    assert any("output 'label' was left out" in note for note in found.notes)
    layers = [type(node.layer) for node in found.network.nodes]
    assert layers[0] is Standardize
    assert layers.count(Linear) == 3
    assert layers[-1] is Softmax
    assert found.network.task == "classification"
    wanted = model.predict_proba(scaler.transform(x))
    answers = found.network.predict({"X": x})["probabilities"]
    np.testing.assert_allclose(answers, wanted, atol=1e-5)  # theirs in float64


@pytest.mark.parametrize("judged", [None, "probabilities"])
@pytest.mark.parametrize("names", [[0, 1], [0, 1, 2]])
def test_labels_that_are_numbers_from_0_come_along(names, judged):
    scaler, model, x = fitted(len(names), names)
    found = import_onnx(as_onnx(scaler, model), {"X": x}, judged_output=judged)
    assert list(found.network.outputs) == ["label", "probabilities"]
    assert found.network.task == "classification"
    labels = found.network.predict({"X": x})["label"]
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, model.predict(scaler.transform(x)))


def test_labels_alone_are_nothing_to_train():
    scaler, model, x = fitted(3, [0, 1, 2])
    graph = as_onnx(scaler, model)
    del graph.graph.output[1]
    with pytest.raises(NotImportableError, match="labels alone"):
        import_onnx(graph, {"X": x})


def test_probabilities_in_a_map_are_refused_with_the_way_out():
    scaler, model, x = fitted(3, ["a", "b", "c"])
    with pytest.raises(ModelFileError, match="zipmap=False"):
        import_onnx(as_onnx(scaler, model, zipped=True), {"X": x})
