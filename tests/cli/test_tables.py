"""Tables with gaps and categories from a CSV file to an answer: the whole chain."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from hlserve.cli import cli, run
from hlserve.client import InferenceClient
from hlserve.errors import DataError
from hlserve.frontend import Table, from_json
from hlserve.nn import checkpoint
from hlserve.nn.layers import Impute, OneHot, Standardize
from hlserve.nn.split import validation_split
from hlserve.repository import read_metadata
from tests.serving.running import running_server

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[3] / "shared"))
HEADER = ["name", "age", "colour", "zone", "income", "answer"]
AHEAD = ["IsNaN", "Where", "Round", "Equal", "Sub", "Div"]  # impute, one-hot, standardize


def hlserve(*arguments: object) -> int:
    return run(cli, list(map(str, arguments)))


def write_people(path: Path, n: int, seed: int) -> None:
    """ "yes" for one of red and zone 7, or where no income is told; that is all there is to it."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for number in range(n):
            colour, zone = rng.choice(["red", "green", "blue", ""]), rng.choice([1, 2, 7])
            is_told = rng.random() > 0.2
            income = f"{rng.normal(1000, 200):.0f}" if is_told else rng.choice(["", "?", "NA"])
            answer = "yes" if ((colour == "red") ^ (zone == 7)) or not is_told else "no"
            age = f"{rng.normal(40, 10):.1f}"
            writer.writerow([f"n{number}", age, colour, zone, income, answer])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained on people, published as it is, and compressed to int8."""
    folder = tmp_path_factory.mktemp("tables")
    write_people(folder / "people.csv", 600, seed=0)
    write_people(folder / "others.csv", 300, seed=1)
    file, models = folder / "people.safetensors", folder / "models"
    words = ["--target", "answer", "--ignore", "name", "--categorical", "zone"]
    words += ["--arch", "mlp:64,64", "--epochs", 30, "--out", file]
    assert hlserve("train", "--data", folder / "people.csv", *words) == 0
    assert hlserve("publish", file, "--out", models / "whole") == 0
    words = ["--data", folder / "people.csv", "--eval", folder / "others.csv", "--target", "answer"]
    words += ["--max-drop", "10pp", "--minimize", "bytes", "--batch", 1]
    assert hlserve("compress", file, *words, "--quantize", "int8", "--out", models / "int8") == 0
    assert hlserve("compress", file, *words, "--student", "mlp:8", "--out", models / "small") == 0
    return folder


@pytest.fixture(scope="module")
def address(work: Path) -> Iterator[str]:
    with running_server(work / "models") as server:
        yield server.address


def predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    capsys.readouterr()
    assert hlserve("predict", *arguments, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    return [row[0]["label"] for row in answer["top"]]


def test_the_checkpoint_holds_the_columns_and_their_layers(work: Path) -> None:
    network = checkpoint.load(work / "people.safetensors")
    kinds = [type(node.layer) for node in network.nodes[:3]]
    assert kinds == [Impute, OneHot, Standardize]
    front_end = from_json(
        checkpoint.read_description(work / "people.safetensors").extra["frontend"]
    )
    assert isinstance(front_end, Table)
    assert front_end.names == ("age", "colour", "zone", "income")
    assert front_end.columns[1].texts == ("blue", "green", "red")
    assert front_end.columns[2].codes == (1, 2, 7)


@pytest.mark.parametrize("model", ["whole", "int8", "small"])
def test_every_version_fills_and_encodes_in_floats_inside_its_graph(work: Path, model: str) -> None:
    folder = work / "models" / model / "1"
    operators = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
    first = operators.index("QuantizeLinear") if model == "int8" else operators.index("Gemm")
    assert set(AHEAD) <= set(operators[:first])
    assert "QuantizeLinear" in operators or model != "int8"
    metadata = read_metadata(folder)
    assert metadata is not None
    assert (
        metadata.frontend
        == checkpoint.read_description(work / "people.safetensors").extra["frontend"]
    )


@pytest.mark.parametrize("model", ["people.safetensors", "models/int8", "models/small"])
def test_evaluate_reads_columns_by_name_with_the_models_own_categories(
    work: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (work / "others.csv").open(encoding="utf-8", newline="") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    kept = [row for row in rows if row["colour"] != "blue"]  # refitted, red would be another code
    with (tmp_path / "some.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["answer", "zone", "income", "colour", "age", "name"])
        writer.writeheader()
        writer.writerows(kept)
    words = ["--data", tmp_path / "some.csv", "--target", "answer", "--json"]
    capsys.readouterr()
    assert hlserve("evaluate", work / model, *words) == 0
    assert json.loads(capsys.readouterr().out)["value"] > 0.9  # 0.6 for the commoner answer


ROWS = [
    ({"age": "40", "colour": "red", "zone": "1", "income": "1000"}, "yes"),
    ({"age": "40", "colour": "red", "zone": "7", "income": "1000"}, "no"),
    ({"age": "", "colour": "", "zone": "2", "income": "900"}, "no"),
    ({"age": "40", "colour": "green", "zone": "1", "income": ""}, "yes"),
]


def test_rows_are_predicted_from_files_with_and_without_names(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [answer for _, answer in ROWS]
    names = ["income", "colour", "extra", "age", "zone"]
    lines = [",".join(row.get(name, "x") for name in names) for row, _ in ROWS]
    (tmp_path / "named.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    assert predict(capsys, address, "whole", "--input", tmp_path / "named.csv") == wanted
    (tmp_path / "bare.csv").write_text("".join(",".join(r.values()) + "\n" for r, _ in ROWS))
    assert predict(capsys, address, "int8", "--input", tmp_path / "bare.csv") == wanted
    (tmp_path / "rows.json").write_text(json.dumps([row for row, _ in ROWS]))
    assert predict(capsys, address, "small", "--input", tmp_path / "rows.json") == wanted
    assert predict(capsys, address, "whole", "--input", "40,red,7,1000") == ["no"]


def test_a_json_object_on_stdin_may_hold_null_and_numbers(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '{"colour": "red", "zone": 7, "age": null, "income": 1100.5}'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert predict(capsys, address, "whole", "--input", "-") == ["no"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'[40, "red", 1, 1000]')))
    assert predict(capsys, address, "whole", "--input", "-") == ["yes"]


def test_a_row_of_a_file_is_predicted_with_its_label(
    work: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", work / "others.csv", "--target", "answer", "--row", 3]
    capsys.readouterr()
    assert hlserve("predict", address, "whole", *words) == 0
    assert "true label: " in capsys.readouterr().out


def test_a_client_asks_with_cells_by_column_name(address: str) -> None:
    with InferenceClient(address) as client:
        answer = client.infer_items("whole", [row for row, _ in ROWS])
        labels = json.loads(client.model_metadata("whole").properties["class_labels"])
        with pytest.raises(DataError, match="item 0 has no column 'age'"):
            client.infer_items("whole", [{"colour": "red"}])
    named = [labels[i] for i in answer.outputs["probabilities"].argmax(axis=1)]
    assert named == [wanted for _, wanted in ROWS]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("40,red", "item 0 has 2 cells, expected 4: 'age', 'colour', 'zone', 'income'"),
        ("absent.csv", "cannot read absent.csv"),
        ("forty,red,1,2", "item 0, column 'age': 'forty' is not a number"),
        ('{"age": 1', "expected a JSON object of cells by column name"),
        ("age,colour,zone,income", "holds the columns' names and no row below them"),
        ("age,colour,zone,income\n1,red", "item 0 has 2 cells, expected 4"),
        ('1,"red', "not well-formed CSV"),
        ("", "is empty, expected a row of cells"),
    ],
)
def test_what_cannot_be_asked_is_told(
    source: str, message: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert hlserve("predict", address, "whole", "--input", source) == 1
    assert message in capsys.readouterr().err


def test_a_search_finds_networks_that_fill_and_encode(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    words = ["--target", "answer", "--ignore", "name", "--categorical", "zone"]
    sizes = ["--max-params", 1000, "--trials", 2, "--jobs", 1, "--out", tmp_path / "found"]
    assert hlserve("search", "--data", work / "people.csv", *words, *sizes) == 0
    assert "--categorical zone --ignore name" in capsys.readouterr().out
    found = next((tmp_path / "found").glob("*.safetensors"))
    words = ["--data", work / "others.csv", "--target", "answer", "--json"]
    capsys.readouterr()
    assert hlserve("evaluate", found, *words) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 300


def test_what_cannot_be_trained_on_is_told(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people, out = work / "people.csv", tmp_path / "x.safetensors"
    words = ["--data", people, "--target", "answer", "--out", out, "--epochs", 1]
    assert hlserve("train", *words) == 1
    assert "column 'name' holds 600 different values" in capsys.readouterr().err
    assert hlserve("train", *words, "--ignore", "name", "--arch", "lenet5") != 0
    assert "expects images" in capsys.readouterr().err
    assert hlserve("train", *words, "--ignore", ",") != 0
    assert "names of columns with commas between" in capsys.readouterr().err
    assert hlserve("evaluate", work / "models" / "whole", "--data", work / "bare.csv") == 1


def test_gaps_in_the_arrays_of_an_npz_file_are_filled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    np.savez(tmp_path / "whole.npz", x=x, y=y)
    x[rng.random(x.shape) < 0.1] = np.nan
    np.savez(tmp_path / "gaps.npz", x=x, y=y)
    out = tmp_path / "gaps.safetensors"
    words = ["--arch", "mlp:16", "--epochs", 20, "--out", out]
    assert hlserve("train", "--data", tmp_path / "gaps.npz", *words) == 0
    capsys.readouterr()
    assert hlserve("evaluate", out, "--data", tmp_path / "gaps.npz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["value"] > 0.85  # a tenth has to guess
    words[-1] = tmp_path / "whole.safetensors"
    assert hlserve("train", "--data", tmp_path / "whole.npz", *words) == 0
    capsys.readouterr()
    assert hlserve("evaluate", words[-1], "--data", tmp_path / "gaps.npz") == 1
    assert "holds NaN; it does not fill the gaps (NaN) of these rows" in capsys.readouterr().err


def test_a_network_of_the_hearts_of_one_hospital_reads_those_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SHARED / "data" / "heart-disease"
    if not folder.is_dir():
        pytest.skip(f"no folder '{folder}'; HLSERVE_SHARED names its root")
    files = {}
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        files[name] = tmp_path / f"{name}.csv"
        files[name].write_bytes((folder / f"processed.{name}.data").read_bytes())
    out = tmp_path / "heart.safetensors"
    words = ["--target", "target", "--categorical", "cp,restecg,slope,thal", "--out", out]
    assert hlserve("train", "--data", files["cleveland"], "--arch", "mlp:16", *words) == 0
    for name, n_rows in [("hungarian", 294), ("switzerland", 123), ("va", 200)]:
        capsys.readouterr()
        assert hlserve("evaluate", out, "--data", files[name], *words[:2], "--json") == 0
        assert json.loads(capsys.readouterr().out)["rows"] == n_rows
    words = ["--data", files["cleveland"], *words[:2], "--max-drop", "30pp", "--batch", 1]
    words += ["--minimize", "bytes", "--prune", 0.5, "--out", tmp_path / "models" / "heart"]
    assert hlserve("compress", out, *words) == 0
    lines = files["va"].read_text().splitlines()
    # Rows that lack classes 0 to 2 by themselves tell a regression; the model's are classes.
    sick = [line for line in lines[1:] if line.endswith((",3", ",4"))]
    (tmp_path / "sick.csv").write_text("\n".join([lines[0], *sick]))
    capsys.readouterr()
    words = ["--data", tmp_path / "sick.csv", "--target", "target", "--json"]
    assert hlserve("evaluate", tmp_path / "models" / "heart", *words) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "accuracy"


@pytest.mark.parametrize("seed", range(3))
def test_a_single_gap_is_filled_wherever_the_split_puts_its_row(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    _, apart = validation_split(20, 0.5, seed=seed, labels=y)
    x[apart[0], 1] = np.nan  # a row that is not trained on
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    out = tmp_path / "net.safetensors"
    words = ["--arch", "mlp:4", "--epochs", 1, "--seed", seed, "--validation", 0.5, "--out", out]
    assert hlserve("train", "--data", tmp_path / "rows.npz", *words) == 0
    assert isinstance(checkpoint.load(out).nodes[0].layer, Impute)
