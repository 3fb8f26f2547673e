"""A scikit-learn MLP as an ONNX graph, spelled as skl2onnx does: MatMul and Add, two outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid", "identity": "Identity"}


def as_onnx(model: Any) -> bytes:
    """The graph of a fitted ``MLPClassifier`` of several classes, numbered from 0.

    Shapes: ``X`` (batch, features) float32 -> ``label`` (batch,) int64 and ``probabilities``
    (batch, classes) float32.
    """
    nodes, weights, value = [], [], "X"
    last = len(model.coefs_) - 1
    for n, (w, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        weights.append(numpy_helper.from_array(w.astype(np.float32), f"coefficient{n}"))
        weights.append(numpy_helper.from_array(b.astype(np.float32)[None], f"intercepts{n}"))
        nodes.append(helper.make_node("MatMul", [value, f"coefficient{n}"], [f"mul_result{n}"]))
        nodes.append(helper.make_node("Add", [f"mul_result{n}", f"intercepts{n}"], [f"add{n}"]))
        kind = "Softmax" if n == last else ACTIVATIONS[model.activation]
        value = "probabilities" if n == last else f"next_activations{n}"
        nodes.append(helper.make_node(kind, [f"add{n}"], [value]))
    nodes.append(helper.make_node("ArgMax", [value], ["label"], axis=1, keepdims=0))
    n_features, n_classes = model.coefs_[0].shape[0], len(model.classes_)
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", n_features])]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", n_classes]),
    ]
    graph = helper.make_graph(nodes, "mlp", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", OPSET)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="skl2onnx")
    return bytes(made.SerializeToString())
