"""Sounds and texts from raw files to an answer: trained, evaluated, compressed, served, asked."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hlserve.cli import cli, run
from hlserve.client import InferenceClient
from hlserve.datasets import load
from hlserve.errors import DataError, InvalidRequestError
from hlserve.frontend import LogMel, Table, TableColumn, Words, from_json, to_json
from hlserve.nn import Input, checkpoint, sequential
from hlserve.nn.layers import Linear
from hlserve.repository import read_metadata
from tests.frontend.sounds import tone, wav
from tests.serving.running import RunningServer, running_server

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[3] / "shared"))
GOOD, BAD = ["good food", "nice and good staff", "very nice"], ["bad food", "awful", "very bad"]


def hlserve(*arguments: object) -> int:
    return run(cli, list(map(str, arguments)))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones by pitch and opinions by line, a network trained on each, compressed and published."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    for label, hertz in [("low", 300), ("mid", 900), ("high", 2500)]:
        for part, count in [("train", 40), ("test", 20)]:
            place = folder / "tones" / part / label
            place.mkdir(parents=True)
            for number in range(count):
                sound = tone(hertz * rng.uniform(0.9, 1.1), seconds=rng.uniform(0.2, 0.4))
                sound += rng.normal(scale=0.02, size=len(sound))
                (place / f"{number}.wav").write_bytes(wav(sound))
    lines = [f"{rng.choice(GOOD)}\t1" for _ in range(60)] + [f"{rng.choice(BAD)}\t0"] * 60
    (folder / "opinions.txt").write_text("\n".join(lines) + "\n")
    for name, data in [("tones", "tones"), ("opinions", "opinions.txt")]:
        file = folder / f"{name}.safetensors"
        words = ["--data", folder / data, "--arch", "mlp:16", "--epochs", 20, "--out", file]
        assert hlserve("train", *words) == 0
    models = folder / "models"
    assert hlserve("publish", folder / "opinions.safetensors", "--out", models / "opinions") == 0
    words = ["--data", folder / "tones", "--max-drop", "20pp", "--minimize", "bytes"]
    words += ["--quantize", "int8", "--batch", 1, "--out", models / "tones"]
    assert hlserve("compress", folder / "tones.safetensors", *words) == 0
    return folder


@pytest.fixture(scope="module")
def address(work: Path) -> Iterator[str]:
    with running_server(work / "models") as server:
        running: RunningServer = server
        yield running.address


def predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    capsys.readouterr()
    assert hlserve("predict", *arguments, "--json") == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def best(answer: dict[str, object]) -> list[str]:
    return [row[0]["label"] for row in answer["top"]]  # type: ignore[attr-defined]


def test_the_checkpoint_holds_the_front_end_of_its_training(work: Path) -> None:
    for name, kind in [("tones", LogMel), ("opinions", Words)]:
        extra = checkpoint.read_description(work / f"{name}.safetensors").extra
        front_end = from_json(extra["frontend"])
        assert isinstance(front_end, kind)
        # of sounds the perceptron reads all frames side by side, of texts the mean of its words
        assert front_end.with_mask == (kind is Words)


def test_the_published_version_and_the_server_hand_out_the_same(work: Path, address: str) -> None:
    extra = checkpoint.read_description(work / "tones.safetensors").extra
    metadata = read_metadata(work / "models" / "tones" / "1")
    assert metadata is not None
    assert metadata.schema_version == 1
    assert metadata.frontend == extra["frontend"]
    with InferenceClient(address) as client:
        assert client.frontend("tones") == from_json(extra["frontend"])


def test_a_client_asks_with_sounds_and_texts(work: Path, address: str) -> None:
    paths = sorted((work / "tones" / "test").rglob("*.wav"))
    with InferenceClient(address) as client:
        answer = client.infer_items("tones", paths)
        assert answer.model_version == "1"
        labels = json.loads(client.model_metadata("tones").properties["class_labels"])
        texts = client.infer_items("opinions", ["nice and good staff", "awful"], "1")
        with pytest.raises(DataError, match="item 0 is bytes, expected a text"):
            client.infer_items("opinions", [b"nice"])
    named = [labels[i] for i in answer.outputs["probabilities"].argmax(axis=1)]
    hits = [path.parent.name == label for path, label in zip(paths, named, strict=True)]
    assert np.mean(hits) > 0.95  # the pitches are far apart
    assert texts.outputs["probabilities"].argmax(axis=1).tolist() == [1, 0]


def test_a_model_of_numbers_has_no_front_end_and_one_that_does_not_fit_is_told(
    work: Path, tmp_path: Path
) -> None:
    graph = work / "models" / "opinions" / "1" / "model.onnx"
    other = Table(columns=(TableColumn(name="fruit", texts=("apple",)),))
    (tmp_path / "other.json").write_text(json.dumps(to_json(other)))
    (tmp_path / "bad.json").write_text('{"kind": "code"}')
    root = tmp_path / "models"
    assert hlserve("publish", graph, "--out", root / "bare") == 0
    words = ["--frontend", tmp_path / "other.json"]
    network = sequential([Linear(1, 2)], Input("pixels", (1,)))
    checkpoint.save(network, tmp_path / "other.safetensors")
    published = ["publish", tmp_path / "other.safetensors", "--out", root / "other"]
    assert hlserve(*published, *words) == 0
    assert hlserve("publish", graph, "--out", root / "x", "--frontend", tmp_path / "bad.json") == 1
    with running_server(root) as server, InferenceClient(server.address) as client:
        assert client.frontend("bare") is None
        with pytest.raises(InvalidRequestError, match="'bare' has no front end"):
            client.infer_items("bare", ["good food"])
        assert client.frontend("other") == other
        with pytest.raises(InvalidRequestError, match="'pixels', its front end makes 'input'"):
            client.infer_items("other", [{"fruit": "apple"}])
        columns = ["--input", '{"colour": "red"}']
        assert hlserve("predict", server.address, "other", *columns) == 1
        assert hlserve("predict", server.address, "bare", "--input", "good food") == 1


def test_a_sound_is_predicted_from_its_file_or_stdin(
    work: Path,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = wav(np.stack([tone(2500, rate=44100)] * 2, axis=1), rate=44100, width=3)
    (tmp_path / "high.wav").write_bytes(content)
    answer = predict(capsys, address, "tones", "--input", tmp_path / "high.wav")
    assert best(answer) == ["high"]  # stereo, 24 bits, another rate
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert predict(capsys, address, "tones", "--input", "-") == answer


def test_texts_are_predicted_from_the_command_line_a_file_or_stdin(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = predict(capsys, address, "opinions", "--input", "nice and good staff")
    assert best(one) == ["1"]
    (tmp_path / "two.txt").write_text("nice and good staff\n\nbad food\n")
    two = predict(capsys, address, "opinions", "--input", tmp_path / "two.txt")
    assert best(two) == ["1", "0"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"nice and good staff\r\n")))
    assert predict(capsys, address, "opinions", "--input", "-") == one


def test_a_row_of_raw_data_goes_through_the_models_front_end(
    work: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = predict(capsys, address, "tones", "--data", work / "tones", "--row", 0)
    assert answer["true_label"] == "high"
    assert best(answer) == ["high"]


def test_arrays_that_were_made_before_are_taken_too(
    work: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = from_json(checkpoint.read_description(work / "tones.safetensors").extra["frontend"])
    np.savez(tmp_path / "x.npz", **made.apply([wav(tone(300))]))
    answer = predict(capsys, address, "tones", "--input", tmp_path / "x.npz")
    assert best(answer) == ["low"]


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        ("tones", "absent.wav", "absent.wav': cannot be read: No such file"),
        ("tones", __file__, "no sound file that can be read"),
        ("opinions", " ", "item 0 is an empty text"),
        ("opinions", "x" * 1_000_001, "1,000,001 characters"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(
    model: str, source: str, message: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hlserve("predict", address, model, "--input", source) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_stdin_that_is_empty_or_not_utf8_is_told(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, message in [
        (b"", "stdin is empty"),
        (b"good\ncaf\xe9", "stdin: line 2 is not UTF-8"),
    ]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert hlserve("predict", address, "opinions", "--input", "-") == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("place", ["opinions.safetensors", "models/opinions"])
def test_evaluate_applies_the_training_vocabulary_and_its_class_numbers(
    place: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Refitted on these alone, every id would be another one; and class 1 would be class 0.
    (tmp_path / "good.txt").write_text("zebra zebra zebra\t1\n" + "nice and good staff\t1\n" * 19)
    capsys.readouterr()
    assert hlserve("evaluate", work / place, "--data", tmp_path / "good.txt", "--json") == 0
    assert json.loads(capsys.readouterr().out)["value"] >= 0.95  # all but the zebras


def test_a_class_that_the_model_lacks_and_a_model_without_a_front_end_are_told(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text("good food\tmaybe\n")
    data = ["--data", tmp_path / "other.txt"]
    assert hlserve("evaluate", work / "opinions.safetensors", *data) == 1
    assert "the class 'maybe' is none of the model's: '0', '1'" in capsys.readouterr().err
    graph = work / "models" / "opinions" / "1" / "model.onnx"
    (tmp_path / "bare.onnx").write_bytes(graph.read_bytes())
    data = ["--data", work / "opinions.txt"]
    assert hlserve("evaluate", tmp_path / "bare.onnx", *data) == 1
    assert "the model has no front end" in capsys.readouterr().err
    assert hlserve("evaluate", work / "opinions.safetensors", "--data", work / "tones") == 1
    assert "holds sound, the model's front end takes text" in capsys.readouterr().err


def test_a_damaged_front_end_in_a_checkpoint_is_told(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = checkpoint.load(work / "opinions.safetensors")
    for content, message in [
        ({"kind": "code"}, "of the kind 'code'"),
        ({"kind": "words", "schema_version": 9}, "schema version 9"),
        ("words", "front end is no JSON"),
        (3, "front end"),
    ]:
        path = tmp_path / "bad.safetensors"
        checkpoint.save(network, path, extra={"frontend": content})
        assert hlserve("evaluate", path, "--data", work / "opinions.txt") == 1
        assert message in capsys.readouterr().err


def test_a_mistyped_file_is_not_taken_for_a_text(
    work: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"no text")
    for source, message in [
        ("reviws.txt", "'reviws.txt': there is no such file"),
        (tmp_path / "none" / "reviews", "there is no such file"),
        (picture, "is no text file, .txt"),
    ]:
        assert hlserve("predict", address, "opinions", "--input", source) == 1
        assert message in capsys.readouterr().err
    assert best(predict(capsys, address, "opinions", "--input", "nice and good staff")) == ["1"]


def test_a_text_is_not_taken_for_a_list_of_letters(address: str) -> None:
    with InferenceClient(address) as client, pytest.raises(DataError, match="one str, expected a"):
        client.infer_items("opinions", "good food")


def test_the_front_end_can_be_chosen(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts.safetensors"
    words = ["--arch", "mlp:4", "--epochs", 1, "--frontend", "subwords:40", "--out", out]
    assert hlserve("train", "--data", work / "opinions.txt", *words) == 0
    extra = checkpoint.read_description(out).extra
    assert extra["frontend"]["kind"] == "subwords"
    words[-1] = tmp_path / "none.safetensors"
    assert hlserve("train", "--data", "digits", *words) == 1
    words[-3] = "bert"
    assert hlserve("train", "--data", work / "opinions.txt", *words) == 2


def test_spoken_digits_are_learnt_from_their_archive(tmp_path: Path) -> None:
    archive = SHARED / "data" / "fsdd" / "recordings.zip"
    if not archive.is_file():
        pytest.skip(f"no file '{archive}'; HLSERVE_SHARED names its root")
    some = tmp_path / "some.zip"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(some, "w") as part:
        for name in whole.namelist():
            if "_theo_" in name or "_george_" in name:
                part.writestr(name, whole.read(name))
    out = tmp_path / "digits.safetensors"
    words = ["--arch", "mlp:64", "--epochs", 15, "--frontend", "log-mel:20", "--out", out]
    assert hlserve("train", "--data", some, *words) == 0
    network = checkpoint.load(out)
    test = load(some, frontend=from_json(checkpoint.read_description(out).extra["frontend"])).test
    assert test is not None
    assert len(test) == 100
    answers = network.predict(test.inputs_for(["input"]))["probabilities"].argmax(axis=1)
    assert (answers == test.y).mean() > 0.8  # chance is 0.1; two speakers, an mlp


def test_the_client_needs_no_library_for_words_and_wav(work: Path) -> None:
    code = (
        "import sys; sys.modules['tokenizers'] = sys.modules['soundfile'] = None;"
        "from hlserve.client import InferenceClient; from hlserve.frontend import from_json;"
        "from pathlib import Path; import json;"
        "made = [from_json(Path(p).read_text()) for p in sys.argv[1:3]];"
        "made[0].apply([Path(sys.argv[3])]); made[1].apply(['good food']);"
        "assert not {'hlserve.nn', 'hlserve.serving', 'onnxruntime'} & set(sys.modules)"
    )
    files = []
    for name in ("tones", "opinions"):
        metadata = read_metadata(work / "models" / name / "1")
        assert metadata is not None
        files.append(work / f"{name}.json")
        files[-1].write_text(json.dumps(metadata.frontend))
    sound = work / "tones" / "test" / "low" / "0.wav"
    subprocess.run([sys.executable, "-c", code, *map(str, [*files, sound])], check=True)
