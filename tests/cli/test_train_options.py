"""What ``hlserve train`` can be asked for beside the plain run."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import numpy as np
import pytest

from hlserve.cli import cli, run
from hlserve.cli.train import command
from hlserve.cli.training import Settings, prepare
from hlserve.cli.training import train as train_job
from hlserve.cli.training_choices import (
    class_weight_of,
    make_augment,
    make_loss,
    make_optimizer,
    make_schedule,
    save_every_of,
    state_path,
)
from hlserve.errors import ConfigError, ModelFileError
from hlserve.nn.augmentation import Augment
from hlserve.nn.checkpoint import load, read_description
from hlserve.nn.losses import CrossEntropy, Focal, Huber, MeanSquaredError, Quantile
from hlserve.nn.optimizers import RMSprop
from hlserve.nn.schedules import Constant, Cosine, OneCycle, Plateau, Step
from hlserve.nn.training_state import read_state, told
from hlserve.row_blocks import MAPPED_FROM_BYTES


def train(*arguments: object) -> int:
    return run(cli, ["train", *map(str, arguments)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# ----- words

TARGETS = np.array([1.0, 3.0])  # of deviation 1

WORDS = [
    (make_schedule("cosine"), Cosine(0.05)),
    (make_schedule("cosine:0.2"), Cosine(0.2)),
    (make_schedule("one-cycle"), OneCycle()),
    (make_schedule("one-cycle:0.4"), OneCycle(0.4)),
    (make_schedule("step:500"), Step(500)),
    (make_schedule("step:500,0.5"), Step(500, 0.5)),
    (make_schedule("plateau"), Plateau()),
    (make_schedule("plateau:3"), Plateau(patience=3)),
    (make_schedule("plateau:3,0.5"), Plateau(0.5, 3)),
    (make_schedule("constant"), Constant()),
    (make_loss(None, 0.0, "classification", TARGETS), None),
    (make_loss(None, 0.1, "classification", TARGETS), CrossEntropy(0.1)),
    (make_loss("focal", 0.0, "classification", TARGETS), Focal()),
    (make_loss("focal:1.5", 0.0, "classification", TARGETS), Focal(1.5)),
    (make_loss("mse", 0.0, "regression", TARGETS), MeanSquaredError(1.0)),
    (make_loss("huber", 0.0, "regression", TARGETS), Huber()),
    (make_loss("huber:2", 0.0, "regression", TARGETS), Huber(2.0)),
    (make_loss("quantile:0.9", 0.0, "regression", TARGETS), Quantile(0.9)),
    (make_augment(None), None),
    (make_augment("shift,flip"), Augment(shift=2, flip=True)),
    (make_augment("shift:3, zoom:0.2,erase:4,noise:8"), Augment(3, False, 0.2, 4, 8.0)),
    (make_optimizer("rmsprop", None, None), RMSprop(1e-3)),
    (class_weight_of("balanced"), "balanced"),
    (class_weight_of("1,0.5,2"), [1.0, 0.5, 2.0]),
    (save_every_of("epoch"), "epoch"),
    (save_every_of("0.5"), 30.0),
]


@pytest.mark.parametrize(("found", "wanted"), WORDS)
def test_words_stand_for_settings(found: object, wanted: object) -> None:
    assert told(found) == told(wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_schedule("linear"), "expected cosine"),
        (lambda: make_schedule("step"), "expected cosine"),
        (lambda: make_schedule("cosine:x"), "'x' are not numbers"),
        (lambda: make_schedule("plateau:1,0.5,3"), "expected cosine"),
        (lambda: make_loss("mse", 0.0, "classification", TARGETS), "is not for classification"),
        (lambda: make_loss("focal", 0.0, "regression", TARGETS), "is not for regression"),
        (lambda: make_loss("hinge", 0.0, "regression", TARGETS), "expected cross-entropy"),
        (lambda: make_loss("quantile", 0.0, "regression", TARGETS), "expected cross-entropy"),
        (lambda: make_loss("focal", 0.1, "classification", TARGETS), "is for cross-entropy"),
        (lambda: make_augment("shift,rotate"), "'rotate' is not among shift"),
        (lambda: make_augment("noise"), "'noise' is not among"),
        (lambda: make_augment("flip:2"), "'flip:2' is not among"),
        (lambda: class_weight_of("even"), "'even' are not numbers"),
        (lambda: save_every_of("0"), "expected minutes above 0"),
    ],
)
def test_other_words_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_all_options_reach_the_training(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--optimizer rmsprop --clip-norm 0.5 --accumulate 2 --schedule step:9 --loss focal"
    more = "--class-weight balanced --augment shift:1,noise:1 --metric f1 --threads 2 --json"
    arguments = [*words.split(), *more.split(), "--epochs", 2, "--arch", "mlp:8", "--out", out]
    assert train("--data", "digits", *arguments) == 0
    told_to = json.loads(capsys.readouterr().out)
    assert told_to["metric"] == "f1"
    description = read_description(out)
    settings = description.extra["settings"]
    assert (settings["loss"], settings["clip_norm"], settings["accumulate"]) == ("focal", 0.5, 2)
    plain = out.with_name("plain.safetensors")
    for index, name in enumerate(["--clip-norm", "--accumulate", "--loss", "--augment"]):
        place = arguments.index(name)
        without = [*arguments[:place], *arguments[place + 2 :]]
        without[without.index(out)] = plain
        assert train("--data", "digits", *without) == 0
        assert not np.array_equal(load(out).value, load(plain).value), (index, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schedule", "linear"], "--schedule linear: expected cosine"),
        (["--augment", "spin"], "'spin' is not among"),
        (["--metric", "bleu"], "no metric 'bleu'"),
        (["--loss", "mse"], "is not for classification"),
        (["--class-weight", "1,2"], "expected 10 numbers"),
        (["--save-every", "never"], "are not numbers"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], message: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--data", "digits", *arguments, "--out", out) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


# ----- interruption


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_resumes_to_the_same_weights(
    number: int, code: int, out: Path
) -> None:
    words = "--data digits --arch mlp:16 --batch-size 8 --epochs 25 --augment shift:1 --seed 1"
    command = [sys.executable, "-m", "hlserve", "train", *words.split()]
    whole = out.with_name("whole.safetensors")
    subprocess.run([*command, "--out", whole], check=True, capture_output=True)

    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 120))  # tqdm shows nothing on a terminal without size
    started = [*command, "--out", str(out)]
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        while b", validation 0." not in shown:  # the bar after the first epoch
            shown += os.read(controller, 1024)
        process.send_signal(number)
        drain = threading.Thread(target=_read_until_closed, args=(controller,))
        drain.start()
        text, _ = process.communicate(timeout=60)
        drain.join()
    os.close(controller)
    assert process.returncode == code
    assert b"the same command with --resume goes on" in text
    stopped = read_description(out).history
    assert stopped is not None
    assert 1 <= len(stopped.epochs) < 25
    state = state_path(out)
    assert read_state(state)[0].epoch == len(stopped.epochs) + 1

    resuming = [*command, "--out", out, "--resume"]
    done = subprocess.run(resuming, check=True, capture_output=True)
    assert b"25 epochs" in done.stdout
    np.testing.assert_array_equal(load(out).value, load(whole).value)
    assert not state.exists()


def _read_until_closed(controller: int) -> None:
    # A terminal whose buffer is full would hold the command up; its end reads as an error.
    with contextlib.suppress(OSError):
        while os.read(controller, 65536):
            pass


def test_resuming_wants_the_same_run(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "digits", "--arch", "mlp:8", "--out", out]
    assert train(*arguments, "--resume") == 1
    assert "so there is nothing to resume" in capsys.readouterr().err
    state_path(out).write_bytes(b"rubbish")
    assert train(*arguments, "--epochs", 1) == 0
    assert "note: begins anew, though" in capsys.readouterr().err
    assert not state_path(out).exists()


# ----- rows in large files


def test_a_large_idx_set_is_streamed(tmp_path: Path, out: Path) -> None:
    n = MAPPED_FROM_BYTES // 784 + 1000
    labels = np.random.default_rng(0).integers(0, 2, n, dtype=np.uint8)
    with (tmp_path / "train-images-idx3-ubyte").open("wb") as file:
        file.write(struct.pack(">BBBB3I", 0, 0, 8, 3, n, 28, 28))
        for part in np.array_split(labels, 20):
            rows = np.zeros((len(part), 784), np.uint8)
            rows[:, :400] = 200 * part[:, np.newaxis]
            file.write(rows.data)
    header = struct.pack(">BBBBI", 0, 0, 8, 1, n)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    command = [sys.executable, "-m", "hlserve", "train", "--data", str(tmp_path), "--json"]
    command += ["--arch", "mlp:4", "--epochs", "1", "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told_to = json.loads(done.stdout)
    assert told_to["validation"]["metric"] > 0.99
    assert 0 < told_to["validation"]["rows"] <= 0.11 * n
    assert 0 < told_to["train"]["rows"] < n


def test_a_save_that_fails_leaves_the_state_to_go_on_from(out: Path) -> None:
    words = ["--data", "digits", "--arch", "mlp:8", "--epochs", "2", "--save-every", "epoch"]
    options = command.make_context("train", [*words, "--out", str(out)]).params
    own = ("as_json", "report", "report_curve")
    settings = Settings(**{name: v for name, v in options.items() if name not in own})
    out.mkdir(parents=True)  # something is in the way all at once, as a full disk is
    with pytest.raises(ModelFileError, match="cannot be written"):
        train_job(settings, prepare(settings))
    assert state_path(out).exists()
    out.rmdir()
    assert train(*words, "--out", out, "--resume") == 0
    assert not state_path(out).exists()
    whole = out.with_name("whole.safetensors")
    assert train(*words, "--out", whole) == 0
    np.testing.assert_array_equal(load(out).value, load(whole).value)


def test_a_training_that_diverges_late_saves_its_best_epoch(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x, y=(x[:, 0] + x[:, 1]).astype(np.float32))
    # One step an epoch: the error grows some two hundred times in each, and is finite at first.
    words = ["--arch", "mlp:8", "--optimizer", "sgd", "--learning-rate", 100, "--epochs", 50]
    words += ["--schedule", "constant", "--batch-size", 400, "--save-every", "epoch"]
    assert train("--data", tmp_path / "rows.npz", *words, "--out", out) == 1
    errors = capsys.readouterr().err
    assert "the loss became" in errors
    assert f"{out} holds the best epoch before that" in errors
    history = read_description(out).history
    assert history is not None
    assert history.ending == "diverged"
    assert history.best_epoch is not None
    assert np.isfinite(load(out).value).all()
    assert not state_path(out).exists()
