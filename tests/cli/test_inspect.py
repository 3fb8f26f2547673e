"""`hlserve inspect`, on versions that were really published."""

import json
from pathlib import Path

import numpy as np
import pytest

from compress.export import to_onnx
from hlserve.cli import cli, run
from hlserve.nn import build, checkpoint, fit


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A compressed model, and one that came as a bare file."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 10)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)
    network = build("mlp:64", input_shape=(10,), n_outputs=3, task="classification")
    fit(network, x, y, epochs=6, progress=False)
    checkpoint.save(network, folder / "net.safetensors")
    np.savez(folder / "rows.npz", x=x, y=y)
    words = ["compress", folder / "net.safetensors", "--data", folder / "rows.npz"]
    words += ["--max-drop", "0.2", "--minimize", "bytes", "--prune", "0.5", "--quantize", "int8"]
    assert run(cli, [str(w) for w in (*words, "--out", folder / "models" / "small")]) == 0
    bare = folder / "models" / "bare" / "1"
    bare.mkdir(parents=True)
    (bare / "model.onnx").write_bytes(to_onnx(network).SerializeToString())
    return folder


def told(capsys, *words):
    assert run(cli, ["inspect", *map(str, words)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("version", ["", "1"])
def test_steps_layers_and_reasons_are_told(work: Path, capsys, version):
    out = told(capsys, work / "models" / "small" / version)
    assert "small, version 1: made from net.safetensors by hlserve" in out
    for word in ("PruneChannels", "QuantizeStatic", "int8", "32 of 64 units pruned"):
        assert word in out


def test_json_is_the_report_as_it_stands(work: Path, capsys):
    found = json.loads(told(capsys, work / "models" / "small", "--json"))
    path = work / "models" / "small" / "1" / "report" / "report.json"
    assert found == json.loads(path.read_text())


def test_a_foreign_model_is_listed_layer_by_layer(work: Path, capsys):
    out = told(capsys, work / "models" / "bare")
    assert "without metadata, made elsewhere" in out
    assert "Gemm" in out
    assert "FLOAT" in out
    layers = json.loads(told(capsys, work / "models" / "bare", "--json"))["layers"]
    assert [layer["operator"] for layer in layers] == ["Gemm", "Gemm"]


def test_what_is_no_model_is_one_line(work: Path, tmp_path: Path, capsys):
    assert run(cli, ["inspect", str(tmp_path / "none")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert run(cli, ["inspect", str(tmp_path)]) == 1
    assert "holds no version" in capsys.readouterr().err


def test_a_damaged_report_is_one_line(work: Path, tmp_path: Path, capsys):
    import shutil

    copy = tmp_path / "models" / "small"
    shutil.copytree(work / "models" / "small", copy)
    (copy / "1" / "report" / "report.json").write_text('{"schema_version": 2, "original": 3}')
    assert run(cli, ["inspect", str(copy)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "report.json cannot be read" in err
