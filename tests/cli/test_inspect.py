"""`hlserve inspect`, on versions that were really published."""

import json
import shutil
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


def test_each_step_shows_what_it_gained_over_the_one_before(work: Path, capsys):
    out = told(capsys, work / "models" / "small")
    report = json.loads((work / "models/small/1/report/report.json").read_text())
    before = report["original"]
    for step in report["best"]["steps"]:
        (line,) = [row for row in out.splitlines() if row.startswith(f"{step['technique']} ")]
        assert f"{step['size_bytes']:,}" in line
        assert f"{step['macs']:,}" in line
        for key in ("size_bytes", "macs"):
            if before[key] != step[key]:
                ratio = before[key] / step[key]
                assert f"{ratio:.1f}" in line if ratio >= 10 else f"{ratio:.2f}" in line
        before = step


def test_the_lock_is_told_and_compared_with_this_machine(work: Path, tmp_path: Path, capsys):
    out = told(capsys, work / "models" / "small")
    assert "recipe       seed 0, data" in out
    assert "1. PruneChannels ratio=0.5" in out
    assert f"NumPy {np.__version__}" in out
    assert "here         the same: `hlserve replay` gives the same bytes" in out
    copy = tmp_path / "models" / "small"
    shutil.copytree(work / "models" / "small", copy)
    lock = copy / "1" / "recipe.lock"
    lock.write_text(lock.read_text().replace('numpy = "', 'numpy = "0.'))
    out = told(capsys, copy)
    assert "here         differs" in out
    assert f"numpy 0.{np.__version__}, now {np.__version__}" in out
    made = json.loads(told(capsys, copy, "--json"))["recipe_lock"]
    assert made["differences"] == [f"numpy 0.{np.__version__}, now {np.__version__}"]
    assert made["ingredients"]["seed"] == 0
    assert made["steps"][0]["settings"]["ratio"] == 0.5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no recipe.lock: how it was made is not known"),
        ("[made_with]\nschema_version = 99\n", "note: lock"),
        ("x = [", "is no TOML"),
    ],
)
def test_a_lock_that_cannot_be_read_leaves_the_rest(content, said, work, tmp_path, capsys):
    copy = tmp_path / "models" / "small"
    shutil.copytree(work / "models" / "small", copy)
    lock = copy / "1" / "recipe.lock"
    lock.unlink()
    if content is not None:
        lock.write_text(content)
    out = told(capsys, copy)
    assert said in out
    assert "32 of 64 units pruned" in out


def test_a_report_of_the_first_schema_is_told_with_the_graph_for_its_layers(
    work: Path, tmp_path: Path, capsys
):
    copy = tmp_path / "models" / "small"
    shutil.copytree(work / "models" / "small", copy)
    path = copy / "1" / "report" / "report.json"
    report = json.loads(path.read_text())
    for row in (report["original"], report["best"]):
        row["latency_s"] = {b: t["p50"] for b, t in row["latency_s"].items()}
        row["speed_up_lower"] = {b: t["lower"] for b, t in row["speed_up"].items()}
        row["speed_up"] = {b: t["ratio"] for b, t in row["speed_up"].items()}
    report |= {"schema_version": 1, "metric": "accuracy", "rows": 120}
    for key in ("layers", "machine", "tried", "classes", "sensitivity", "pareto", "test"):
        report.pop(key)
    path.write_text(json.dumps(report))
    out = told(capsys, copy)
    assert "PruneChannels" in out
    assert "accuracy" in out
    assert "faster, batch 32" in out or "slower, batch 32" in out
    assert "weight" in out  # a column of the graph's own table
    assert "INT8" in out


def test_a_report_of_a_newer_schema_says_so(work: Path, tmp_path: Path, capsys):
    copy = tmp_path / "models" / "small"
    shutil.copytree(work / "models" / "small", copy)
    (copy / "1" / "report" / "report.json").write_text('{"schema_version": 99}')
    assert run(cli, ["inspect", str(copy)]) == 1
    assert "schema version 99" in capsys.readouterr().err


def test_json_is_the_report_as_it_stands_and_the_lock(work: Path, capsys):
    found = json.loads(told(capsys, work / "models" / "small", "--json"))
    path = work / "models" / "small" / "1" / "report" / "report.json"
    assert found.pop("recipe_lock")["environment"]["numpy"] == np.__version__
    assert found == json.loads(path.read_text())


def test_a_foreign_model_is_listed_layer_by_layer(work: Path, capsys):
    out = told(capsys, work / "models" / "bare")
    assert "no metadata.json, so made elsewhere or by hand" in out
    assert "Gemm" in out
    assert "FLOAT" in out
    layers = json.loads(told(capsys, work / "models" / "bare", "--json"))["layers"]
    assert [layer["operator"] for layer in layers] == ["Gemm", "Gemm"]


def test_what_is_no_model_is_one_line(work: Path, tmp_path: Path, capsys):
    assert run(cli, ["inspect", str(tmp_path / "none")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert run(cli, ["inspect", str(tmp_path)]) == 1
    assert "holds no version" in capsys.readouterr().err
    assert run(cli, ["inspect", str(work / "models" / "small" / "7")]) == 1
    assert "has no version 7; it has 1" in capsys.readouterr().err
    assert run(cli, ["inspect", str(work / "models")]) == 1
    assert "is a folder of models; name one of them: bare, small" in capsys.readouterr().err
    (tmp_path / "3").mkdir()
    assert run(cli, ["inspect", str(tmp_path / "3")]) == 1
    assert "holds no model.onnx" in capsys.readouterr().err


def test_a_damaged_report_is_one_line(work: Path, tmp_path: Path, capsys):
    copy = tmp_path / "models" / "small"
    shutil.copytree(work / "models" / "small", copy)
    (copy / "1" / "report" / "report.json").write_text('{"schema_version": 2, "original": 3}')
    assert run(cli, ["inspect", str(copy)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "report.json cannot be read" in err
