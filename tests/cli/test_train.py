import contextlib
import json
import os
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import numpy as np
import pytest

from hlserve.cli import cli, run
from hlserve.nn.checkpoint import load, read_description


def train(*arguments: object) -> int:
    return run(cli, ["train", *map(str, arguments)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "deep" / "model.safetensors"


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "houses.csv"
    lines = ["size,rooms,price"]
    for size, rooms in zip(rng.uniform(30, 200, 200), rng.integers(1, 8, 200), strict=True):
        lines.append(f"{size:.1f},{rooms},{2000 * size + 10000 * rooms + 500.5:.1f}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_digits_are_learnt_and_saved(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", "digits", "--arch", "mlp:32", "--out", out) == 0
    text, progress = capsys.readouterr()
    assert "mlp:32 on digits: 2,410 parameters" in text
    assert "validation" in text
    assert f"saved        {out}" in text
    assert progress == ""  # no bar where there is no terminal
    network = load(out)
    assert network.class_labels == tuple("0123456789")
    description = read_description(out)
    assert description.history is not None
    assert description.extra["data"]["licence"] == "CC-BY-4.0"
    assert description.extra["settings"]["seed"] == 0


def test_json_tells_the_same_and_the_seed_repeats_it(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", "digits", "--arch", "mlp:16", "--epochs", 3, "--json", "--out", out)
    told, weights = [], []
    for _ in range(2):
        assert train(*arguments) == 0
        told.append(json.loads(capsys.readouterr().out))
        weights.append(load(out).value)
    np.testing.assert_array_equal(*weights)
    assert told[0]["test"] == told[1]["test"]
    assert told[0]["epochs"] == 3
    test = told[0]["test"]
    assert test["low"] < test["metric"] < test["high"]
    assert (told[0]["train"]["rows"], told[0]["validation"]["rows"], test["rows"]) == (
        1260,
        140,
        397,
    )
    assert told[1]["size_bytes"] == out.stat().st_size


def test_a_table_is_learnt_in_its_own_units(
    houses: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train("--data", houses, "--target", "price", "--arch", "mlp:16", "--out", out)
    assert code == 0
    text = capsys.readouterr().out
    assert "mean absolute error" in text
    assert "the data has no test rows of its own" in text
    price = load(out).predict(np.array([[100.0, 4.0]], np.float32))["output"]
    assert price[0, 0] == pytest.approx(240500.5, rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_options_reach_the_training(
    optimizer: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--optimizer {optimizer} --learning-rate 1e-9 --weight-decay 0 --patience 2"
    sizes = "--epochs 30 --batch-size 700 --validation 0.5 --seed 3 --threads 1 --json"
    words = [*options.split(), *sizes.split()]
    assert train("--data", "digits", "--arch", "mlp:4", "--out", out, *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["train"]["rows"] == told["validation"]["rows"] == 700
    assert told["ending"] in ("no improvement", "all epochs")
    history = read_description(out).history
    assert history is not None
    rates = [epoch.learning_rate for epoch in history.epochs]
    assert rates[:2] == [5e-10, 1e-9]  # one step an epoch: two of warm-up, then the full rate


def test_a_gap_to_validation_is_called_overfitting(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    noise = tmp_path / "noise.npz"
    x, y = rng.normal(size=(1000, 40)).astype(np.float32), rng.integers(0, 2, 1000)
    np.savez(noise, x=x, y=y)
    assert train("--data", noise, "--arch", "mlp:100", "--validation", 0.4, "--out", out) == 0
    assert "this looks like overfitting" in capsys.readouterr().out


# ----- what goes wrong: one line, before the time is spent


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "digits", "--arch", "vgg"], 2, "unknown architecture 'vgg'; known are mlp"),
        (["--data", "digits", "--arch", "lenet5"], 2, "at least 12x12"),
        (["--data", "nothing"], 1, "no data 'nothing'"),
        (["--data", "digits", "--epochs", "0"], 2, "--epochs"),
        (["--data", "digits", "--optimizer", "lbfgs"], 2, "--optimizer"),
        ([], 2, "Missing option '--data'"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str],
    code: int,
    message: str,
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(*arguments, "--out", out) == code
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not out.exists()


def test_an_unusable_out_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    (tmp_path / "folder.safetensors").mkdir()
    for out, message in [
        (tmp_path / "model.onnx", "expected a file named *.safetensors"),
        (tmp_path / "folder.safetensors", "is a folder"),
        (occupied / "model.safetensors", "cannot write there: "),
    ]:
        assert train("--data", "nothing", "--out", out) == 2
        assert message in capsys.readouterr().err


def test_rows_without_labels_are_told(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "rows.npz", x=np.zeros((5, 3), np.float32))
    assert train("--data", tmp_path / "rows.npz", "--out", out) == 1
    assert "no labels to train on; name them with --target" in capsys.readouterr().err


def test_divergence_is_told_with_the_layer(
    houses: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--optimizer", "sgd", "--learning-rate", "1e6", "--arch", "mlp:8"]
    assert train("--data", houses, "--target", "price", *words, "--out", out) == 1
    errors = capsys.readouterr().err
    assert "is the first whose output is not finite" in errors
    assert "try a learning rate below 1e+06" in errors


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--help") == 0
    text = capsys.readouterr().out
    assert "hlserve train --data fashion-mini --arch mlp:300,100 --out" in text
    assert "lenet5-caffe" in text


def test_ctrl_c_on_a_terminal_saves_the_best_epoch_so_far(out: Path) -> None:
    command = [sys.executable, "-m", "hlserve", "train", "--data", "fashion-mini"]
    command += ["--epochs", "10000", "--arch", "mlp:8", "--out", str(out)]
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 120))  # tqdm shows nothing on a terminal without size
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, text=True) as process:
        os.close(terminal)
        shown = b""
        while b", validation 0." not in shown:  # the bar after the first epoch
            shown += os.read(controller, 1024)
        process.send_signal(signal.SIGINT)
        drain = threading.Thread(target=_read_until_closed, args=(controller,))
        drain.start()
        text, _ = process.communicate(timeout=60)
        drain.join()
    os.close(controller)
    assert process.returncode == 130
    assert "interrupted: what follows, and the file, hold the best epoch so far" in text
    assert b"epoch 1" in shown
    description = read_description(out)
    assert description.history is not None
    assert description.history.is_interrupted
    assert load(out).n_parameters == 784 * 8 + 8 + 80 + 10


def _read_until_closed(controller: int) -> None:
    # A terminal whose buffer is full would hold the command up; its end reads as an error.
    with contextlib.suppress(OSError):
        while os.read(controller, 65536):
            pass
