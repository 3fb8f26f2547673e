from pathlib import Path

import msgspec
import pytest

from hlserve.errors import ConfigError
from hlserve.report.folder import require_folder, write_folder
from hlserve.report.learning import LearningReport
from tests.report.samples import report


def test_the_data_reads_back_as_it_was(tmp_path: Path) -> None:
    size = write_folder(tmp_path / "deep", report(), "päge")
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["index.html", "report.json"]
    assert (tmp_path / "deep" / "index.html").read_bytes() == "päge".encode()
    assert size == 5
    read = msgspec.json.decode(
        (tmp_path / "deep" / "report.json").read_bytes(), type=LearningReport
    )
    assert read == report()
    assert read.schema_version == 1


def test_an_older_report_is_replaced_and_nothing_is_left_over(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", report(), "old")
    write_folder(tmp_path / "out", report(title="new"), "new")
    assert (tmp_path / "out" / "index.html").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    class Unwritable(msgspec.Struct):
        value: object

    write_folder(tmp_path / "out", report(), "old")
    with pytest.raises(TypeError):
        write_folder(tmp_path / "out", Unwritable(object()), "new")
    assert (tmp_path / "out" / "index.html").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folders_that_hold_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"holds other files \(model.safetensors\)"):
        require_folder(tmp_path)
    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        require_folder(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="cannot write there"):
        require_folder(tmp_path / "model.safetensors" / "report")
    require_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()
