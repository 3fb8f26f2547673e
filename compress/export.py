"""A network as an ONNX model: emitted, checked, and compared with the network's own answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.session import Session
from hlserve import __version__
from hlserve.errors import CompressionError
from hlserve.nn.graph_builder import Attribute
from hlserve.nn.network import Network
from hlserve.nn.param import Array, Param, QParams

OPSET = 21
IR_VERSION = 10  # the one that belongs to opset 21
BATCH = "batch"
PARITY_RTOL = 1e-4  # float32 sums in another order; activations of a few thousand terms
PARITY_ATOL = 1e-5

_ELEMENT_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


Model = Network | onnx.ModelProto  # what a user may hand in


def as_graph(model: Model) -> onnx.ModelProto:
    """The model as ONNX: itself, or the network exported.

    Raises:
        CompressionError: see ``to_onnx``.
    """
    return to_onnx(model) if isinstance(model, Network) else model


def to_onnx(network: Network) -> onnx.ModelProto:
    """The network as a checked model of opset 21, integers where qparams are set.

    Inputs and outputs keep the network's names; the batch is the free dimension ``batch``.

    Raises:
        CompressionError: the emitted graph is not valid ONNX; a mistake of a layer's ``emit``.
    """
    builder = OnnxGraph(network)
    tensors = network.emit(builder)
    graph = helper.make_graph(
        builder.finish(tensors),
        "network",
        [_value(i.name, i.dtype, i.shape) for i in network.inputs],
        [
            _value(name, network.node(node).layer.output_dtype, network.shapes[node])
            for name, node in network.outputs.items()
        ],
        builder.initializers(),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hlserve",
        producer_version=__version__,
    )
    check(model)
    return model


def check(model: onnx.ModelProto) -> None:
    """Runs the ONNX checker with strict shape inference.

    Raises:
        CompressionError: the model breaks the standard, or its shapes contradict each other.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompressionError(f"the exported graph is not valid ONNX: {error}") from error


def is_valid(model: onnx.ModelProto) -> bool:
    """Whether the ONNX checker has nothing against it; some files run all the same."""
    try:
        check(model)
    except CompressionError:
        return False
    return True


def parity(network: Network, model: onnx.ModelProto, rows: Array | Mapping[str, Array]) -> float:
    """The largest difference between the network's and ONNX Runtime's answers on some rows."""
    ours = network.predict(rows)
    theirs = Session(model.SerializeToString()).run(feeds_of(network, rows))
    return max(float(np.max(np.abs(ours[k] - theirs[k]), initial=0.0)) for k in ours)


def feeds_of(network: Network, rows: Array | Mapping[str, Array]) -> dict[str, Array]:
    """The rows by input name, in the types that the network's file takes."""
    dtypes = {entry.name: entry.dtype for entry in network.inputs}
    named = network.named_rows(rows)
    return {name: array.astype(dtypes[name], copy=False) for name, array in named.items()}


def check_parity(
    network: Network, model: onnx.ModelProto, rows: Array | Mapping[str, Array]
) -> float:
    """The largest difference to ONNX Runtime, refused where it is more than rounding.

    Only for networks without qparams: the network itself computes in floats.

    Raises:
        CompressionError: the answers differ.
    """
    difference = parity(network, model, rows)
    largest = max(float(np.max(np.abs(y), initial=0.0)) for y in network.predict(rows).values())
    allowed = PARITY_ATOL + PARITY_RTOL * largest
    if not difference <= allowed:  # NaN fails too
        raise CompressionError(
            f"the exported graph answers differently: off by {difference:.3g} on {_count(rows)} "
            f"rows, expected at most {allowed:.3g}"
        )
    return difference


class OnnxGraph:
    """Collects what layers say; a GraphBuilder.

    Initializers with equal type, shape and bytes are written once.
    """

    def __init__(self, network: Network) -> None:
        self.row_shapes: dict[str, tuple[int, ...]] = {}
        self._taken = {i.name for i in network.inputs} | set(network.outputs)
        self._param_names = {id(p): name for name, p in network.params().items()}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._params: dict[int, str] = {}

    # ----- the verbs of GraphBuilder

    def node(
        self, op_type: str, inputs: Sequence[str], *, output: int = 0, **attributes: Attribute
    ) -> str:
        """See GraphBuilder."""
        name = self._fresh(op_type.lower())
        outputs = [""] * output + [name]
        self._nodes.append(_node(op_type, inputs, outputs, attributes))
        return name

    def param(self, param: Param) -> str:
        """See GraphBuilder."""
        if id(param) not in self._params:
            hint = self._param_names[id(param)]
            if param.qparams is None:
                self._params[id(param)] = self.constant(param.value, hint)
            else:
                self._params[id(param)] = self._dequantized(param.value, param.qparams, hint)
        return self._params[id(param)]

    def constant(self, array: Array, hint: str) -> str:
        """See GraphBuilder."""
        value = np.asarray(array, order="C")  # ascontiguousarray would give a scalar an axis
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._initializers:
            self._initializers[key] = numpy_helper.from_array(value, self._fresh(hint))
        return self._initializers[key].name

    def quantized(self, x: str, qparams: QParams) -> str:
        """See GraphBuilder."""
        maps = self._maps(qparams)
        axis = {} if qparams.axis is None else {"axis": qparams.axis}
        integers = self.node("QuantizeLinear", [x, *maps], **axis)
        return self.node("DequantizeLinear", [integers, *maps], **axis)

    # ----- what to_onnx takes out

    def finish(self, tensors: Mapping[str, str]) -> list[onnx.NodeProto]:
        """The operators, with the tensors that are outputs renamed to the outputs' names."""
        produced = {name for node in self._nodes for name in node.output}
        renamed: dict[str, str] = {}
        for output, tensor in tensors.items():
            if tensor in produced and tensor not in renamed:
                renamed[tensor] = output
            else:  # an input handed through, or one tensor under two names
                source = renamed.get(tensor, tensor)
                self._nodes.append(helper.make_node("Identity", [source], [output]))
        for node in self._nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        return self._nodes

    def initializers(self) -> list[onnx.TensorProto]:
        """Every constant, once."""
        return list(self._initializers.values())

    # ----- below

    def _dequantized(self, value: Array, qparams: QParams, hint: str) -> str:
        integers = self.constant(quantize_array(value, qparams), f"{hint}.{qparams.dtype}")
        axis = {} if qparams.axis is None else {"axis": qparams.axis}
        return self.node("DequantizeLinear", [integers, *self._maps(qparams)], **axis)

    def _maps(self, qparams: QParams) -> list[str]:
        scale = self.constant(qparams.scale.astype(np.float32), "scale")
        zero_point = self.constant(qparams.zero_point.astype(qparams.dtype), "zero_point")
        return [scale, zero_point]

    def _fresh(self, hint: str) -> str:
        name, n = hint, 1
        while name in self._taken:
            n += 1
            name = f"{hint}_{n}"
        self._taken.add(name)
        return name


def quantize_array(value: Array, qparams: QParams) -> Array:
    """Integers for real values, as ONNX QuantizeLinear makes them: half to even, saturating."""
    limits = np.iinfo(qparams.dtype)
    scale, zero_point = _aligned(value, qparams)
    rounded = np.rint(value.astype(np.float64) / scale) + zero_point
    clipped: Array = np.clip(rounded, limits.min, limits.max)
    return clipped.astype(qparams.dtype)


def dequantize_array(integers: Array, qparams: QParams) -> Array:
    """Real values, float32, for integers."""
    scale, zero_point = _aligned(integers, qparams)
    return np.asarray((integers.astype(np.float64) - zero_point) * scale, np.float32)


def _aligned(value: Array, qparams: QParams) -> tuple[Array, Array]:
    scale = np.asarray(qparams.scale, np.float64)
    zero_point = np.asarray(qparams.zero_point, np.float64)
    if qparams.axis is None:
        return scale, zero_point
    shape = [1] * value.ndim
    shape[qparams.axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)


def _node(
    op_type: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Attribute]
) -> onnx.NodeProto:
    node = helper.make_node(op_type, list(inputs), list(outputs))
    for name, value in sorted(attributes.items()):
        node.attribute.append(helper.make_attribute(name, value))
    return node


def _value(name: str, dtype: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _ELEMENT_TYPES[dtype], [BATCH, *shape])


def _count(rows: Array | Mapping[str, Array]) -> int:
    return len(next(iter(rows.values()))) if isinstance(rows, Mapping) else len(rows)
