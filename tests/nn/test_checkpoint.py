import json
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from hlserve.errors import ConfigError, ModelFileError, SchemaVersionError
from hlserve.nn.architectures import build
from hlserve.nn.checkpoint import describe, load, read_description, save
from hlserve.nn.history import EpochRecord, History
from hlserve.nn.network import Network
from hlserve.nn.param import Array, QParams
from tests.nn.cases import CASES, Case

Edit = Callable[[dict[str, Any], dict[str, Array]], None]


def small_network() -> Network:
    return build(
        "mlp:4",
        input_shape=(3,),
        n_outputs=2,
        task="classification",
        standardize=([1.0, 2.0, 3.0], [0.1, 1.0, 10.0]),
        class_labels=["no", "yes"],
        units="cm",
        seed=1,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.safetensors"


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_layer_comes_back_bit_equal(case: Case, path: Path) -> None:
    network = case.network()
    save(network, path)
    loaded = load(path)
    assert describe(loaded) == describe(network)
    np.testing.assert_array_equal(loaded.value, network.value)
    rows = case.rows(3)
    np.testing.assert_array_equal(loaded.predict(rows)["y"], network.predict(rows)["y"])


@pytest.mark.parametrize("spec", ["mlp:5,4", "lenet5", "lenet5-caffe"])
def test_networks_come_back_with_their_facts(spec: str, path: Path) -> None:
    network = build(
        spec,
        input_shape=(1, 16, 16),
        n_outputs=2,
        task="classification",
        scale=1 / 255,
        class_labels=["Katze", "Hund 🐶"],
        units="pixels",
    )
    save(network, path)
    loaded = load(path)
    assert (loaded.inputs, loaded.outputs) == (network.inputs, network.outputs)
    assert (loaded.task, loaded.class_labels) == ("classification", ("Katze", "Hund 🐶"))
    np.testing.assert_array_equal(loaded.value, network.value)


def test_masks_and_qparams_come_back(path: Path) -> None:
    network = small_network()
    weight = network.params()["linear_2.weight"]
    weight.mask = np.array(weight.value > 0, np.float32)
    scale = np.linspace(0.1, 0.4, 4).astype(np.float32)
    weight.qparams = QParams(scale, np.zeros(4, np.int8), 0, "int8")
    network.activation_qparams["relu_3"] = QParams(
        np.array(0.05, np.float32), np.array(3, np.uint8), None, "uint8"
    )
    save(network, path)
    loaded = load(path)
    param, activation = loaded.params()["linear_2.weight"], loaded.activation_qparams["relu_3"]
    assert param.mask is not None
    assert param.qparams is not None
    np.testing.assert_array_equal(param.mask, weight.mask)
    np.testing.assert_array_equal(param.qparams.scale, scale)
    assert (param.qparams.axis, param.qparams.dtype) == (0, "int8")
    assert (activation.scale.shape, int(activation.zero_point)) == ((), 3)
    assert activation.zero_point.dtype == np.uint8


def test_history_and_extras_come_back(path: Path) -> None:
    history = History("accuracy", [EpochRecord(1, 0.5, 0.4, 0.9, 1e-3, 2.0)], 1, "interrupted")
    save(small_network(), path, history=history, extra={"data": {"name": "digits"}})
    description = read_description(path)
    assert description.history == history
    assert description.extra == {"data": {"name": "digits"}}


def test_float64_networks_stay_float64(path: Path) -> None:
    network = small_network().astype(np.float64)
    network.value += 1e-12
    save(network, path)
    loaded = load(path)
    assert loaded.dtype == np.float64
    np.testing.assert_array_equal(loaded.value, network.value)


def test_the_same_network_gives_the_same_bytes(path: Path) -> None:
    save(small_network(), path)
    first = path.read_bytes()
    save(small_network(), path)
    assert path.read_bytes() == first


def test_other_readers_see_plain_tensors(path: Path) -> None:
    save(small_network(), path)
    with safe_open(path, framework="numpy") as file:
        assert sorted(file.keys()) == [
            "linear_2.bias",
            "linear_2.weight",
            "linear_4.bias",
            "linear_4.weight",
        ]


# ----- writing


def test_a_new_file_has_the_usual_permissions_and_no_leftovers(path: Path) -> None:
    reference = path.with_name("reference")
    reference.touch()
    save(small_network(), path)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(reference.stat().st_mode)
    assert sorted(p.name for p in path.parent.iterdir()) == ["network.safetensors", "reference"]


def test_a_failed_write_leaves_the_old_file(path: Path) -> None:
    path.mkdir()  # a folder cannot be replaced by a file
    (path / "kept").touch()
    with pytest.raises(ModelFileError, match="cannot be written: "):
        save(small_network(), path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert (path / "kept").exists()


def test_a_missing_folder_is_told(path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be written: No such file"):
        save(small_network(), path.parent / "absent" / "x.safetensors")


def test_extras_that_json_cannot_hold_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        save(small_network(), path, extra={"what": object()})
    assert not path.exists()


# ----- reading what is broken or hostile


def rewritten(path: Path, edit: Edit) -> None:
    """Saves a small network whose description and tensors were tampered with."""
    save(small_network(), path)
    with safe_open(path, framework="numpy") as file:
        description = json.loads(file.metadata()["hlserve"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    edit(description, tensors)
    save_file(tensors, path, metadata={"hlserve": json.dumps(description)})


def set_node(index: int, **changes: Any) -> Edit:
    def edit(description: dict[str, Any], tensors: dict[str, Array]) -> None:
        description["nodes"][index].update(changes)

    return edit


def set_field(**changes: Any) -> Edit:
    return lambda description, tensors: description.update(changes)


def set_tensor(name: str, array: Array) -> Edit:
    return lambda description, tensors: tensors.update({name: array})


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


QPARAMS = {"axis": 0, "dtype": "int8"}
TAMPERED: dict[str, tuple[Edit, str]] = {
    "unknown layer": (set_node(1, layer="Popen"), "layer 'Popen' is unknown; known are"),
    "unknown argument": (set_node(1, config={"in": 3}), "'linear_2': Linear.*unexpected keyword"),
    "text for a size": (
        set_node(1, config={"in_features": "3", "out_features": 4}),
        "node 'linear_2': Linear",
    ),
    "negative size": (
        set_node(1, config={"in_features": -3, "out_features": 4}),
        "node 'linear_2'",
    ),
    "huge size": (
        set_node(1, config={"in_features": 10**6, "out_features": 10**6}),
        "'linear_2': Linear.* is too large",
    ),
    "size beyond integers": (
        set_node(1, config={"in_features": 2**62, "out_features": 2}),
        "too large",
    ),
    "other shape": (
        set_node(1, config={"in_features": 3, "out_features": 5}),
        r"tensor 'linear_2.weight' has shape \(4, 3\), its layer expects \(5, 3\)",
    ),
    "shapes that disagree": (
        set_field(inputs=[{"name": "input", "shape": [4], "dtype": "float32", "units": None}]),
        "node 'standardize_1'",
    ),
    "dangling input": (set_node(1, inputs=["nowhere"]), "reads .*'nowhere'"),
    "two nodes of one name": (set_node(2, name="linear_2"), "two parts.*'linear_2'"),
    "unknown output": (set_field(outputs={"y": "nothing"}), "'nothing', which is not a node"),
    "missing tensor": (
        lambda description, tensors: tensors.pop("linear_4.bias"),
        "tensor 'linear_4.bias' is missing",
    ),
    "extra tensor": (set_tensor("evil", np.zeros(1)), r"no layer asks for: \['evil'\]"),
    "other dtype": (
        set_tensor("linear_4.bias", np.zeros(2, np.float64)),
        "'linear_4.bias' is float64, expected float32",
    ),
    "mask without tensor": (set_field(masks=["linear_2.weight"]), "weight:mask' is missing"),
    "mask of nothing": (set_field(masks=["linear_9.weight"]), "unknown parameters or nodes"),
    "qparams without tensor": (
        set_field(qparams={"linear_2.weight": QPARAMS}),
        "weight:scale' is missing",
    ),
    "bad axis": (set_field(qparams={"linear_2.weight": {**QPARAMS, "axis": -1}}), "description"),
    "bad dtype": (set_field(dtype="object"), "description: Invalid enum value 'object'"),
    "bad shape": (
        set_field(inputs=[{"name": "x", "shape": [0], "dtype": "float32", "units": None}]),
        "description: Expected `int` >= 1",
    ),
    "no nodes": (lambda description, tensors: description.pop("nodes"), "missing required field"),
    "nodes of the wrong kind": (set_field(nodes="all"), "description: Expected `array`"),
    "huge kernel": (
        set_node(1, layer="Conv2d", config={"kernel_size": [10**5, 10**5], "in_channels": 1}),
        "Conv2d.* is too large",
    ),
    "deep nesting": (
        set_node(1, config={"in_features": nested(800), "out_features": 4}),
        "nested too deep|recursion|node 'linear_2'",
    ),
}


@pytest.mark.parametrize(("edit", "message"), TAMPERED.values(), ids=TAMPERED)
def test_tampered_files_are_refused_and_say_where(path: Path, edit: Edit, message: str) -> None:
    rewritten(path, edit)
    with pytest.raises(ModelFileError, match=f"checkpoint {path}: .*{message}"):
        load(path)


def test_untampered_files_load(path: Path) -> None:
    rewritten(path, lambda description, tensors: None)
    np.testing.assert_array_equal(load(path).value, small_network().value)


def test_a_newer_schema_is_refused_whatever_else_changed(path: Path) -> None:
    rewritten(path, set_field(schema_version=2, nodes={"all": "different"}))
    with pytest.raises(SchemaVersionError, match=r"schema_version is 2, .* upgrade hlserve"):
        load(path)


def test_every_truncation_is_refused(path: Path) -> None:
    save(small_network(), path)
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match=f"checkpoint {path}: not a whole safetensors"):
            load(path)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{}",
        struct.pack("<Q", 10) + b"[[[[[[[[[[",
        b"PK\x03\x04" + bytes(100),
        b"\x80\x04\x95" + bytes(100),  # how a pickle begins
    ],
    ids=["header of 2^63", "header of 99 MB", "not JSON", "zip", "pickle"],
)
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a whole safetensors"):
        load(path)


def test_safetensors_of_others_are_refused(path: Path) -> None:
    save_file({"w": np.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="hlserve did not write it"):
        load(path)
    save_file({"w": np.zeros(3)}, path, metadata={"hlserve": "{"})
    with pytest.raises(ModelFileError, match="description: Input data was truncated"):
        load(path)


def test_a_missing_file_is_told(path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no such file"):
        load(path)
    with pytest.raises(ModelFileError, match="there is no such file"):
        load(path.parent)
