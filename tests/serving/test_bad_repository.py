"""Folders and files as they should not be: told in words, and the model beside them answers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hlserve.errors import ModelNotFoundError, ModelNotReadyError
from hlserve.repository import Repository
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ControlConfig, ServerConfig
from hlserve.serving.store import ModelStore
from tests.serving import models


def loaded(root: Path) -> ModelStore:
    models.put(root, "good", models.mlp())
    threads = RunThreads(1)
    store = ModelStore(Repository(root), ServerConfig(models=root), threads)
    threads.shutdown(wait=True)  # nothing runs here
    store.load_all()
    store.close()
    return store


def with_opset(version: int) -> bytes:
    model = onnx.load_from_string(models.mlp())
    model.opset_import[0].version = version
    return model.SerializeToString()


def cyclic() -> bytes:
    kind = (TensorProto.FLOAT, ["batch", 2])
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
    ]
    return models.model_bytes(nodes, {"x": kind}, {"b": kind})


def dead_link(root: Path) -> None:
    (root / "bad" / "1").mkdir(parents=True)
    (root / "bad" / "1" / "model.onnx").symlink_to(root / "nowhere")


def folder_instead_of_file(root: Path) -> None:
    (root / "bad" / "1" / "model.onnx").mkdir(parents=True)


def config_folder(root: Path) -> None:
    models.put(root, "bad", models.mlp())
    (root / "bad" / "config.pbtxt").mkdir()


def config_bytes(root: Path) -> None:
    models.put(root, "bad", models.mlp())
    (root / "bad" / "config.pbtxt").write_bytes(b"\xff\xfe\x00")


def two_configs(root: Path) -> None:
    models.put(root, "bad", models.mlp(), config={})
    (root / "bad" / "config.pbtxt").write_text("")


def version_named(name: str) -> Callable[[Path], None]:
    def put(root: Path) -> None:
        folder = root / "bad" / name
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(models.mlp())

    return put


def model_of(content: bytes) -> Callable[[Path], object]:
    return lambda root: models.put(root, "bad", content)


RANDOM = np.random.default_rng(0).bytes(4096)

BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no version": (lambda root: (root / "bad").mkdir(), "its folder holds no version"),
    "version 01": (version_named("01"), "its folder holds no version"),
    "version v1": (version_named("v1"), "its folder holds no version"),
    "version 1.0": (version_named("1.0"), "its folder holds no version"),
    "version 0": (version_named("0"), "its folder holds no version"),
    "version -1": (version_named("-1"), "its folder holds no version"),
    "empty file": (model_of(b""), "ONNX Runtime cannot load it"),
    "truncated": (model_of(models.mlp()[:-100]), "ONNX Runtime cannot load it"),
    "random bytes": (model_of(RANDOM), "ONNX Runtime cannot load it"),
    "a web page": (model_of(b"<!DOCTYPE html><html></html>"), "ONNX Runtime cannot load it"),
    "opset too new": (model_of(with_opset(9999)), "ONNX Runtime cannot load it"),
    "a cycle": (model_of(cyclic()), "ONNX Runtime cannot load it"),
    "dead link": (dead_link, "No such file"),
    "folder for a file": (folder_instead_of_file, "Is a directory"),
    "config is a folder": (config_folder, "cannot read"),
    "config of bytes": (config_bytes, "cannot read"),
    "two configs": (two_configs, "holds config.pbtxt and config.json, expected one of them"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_served_says_why_and_stays_alone(tmp_path: Path, case: str) -> None:
    spoil, message = BAD[case]
    spoil(tmp_path)
    store = loaded(tmp_path)
    with pytest.raises(ModelNotReadyError) as caught:
        store.get("bad")
    assert message in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert store.get("good").version == 1
    reasons = {s.name: s.reason for s in store.index(ready_only=False)}
    assert message in reasons["bad"]
    assert reasons["good"] == ""


def test_a_link_out_of_the_repository_is_no_model(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    models.put(outside, "m", models.mlp())
    root.mkdir()
    (root / "linked").symlink_to(outside / "m")
    models.put(root, "own", models.mlp())
    (root / "own" / "2").symlink_to(outside / "m" / "1")
    store = loaded(root)
    with pytest.raises(ModelNotFoundError):
        store.get("linked")
    assert store.versions("own") == [1]


@pytest.mark.parametrize("mode", ["explicit", "poll"])
def test_a_repository_may_be_empty_where_models_can_come(tmp_path: Path, mode: str) -> None:
    control = ControlConfig(mode=mode)  # type: ignore[arg-type]  # parametrized
    store = ModelStore(
        Repository(tmp_path), ServerConfig(models=tmp_path, control=control), RunThreads(1)
    )
    store.load_all()
    store.close()
    assert (store.is_loaded, store.index(ready_only=False)) == (True, ())
