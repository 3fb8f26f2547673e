"""``hlserve replay`` on what ``hlserve compress`` published."""

import json
from pathlib import Path

import numpy as np
import pytest

from compress.export import to_onnx
from hlserve.cli import cli, run
from hlserve.nn import AdamW, build_for, checkpoint, fit


def hlserve(*arguments: object) -> int:
    return run(cli, list(map(str, arguments)))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, its rows, and a version of it that was compressed from them."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    x = rng.normal(size=(600, 20)).astype(np.float32) + np.eye(3, 20, dtype=np.float32)[y] * 4
    network = build_for("mlp:64", x, y, task="classification", class_labels=("a", "b", "c"))
    fit(network, x, y, optimizer=AdamW(1e-3), epochs=2, progress=False)
    checkpoint.save(network, folder / "net.safetensors")
    np.savez(folder / "rows.npz", x=x, y=y)
    words = ["--data", folder / "rows.npz", "--max-drop", "20pp", "--minimize", "bytes"]
    words += ["--prune", "0.5", "--quantize", "int8", "--batch", "1", "--out", folder / "models/m"]
    assert hlserve("compress", folder / "net.safetensors", *words) == 0
    return folder


def test_a_published_version_is_made_again_bit_by_bit(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = work / "models" / "m" / "1"
    capsys.readouterr()
    assert hlserve("replay", version / "recipe.lock", "--out", work / "again.onnx", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_identical"]
    assert found["warnings"] == []
    assert (work / "again.onnx").read_bytes() == (version / "model.onnx").read_bytes()


def test_what_was_trained_from_an_onnx_file_is_made_again_with_its_output(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "net.onnx"
    network = checkpoint.load(work / "net.safetensors")
    model.write_bytes(to_onnx(network).SerializeToString())
    (output,) = network.outputs
    words = ["--data", work / "rows.npz", "--max-drop", "20pp", "--minimize", "bytes", "--output"]
    words += [output, "--prune", "0.5", "--quantize", "int8", "--batch", "1", "--jobs", "1"]
    assert hlserve("compress", model, *words, "--out", tmp_path / "models" / "m") == 0
    lock = tmp_path / "models" / "m" / "1" / "recipe.lock"
    assert f'output = "{output}"' in lock.read_text()
    capsys.readouterr()
    assert hlserve("replay", lock) == 0
    assert capsys.readouterr().out.startswith("identical: ")


def test_a_lock_that_was_changed_makes_a_different_file(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (work / "models" / "m" / "1" / "recipe.lock").read_text()
    lock = tmp_path / "recipe.lock"
    lock.write_text(text.replace("rows = 512", "rows = 64").replace('numpy = "', 'numpy = "0'))
    before = set(tmp_path.iterdir())
    assert hlserve("replay", lock) == 1
    told = capsys.readouterr()
    assert told.out.startswith("different: ")
    assert "warning: numpy 0" in told.err
    assert set(tmp_path.iterdir()) == before  # nothing is written without --out


def test_what_cannot_be_replayed_says_why(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (work / "models" / "m" / "1" / "recipe.lock").read_text()
    lock = tmp_path / "recipe.lock"
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x")
    np.savez(tmp_path / "other.npz", x=np.zeros((600, 20), np.float32), y=np.zeros(600, np.int64))
    for content, words, code, message in [
        ("", (), 2, "no steps"),
        (text.replace("schema_version = 2", "schema_version = 1"), (), 1, "schema version 1"),
        (text.replace('metric = "accuracy"', 'metric = "os:system"'), (), 2, "--trust"),
        (text, ("--model", other), 1, "not the file that the lock was made from"),
        (text, ("--data", tmp_path / "other.npz"), 1, "not those that the lock was made from"),
        (text, ("--out", tmp_path / "none" / "a.onnx"), 1, "cannot be written"),
        (text.replace("net.safetensors", "gone.safetensors"), (), 1, "neither in the current"),
    ]:
        lock.write_text(content)
        assert hlserve("replay", lock, *words) == code, message
        assert message in capsys.readouterr().err
