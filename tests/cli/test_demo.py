"""``hlserve demo`` from end to end, as a newcomer types it."""

import subprocess
import sys
from pathlib import Path

import pytest

from hlserve.repository import Repository


@pytest.mark.slow
def test_the_demo_leaves_models_that_serve(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hlserve", "demo", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("fashion-mlp", "fashion-lenet5"):
        assert f"{name} (" in done.stdout
        assert Repository(tmp_path / "originals").versions(name) == [1]
    assert Repository(tmp_path / "models").names()
    assert "server CPU a request" in done.stdout
    assert f"hlserve serve {tmp_path / 'models'} --port 8001" in done.stdout


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "hlserve", "demo", "--out", str(tmp_path / "file" / "in")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be made" in done.stderr
    assert "Traceback" not in done.stderr
