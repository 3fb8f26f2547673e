"""``hlserve predict``: every kind of input, against a real server; nothing is resized."""

import io
import json
from pathlib import Path

import numpy as np
import png
import pytest

from hlserve.cli import cli, run
from hlserve.cli.prediction_input import fit_inputs, read_input
from hlserve.client import TensorMetadata
from hlserve.errors import DataError

IMAGE = TensorMetadata("input", "FP32", (-1, 1, 2, 4))


def predict(*arguments: object) -> int:
    return run(cli, ["predict", *map(str, arguments)])


def test_labels_come_with_their_probabilities(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 8))
    assert predict(address, "classes", "--input", tmp_path / "x.npy") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "classes version 1"
    assert {line.split()[0] for line in lines[1:]} == {"low", "middle", "high"}
    shares = [float(line.split()[1].rstrip("%")) for line in lines[1:]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_json_holds_every_output(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.csv").write_text("a,b,c,d,e,f,g,h\n1,2,3,4,5,6,7,8\n8,7,6,5,4,3,2,1\n")
    assert predict(address, "classes", "--input", tmp_path / "rows.csv", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["model"], answer["version"]) == ("classes", "1")
    assert np.shape(answer["outputs"]["logits"]) == (2, 3)
    assert len(answer["top"]) == 2
    assert answer["top"][0][0]["label"] in {"low", "middle", "high"}


def test_several_inputs_and_plain_outputs(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": [[5, 1]], "b": [[3, 1]]}'))
    assert predict(address, "sums", "--input", "-") == 0
    assert "sum [1, 2]: 8, 2" in capsys.readouterr().out


def test_text_goes_in_and_comes_out(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('[["grüß", "gott"]]'))
    assert predict(address, "text", "--input", "-", "--json") == 0
    assert json.loads(capsys.readouterr().out)["outputs"]["y"] == [["grüß", "gott"]]


def test_a_row_of_a_data_set_comes_with_its_true_label(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(address, "digits", "--data", "digits", "--row", "3") == 0
    output = capsys.readouterr().out
    assert "class " in output
    assert output.splitlines()[-1].startswith("true label: ")
    assert predict(address, "digits", "--data", "digits", "--row", "99999") == 1
    assert "row 99999 is not among them" in capsys.readouterr().err


def write_png(path: Path, rows: list[list[int]], **options: object) -> Path:
    with path.open("wb") as file:
        width = len(rows[0]) // (1 if options.get("greyscale") else 3)
        width = len(rows[0]) // 4 if options.get("alpha") else width
        png.Writer(width, len(rows), **options).write(file, rows)
    return path


def test_images_are_read_as_pixels_0_to_255(tmp_path: Path) -> None:
    grey = write_png(tmp_path / "g.png", [[0, 1, 2, 255], [4, 5, 6, 7]], greyscale=True, bitdepth=8)
    array = read_input(str(grey), io.StringIO())
    assert isinstance(array, np.ndarray)
    assert array.tolist() == [[0, 1, 2, 255], [4, 5, 6, 7]]
    assert fit_inputs(array, [IMAGE])["input"].shape == (1, 1, 2, 4)
    one_bit = write_png(tmp_path / "b.png", [[0, 1], [1, 0]], greyscale=True, bitdepth=1)
    assert read_input(str(one_bit), io.StringIO()).tolist() == [[0, 255], [255, 0]]  # type: ignore[union-attr]


def test_colour_is_three_planes_and_becomes_grey_where_the_model_takes_one(tmp_path: Path) -> None:
    row = [255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]
    colour = write_png(tmp_path / "c.png", [row, row], greyscale=False, bitdepth=8)
    array = read_input(str(colour), io.StringIO())
    assert isinstance(array, np.ndarray)
    assert array.shape == (1, 3, 2, 4)
    assert fit_inputs(array, [IMAGE])["input"][0, 0, 0].tolist() == [76, 150, 29, 255]
    planes = TensorMetadata("input", "FP32", (-1, 3, 2, 4))
    assert fit_inputs(array, [planes])["input"].shape == (1, 3, 2, 4)


def test_transparent_pixels_are_refused_and_opaque_ones_taken(tmp_path: Path) -> None:
    opaque = write_png(
        tmp_path / "o.png", [[1, 2, 3, 255]], greyscale=False, alpha=True, bitdepth=8
    )
    assert read_input(str(opaque), io.StringIO()).shape == (1, 3, 1, 1)  # type: ignore[union-attr]
    clear = write_png(tmp_path / "t.png", [[1, 2, 3, 0]], greyscale=False, alpha=True, bitdepth=8)
    with pytest.raises(DataError, match="has transparent pixels"):
        read_input(str(clear), io.StringIO())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"not a png", r"a\.png is no readable PNG"),
        ("a.gif", b"GIF", "unknown kind of file"),
        ("a.npy", b"junk", "is no array file"),
        ("a.csv", b"", "is empty, expected a row of numbers"),
        ("a.csv", b"1,2\n3,x\n", "row 2 holds 'x', expected a number"),
        ("a.csv", b"1,2\n3\n", "rows differ in length"),
        ("a.json", b"[1, ", r"a\.json is no JSON"),
        ("a.json", b"[[1], [1, 2]]", "the lists are of uneven length"),
        ("a.json", b'{"x": null}', "expected numbers or text, got object"),
    ],
)
def test_an_unreadable_input_is_told(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_input(str(tmp_path / name), io.StringIO())


def test_a_missing_file_is_told() -> None:
    with pytest.raises(DataError, match=r"cannot read absent\.csv"):
        read_input("absent.csv", io.StringIO())


@pytest.mark.parametrize(
    ("shape", "fitted"),
    [((8,), (1, 8)), ((2, 4), (1, 8)), ((3, 8), (3, 8)), ((3, 2, 4), (3, 8)), ((0, 8), (0, 8))],
)
def test_values_are_reshaped_where_their_count_fits(
    shape: tuple[int, ...], fitted: tuple[int, ...]
) -> None:
    tensor = TensorMetadata("input", "FP32", (-1, 8))
    array = fit_inputs(np.zeros(shape), [tensor])["input"]
    assert (array.shape, array.dtype) == (fitted, np.float32)


def test_what_does_not_fit_says_both_shapes() -> None:
    tensor = TensorMetadata("input", "FP32", (-1, 784))
    with pytest.raises(DataError, match=r"takes 784 values a row, \[-1, 784\]; got the shape \[32"):
        fit_inputs(np.zeros((32, 32)), [tensor])
    with pytest.raises(DataError, match="no values for the input 'input', got"):
        fit_inputs(
            {"a": np.zeros(1), "c": np.zeros(1)}, [tensor, TensorMetadata("b", "FP32", (1,))]
        )
    with pytest.raises(DataError, match="give one array by each name"):
        fit_inputs(np.zeros(3), [tensor, tensor])
    fixed = TensorMetadata("input", "FP32", (1, 4))
    with pytest.raises(DataError, match="takes 4 values a row"):
        fit_inputs(np.zeros((2, 4)), [fixed])


def test_wrong_usage_and_unknown_models_have_their_exit_codes(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(address, "classes") == 2
    assert "give either --input or --data" in capsys.readouterr().err
    assert predict(address, "absent", "--data", "digits") == 1
    assert "NOT_FOUND: model 'absent'" in capsys.readouterr().err
