"""``hlserve search``: its table and files, the command that it names, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hlserve.cli import cli, run
from hlserve.nn.checkpoint import load
from tests.frontend.sounds import tone, wav

SMALL = ("--data", "digits", "--max-params", 1200, "--epochs", 3, "--family", "mlp")


def search(*arguments: object) -> int:
    return run(cli, ["search", *map(str, arguments)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "search"


def test_the_front_is_shown_and_saved(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(*SMALL, "--trials", 4, "--jobs", 2, "--out", out) == 0
    text, lines = capsys.readouterr()
    assert "4 trials: " in text
    assert re.search(r"accuracy on 280 validation rows, which chose; 95 % intervals$", text, re.M)
    assert "us, 1 row " in text
    assert "us, 32 rows" in text
    assert len(re.findall(r"^\* ", text, re.M)) == 2  # the row and what is said of it
    assert len(re.findall(r"^\d+: mlp:", lines, re.M)) == 4
    assert {"search.json", "front.svg", "trials.journal"} <= {f.name for f in out.iterdir()}
    assert (out / "front.svg").read_text().startswith("<?xml")


def test_the_command_that_is_named_trains_the_same_network(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(*SMALL, "--trials", 3, "--seed", 5, "--json", "--out", out) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema_version"] == 1
    (chosen,) = (n for n in told["front"] if n["trial"] == told["recommended"])
    again = tmp_path / "again.safetensors"
    words = ["train", "--data", "digits", *chosen["train_options"].split(), "--out", str(again)]
    assert run(cli, words) == 0
    theirs, ours = load(again), load(out / chosen["file"])
    np.testing.assert_array_equal(theirs.value, ours.value)
    assert f"{100 * chosen['test']['value']:.2f} % accuracy on 397 rows" in capsys.readouterr().out


def test_sounds_are_searched_as_the_command_that_is_named_trains_them(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for label, hertz in [("low", 300), ("high", 2500)]:
        (tmp_path / "tones" / label).mkdir(parents=True)
        for number in range(20):  # of other lengths, so that shorter ones are padded
            sound = tone(hertz * rng.uniform(0.9, 1.1), seconds=rng.uniform(0.1, 0.2))
            (tmp_path / "tones" / label / f"{number}.wav").write_bytes(wav(sound))
    data = ["--data", str(tmp_path / "tones")]
    sizes = ["--max-params", 20_000, "--trials", 1, "--epochs", 2]
    assert search(*data, *sizes, "--json", "--out", out) == 0
    (found,) = json.loads(capsys.readouterr().out)["front"]
    again = tmp_path / "again.safetensors"
    assert run(cli, ["train", *data, *found["train_options"].split(), "--out", str(again)]) == 0
    np.testing.assert_array_equal(load(again).value, load(out / found["file"]).value)


def test_a_table_without_test_rows_is_said_to_flatter(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(30, 200, 120)
    rows = [f"{size:.1f},{2000 * size + 500.5:.1f}" for size in sizes]
    (tmp_path / "houses.csv").write_text("\n".join(["size,price", *rows]) + "\n")
    words = ["--data", tmp_path / "houses.csv", "--target", "price", "--max-params", 100]
    assert search(*words, "--trials", 2, "--epochs", 2, "--out", out) == 0
    text = capsys.readouterr().out
    assert "mean absolute error on 24 validation rows" in text
    assert "the data has no test rows, so these flatter" in text
    assert f"hlserve train --data {tmp_path / 'houses.csv'} --target price --arch mlp:" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--max-params", "5"], 2, "--max-params 5: the smallest network that is tried is mlp:4"),
        (["--max-params", "9999", "--budget", "soon"], 2, "write seconds, or 90s, 10m"),
        (["--max-params", "9999", "--trials", "0"], 2, "--trials"),
        (["--max-params", "9999", "--validation", "0.9999"], 1, "too few to set"),
        ([], 2, "Missing option '--max-params'"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str],
    code: int,
    message: str,
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert search("--data", "digits", "--family", "mlp", *arguments, "--out", out) == code
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_an_unusable_out_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "search"
    assert search("--data", "nothing", "--max-params", 5, "--out", out) == 2
    assert "cannot write there: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "code", "message"),
    [
        ("optuna", 1, 'type: pip install "hlserve[search]"'),
        ("matplotlib", 0, 'no front.svg: matplotlib is not installed; type: pip install "hlserve['),
    ],
)
def test_a_missing_package_is_told_with_what_to_type(
    missing: str, code: int, message: str, out: Path
) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from hlserve.cli import main; main()"
    words = ["search", *map(str, SMALL), "--trials", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_with_what_is_trained_and_resume_goes_on(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", *map(str, SMALL), "--trials", "100000", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "hlserve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("0: mlp:")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the workers too
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert all(re.match(r"\d+: mlp:", line) for line in errors.splitlines())
    assert "(interrupted)" in text
    assert not any("spawn_main" in command for command in _commands_in_group(process.pid))
    tried = len(json.loads((out / "search.json").read_bytes())["trials"])
    assert search(*SMALL, "--trials", tried + 1, "--resume", "--json", "--out", out) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["trials"]) == tried + 1
    assert told["ending"] == "all trials"


def _commands_in_group(group: int) -> list[str]:
    """The command lines of the living processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                found.append((folder / "cmdline").read_text())
        except (ProcessLookupError, FileNotFoundError):
            continue  # ended meanwhile
    return found
