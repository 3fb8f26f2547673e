"""The compression benchmark, on rows and networks that take no time."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.compression_bases import BASES, Base, base_network, rows_file, rows_of
from benchmarks.compression_measures import FLOAT, Measured, mean_and_deviation, side_by_side
from benchmarks.compression_runs import PEERS, Made, Store, Task, made_again, searched
from benchmarks.compression_table import Row, as_text, lines_of, score
from compress.export import to_onnx
from hlserve.datasets import Rows
from hlserve.nn import Network
from hlserve.nn.layers import Dropout

BASE = Base("tiny", "mlp:64,32", "made-up", epochs=4, trained_as="mlp:64,32,dropout=0.1")
ROW = Row("tiny", "tiny", "bytes", (1,), "30pp", 30.0, {"bytes": 2}, {"bytes": 1000}, "1m")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, n in (("train", 800), ("validation", 300), ("test", 300)):
        y = rng.integers(0, 4, n)
        x = rng.integers(0, 120, (n, 40))
        x += 60 * (np.arange(40) // 10 == y[:, None])
        path = rows_file(BASE.data, part, tmp_path)
        path.parent.mkdir(exist_ok=True)
        np.savez(path, x=x.astype(np.uint8), y=y)
    return tmp_path


@pytest.fixture
def network(cache: Path) -> Network:
    return base_network(BASE, cache)


def task_of(network: Network, cache: Path) -> Task:
    train, validation = (rows_of(BASE.data, part, cache) for part in ("train", "validation"))
    wishes = {"max_drop": "30pp", "minimize": "bytes", "batches": (1,)}
    original = to_onnx(network).SerializeToString()
    return Task("tiny", original, cache / "bases" / "tiny.safetensors", train, validation, wishes)


def test_a_base_is_trained_once_and_its_dropout_left_out(cache: Path, network: Network) -> None:
    assert not any(isinstance(node.layer, Dropout) for node in network.nodes)
    again = base_network(BASE, cache)
    for name, param in network.params().items():
        np.testing.assert_array_equal(param.value, again.params()[name].value)


def test_a_search_is_kept_and_its_recipe_made_again_into_a_table(
    cache: Path, network: Network
) -> None:
    task, store = task_of(network, cache), Store(cache)
    made = searched(task, 0, store)
    assert searched(task, 0, store) == made  # the seconds too: nothing was searched
    again = made_again(task, made.recipe, 1, store)
    models = {FLOAT: task.original, "ours 0": made.model, "ours 1": again.model}
    test = rows_of(BASE.data, "test", cache)
    measured = side_by_side(models, test, (1,), budget_s=0.01)
    assert measured[FLOAT].drop == 0
    assert measured[FLOAT].agreement == 1
    assert measured["ours 0"].size_ratio == len(task.original) / len(made.model)
    lines = lines_of(ROW, [made, again], measured, {"nncf": "went wrong"})
    assert {line.figure: line.reached for line in lines}["bytes"] is True
    assert {line.figure: line.stretched for line in lines}["bytes"] is False
    assert "failed: went wrong" in as_text(lines)
    assert score(lines) == "must reached: 3 of 3"


def test_what_other_wishes_made_is_not_taken_for_these(cache: Path, network: Network) -> None:
    task, store = task_of(network, cache), Store(cache)
    first = searched(task, 0, store)
    other_kind = "none" if "QuantizeStatic" in first.recipe else "int8"
    wishes = {**task.wishes, "quantize": other_kind}
    other = Task(task.name, task.original, task.model, task.train, task.validation, wishes)
    assert ("QuantizeStatic" in searched(other, 0, store).recipe) is (other_kind == "int8")


def test_models_that_are_slower_or_worse_are_counted() -> None:
    row = Row("x", "x", "latency", (1,), "0.2pp", 0.2, {1: 2}, {1: 3}, "1m")
    made = Made(b"", "int8", "", "", 0.0, {}, 1.0, 0, True)
    bad = Measured(0.9, 0.5, 0.9, 10, 1.0, {1: 0.8}, {1: 1e-5})
    lines = {line.figure: line for line in lines_of(row, [made], {"ours 0": bad}, {})}
    assert lines["slower or worse, of 1 returned"].ours == "1 slower, 1 worse"
    assert not any(line.reached for line in lines.values())


def test_agreement_stands_in_where_there_are_no_labels(cache: Path, network: Network) -> None:
    model = to_onnx(network).SerializeToString()
    rows = Rows(rows_of(BASE.data, "test", cache).inputs)
    found = side_by_side({FLOAT: model, "same": model}, rows, (1,), budget_s=0.01)
    assert found["same"].value == found["same"].agreement == 1


def test_mean_and_deviation_of_seeds() -> None:
    assert mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_deviation([4.0]) == (4.0, 0.0)


def test_every_row_of_the_benchmark_has_its_base() -> None:
    from benchmarks.compression import ROWS

    assert {row.base for row in ROWS} == {base.name for base in BASES}
    assert set(PEERS) == {"ort", "nncf", "none"}
