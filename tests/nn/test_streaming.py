"""Rows that lie in a file train as rows in memory do, in little memory."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from hlserve.errors import DataError
from hlserve.nn.architectures import build
from hlserve.nn.batches import Batch
from hlserve.nn.evaluation import evaluate
from hlserve.nn.layers import Embedding, Flatten, Linear
from hlserve.nn.losses import CrossEntropy, Targets
from hlserve.nn.network import Input, Network, sequential
from hlserve.nn.optimizers import AdamW
from hlserve.nn.param import Array
from hlserve.nn.streaming import StreamBatches
from hlserve.nn.trainer import fit
from hlserve.nn.training_rows import TrainingRows
from hlserve.nn.training_settings import StateFile, Weighting


def mapped(path: Path, array: Array) -> Array:
    np.save(path, array)
    opened: Array = np.load(path, mmap_mode="r")
    return opened


def stream(tmp_path: Path, n_rows: int, block_rows: int) -> StreamBatches:
    """Rows that hold their own number, and their label too."""
    x = mapped(tmp_path / "x.npy", np.arange(n_rows, dtype=np.float32)[:, np.newaxis])
    y = mapped(tmp_path / "y.npy", np.arange(n_rows, dtype=np.int32))
    ready = Batch({"input": np.empty((0, 1), np.float32)}, np.empty(0, np.int64))
    return StreamBatches({"input": x}, y, np.arange(0, n_rows, block_rows), block_rows, ready)


def epoch(source: StreamBatches, seed: int, batch_size: int, skip: int = 0) -> list[Array]:
    """The rows' numbers, batch by batch; the label must stay beside its row."""
    batches = []
    for batch in source.epoch(np.random.default_rng(seed), batch_size, skip):
        assert isinstance(batch.targets, np.ndarray)
        assert (batch.inputs["input"].dtype, batch.targets.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(batch.inputs["input"][:, 0], batch.targets)
        batches.append(batch.targets.copy())
    return batches


SIZES = [(1, 1, 1), (7, 3, 2), (1000, 10, 32), (1000, 10, 400), (1003, 7, 64), (320, 1, 5)]


@pytest.mark.parametrize(("n_rows", "block_rows", "batch_size"), SIZES)
def test_every_row_comes_once_an_epoch(
    n_rows: int, block_rows: int, batch_size: int, tmp_path: Path
) -> None:
    source = stream(tmp_path, n_rows, block_rows)
    batches = epoch(source, 0, batch_size)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n_rows))
    assert len(source) == n_rows
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}


@pytest.mark.parametrize(("n_rows", "block_rows", "batch_size"), SIZES)
def test_the_seed_repeats_the_order_and_the_rest_of_an_epoch(
    n_rows: int, block_rows: int, batch_size: int, tmp_path: Path
) -> None:
    source = stream(tmp_path, n_rows, block_rows)
    whole = epoch(source, 5, batch_size)
    for skip in {0, 1, 2, len(whole) // 2, len(whole)}:
        rest = epoch(source, 5, batch_size, skip)
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[skip:]]
    if n_rows > 7:
        other = epoch(source, 6, batch_size)
        assert any(a.tolist() != b.tolist() for a, b in zip(whole, other, strict=True))


def test_a_skipped_part_draws_as_much(tmp_path: Path) -> None:
    source = stream(tmp_path, 1000, 10)
    rngs = [np.random.default_rng(0) for _ in range(2)]
    for rng, skip in zip(rngs, (0, 25), strict=True):
        for _ in source.epoch(rng, 32, skip):
            pass
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state


def test_a_batch_mixes_rows_of_many_blocks(tmp_path: Path) -> None:
    batches = epoch(stream(tmp_path, 64_000, 1000), 0, 512)
    # 16 blocks are mixed: a batch of 512 misses one of them with probability 16 (15/16)^512.
    assert all(len(np.unique(batch // 1000)) >= 16 for batch in batches)


def test_a_stream_of_one_window_trains_like_rows_in_memory_do(tmp_path: Path) -> None:
    x, y = _clusters(600)
    network, other = _network(), _network()
    on_disk = mapped(tmp_path / "x.npy", x)
    histories = [
        fit(net, rows, y, epochs=6, validation=None, optimizer=AdamW(0.01), progress=False)
        for net, rows in ((network, on_disk), (other, x))
    ]
    losses = [history.epochs[-1].train_loss for history in histories]
    # Other orders of the same rows: the same learning, not the same numbers.
    assert losses[0] == pytest.approx(losses[1], rel=0.3)
    assert evaluate(network, x, y).metric == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, ">f4"])
def test_rows_of_every_type_are_taken(dtype: str, tmp_path: Path) -> None:
    x, y = _clusters(300)
    rows = np.abs(x * 10).astype(dtype)
    values = []
    for source in (mapped(tmp_path / "x.npy", rows), mapped(tmp_path / "z.npy", rows)):
        network = _network()
        history = fit(network, source, y, epochs=2, progress=False, validation=0.2)
        assert history.best_epoch is not None
        values.append(network.value)
    np.testing.assert_array_equal(*values)


def test_rows_are_set_apart_by_blocks_and_trained_on_or_judged_by(tmp_path: Path) -> None:
    n_rows = 6400
    x = mapped(tmp_path / "x.npy", np.repeat(np.arange(n_rows, dtype=np.float32)[:, None], 6, 1))
    y = mapped(tmp_path / "y.npy", np.arange(n_rows) % 3)
    divided = TrainingRows.checked(_network(), x, y, 0.1, seed=3)
    assert divided.held_out is not None
    apart = divided.held_out.examples.inputs["input"][:, 0]
    batches = divided.source.epoch(np.random.default_rng(0), 64, 0)
    kept = np.concatenate([batch.inputs["input"][:, 0].copy() for batch in batches])
    np.testing.assert_array_equal(np.sort(np.concatenate([apart, kept])), np.arange(n_rows))
    assert len(apart) == 600  # 6 of 64 blocks
    assert np.diff(np.unique(apart // 100)).max() <= 11  # at even distances
    assert divided.class_counts is not None
    np.testing.assert_array_equal(divided.class_counts, np.bincount(kept.astype(int) % 3))


def test_named_targets_and_weights_are_streamed_too(tmp_path: Path) -> None:
    x, y = _clusters(400)
    rows = mapped(tmp_path / "x.npy", x)
    weights = mapped(tmp_path / "w.npy", np.random.default_rng(0).uniform(0.5, 1, 400))
    seen: list[bool] = []

    def watching(scores: Array, targets: Targets) -> tuple[float, Array]:
        assert isinstance(targets, Mapping)
        seen.append(targets.keys() == {"labels", "weights"})
        return CrossEntropy()(scores, targets)

    weighting = Weighting("balanced", weights)
    fit(_network(), rows, y, loss=watching, weighting=weighting, epochs=2, progress=False)
    assert seen
    assert all(seen)


def test_a_streamed_run_resumes_bit_equal(tmp_path: Path) -> None:
    x, y = _clusters(3000)
    rows = mapped(tmp_path / "x.npy", x)
    path = tmp_path / "run.training.safetensors"
    calls = iter(range(10**6))

    def loss(scores: Array, targets: Targets) -> tuple[float, Array]:
        if next(calls) == 130:
            signal.raise_signal(signal.SIGINT)
        return CrossEntropy()(scores, targets)

    def run(network: Network, state_file: StateFile | None) -> str:
        return fit(
            network, rows, y, loss=loss, epochs=3, state_file=state_file, progress=False
        ).ending

    interrupted = _network()
    assert run(interrupted, StateFile(path)) == "interrupted"
    resumed, whole = _network(1), _network()
    assert run(resumed, StateFile(path, resume=True)) == "all epochs"
    assert run(whole, None) == "all epochs"
    np.testing.assert_array_equal(resumed.value, whole.value)


def test_what_is_wrong_in_a_file_is_told_with_its_rows(tmp_path: Path) -> None:
    x, y = _clusters(1000)
    x[700, 2] = np.nan
    with pytest.raises(DataError, match=r"rows 690 to 704, counted from 690: .*row 10 holds NaN"):
        fit(_network(), mapped(tmp_path / "x.npy", x), y, validation=None, progress=False)
    x[700, 2], y[3] = 0, 7
    with pytest.raises(DataError, match=r"rows 0 to 14, counted from 0: row 3 has class label 7"):
        fit(_network(), mapped(tmp_path / "x.npy", x), y, validation=None, progress=False)
    with pytest.raises(DataError, match="equally many"):
        fit(_network(), mapped(tmp_path / "x.npy", x), y[:-1], progress=False)
    with pytest.raises(DataError, match="every row has class 1"):
        fit(_network(), mapped(tmp_path / "x.npy", x), np.ones_like(y), progress=False)
    with pytest.raises(DataError, match=r"validation share is 1\.5"):
        fit(_network(), mapped(tmp_path / "x.npy", x), y % 3, validation=1.5, progress=False)


def test_weights_of_a_file_are_judged_over_all_of_its_rows(tmp_path: Path) -> None:
    x, y = _clusters(1000)
    rows = mapped(tmp_path / "x.npy", x)
    weights = np.zeros(1000)
    weights[500:] = 1.0  # whole blocks of rows that do not count
    wanted = Weighting(sample_weight=weights)
    history = fit(_network(), rows, y, weighting=wanted, epochs=1, progress=False)
    assert np.isfinite(history.epochs[0].train_loss)
    for wrong, message in ((np.zeros(1000), "of all rows are 0"), (weights - 0.5, "weight -0.5")):
        with pytest.raises(DataError, match=message):
            fit(_network(), rows, y, weighting=Weighting(sample_weight=wrong), progress=False)


def test_targets_of_mapped_rows_may_be_a_list(tmp_path: Path) -> None:
    x, y = _clusters(400)
    rows, networks = mapped(tmp_path / "x.npy", x), [_network(), _network()]
    for network, labels in zip(networks, (y, y.tolist()), strict=True):
        fit(network, rows, labels, epochs=1, progress=False)
    np.testing.assert_array_equal(networks[0].value, networks[1].value)


def test_ids_in_a_file_are_checked_without_its_map(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 50, (2**17, 8))  # 8 MB
    labels = np.arange(len(ids)) % 2
    layers = [Embedding(50, 2), Flatten(), Linear(16, 2)]
    network = sequential(layers, Input("ids", (8,), "int64"), task="classification")
    rows = mapped(tmp_path / "ids.npy", ids)
    TrainingRows.checked(network, rows, labels, 0.1, seed=0)
    network.predict(rows[:1])
    # A page that was looked at counts as this process's; those around it come along.
    assert _mapped_kb(tmp_path / "ids.npy") <= 1024
    ids[70_000, 3] = 50
    wrong = mapped(tmp_path / "wrong.npy", ids)
    with pytest.raises(DataError, match="holds id 50, expected 0 to 49"):
        TrainingRows.checked(network, wrong, labels, 0.1, seed=0)
    with pytest.raises(DataError, match="row 70000 holds id 50"):
        network.predict(wrong)


def _mapped_kb(path: Path) -> int:
    """How much of a mapped file counts as this process's memory."""
    _, _, behind = Path("/proc/self/smaps").read_text().partition(f"{path}\n")
    (line,) = (s for s in behind.splitlines()[:10] if s.startswith("Rss:"))
    return int(line.split()[1])


PROGRAM = """
import json, sys
from pathlib import Path

import numpy as np
from hlserve.nn import build_for, fit

x, y = (np.load(f"{sys.argv[1]}/{name}.npy", mmap_mode="r") for name in "xy")
network = build_for("mlp:32", x, y, task="classification")
history = fit(network, x, y, epochs=1, progress=False)
# VmHWM, since ru_maxrss starts at what the process that started this one held.
(peak,) = (s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
peak_mb = int(peak.split()[1]) / 1024
print(json.dumps({"peak_mb": peak_mb, "metric": history.best.validation_metric}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_file_of_400_mb_trains_in_less_than_300_mb(dtype: type, tmp_path: Path) -> None:
    itemsize = np.dtype(dtype).itemsize
    n_rows = 400 * 2**20 // 784 // itemsize
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n_rows)
    np.save(tmp_path / "y.npy", y)
    with (tmp_path / "x.npy").open("wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (n_rows, 784)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n_rows, 8192):
            labels = y[start : start + 8192]
            block = np.broadcast_to(rng.integers(0, 200, (1, 784)), (len(labels), 784)).copy()
            block[:, :50] += 50 * labels[:, np.newaxis]
            file.write(block.astype(dtype).data)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["peak_mb"] < 300
    assert told["metric"] > 0.9


def _clusters(n: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, n)
    centres = 3.0 * rng.normal(size=(3, 6))
    return (centres[y] + rng.normal(size=(n, 6))).astype(np.float32), y


def _network(seed: int = 0) -> Network:
    return build("mlp:16", input_shape=(6,), n_outputs=3, task="classification", seed=seed)
