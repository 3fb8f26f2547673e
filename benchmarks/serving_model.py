"""The network that the serving benchmark serves, and the requests for it.

An MLP 784-300-100-10 in float32, as every server gets it: one ONNX file.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hlserve.pb.messages import inference

Array = NDArray[Any]

NAME, INPUT, OUTPUT = "mlp", "x", "y"
WIDTHS = (784, 300, 100, 10)
# So many different requests go round: an answer given to the wrong request has wrong values.
REQUESTS = 64


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer.

    Attributes:
        rows: (N, 784) float32.
        answer: (N, 10) float32, of ONNX Runtime.
    """

    rows: Array
    answer: Array


def write_model(root: Path) -> Path:
    """Writes the repository ``root`` with the one model; its file."""
    path = root / NAME / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(_model())
    return path


def session_of(path: Path) -> Any:
    """The file in ONNX Runtime, on one thread, as every server runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def exchanges(path: Path, rows: int) -> list[Exchange]:
    """So many rows a request, uniform in [0, 1) as pixels are; seeded."""
    rng = np.random.default_rng(rows)
    session = session_of(path)
    made = []
    for _ in range(REQUESTS):
        values = rng.random((rows, WIDTHS[0]), dtype=np.float32)
        made.append(Exchange(values, session.run(None, {INPUT: values})[0]))
    return made


def write_requests(path: Path, some: list[Exchange]) -> None:
    """The file that ``benchmarks/cpp/load_client.cc`` reads.

    A count, then for each request three blobs (length, bytes; little-endian): what goes before
    the id, what goes after it, and the values to come.
    """
    parts = [struct.pack("<I", len(some))]
    for exchange in some:
        head = inference.ModelInferRequest(model_name=NAME).SerializeToString()
        tensor = inference.ModelInferRequest.InferInputTensor(
            name=INPUT, datatype="FP32", shape=exchange.rows.shape
        )
        tail = inference.ModelInferRequest(
            inputs=[tensor], raw_input_contents=[exchange.rows.tobytes()]
        ).SerializeToString()
        blobs = (head, tail, exchange.answer.tobytes())
        parts += [struct.pack("<I", len(blob)) + blob for blob in blobs]
    path.write_bytes(b"".join(parts))


def write_canned(folder: Path, exchange: Exchange) -> tuple[Path, Path]:
    """The answers that ``benchmarks/cpp/canned_server.cc`` gives: to ModelInfer, and streamed."""
    tensor = inference.ModelInferResponse.InferOutputTensor(
        name=OUTPUT, datatype="FP32", shape=exchange.answer.shape
    )
    answer = inference.ModelInferResponse(
        model_name=NAME,
        model_version="1",
        outputs=[tensor],
        raw_output_contents=[exchange.answer.tobytes()],
    ).SerializeToString()
    unary, streamed = folder / "answer.bin", folder / "stream_answer.bin"
    unary.write_bytes(answer)
    # ModelStreamInferResponse.infer_response: field 2, length-delimited, shorter than 16 KiB.
    size = bytes((len(answer) & 0x7F | 0x80, len(answer) >> 7))
    streamed.write_bytes(b"\x12" + size + answer)
    return unary, streamed


# ----- below


def _model() -> bytes:
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], INPUT
    for layer, (before, after) in enumerate(itertools.pairwise(WIDTHS)):
        is_last = layer == len(WIDTHS) - 2
        weights = rng.standard_normal((before, after), dtype=np.float32) * (2 / before) ** 0.5
        constants.append(numpy_helper.from_array(weights.astype(np.float32), f"w{layer}"))
        constants.append(numpy_helper.from_array(np.zeros(after, np.float32), f"b{layer}"))
        result = OUTPUT if is_last else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [result]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [result], [f"a{layer}"]))
        value = f"a{layer}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", WIDTHS[0]])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", WIDTHS[-1]])],
        constants,
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    return model.SerializeToString()
