import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hlserve.cli import cli, run
from hlserve.cli.report_measures import Subject, baseline, kind_of, measure_outcomes
from hlserve.cli.train_report import narrower_spec, wider_spec
from hlserve.cli.worst_examples import worst_examples
from hlserve.nn import Input, sequential
from hlserve.nn.layers import Linear, ReLU, Sigmoid
from hlserve.nn.network import Network
from hlserve.nn.param import Array
from hlserve.report.learning import LearningReport
from hlserve.row_blocks import MAPPED_FROM_BYTES
from tests.frontend.sounds import tone, wav


def train(*arguments: object) -> int:
    return run(cli, ["train", *map(str, arguments)])


def trained(tmp_path: Path, *arguments: object) -> LearningReport:
    folder = tmp_path / "report"
    assert train(*arguments, "--out", tmp_path / "m.safetensors", "--report", folder) == 0
    return msgspec.json.decode((folder / "report.json").read_bytes(), type=LearningReport)


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """A hundred rows whose labels are half noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 20)).astype(np.float32)
    y = np.where(rng.random(100) < 0.5, rng.integers(0, 2, 100), x[:, 0] > 0)
    np.savez(tmp_path / "noisy.npz", x=x, y=y)
    return tmp_path / "noisy.npz"


# ----- the verdict on real trainings that are known to be of a kind


def test_two_hidden_units_underfit_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = trained(tmp_path, "--data", "digits", "--arch", "mlp:2")
    assert told.verdict.kind == "underfitting"
    assert any("--arch mlp:16" in line for line in told.verdict.advice)
    assert told.curve is not None
    assert told.curve.wider_spec == "mlp:16"
    assert told.curve.wider is not None
    assert told.curve.wider.low > 0.1
    out, err = capsys.readouterr()
    assert "verdict      underfitting: " in out
    assert f"report       {tmp_path / 'report' / 'index.html'} (" in out
    assert "learning curve: 4 copies of 380 steps each" in err


def test_two_epochs_underfit_digits(tmp_path: Path) -> None:
    words = ["--epochs", 2, "--no-report-curve"]
    told = trained(tmp_path, "--data", "digits", "--arch", "mlp:64", *words)
    assert told.verdict.kind == "underfitting"
    assert told.verdict.advice[0] == "More epochs: --epochs 4."


def test_a_wide_network_overfits_a_hundred_noisy_rows(tmp_path: Path, noisy: Path) -> None:
    words = ["--data", noisy, "--arch", "mlp:512,512", "--validation", 0.4, "--epochs", 30]
    told = trained(tmp_path, *words)
    assert told.verdict.kind == "overfitting"
    assert any("--arch mlp:256,256" in line for line in told.verdict.advice)


def test_a_handful_of_validation_rows_cannot_tell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "few.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    told = trained(tmp_path, "--data", tmp_path / "few.npz", "--arch", "mlp:16", "--epochs", 60)
    assert told.verdict.kind == "cannot tell"
    assert "validation rows would tell (there are 6)" in told.verdict.advice[0]


@pytest.mark.slow
def test_enough_rows_and_width_are_well_fitted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 2)).astype(np.float32)
    np.savez(tmp_path / "easy.npz", x=x, y=(x[:, 0] + x[:, 1] > 0).astype(np.int64))
    told = trained(tmp_path, "--data", tmp_path / "easy.npz", "--arch", "mlp:16")
    assert told.verdict.kind == "well fitted"


@pytest.mark.slow
def test_noise_that_no_width_can_learn_is_well_fitted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 2)).astype(np.float32)
    y = np.where(rng.random(5000) < 0.4, rng.integers(0, 2, 5000), x[:, 0] > 0)
    np.savez(tmp_path / "noise.npz", x=x, y=y)
    words = ["--arch", "mlp:16", "--validation", 0.4, "--epochs", 12]
    told = trained(tmp_path, "--data", tmp_path / "noise.npz", *words)
    assert told.verdict.kind == "well fitted"
    assert "it may lie in the rows" in told.verdict.sentence


# ----- what the report holds


def test_a_picture_task_has_all_its_sections(tmp_path: Path) -> None:
    told = trained(tmp_path, "--data", "digits", "--arch", "mlp:32", "--epochs", 8)
    assert [p.name for p in told.parts] == ["training", "validation", "test"]
    assert [p.rows for p in told.parts] == [1260, 140, 397]
    assert told.data.licence == "CC-BY-4.0"
    assert sum(layer.parameters for layer in told.layers) == 2410
    assert sum(layer.macs for layer in told.layers) == 64 * 32 + 32 * 10
    assert told.confusion is not None
    assert sum(map(sum, told.confusion.counts)) == 140
    assert len(told.class_scores) == 10
    assert told.calibration is not None
    assert len(told.epochs) == 8
    assert told.curve is not None
    assert [p.rows for p in told.curve.points] == [126, 315, 630, 1260]
    worst = told.worst.examples
    assert [e.loss for e in worst] == sorted((e.loss for e in worst), reverse=True)
    assert worst[0].picture is not None
    assert (worst[0].picture.height, worst[0].picture.width) == (8, 8)


def test_worst_rows_are_named_by_their_number_in_the_data(tmp_path: Path) -> None:
    from hlserve.datasets import load

    told = trained(tmp_path, "--data", "digits", "--arch", "mlp:4", "--no-report-curve")
    rows = load("digits").train
    assert rows.y is not None
    for example in told.worst.examples:
        assert str(rows.y[example.row]) == example.truth
        assert example.picture is not None
        pixels = np.frombuffer(example.picture.pixels, np.uint8).reshape(8, 8)
        np.testing.assert_array_equal(pixels, np.rint(rows.x[example.row, 0] / 16 * 255))
        assert example.probability == pytest.approx(np.exp(-example.loss), rel=1e-3)  # float32


def test_a_table_of_numbers_is_told_in_its_units(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size, rooms = rng.uniform(30, 200, 400), rng.integers(1, 8, 400)
    price = 2000 * size + 10000 * rooms + rng.normal(0, 5000, 400)
    lines = [f"{s:.2f},{r},{p:.2f}" for s, r, p in zip(size, rooms, price, strict=True)]
    evil = "<b>size</b>"
    (tmp_path / "houses.csv").write_text("\n".join([f"{evil},rooms,price", *lines]) + "\n")
    words = ["--target", "price", "--arch", "mlp:16"]
    told = trained(tmp_path, "--data", tmp_path / "houses.csv", *words)
    assert told.metric is not None
    assert told.metric.name == "mean absolute error"
    assert told.regression[0].output == "price"
    assert told.baseline.metric is not None
    assert 50_000 < told.baseline.metric < 150_000  # 2000 * 170 / 4, the mean over a uniform size
    assert told.worst.columns == (evil, "rooms")
    assert told.worst.examples[0].values[1] == rooms[told.worst.examples[0].row]
    page = (tmp_path / "report" / "index.html").read_text()
    assert evil not in page
    assert "&lt;b&gt;size&lt;/b&gt;" in page


def test_the_same_training_gives_the_same_findings(tmp_path: Path) -> None:
    words = ("--data", "digits", "--arch", "mlp:8", "--epochs", 4)
    told = [trained(tmp_path / name, *words) for name in ("a", "b")]
    fixed = [
        msgspec.structs.replace(
            t,
            settings={},
            epochs=tuple(msgspec.structs.replace(e, seconds=0.0) for e in t.epochs),
            curve=t.curve and msgspec.structs.replace(t.curve, seconds=0.0),
        )
        for t in told
    ]
    assert fixed[0] == fixed[1]


def test_a_perceptron_on_sounds_is_measured_on_their_test_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in [("train", 12), ("test", 5)]:
        for label, hertz in [("low", 300), ("high", 2500)]:
            place = tmp_path / "tones" / part / label
            place.mkdir(parents=True)
            for number in range(count):  # of other lengths, so that the rows have a mask
                sound = tone(hertz * rng.uniform(0.9, 1.1), seconds=rng.uniform(0.1, 0.2))
                (place / f"{number}.wav").write_bytes(wav(sound))
    words = ["--arch", "mlp:8", "--epochs", 10, "--no-report-curve"]
    told = trained(tmp_path, "--data", tmp_path / "tones", *words)
    (test,) = (p for p in told.parts if p.name == "test")
    assert test.rows == 10
    assert test.metric is not None
    assert test.metric.estimate > 0.8  # the pitches are far apart


def test_json_keeps_the_output_for_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "digits", "--arch", "mlp:4", "--epochs", 1, "--no-report-curve", "--json"]
    told = trained(tmp_path, *words)
    out, err = capsys.readouterr()
    assert msgspec.json.decode(out)["architecture"] == "mlp:4"
    assert "report       " in err
    assert told.curve is None


# ----- other tasks and losses


def several(n: int = 80) -> tuple[dict[str, Array], Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    return {"x": x}, (x[:, :3] > [0, 0.5, -0.5]).astype(np.float32)


def binary_cross_entropy(scores: Array, targets: Array) -> tuple[float, Array]:
    p = 1 / (1 + np.exp(-scores))
    loss = -(targets.T * np.log(p) + (1 - targets.T) * np.log(1 - p))
    return float(loss.mean()), (p - targets.T) / p.size


def labels_network() -> Network:
    layers = [Linear(4, 8), ReLU(), Linear(8, 3), Sigmoid()]
    network = sequential(layers, Input("x", (4,)))
    network.task = "multilabel"  # type: ignore[assignment]  # a task still to come
    return network.initialize(np.random.default_rng(0))


def test_several_labels_a_row_are_scored_label_by_label() -> None:
    inputs, y = several()
    network = labels_network()
    assert kind_of(network, y) == "labels"
    subject = Subject(inputs, y, binary_cross_entropy, "labels")  # type: ignore[arg-type]
    results = subject.results(network, np.arange(len(y)))
    wanted = np.mean((results.outputs > 0.5) == (y > 0.5), axis=1)
    np.testing.assert_allclose(subject.scores(results), wanted)
    told = measure_outcomes(subject, results, ("a", "b", "c"))
    assert [s.rows for s in told.class_scores] == y.sum(axis=0).tolist()
    assert told.confusion is None
    assert told.calibration is not None
    worst = worst_examples(subject, results, ("a", "b", "c"), None).examples[0]
    names = [n for n, is_true in zip("abc", y[worst.row] > 0.5, strict=True) if is_true]
    assert worst.truth == (", ".join(names) or "none")
    base = baseline(network, subject, np.arange(60), results, ("a", "b", "c"))
    share = (y[:60].sum(axis=0) + 1) / 62
    entropy = -(y * np.log(share) + (1 - y) * np.log(1 - share)).mean()
    assert base.loss == pytest.approx(entropy, rel=1e-5)  # float32
    assert base.metric == pytest.approx(np.mean((share > 0.5) == (y > 0.5)))


def test_a_task_that_is_not_known_is_told_by_its_loss_alone() -> None:
    inputs, y = several()
    network = labels_network()
    network.task = None
    assert kind_of(network, y) == "loss"
    subject = Subject(inputs, y, binary_cross_entropy, "loss")  # type: ignore[arg-type]
    results = subject.results(network, np.arange(10))
    assert subject.metric is None
    np.testing.assert_array_equal(subject.scores(results), results.losses)
    assert measure_outcomes(subject, results, ()).class_scores == ()
    assert baseline(network, subject, np.arange(60), results, ()).loss is None
    assert worst_examples(subject, results, (), None).examples[0].probability is None


# ----- what is tried beside it


def test_batches_that_are_added_up_count_as_one_step(tmp_path: Path, noisy: Path) -> None:
    words = ["--data", noisy, "--arch", "mlp:4", "--epochs", 16, "--batch-size", 9]
    told = trained(tmp_path, *words, "--accumulate", 5)
    assert told.settings["steps"] == "32"  # 90 rows, 45 a step
    assert told.curve is not None
    assert told.curve.steps == 8
    assert told.curve.points[-1].epochs == 4


@pytest.mark.parametrize(
    ("spec", "wider", "narrower"),
    [
        ("mlp:2", "mlp:16", "mlp:1"),
        ("mlp:32,16", "mlp:128,64", "mlp:16,8"),
        ("mlp:300,100", "mlp:600,200", "mlp:150,50"),
        ("mlp:1", "mlp:16", None),
        ("mlp:64:gelu", "mlp:128:gelu", "mlp:32:gelu"),
        ("lenet5", "lenet5-caffe", None),
        ("lenet5-caffe", None, "lenet5"),
        ("resnet:8", None, None),
    ],
)
def test_other_widths_are_named(spec: str, wider: str | None, narrower: str | None) -> None:
    assert (wider_spec(spec), narrower_spec(spec)) == (wider, narrower)


# ----- what goes wrong, before the time is spent


def test_an_unusable_folder_is_told_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    for report, message in [
        (tmp_path / "full", "holds other files (other)"),
        (tmp_path / "full" / "other", "is a file"),
        (tmp_path, "holds --out"),
    ]:
        out = tmp_path / "m.safetensors"
        assert train("--data", "digits", "--out", out, "--report", report) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_rows_that_are_streamed_are_told_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n = MAPPED_FROM_BYTES // 784 + 1
    for name, part in [("x", (n, 784)), ("y", (n,))]:
        rows = np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.uint8, part)
        rows[: n // 2] = 1
        del rows
    out = tmp_path / "runs" / "m.safetensors"
    words = ["--data", tmp_path, "--arch", "mlp:2", "--epochs", 1, "--out", out]
    assert train(*words, "--report", tmp_path / "report") == 2
    assert "are streamed from their file, and a report measures" in capsys.readouterr().err
    assert not out.exists()


def test_a_missing_matplotlib_is_told_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["--data", "digits", "--out", tmp_path / "m.safetensors"]
    assert train(*words, "--report", tmp_path / "report") == 1
    assert 'pip install "hlserve[report]"' in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()
