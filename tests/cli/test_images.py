"""Photos in class folders from the file to an answer: trained, compressed, served, asked."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hlserve.cli import cli, run
from hlserve.client import InferenceClient
from hlserve.frontend import Image, from_json
from hlserve.nn import checkpoint
from tests.frontend.pictures import encoded
from tests.serving.running import running_server


def hlserve(*arguments: object) -> int:
    return run(cli, list(map(str, arguments)))


def photo(label: str, rng: np.random.Generator) -> bytes:
    """Stripes that lie or stand, of any size, colour and width."""
    height, width = rng.integers(40, 90, 2)
    place = np.indices((height, width))[0 if label == "lying" else 1]
    stripes = np.sin(place * rng.uniform(0.3, 0.5))[..., None] * rng.uniform(60, 100, 3)
    pixels = 128 + stripes + rng.normal(0, 10, (height, width, 3))
    return encoded(pixels.clip(0, 255).astype(np.uint8), "JPEG")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in [("train", 60), ("test", 20)]:
        for label in ("lying", "standing"):
            place = folder / "photos" / part / label
            place.mkdir(parents=True)
            for number in range(count):
                (place / f"{number}.jpg").write_bytes(photo(label, rng))
    file, photos = folder / "photos.safetensors", folder / "photos"
    words = ["--image-size", "16x20", "--arch", "cnn:4/16", "--epochs", 8, "--out", file]
    assert hlserve("train", "--data", photos, *words) == 0
    assert hlserve("publish", file, "--out", folder / "models" / "photos") == 0
    words = ["--data", photos, "--max-drop", "20pp", "--minimize", "bytes", "--batch", 1]
    words += ["--prune", 0.5, "--out", folder / "models" / "small"]
    assert hlserve("compress", file, *words) == 0
    return folder


@pytest.fixture(scope="module")
def address(work: Path) -> Iterator[str]:
    with running_server(work / "models") as server:
        yield server.address


def best(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    capsys.readouterr()
    assert hlserve("predict", *arguments, "--json") == 0
    return [row[0]["label"] for row in json.loads(capsys.readouterr().out)["top"]]


def test_the_checkpoint_says_what_images_become(work: Path) -> None:
    extra = checkpoint.read_description(work / "photos.safetensors").extra
    assert from_json(extra["frontend"]) == Image(height=16, width=20, channels=3)


@pytest.mark.parametrize("model", ["photos.safetensors", "models/small"])
def test_evaluate_stretches_the_test_images_alike(
    work: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert hlserve("evaluate", work / model, "--data", work / "photos", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"] == 40
    assert answer["value"] > 0.8  # 0.5 is chance; stripes are easily told


def test_a_photo_of_another_size_is_predicted_from_its_file_stdin_or_folder(
    work: Path,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = 60 * np.sin(np.arange(70) * 0.4)[:, None] + np.full((70, 55), 128)
    (tmp_path / "grey.png").write_bytes(encoded(rows.astype(np.uint8)))
    assert best(capsys, address, "photos", "--input", tmp_path / "grey.png") == ["lying"]
    content = (tmp_path / "grey.png").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert best(capsys, address, "small", "--input", "-") == ["lying"]
    words = ["--data", work / "photos", "--row", 0]
    assert best(capsys, address, "photos", *words) == ["lying"]


def test_a_client_asks_with_paths(work: Path, address: str) -> None:
    paths = sorted((work / "photos" / "test").rglob("*.jpg"))
    with InferenceClient(address) as client:
        found = client.infer_items("photos", paths).outputs["probabilities"].argmax(axis=1)
    assert np.mean(found == [path.parent.name == "standing" for path in paths]) > 0.8


def test_what_is_no_image_is_told(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    for source, message in [
        ("absent.jpg", "'absent.jpg': cannot be read: No such file"),
        (__file__, "is no PNG, JPEG, BMP, GIF or WebP image"),
    ]:
        capsys.readouterr()
        assert hlserve("predict", address, "photos", "--input", source) == 1
        assert message in capsys.readouterr().err
