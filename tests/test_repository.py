"""The model repository: what is read, what is refused, and that publishing is whole or nothing."""

import errno
import hashlib
import os
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hlserve import repository
from hlserve.errors import (
    ModelFileError,
    ModelNotFoundError,
    RepositoryError,
    SchemaVersionError,
    VersionNotFoundError,
)
from hlserve.repository import Metadata, Repository, TensorSpec, publish

MODEL = b"not really onnx; the repository does not look inside"


def metadata(model: bytes = MODEL, **changes: object) -> Metadata:
    facts = {
        "inputs": (TensorSpec("input", "FP32", (-1, 4), units="cm"),),
        "outputs": (TensorSpec("probabilities", "FP32", (-1, 2)),),
        "task": "classification",
        "class_labels": ("no", "yes"),
        "producer": "test",
        "created": "2026-01-01T00:00:00Z",
        "sha256": hashlib.sha256(model).hexdigest(),
    }
    return Metadata(**(facts | changes))  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_published_is_read_back(tmp_path: Path) -> None:
    golden = {
        "input:input": np.ones((2, 4), np.float32),
        "output:probabilities": np.zeros((2, 2), np.float32),
    }
    version = publish(
        tmp_path / "flowers",
        model=MODEL,
        metadata=metadata(),
        golden=golden,
        recipe_lock="steps = []\n",
        report={"summary.json": b"{}"},
    )
    models = Repository(tmp_path)
    assert (version, models.names(), models.versions("flowers")) == (1, ["flowers"], [1])
    assert models.metadata("flowers", 1) == metadata()
    folder = models.version_dir("flowers", 1)
    assert sorted(tree(folder)) == [
        "golden.safetensors",
        "metadata.json",
        "model.onnx",
        "recipe.lock",
        "report/summary.json",
    ]
    read = repository.read_golden(folder)
    assert read is not None
    for name, array in golden.items():
        np.testing.assert_array_equal(read[name], array)


def test_publishing_again_is_the_next_number_and_leaves_older_versions(tmp_path: Path) -> None:
    publish(tmp_path / "m", model=MODEL, metadata=metadata())
    before = tree(tmp_path / "m" / "1")
    (tmp_path / "m" / "7").mkdir()
    (tmp_path / "m" / "7" / "model.onnx").write_bytes(MODEL)
    assert publish(tmp_path / "m", model=MODEL, metadata=metadata()) == 8
    assert Repository(tmp_path).versions("m") == [1, 7, 8]
    assert tree(tmp_path / "m" / "1") == before


def test_publishers_at_once_get_different_numbers(tmp_path: Path) -> None:
    versions: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: versions.append(
                publish(tmp_path / "m", model=MODEL, metadata=metadata())
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(1, 9))
    assert Repository(tmp_path).versions("m") == list(range(1, 9))


@pytest.mark.parametrize("failing_call", range(1, 8))
def test_a_full_disk_leaves_nothing_and_keeps_the_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    publish(tmp_path / "m", model=MODEL, metadata=metadata())
    before = tree(tmp_path)
    real, calls = os.fsync, iter(range(1, 100))

    def fsync(descriptor: int) -> None:
        if next(calls) == failing_call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    arguments = {"model": MODEL, "metadata": metadata(), "report": {"a.json": b"{}"}}
    if failing_call > 6:  # three files, two folders, the model's folder: then all is written
        publish(tmp_path / "m", **arguments)  # type: ignore[arg-type]
        return
    with pytest.raises(RepositoryError, match="No space left on device"):
        publish(tmp_path / "m", **arguments)  # type: ignore[arg-type]
    assert tree(tmp_path) == before
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def test_a_full_disk_leaves_no_folder_of_a_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RepositoryError, match="cannot publish into"):
        publish(tmp_path / "new", model=MODEL, metadata=metadata())
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_disk_is_told_and_leaves_nothing() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this machine has no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        repository._write_durably(full, b"x" * 10_000)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="has sha256 '00', the model's is"):
        publish(tmp_path / "m", model=MODEL, metadata=metadata(sha256="00"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["..", " m", ".hidden", "a\nb"])
def test_an_unusable_model_name_is_refused_at_publish(tmp_path: Path, name: str) -> None:
    if name == "..":
        assert not repository.is_model_name(name)
        return
    with pytest.raises(RepositoryError, match="is no name for a model"):
        publish(tmp_path / name, model=MODEL, metadata=metadata())


def test_golden_of_text_or_of_a_wrong_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="golden 'input:x' has dtype object"):
        publish(
            tmp_path / "m",
            model=MODEL,
            metadata=metadata(),
            golden={"input:x": np.array([b"a"], dtype=object)},
        )
    with pytest.raises(RepositoryError, match="golden key 'x'"):
        publish(tmp_path / "m", model=MODEL, metadata=metadata(), golden={"x": np.zeros(1)})


def test_a_report_file_cannot_leave_its_folder(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no plain file name"):
        publish(tmp_path / "m", model=MODEL, metadata=metadata(), report={"../../escaped": b"x"})
    assert list(tmp_path.iterdir()) == []


def test_only_plain_positive_integers_are_versions(tmp_path: Path) -> None:
    for name in ["1", "01", "v2", "3.0", "-4", "0", "5 ", "9" * 19, "12", ".publish-x"]:
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "6").write_text("a file")
    assert Repository(tmp_path).versions("m") == [1, 12]


def test_hidden_files_links_out_and_odd_names_are_no_models(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    for name in ["plain", "mit Umlaut ü", "model..1", ".git", " blank", "tab\tname"]:
        (root / name).mkdir(parents=True)
    (root / "README.md").write_text("a file")
    (root / "link").symlink_to(outside)
    models = Repository(root)
    assert models.names() == ["mit Umlaut ü", "model..1", "plain"]
    assert models.refused_names() == [" blank", "link", "tab\tname"]


def test_a_version_that_links_out_of_the_repository_is_not_taken(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "root" / "m").mkdir(parents=True)
    (tmp_path / "root" / "m" / "1").symlink_to(outside)
    assert Repository(tmp_path / "root").versions("m") == []


@pytest.mark.parametrize("name", ["../etc", "a/../b", "..", "", "/etc", "x" * 10_000, "\0"])
def test_a_name_from_outside_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        Repository(tmp_path).versions(name)


def test_an_unknown_version_and_a_missing_root_are_told(tmp_path: Path) -> None:
    publish(tmp_path / "m", model=MODEL, metadata=metadata())
    with pytest.raises(VersionNotFoundError, match="model 'm' has no version 2"):
        Repository(tmp_path).version_dir("m", 2)
    with pytest.raises(RepositoryError, match="is no folder"):
        Repository(tmp_path / "absent")


def test_metadata_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    content = msgspec.to_builtins(metadata()) | {"schema_version": 2}
    (tmp_path / "metadata.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(SchemaVersionError, match="schema version 2, this hlserve reads up to 1"):
        repository.read_metadata(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no JSON"),
        (b"[]", "holds list, expected a JSON object"),
        (b"{}", "missing required field `inputs`"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_metadata_that_cannot_be_read_names_file_and_reason(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        repository.read_metadata(tmp_path)


def test_missing_metadata_golden_and_config_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    models = Repository(tmp_path)
    assert models.metadata("m", 1) is None
    assert models.config_file("m") is None
    assert repository.read_golden(tmp_path / "m" / "1") is None


def test_a_broken_golden_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "golden.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelFileError, match=r"golden\.safetensors"):
        repository.read_golden(tmp_path)
