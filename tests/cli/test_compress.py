"""``hlserve compress`` and ``hlserve evaluate`` as users meet them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from compress.export import to_onnx
from hlserve.cli import cli, run
from hlserve.nn import AdamW, build_for, checkpoint, fit
from hlserve.repository import Repository, read_golden, read_metadata

ROOT = Path(__file__).parents[2]


def hlserve(*arguments: object) -> int:
    return run(cli, list(map(str, arguments)))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, the same as ONNX, and rows with and without labels."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 900)
    x = rng.normal(size=(900, 20)).astype(np.float32) + np.eye(3, 20, dtype=np.float32)[y] * 4
    network = build_for("mlp:256,128", x, y, task="classification", class_labels=("a", "b", "c"))
    fit(network, x, y, optimizer=AdamW(1e-3), epochs=4, progress=False)
    checkpoint.save(network, folder / "net.safetensors")
    (folder / "net.onnx").write_bytes(to_onnx(network).SerializeToString())
    np.savez(folder / "rows.npz", x=x, y=y)
    np.savez(folder / "bare.npz", x=x)
    return folder


def compress(work: Path, model: str, out: Path, *more: object, data: str = "rows.npz") -> int:
    words = ["--data", work / data, "--out", out, "--minimize", "bytes", "--batch", "1", *more]
    return hlserve("compress", work / model, *words)


@pytest.mark.parametrize("model", ["net.safetensors", "net.onnx"])
def test_a_smaller_model_is_published_whole(
    model: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "net"
    assert compress(work, model, out, "--max-drop", "10pp") == 0
    text, told = capsys.readouterr()
    assert f"published {out / '1'}" in text
    assert "MACs in int8" in text
    assert "smallest drop that these rows can prove" in told
    version = out / "1"
    assert {entry.name for entry in version.iterdir()} == {
        "model.onnx",
        "metadata.json",
        "golden.safetensors",
        "recipe.lock",
        "report",
    }
    assert Repository(tmp_path / "models").versions("net") == [1]
    metadata = read_metadata(version)
    assert metadata is not None
    is_ours = model.endswith(".safetensors")
    assert metadata.class_labels == (("a", "b", "c") if is_ours else None)
    golden = read_golden(version)
    assert golden is not None
    assert golden["input:input"].shape == (4, 20)
    assert (version / "model.onnx").stat().st_size < (work / "net.onnx").stat().st_size
    report = json.loads((version / "report" / "report.json").read_text())
    assert report["schema_version"] == 2
    assert report["best"]["drop"] <= 0.1
    assert report["original"]["int8_share"] == 0.0
    assert report["original"]["macs"] == 20 * 256 + 256 * 128 + 128 * 3
    assert 'technique = "' in (version / "recipe.lock").read_text()


def test_json_is_the_report_and_nothing_else(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net"
    assert compress(work, "net.safetensors", out, "--max-drop", "10pp", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["published"] == str(out / "1")
    assert report["tried"][0]["name"] == "folded"


def test_without_labels_it_agrees_with_the_original(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net"
    assert compress(work, "net.onnx", out, "--max-drop", "10pp", data="bare.npz") == 0
    text = capsys.readouterr().out
    assert "agreement" in text
    assert "no labels: compared with the original's own answers" in text


def test_a_bound_that_nothing_meets_is_exit_code_3_and_publishes_nothing(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "harsh.toml"
    recipe.write_text('[[step]]\ntechnique = "PruneChannels"\nratio = 0.97\n')
    out = tmp_path / "models" / "net"
    code = compress(work, "net.safetensors", out, "--max-drop", "0.01pp", "--recipe", recipe)
    assert code == 3
    told = capsys.readouterr().err
    assert "the original is kept" in told
    assert "Nearest miss: recipe, drops by" in told
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-drop", "0.5"), "most likely a slip"),
        (("--max-drop", "much"), "is no number"),
        (("--max-drop", "1pp", "--metric", "joy"), "no metric 'joy'"),
        (("--max-drop", "1pp", "--student", "mlp:"), "mlp"),
        (("--max-drop", "0.01pp", "--require-proof"), "no candidate could pass"),
        (("--max-drop", "1pp", "--recipe", "none.toml"), "none.toml cannot be read"),
        (("--max-drop", "1pp", "--batch", "0"), "expected different sizes"),
    ],
)
def test_wrong_wishes_are_exit_code_2_in_one_line(
    words: tuple[str, ...], said: str, work: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "models" / "net"
    assert compress(work, "net.safetensors", out, *words) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_models_that_cannot_be_read_are_refused(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = work / "cut.onnx"
    cut.write_bytes((work / "net.onnx").read_bytes()[:2000])
    for model, said in (("cut.onnx", "cut off"), ("rows.npz", "expected a checkpoint")):
        assert compress(work, model, tmp_path / "m", "--max-drop", "1pp") == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--teacher", "none.onnx"), "none.onnx cannot be read"),
        (("--eval", "none.npz"), "no data 'none.npz'"),
    ],
)
def test_files_that_are_missing_fail_in_one_line(
    words: tuple[str, ...], said: str, work: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert compress(work, "net.safetensors", tmp_path / "m", "--max-drop", "1pp", *words) == 1
    assert said in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    assert compress(work, "net.safetensors", tmp_path / "m", "--max-drop", "1pp") == 1
    assert "cannot write into" in capsys.readouterr().err


def test_the_script_takes_the_same_arguments(work: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "compress", work / "net.safetensors", "--data"]
    command += [work / "rows.npz", "--max-drop", "10pp", "--out", tmp_path / "net"]
    command += ["--prune", "0.5", "--minimize", "bytes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"published {tmp_path / 'net' / '1'}" in done.stdout


def test_evaluate_takes_whatever_a_model_is_kept_in(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hlserve("publish", work / "net.onnx", "--out", tmp_path / "net") == 0
    capsys.readouterr()
    found = []
    folders = (tmp_path / "net", tmp_path / "net" / "1")
    for model in (work / "net.safetensors", work / "net.onnx", *folders):
        assert hlserve("evaluate", model, "--data", work / "rows.npz", "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert len({(one["value"], one["low"], one["high"]) for one in found}) == 1
    assert found[0]["low"] < found[0]["value"] < found[0]["high"]
    assert found[0]["rows"] == 900
    assert hlserve("evaluate", work / "net.onnx", "--data", work / "rows.npz") == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("net.onnx", "bare.npz", "have no labels"),
        ("none.onnx", "rows.npz", "cannot be read"),
        (".", "rows.npz", "holds no version of a model"),
        ("net.onnx", "digits", "takes"),
    ],
)
def test_evaluate_says_what_is_wrong(
    model: str, data: str, said: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = data if data == "digits" else work / data
    assert hlserve("evaluate", work / model, "--data", rows) == 1
    assert said in capsys.readouterr().err


def test_the_published_graph_is_valid(work: Path, tmp_path: Path) -> None:
    assert compress(work, "net.safetensors", tmp_path / "net", "--max-drop", "10pp") == 0
    onnx.checker.check_model(onnx.load(tmp_path / "net" / "1" / "model.onnx"), full_check=True)


def test_the_lock_of_a_result_is_a_recipe(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wishes = ("--max-drop", "20pp", "--prune", "0.5", "--quantize", "int8")
    assert compress(work, "net.safetensors", tmp_path / "a", *wishes) == 0
    lock = tmp_path / "a" / "1" / "recipe.lock"
    again = ("--max-drop", "20pp", "--recipe", lock)
    assert compress(work, "net.safetensors", tmp_path / "b", *again) == 0
    files = [tmp_path / name / "1" / "model.onnx" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    newer = tmp_path / "newer.lock"
    newer.write_text(lock.read_text().replace("schema_version = 2", "schema_version = 99"))
    capsys.readouterr()
    assert compress(work, "net.safetensors", tmp_path / "c", *again[:3], newer) == 1
    assert "schema version 99" in capsys.readouterr().err


def test_a_bad_row_is_named_by_the_users_file(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(work / "rows.npz") as held:
        x, y = held["x"].astype(np.float32), held["y"]
    x[777, 2] = np.nan
    np.savez(tmp_path / "gaps.npz", x=x, y=y)
    words = ["--data", tmp_path / "gaps.npz", "--max-drop", "1pp", "--out", tmp_path / "m"]
    assert hlserve("compress", work / "net.onnx", *words) == 1
    assert f"row 777 of {tmp_path / 'gaps.npz'} holds NaN" in capsys.readouterr().err
    words[1] = work / "rows.npz"
    assert hlserve("compress", work / "net.onnx", *words, "--eval", tmp_path / "gaps.npz") == 1
    assert f"row 777 of {tmp_path / 'gaps.npz'} holds NaN" in capsys.readouterr().err
