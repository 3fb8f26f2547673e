"""Whether an ONNX graph holds together, found out before ONNX Runtime sees it.

A file from elsewhere may be cut off, damaged or made to do harm. Nothing here allocates more than
the file holds, and every walk is linear in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto

from hlserve.errors import ModelFileError

MAX_NODES = 100_000  # ONNX Runtime takes seconds for so many, and quadratically more beyond

MAX_CALLS = 50  # functions inside functions

_Names = frozenset[str]

# Where a tensor without raw_data keeps its numbers: the field, and how many a number takes.
_TYPED: Mapping[int, tuple[str, int]] = {
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
}
_BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.COMPLEX64: 64,
    TensorProto.DOUBLE: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.INT64: 64,
    TensorProto.INT32: 32,
    TensorProto.INT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT64: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT16: 16,
    TensorProto.UINT8: 8,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}
_PACKED = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and the bodies of If, Loop and Scan in it."""
    yield graph
    yield from _bodies(graph.node)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Everything that holds numbers: weights and constants, in bodies and functions too."""
    for graph in _all_graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _constants(graph.node)
    for function in model.functions:
        yield from _constants(function.node)


def size_bytes(tensor: onnx.TensorProto) -> int:
    """What a tensor's numbers take as raw data, by its type and shape; 0 for texts."""
    return -(-prod(tensor.dims) * _BITS.get(tensor.data_type, 0) // 8)


def require_text(path: object, model: onnx.ModelProto) -> None:
    """Refuses names that are no UTF-8, which protobuf reads without a word and nothing else takes.

    Raises:
        ModelFileError: there is one.
    """
    try:
        _read_texts(model)
    except UnicodeDecodeError as error:
        raise ModelFileError(
            f"{path}: the name {error.object[:40]!r} is no UTF-8; the file is damaged"
        ) from error


def require_sound_tensors(path: object, model: onnx.ModelProto) -> None:
    """Refuses tensors whose shape and content disagree; external ones are only looked at.

    Raises:
        ModelFileError: names the tensor, what it should hold and what it does.
    """
    for tensor in tensors(model):
        where = f"{path}: tensor {tensor.name!r}"
        if any(size < 0 for size in tensor.dims):
            raise ModelFileError(f"{where} has shape {list(tensor.dims)}: a size below 0")
        if tensor.data_type not in _BITS and tensor.data_type != TensorProto.STRING:
            raise ModelFileError(f"{where} has the unknown type number {tensor.data_type}")
        if tensor.data_location == TensorProto.EXTERNAL:
            continue
        found, wanted, unit = _content(tensor)
        if found != wanted:
            raise ModelFileError(
                f"{where} of shape {list(tensor.dims)} should hold {wanted:,} {unit} and holds "
                f"{found:,}; the file is damaged, export it again"
            )


def require_sound_graph(path: object, model: onnx.ModelProto) -> None:
    """Refuses graphs that are no graphs: values made twice or never, cycles, far too many nodes.

    Raises:
        ModelFileError: names the node and the value.
    """
    _require_bounded(path, model)
    _check(path, model.graph, frozenset())


# ----- below


def _read_texts(message: Message) -> None:
    for field, value in message.ListFields():  # raises on texts that are none
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in [value] if isinstance(value, Message) else value:
                _read_texts(inner)
        elif field.type == FieldDescriptor.TYPE_STRING and not isinstance(value, str):
            for _ in value:
                pass


def _all_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield from graphs(model.graph)
    for function in model.functions:
        yield from _bodies(function.node)


def _bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for inner in _own_graphs(node):
            yield from graphs(inner)


def _constants(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse = list(attribute.sparse_tensors)
            sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for tensor in sparse:
                yield from (tensor.values, tensor.indices)


def _content(tensor: onnx.TensorProto) -> tuple[int, int, str]:
    """How much there is, how much there should be, and of what."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data), size_bytes(tensor), "bytes"
    field, per_number = _TYPED.get(tensor.data_type, ("int32_data", 1))
    count = prod(tensor.dims) * per_number
    if tensor.data_type in _PACKED:
        count = -(-count // 2)
    return len(getattr(tensor, field)), count, "numbers"


def _require_bounded(path: object, model: onnx.ModelProto) -> None:
    """A function that calls itself never ends; one that calls ten that call ten grows too far."""
    bodies = {(f.domain, f.name): list(f.node) for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def expanded(nodes: Iterable[onnx.NodeProto], above: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in above or len(above) > MAX_CALLS:
                raise ModelFileError(
                    f"{path}: function {node.op_type!r} calls itself, or functions nest deeper "
                    f"than {MAX_CALLS}; export the model without functions"
                )
            if key in bodies and key not in sizes:
                sizes[key] = expanded(bodies[key], (*above, key))
            inner = sum(expanded(graph.node, above) for graph in _own_graphs(node))
            total += sizes.get(key, 1) + inner
        return total

    count = expanded(model.graph.node, ())
    if count > MAX_NODES:
        raise ModelFileError(
            f"{path}: {count:,} operators, functions written out; at most {MAX_NODES:,} are taken"
        )


def _own_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        # Never the empty graph of other attributes: to write into it would make it one.
        found += ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
    return found


def _check(path: object, graph: onnx.GraphProto, outside: _Names) -> None:
    """One graph, then the bodies in it, which also see the values outside them."""
    made = _made(path, graph)
    known = outside | made.keys() | {entry.name for entry in graph.input} | _weights(path, graph)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise ModelFileError(
                    f"{path}: {_called(node)} reads {name!r}, which nothing makes; "
                    "is the file only a part of a model?"
                )
    for entry in graph.output:
        if entry.name not in known:
            raise ModelFileError(f"{path}: nothing makes the output {entry.name!r}")
    _require_no_cycle(path, graph, made)
    for node in graph.node:
        for inner in _own_graphs(node):
            _check(path, inner, frozenset(known))


def _made(path: object, graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    made: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in made:
                raise ModelFileError(
                    f"{path}: both {_called(made[name])} and {_called(node)} make {name!r}; "
                    "every value is made once"
                )
            made[name] = node
    return made


def _weights(path: object, graph: onnx.GraphProto) -> _Names:
    names = [tensor.name for tensor in graph.initializer]
    names += [sparse.values.name for sparse in graph.sparse_initializer]
    unique = frozenset(names)
    if len(unique) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelFileError(f"{path}: two weights are named {twice!r}; names must differ")
    return unique


def _require_no_cycle(
    path: object, graph: onnx.GraphProto, made: Mapping[str, onnx.NodeProto]
) -> None:
    """Takes away nodes whose inputs are there until none is left (Kahn 1962)."""
    waiting: dict[int, int] = {}
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        needed = {name for name in node.input if name in made}
        waiting[index] = len(needed)
        for name in needed:
            readers.setdefault(name, []).append(index)
    ready = [index for index, count in waiting.items() if not count]
    done = 0
    while ready:
        done += 1
        for name in graph.node[ready.pop()].output:
            for reader in readers.get(name, ()):
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.append(reader)
    if done < len(graph.node):
        left = next(index for index, count in waiting.items() if count)
        raise ModelFileError(
            f"{path}: {_called(graph.node[left])} waits for its own result; a graph has no cycles"
        )


def _called(node: onnx.NodeProto) -> str:
    made = next(iter(node.output), "")
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} of {made!r}"
