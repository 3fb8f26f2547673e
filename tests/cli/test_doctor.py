"""`hlserve doctor`: what it says holds together; how fast anything is, is not tested."""

import json

import pytest

from compress.export import to_onnx
from hlserve.cli import cli, run
from hlserve.nn import build, checkpoint


@pytest.fixture
def network():
    return build("mlp:16,8", input_shape=(6,), n_outputs=3, task="classification")


def told(capsys, *words):
    assert run(cli, ["doctor", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_the_machine_is_told_without_a_model(capsys):
    out = told(capsys)
    for word in ("ONNX Runtime", "a call that computes nothing takes", "U8S8", "Gemm", "Conv"):
        assert word in out


def test_a_model_is_measured_and_its_operators_are_named(network, tmp_path, capsys):
    checkpoint.save(network, tmp_path / "net.safetensors")
    (tmp_path / "net.onnx").write_bytes(to_onnx(network).SerializeToString())
    for name in ("net.safetensors", "net.onnx"):
        found = json.loads(told(capsys, tmp_path / name, "--batch", "1,4", "--json"))
        assert set(found["model"]["latency_s"]["1"]) == {"1", "4"}
        assert all(t["p50"] > 0 for t in found["model"]["latency_s"]["1"].values())
        assert sum(n for kind, n in found["model"]["operators"].items() if "Gemm" in kind) == 3
        assert found["model"]["advice"]
        assert found["machine"]["floor_s"] > 0
        assert all(gain > 0 for by in found["machine"]["gains"].values() for gain in by.values())


def test_what_is_no_model_is_one_line(tmp_path, capsys):
    assert run(cli, ["doctor", str(tmp_path / "none.onnx")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert run(cli, ["doctor", "--batch", "0"]) == 2
