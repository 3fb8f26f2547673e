"""Damaged files and files made to do harm: each a clear error, quickly, in little memory."""

import os
import resource

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.export import to_onnx
from compress.job import read_model
from compress.model_file import is_quantized, read_onnx
from hlserve.errors import ModelFileError
from hlserve.nn.architectures import build

node = helper.make_node
DAMAGED = {"resnet:8": (1, 8, 8), "bilstm:4": (1, 5, 6), "transformer:16,2,1": (1, 5, 6)}


def floats(name, shape=None):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def weight(shape, content=b"", kind=TensorProto.FLOAT):
    tensor = TensorProto(name="w", data_type=kind, dims=shape)
    if content:
        tensor.raw_data = content
    return tensor


def model_of(graph_nodes, *weights, functions=(), output="y"):
    graph = helper.make_graph(
        list(graph_nodes), "g", [floats("x", ["batch", 4])], [floats(output)], list(weights)
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def function(name, calls):
    """A chain of calls of other functions, or of one Relu."""
    names = ["a", *(f"t{i}" for i in range(len(calls) - 1)), "b"]
    body = [
        node(call, [names[i]], [names[i + 1]], domain="" if call == "Relu" else "own")
        for i, call in enumerate(calls)
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], body, opsets)


def branch(name, body_node, *weights):
    return helper.make_graph([body_node], name, [], [floats(body_node.output[0])], list(weights))


def inside_a_body(body_node, *weights):
    return model_of(
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Cast", ["m"], ["is_more"], to=TensorProto.BOOL),
            node(
                "If",
                ["is_more"],
                ["y"],
                then_branch=branch("then", body_node, *weights),
                else_branch=branch("else", node("Relu", ["x"], ["e"])),
            ),
        ]
    )


ADD = node("Add", ["x", "w"], ["y"])
ONES = numpy_helper.from_array(np.ones(4, np.float32), "w")
HUGE = [2**20, 2**20]

WRONG = {
    "huge, no data": (model_of([ADD], weight(HUGE)), r"'w' of shape .* should hold 1,099,511,627"),
    "huge, some data": (model_of([ADD], weight(HUGE, bytes(16))), "should hold .* bytes and holds"),
    "beyond 64 bits": (model_of([ADD], weight([2**32] * 3, bytes(16))), "bytes and holds 16"),
    "below zero": (model_of([ADD], weight([-2, -2], bytes(16))), r"shape \[-2, -2\]: a size below"),
    "unknown type": (model_of([ADD], weight([4], bytes(16), 99)), "unknown type number 99"),
    "one byte short": (
        model_of([ADD], weight([4], bytes(15))),
        "should hold 16 bytes and holds 15",
    ),
    "huge in a constant": (
        model_of([node("Constant", [], ["w"], value=weight(HUGE, bytes(16))), ADD]),
        "should hold",
    ),
    "huge in a body": (
        inside_a_body(node("Add", ["x", "w"], ["t"]), weight(HUGE, bytes(16))),
        "should hold",
    ),
    "cycle": (
        model_of([node("Add", ["x", "b"], ["a"], "first"), node("Relu", ["a"], ["b"]), ADD], ONES),
        "Add 'first' waits for its own result; a graph has no cycles",
    ),
    "own result": (model_of([node("Add", ["x", "y"], ["y"])]), "Add of 'y' waits for its own"),
    "made twice": (
        model_of([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])]),
        "both Relu of 'y' and Abs of 'y' make 'y'",
    ),
    "two of one name": (model_of([ADD], ONES, ONES), "two weights are named 'w'"),
    "missing input": (model_of([node("Relu", ["no"], ["y"], "r")]), "Relu 'r' reads 'no', which"),
    "missing in a body": (inside_a_body(node("Relu", ["no"], ["t"])), "reads 'no', which nothing"),
    "no nodes": (model_of([]), "nothing makes the output 'y'"),
    "unknown operator": (model_of([node("Frobnicate", ["x"], ["y"])]), "Frobnicate"),
    "unknown domain": (model_of([node("Relu", ["x"], ["y"], domain="own")]), "own:Relu"),
    "calls itself": (
        model_of([node("f", ["x"], ["y"], domain="own")], functions=[function("f", ["f"])]),
        "function 'f' calls itself",
    ),
    "calls each other": (
        model_of(
            [node("f", ["x"], ["y"], domain="own")],
            functions=[function("f", ["g"]), function("g", ["f"])],
        ),
        "calls itself",
    ),
    "functions that explode": (
        model_of(
            [node("f11", ["x"], ["y"], domain="own")],
            functions=[
                function("f0", ["Relu"]),
                *(function(f"f{i}", [f"f{i - 1}"] * 10) for i in range(1, 12)),
            ],
        ),
        "100,000,000,000 operators, functions written out; at most 100,000",
    ),
}


def read(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return read_onnx(path)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name, tmp_path):
    model, message = WRONG[name]
    with pytest.raises(ModelFileError, match=message) as caught:
        read(tmp_path, model)
    assert str(caught.value).startswith(str(tmp_path / "model.onnx"))


@pytest.fixture(scope="module", params=DAMAGED)
def sound(request):
    network = build(
        request.param, input_shape=DAMAGED[request.param], n_outputs=3, task="classification"
    )
    return to_onnx(network).SerializeToString()


def test_files_cut_anywhere_are_refused(sound, tmp_path):
    for length in np.random.default_rng(0).integers(0, len(sound), 40):
        with pytest.raises(ModelFileError):
            read(tmp_path, sound[:length])


def test_flipped_bytes_are_refused_or_do_no_harm(sound, tmp_path):
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(100):
        content = bytearray(sound)
        # Names, shapes and types stand ahead of the weights and behind them: aim at those.
        places = np.append(rng.integers(0, 600, 3), -rng.integers(1, 400, 3))
        for place in places:
            content[place] = rng.integers(0, 256)
        try:
            read(tmp_path, bytes(content))
        except ModelFileError:
            refused += 1
    assert refused > 50


def test_a_sound_file_is_read_unchanged(sound, tmp_path):
    assert read(tmp_path, sound).SerializeToString(deterministic=True) == onnx.load_from_string(
        sound
    ).SerializeToString(deterministic=True)


def test_refusing_allocates_nothing(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("huge, no data", "huge, some data", "functions that explode"):
        with pytest.raises(ModelFileError):
            read(tmp_path, WRONG[name][0])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 50_000  # KB; the tensors claim to hold 4 TB


def test_a_constant_of_any_size_is_not_made_while_loading(tmp_path):
    shape = numpy_helper.from_array(np.array([2**31], np.int64), "w")
    model = model_of(
        [
            node("ConstantOfShape", ["w"], ["zeros"]),
            node("ReduceMax", ["zeros"], ["zero"]),
            node("Add", ["x", "zero"], ["y"]),
        ],
        shape,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read(tmp_path, model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB, of 8 GB


def external(location, *, shape=(4,), **entries):
    tensor = weight(list(shape))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@pytest.fixture
def outside(tmp_path):
    """A folder with a model's place in it, beside a file that is none of its business."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(16))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.bin").symlink_to(secret)
    (folder / "short.bin").write_bytes(bytes(10))
    (folder / "good.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    os.mkfifo(folder / "pipe.bin")
    return folder


@pytest.mark.parametrize("location", ["../secret.bin", "link.bin", "/etc/hostname", ".", ""])
@pytest.mark.parametrize("place", ["weight", "constant", "body", "function"])
def test_weights_outside_the_folder_are_refused(location, place, outside):
    tensor = external(location)
    constant = node("Constant", [], ["w"], value=tensor)
    if place == "weight":
        model = model_of([ADD], tensor)
    elif place == "constant":
        model = model_of([constant, ADD])
    elif place == "body":
        model = inside_a_body(node("Add", ["x", "w"], ["t"]), tensor)
    else:
        body = [constant, node("Add", ["a", "w"], ["b"])]
        opsets = [helper.make_opsetid("", 21)]
        called = helper.make_function("own", "f", ["a"], ["b"], body, opsets)
        model = model_of([node("f", ["x"], ["y"], domain="own")], functions=[called])
    with pytest.raises(ModelFileError, match="outside the model's folder"):
        read(outside, model)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (external("gone.bin"), "which is missing"),
        (external("pipe.bin"), "which is missing"),
        (external("short.bin"), "should hold 16 bytes; 'short.bin' has 10"),
        (external("short.bin", length=16), "should hold 16 bytes"),
        (external("good.bin", offset=8), "should hold 16 bytes"),
        (external("good.bin", offset=-4), "should hold 16 bytes"),
        (external("good.bin", offset="many"), "offset or length is no number"),
        (external("good.bin", length=2**60), "should hold 16 bytes"),
        (external("good.bin", shape=HUGE), "more than 2 GB"),
        (external("a\0b"), "no path"),
    ],
)
def test_external_weights_that_do_not_fit_are_refused(tensor, message, outside):
    with pytest.raises(ModelFileError, match=message):
        read(outside, model_of([ADD], tensor))


def test_external_weights_in_the_folder_are_taken_in(outside):
    model = read(outside, model_of([ADD], external("good.bin")))
    (tensor,) = model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.arange(4))
    assert not tensor.external_data


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "empty.onnx").touch()
    for name, message in (
        ("folder.onnx", "it is no file"),
        ("pipe.onnx", "it is no file"),
        ("gone.onnx", "No such file"),
        ("empty.onnx", "it has no graph with outputs"),
    ):
        with pytest.raises(ModelFileError, match=message):
            read_model(tmp_path / name)


def test_a_quantized_file_is_recognised_in_bodies_and_functions(tmp_path):
    quantizes = node("DynamicQuantizeLinear", ["a"], ["q", "s", "z"])
    back = node("DequantizeLinear", ["q", "s", "z"], ["b"])
    opsets = [helper.make_opsetid("", 21)]
    called = helper.make_function("own", "f", ["a"], ["b"], [quantizes, back], opsets)
    model = model_of([node("f", ["x"], ["y"], domain="own")], functions=[called])
    assert is_quantized(read(tmp_path, model))
    assert not is_quantized(read(tmp_path, model_of([ADD], ONES)))
