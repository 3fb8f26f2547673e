"""``hlserve publish``: what is checked before a file enters the repository, and what is kept."""

from pathlib import Path

import pytest

from hlserve.cli import cli, run
from hlserve.repository import Repository, read_golden
from tests.serving import models


def publish(*arguments: object) -> int:
    return run(cli, ["publish", *map(str, arguments)])


def test_a_file_is_published_unchanged_with_metadata_and_a_golden_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mine.onnx"
    source.write_bytes(models.mlp())
    assert publish(source, "--out", tmp_path / "models" / "mine") == 0
    assert capsys.readouterr().out.strip().endswith("models/mine/1")
    repository = Repository(tmp_path / "models")
    folder = repository.version_dir("mine", 1)
    assert (folder / "model.onnx").read_bytes() == models.mlp()
    metadata = repository.metadata("mine", 1)
    assert metadata is not None
    assert metadata.inputs[0].shape == (-1, 8)
    assert [spec.name for spec in metadata.outputs] == ["probabilities", "logits"]
    golden = read_golden(folder)
    assert golden is not None
    assert set(golden) == {"input:input", "output:probabilities", "output:logits"}


def test_text_models_are_published_without_a_golden_sample(tmp_path: Path) -> None:
    source = tmp_path / "text.onnx"
    source.write_bytes(models.identity("BYTES"))
    assert publish(source, "--out", tmp_path / "text") == 0
    assert read_golden(tmp_path / "text" / "1") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", "ONNX Runtime cannot load it"),
        (b"", "ONNX Runtime cannot load it"),
        (models.mlp()[:200], "ONNX Runtime cannot load it"),
        (models.unknown_operator(), "elsewhere:Mystery(-1) is not a registered function/op"),
        (models.external_data("../weights.bin"), "External data path"),
        (models.external_data("weights.bin"), "External data path"),
        (models.external_data("/etc/passwd"), "Absolute path not allowed"),
    ],
)
def test_what_cannot_be_served_is_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    source = tmp_path / "bad.onnx"
    source.write_bytes(content)
    assert publish(source, "--out", tmp_path / "models" / "bad") == 1
    error = capsys.readouterr().err
    assert "bad.onnx is not published" in error
    assert message in error
    assert not (tmp_path / "models").exists()


def test_missing_files_and_wrong_labels_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mlp.onnx"
    out = tmp_path / "models" / "m"
    assert publish(source, "--out", out) == 1
    assert "mlp.onnx: No such file" in capsys.readouterr().err
    source.write_bytes(models.mlp())
    labels = tmp_path / "labels.txt"
    for text, message in [
        ("a\n\nb\n", "holds an empty class label"),
        ("a\nb\n", "2 class labels came for outputs of the widths {'probabilities': 3"),
    ]:
        labels.write_text(text)
        assert publish(source, "--out", out, "--class-labels", labels) == 2
        assert message in capsys.readouterr().err
    assert not out.exists()
