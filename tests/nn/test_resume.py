"""An interrupted training goes on as if nothing had happened."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hlserve.errors import ConfigError, DivergenceError, ModelFileError, SchemaVersionError
from hlserve.nn.architectures import build
from hlserve.nn.augmentation import Augment
from hlserve.nn.history import EpochRecord, History
from hlserve.nn.layer import Layer
from hlserve.nn.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from hlserve.nn.losses import CrossEntropy, Targets
from hlserve.nn.network import Input, Network, sequential
from hlserve.nn.optimizers import SGD, AdamW, RMSprop
from hlserve.nn.param import Array
from hlserve.nn.schedules import Cosine, Plateau
from hlserve.nn.sharding import n_shards
from hlserve.nn.trainer import fit
from hlserve.nn.training_settings import (
    EarlyStopping,
    Gradients,
    StateFile,
    TrainingDivergedError,
    Weighting,
)
from hlserve.nn.training_state import METADATA_KEY, read_state, write_state
from tests.nn.centring import Centring

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 1, 6, 6), dtype=np.uint8)
LABELS = (PIXELS[:, 0, :3].mean(axis=(1, 2)) > 127.5).astype(np.int64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.training.safetensors"


def network_of(seed: int = 0) -> Network:
    """Everything that a step draws or keeps: dropout, a running statistic."""
    layers = [Flatten(), Linear(36, 12), Centring(12), ReLU(), Dropout(0.3), Linear(12, 2)]
    network = sequential(layers, Input("image", (1, 6, 6)), task="classification")
    return network.initialize(np.random.default_rng(seed))


class Interrupting:
    """Cross-entropy during whose n-th call the signal comes; of no effect on the numbers."""

    def __init__(self, n: int, act: Callable[[], object] = lambda: None) -> None:
        self.name = "cross-entropy"
        self._left = n
        self._act = act
        self._loss = CrossEntropy()

    def __call__(self, scores: Array, targets: Targets) -> tuple[float, Array]:
        self._left -= 1
        if self._left == 0:
            self._act()
        return self._loss(scores, targets)


def send(number: int) -> Callable[[], object]:
    return lambda: signal.raise_signal(number)


SETTINGS: dict[str, Callable[[], dict[str, object]]] = {
    "AdamW, cosine": lambda: {"optimizer": AdamW(0.01), "schedule": Cosine(0.1)},
    "SGD, plateau": lambda: {"optimizer": SGD(0.05), "schedule": Plateau(0.5, 0)},
    "RMSprop, clipped": lambda: {
        "optimizer": RMSprop(0.01, momentum=0.5),
        "gradients": Gradients(clip_norm=0.5, accumulate=2),
        "weighting": Weighting("balanced"),
    },
    "no validation": lambda: {"optimizer": AdamW(0.01), "validation": None},
    "early stopping": lambda: {"optimizer": AdamW(0.05), "early_stopping": EarlyStopping(2)},
}


def run(
    network: Network, loss: Interrupting, path: Path | None, settings: str, **more: object
) -> History:
    arguments: dict[str, object] = {
        "loss": loss,
        "epochs": 6,
        "batch_size": 16,
        "augment": Augment(shift=1, noise=5.0),
        "progress": False,
        **SETTINGS[settings](),
        "state_file": None if path is None else StateFile(path),
        **more,
    }
    return fit(network, PIXELS, LABELS, **arguments)  # type: ignore[arg-type]


def same(history: History) -> list[tuple[object, ...]]:
    """All that is to be equal; seconds are not."""
    return [
        (r.epoch, r.train_loss, r.validation_loss, r.validation_metric, r.learning_rate)
        for r in history.epochs
    ]


# The loss is called once a batch and once in validation: 6 or 7 times an epoch.
@pytest.mark.parametrize("moment", [1, 3, 6, 7, 16])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_resumed_run_ends_bit_equal_to_an_uninterrupted_one(
    settings: str, moment: int, path: Path
) -> None:
    network = network_of()
    whole = run(network, Interrupting(0), None, settings)

    first = run(network_of(), Interrupting(moment, send(signal.SIGINT)), path, settings)
    assert first.ending == "interrupted"
    assert len(first.epochs) < 6
    resumed = network_of(seed=9)  # its own weights do not matter
    second = run(resumed, Interrupting(0), path, settings, state_file=StateFile(path, resume=True))
    np.testing.assert_array_equal(resumed.value, network.value)
    np.testing.assert_array_equal(resumed.statistics, network.statistics)
    assert same(second) == same(whole)
    assert (second.ending, second.best_epoch) == (whole.ending, whole.best_epoch)
    assert not path.exists()


def test_a_run_may_be_interrupted_again_and_again(path: Path) -> None:
    network = network_of()
    run(network, Interrupting(0), None, "AdamW, cosine")
    resumed, resume = network_of(), False
    for _ in range(40):
        state_file = StateFile(path, resume=resume)
        loss = Interrupting(2, send(signal.SIGINT))
        history = run(resumed, loss, path, "AdamW, cosine", state_file=state_file)
        resume = True
        if history.ending == "all epochs":
            break
    assert history.ending == "all epochs"
    np.testing.assert_array_equal(resumed.value, network.value)


def convolutional(seed: int, *layers: Layer) -> Network:
    network = sequential(layers, Input("image", (1, 6, 6)), task="classification")
    return network.initialize(np.random.default_rng(seed))


def masked(seed: int) -> Network:
    network = convolutional(seed, Conv2d(1, 4, 3), Flatten(), Linear(64, 2))
    for param in network.params().values():
        param.mask = (np.arange(param.value.size) % 2).reshape(param.value.shape).astype(np.float32)
        param.value *= param.mask
    return network


TWO_THREADS: dict[str, Callable[[int], Network]] = {
    "drawing and keeping": lambda seed: convolutional(
        seed, Conv2d(1, 3, 3), Flatten(), Dropout(0.2), Linear(48, 2), Centring(2)
    ),
    "normalized": lambda seed: build(
        "cnn:8/8", input_shape=(1, 6, 6), n_outputs=2, task="classification", seed=seed
    ),
    "fused": lambda seed: convolutional(
        seed, Conv2d(1, 4, 3, padding=1), ReLU(), MaxPool2d(2), Flatten(), Linear(36, 2)
    ),
    "masked": masked,
}


@pytest.mark.parametrize("kind", TWO_THREADS)
def test_a_run_in_two_threads_resumes_bit_equal(kind: str, path: Path) -> None:
    make = TWO_THREADS[kind]
    arguments = {"batch_size": 32, "threads": 2, "optimizer": AdamW(0.01)}
    whole, resumed = make(0), make(1)
    assert n_shards(whole, 2, 32) == 2
    run(whole, Interrupting(0), None, "AdamW, cosine", **arguments)
    # The signal comes to the main thread, whose loss is called once a step.
    arguments["optimizer"] = AdamW(0.01)
    loss = Interrupting(5, send(signal.SIGINT))
    stopped = run(make(0), loss, path, "AdamW, cosine", **arguments)
    assert stopped.ending == "interrupted"
    assert len(read_state(path)[0].dropping) == 2
    arguments["optimizer"] = AdamW(0.01)
    again = StateFile(path, resume=True)
    run(resumed, Interrupting(0), path, "AdamW, cosine", state_file=again, **arguments)
    np.testing.assert_array_equal(resumed.value, whole.value)
    np.testing.assert_array_equal(resumed.statistics, whole.statistics)


def test_sigterm_writes_the_state_where_one_is_kept(path: Path) -> None:
    history = run(network_of(), Interrupting(9, send(signal.SIGTERM)), path, "AdamW, cosine")
    assert history.ending == "terminated"
    assert history.is_interrupted
    progress, tensors = read_state(path)
    assert (progress.epoch, progress.step, len(progress.history.epochs)) == (2, 8, 1)
    assert {"value", "statistics", "best.value", "optimizer.mean"} <= tensors.keys()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_second_ctrl_c_ends_the_step_itself(path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    history = run(network_of(), Interrupting(9, twice), path, "AdamW, cosine")
    assert history.ending == "interrupted"
    assert not path.exists()  # half a step is nothing to go on from


def test_inside_a_step_the_last_written_state_stands(path: Path) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    network = network_of()
    run(network, Interrupting(0), None, "AdamW, cosine")
    every = StateFile(path, every_s="epoch")
    run(network_of(), Interrupting(17, die), path, "AdamW, cosine", state_file=every)
    assert read_state(path)[0].epoch_step == 0
    resumed = network_of(seed=9)
    again = StateFile(path, resume=True)
    run(resumed, Interrupting(0), path, "AdamW, cosine", state_file=again)
    np.testing.assert_array_equal(resumed.value, network.value)


def test_the_state_is_written_in_time(path: Path) -> None:
    found: list[int] = []

    def look() -> None:
        found.append(read_state(path)[0].step)

    every = StateFile(path, every_s=1e-9)
    run(network_of(), Interrupting(5, look), path, "no validation", state_file=every)
    assert found == [4]
    assert not path.exists()
    with pytest.raises(ConfigError, match="every_s is 0"):
        StateFile(path, every_s=0)


def test_divergence_leaves_no_state(path: Path) -> None:
    network = network_of()
    every = StateFile(path, every_s="epoch")
    with pytest.raises(DivergenceError):
        run(
            network,
            Interrupting(0),
            path,
            "SGD, plateau",
            optimizer=SGD(1e30),
            state_file=every,
        )
    assert not path.exists()


def test_a_training_beside_the_main_thread_leaves_signals_alone(path: Path) -> None:
    network, whole = network_of(), network_of()
    seen: list[object] = []
    loss = Interrupting(3, lambda: seen.append(signal.getsignal(signal.SIGINT)))
    every = StateFile(path, every_s="epoch")
    thread = threading.Thread(
        target=run, args=(network, loss, path, "AdamW, cosine"), kwargs={"state_file": every}
    )
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
    run(whole, Interrupting(0), None, "AdamW, cosine")
    np.testing.assert_array_equal(network.value, whole.value)


# ----- what is refused

DIFFERENT: dict[str, tuple[dict[str, object], str]] = {
    "seed": ({"seed": 1}, "seed then: 0; now: 1"),
    "batch_size": ({"batch_size": 8}, "batch_size then: 16; now: 8"),
    "epochs": ({"epochs": 7}, "epochs then: 6; now: 7"),
    "optimizer": ({"optimizer": AdamW(0.02)}, r"optimizer then: AdamW\(learning_rate=0.01.*=0.02"),
    "kind": ({"optimizer": SGD(0.01)}, r"optimizer then: AdamW\(.*; now: SGD\("),
    "schedule": ({"schedule": Plateau()}, r"schedule then: Cosine\(.*; now: Plateau\("),
    "augment": ({"augment": Augment(shift=2)}, r"augment then: Augment\(shift=1,"),
    "loss": ({"loss": CrossEntropy()}, "loss then: Interrupting.*now: CrossEntropy"),
    "metric": ({"metric": "f1"}, "metric then: .*accuracy"),
    "validation": ({"validation": 0.2}, "validation then: 0.1; now: 0.2"),
    "early": ({"early_stopping": EarlyStopping(3)}, "early stopping then: None; now: Early"),
}


@pytest.mark.parametrize(("change", "message"), DIFFERENT.values(), ids=DIFFERENT)
def test_another_run_is_not_resumed(change: dict[str, object], message: str, path: Path) -> None:
    run(network_of(), Interrupting(4, send(signal.SIGINT)), path, "AdamW, cosine")
    again = {"loss": Interrupting(0), "state_file": StateFile(path, resume=True), **change}
    with pytest.raises(ConfigError, match=message):
        run(network_of(), path=path, settings="AdamW, cosine", **again)  # type: ignore[arg-type]
    assert path.exists()


def test_other_rows_and_another_network_are_not_resumed(path: Path) -> None:
    arguments = {"epochs": 3, "progress": False}
    loss = Interrupting(2, send(signal.SIGINT))
    fit(network_of(), PIXELS, LABELS, loss=loss, state_file=StateFile(path), **arguments)  # type: ignore[arg-type]
    again = {"loss": Interrupting(0), "state_file": StateFile(path, resume=True), **arguments}
    other = PIXELS.copy()
    other[:] += 1
    with pytest.raises(ConfigError, match="training rows then: 81 rows of image"):
        fit(network_of(), other, LABELS, **again)  # type: ignore[arg-type]
    layers = [Flatten(), Linear(36, 2)]
    small = sequential(layers, Input("image", (1, 6, 6)), task="classification")
    with pytest.raises(ConfigError, match=r"network then: 6 layers, .*; now: 2 layers"):
        fit(small, PIXELS, LABELS, **again)  # type: ignore[arg-type]


def test_there_must_be_a_state_to_resume(path: Path) -> None:
    with pytest.raises(ModelFileError, match="so there is nothing to resume"):
        run(
            network_of(),
            Interrupting(0),
            path,
            "no validation",
            state_file=StateFile(path, resume=True),
        )


def test_a_damaged_or_newer_file_is_told(path: Path) -> None:
    run(network_of(), Interrupting(4, send(signal.SIGINT)), path, "AdamW, cosine")
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(ModelFileError, match="not a whole file"):
        read_state(path)
    save_file({"value": np.zeros(1, np.float32)}, path)
    with pytest.raises(ModelFileError, match="training state"):
        read_state(path)
    save_file({}, path, metadata={METADATA_KEY: '{"schema_version": 99}'})
    with pytest.raises(SchemaVersionError, match="schema_version is 99"):
        read_state(path)
    path.write_bytes(content)
    tensors = load_file(path)
    progress, _ = read_state(path)
    assert progress.step == 4
    del tensors["optimizer.mean"]
    write_state(path, progress, tensors)
    with pytest.raises(ModelFileError, match=r"damaged: AdamW: the state holds"):
        run(
            network_of(),
            Interrupting(0),
            path,
            "AdamW, cosine",
            state_file=StateFile(path, resume=True),
        )


# ----- what JSON does not know


def test_a_metric_that_is_not_defined_is_resumed_as_such(path: Path) -> None:
    one_class = (PIXELS[:8], np.ones(8, np.int64))
    arguments: dict[str, object] = {"metric": "roc auc", "validation": one_class}
    network, resumed = network_of(), network_of(seed=9)
    whole = run(network, Interrupting(0), None, "AdamW, cosine", **arguments)
    assert all(np.isnan(record.validation_metric or 0.0) for record in whole.epochs)
    loss = Interrupting(20, send(signal.SIGINT))
    run(network_of(), loss, path, "AdamW, cosine", **arguments)
    progress, tensors = read_state(path)
    assert len(progress.history.epochs) == 2
    assert tensors["best.rank"].tolist()[0] == -np.inf
    again = StateFile(path, resume=True)
    second = run(resumed, Interrupting(0), path, "AdamW, cosine", state_file=again, **arguments)
    np.testing.assert_array_equal(resumed.value, network.value)
    np.testing.assert_equal(same(second), same(whole))  # in which NaN equals NaN
    assert second.best_epoch == whole.best_epoch
    back = History.from_json(second.to_json())
    np.testing.assert_equal(same(back), same(whole))


def test_ranking_by_the_metric_makes_another_run(path: Path) -> None:
    def numbers(metric: str | None, state_file: StateFile) -> History:
        network = sequential(
            [Flatten(), Linear(36, 1)], Input("image", (1, 6, 6)), task="regression"
        )
        return fit(
            network,
            PIXELS,
            PIXELS.mean(axis=(1, 2, 3)),
            metric=metric,
            epochs=3,
            state_file=state_file,
            callbacks=[lambda network, record: signal.raise_signal(signal.SIGINT)],
            progress=False,
        )

    assert numbers(None, StateFile(path)).ending == "interrupted"  # the absolute error, unranked
    with pytest.raises(ConfigError, match="is_ranked_by_metric then: False; now: True"):
        numbers("mean absolute error", StateFile(path, resume=True))


# ----- where the file lies, and who removes it


def test_a_folder_that_does_not_exist_is_told_before_the_first_step(tmp_path: Path) -> None:
    network = network_of()
    before = network.value.copy()
    with pytest.raises(ModelFileError, match=r"cannot be written there: .*make the folder"):
        run(network, Interrupting(0), tmp_path / "none" / "run.safetensors", "AdamW, cosine")
    np.testing.assert_array_equal(network.value, before)


def test_a_state_that_the_caller_keeps_outlives_the_training(path: Path) -> None:
    network = network_of()
    kept = StateFile(path, every_s="epoch", keep=True)
    whole = run(network, Interrupting(0), path, "AdamW, cosine", state_file=kept)
    assert whole.ending == "all epochs"
    resumed = network_of(seed=9)  # what was trained is had again, as after a failed save
    again = StateFile(path, resume=True, keep=True)
    second = run(resumed, Interrupting(0), path, "AdamW, cosine", state_file=again)
    np.testing.assert_array_equal(resumed.value, network.value)
    assert same(second) == same(whole)
    again.remove()
    assert not path.exists()
    again.remove()  # a second time does nothing


def test_divergence_tells_the_epochs_before_it_and_leaves_the_best() -> None:
    found: list[Array] = []

    def spoil(network: Network, record: EpochRecord) -> None:
        found.append(network.value.copy())
        if record.epoch == 2:
            network.value[...] = np.inf

    network = network_of()
    with pytest.raises(TrainingDivergedError, match="epoch 3, step 13: the loss became") as raised:
        run(network, Interrupting(0), None, "AdamW, cosine", callbacks=[spoil])
    history = raised.value.history
    assert (len(history.epochs), history.ending) == (2, "diverged")
    assert history.best_epoch is not None
    np.testing.assert_array_equal(network.value, found[history.best_epoch - 1])
