"""The copies that a training's report is drawn from: how they are trained, and what ends them."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hlserve.cli.learning_curve import CurveJob, learning_curve, train_copy
from hlserve.cli.report_measures import Subject
from hlserve.cli.train_report import write_report
from hlserve.cli.training import FitOptions, Settings, fit_options, inputs_of, prepare
from hlserve.cli.training import train as train_job
from hlserve.cli.training_choices import (
    class_weight_of,
    make_augment,
    make_optimizer,
    make_schedule,
)
from hlserve.nn import AdamW, CrossEntropy, Input, fit, sequential
from hlserve.nn.layers import Linear, Softmax
from hlserve.nn.network import Network
from hlserve.nn.optimizers import Optimizer
from hlserve.nn.param import Array
from hlserve.nn.training_settings import Gradients, Weighting
from hlserve.report.learning import LearningReport


def curve_job(n: int, classes: int = 2) -> tuple[Network, CurveJob]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) * (classes - 1)
    network = sequential([Linear(3, 2), Softmax()], Input("x", (3,)), task="classification")
    subject = Subject({"x": x}, y, CrossEntropy(), "classes")
    kept, apart = np.arange(n * 4 // 5), np.arange(n * 4 // 5, n)
    return network, CurveJob(subject, kept, apart, options, 8, 400, 0, 1)


def options(make_optimizer: Callable[[], Optimizer] = AdamW) -> FitOptions:
    return FitOptions(
        optimizer=make_optimizer(),
        schedule=make_schedule("cosine"),
        gradients=Gradients(),
        weighting=Weighting(),
        augment=None,
        metric=None,
    )


def test_copies_share_the_steps_of_the_training() -> None:
    network, job = curve_job(500)
    curve = learning_curve(network, job, np.zeros(100))
    assert curve is not None
    assert curve.steps == 100
    assert [p.rows for p in curve.points] == [40, 100, 200, 400]
    assert [p.epochs for p in curve.points] == [20, 8, 4, 2]  # 100 steps of 8 rows
    assert curve.longer is not None
    # the whole training was said to be always wrong
    assert curve.longer.estimate == -curve.points[-1].validation.estimate


def test_the_network_that_was_trained_is_left_alone() -> None:
    network, job = curve_job(200)
    network.initialize(np.random.default_rng(7))
    before = network.value.copy()
    learning_curve(network, job, np.zeros(40))
    np.testing.assert_array_equal(network.value, before)


def test_shares_of_too_few_rows_or_one_class_are_left_out() -> None:
    network, job = curve_job(40)
    made = learning_curve(network, job, np.zeros(8))
    assert made is not None
    assert [p.rows for p in made.points] == [16, 32]
    network, job = curve_job(40, classes=1)
    assert learning_curve(network, job, np.zeros(8)) is None


class Interrupting:
    """An optimizer during whose second step the user presses Ctrl-C."""

    learning_rate = 0.1

    def __init__(self) -> None:
        self.steps = 0

    def step(self, value: Array, grad: Array, *, rate_factor: float = 1.0) -> None:
        self.steps += 1
        if self.steps == 2:
            raise KeyboardInterrupt


def test_ctrl_c_ends_the_curve_and_not_the_report() -> None:
    network, job = curve_job(200)
    interrupted = replace(job, make_options=lambda: options(Interrupting))
    assert learning_curve(network, interrupted, np.zeros(40)) is None


def settings_for(data: Path, out: Path, **changed: Any) -> Settings:
    """As the command has them where it is told no more than the rows."""
    told = dict.fromkeys(field.name for field in fields(Settings))
    usual = {
        "data": str(data),
        "arch": "mlp:4",
        "out": out,
        "epochs": 2,
        "accumulate": 1,
        "optimizer": "adamw",
        "schedule": "cosine",
        "label_smoothing": 0.0,
        "validation": 0.1,
        "seed": 0,
        "threads": 1,
        "resume": False,
    }
    return Settings(**{**told, **usual, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"schedule": "constant"},
        {"augment": "noise:4"},
        {"class_weight": ",".join(str(n) for n in range(10))},
        {"clip_norm": 0.01},
        {"accumulate": 2},
        {"optimizer": "sgd"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_copies_are_trained_with_the_options_of_the_training(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    plain = settings_for(Path("digits"), tmp_path / "m.safetensors")
    wanted = replace(plain, **changed)
    job = prepare(plain)
    inputs = inputs_of(job.network, job.dataset.train)
    subject = Subject(inputs, job.labels, CrossEntropy(), "classes")
    rows = job.kept[:200]
    values = []
    for settings in (plain, wanted):
        make = partial(fit_options, settings)
        curve = CurveJob(subject, job.kept, job.apart, make, 16, 100, 0, 1)
        copy = job.network.copy()
        assert train_copy(copy, curve, 1.0, rows) is not None
        values.append(copy.value)
    assert not np.array_equal(*values)
    trained, rows_a_step = job.network.copy(), 16 * wanted.accumulate
    fit(
        trained,
        {name: array[rows] for name, array in inputs.items()},
        job.labels[rows],
        validation=({n: a[job.apart] for n, a in inputs.items()}, job.labels[job.apart]),
        epochs=max(1, round(25 / math.ceil(200 / rows_a_step))),  # 25 steps, a quarter of 100
        batch_size=16,
        optimizer=make_optimizer(wanted.optimizer, None, None),
        schedule=make_schedule(wanted.schedule),
        gradients=Gradients(wanted.clip_norm, wanted.accumulate),
        weighting=Weighting(class_weight_of(wanted.class_weight)),
        augment=make_augment(wanted.augment),
        progress=False,
    )
    np.testing.assert_array_equal(values[1], trained.value)


def test_a_copy_that_diverges_takes_the_curve_and_not_the_report(tmp_path: Path) -> None:
    settings = settings_for(Path("digits"), tmp_path / "m.safetensors")
    job = prepare(settings)
    _, history = train_job(settings, job)
    folder = tmp_path / "report"
    wild = replace(settings, learning_rate=1e30)
    write_report(folder, wild, job, history, with_curve=True)
    told = msgspec.json.decode((folder / "report.json").read_bytes(), type=LearningReport)
    assert told.curve is None
    (line,) = (line for line in told.verdict.evidence if "No learning curve" in line)
    assert "the training of a copy diverged (" in line
    assert "the training of a copy diverged (" in (folder / "index.html").read_text()
