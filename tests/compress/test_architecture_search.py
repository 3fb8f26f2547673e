"""The search for architectures: what is drawn, what is kept, and that it can be repeated."""

import dataclasses
import os
import random
import re
import signal
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import optuna
import pytest

from compress.architecture_search.front import behind_best, front, recommended
from compress.architecture_search.journal import FILE as JOURNAL
from compress.architecture_search.journal import Running, Trial
from compress.architecture_search.plot import draw_front
from compress.architecture_search.report import Report
from compress.architecture_search.search import Effort, Settings, search
from compress.architecture_search.space import Candidate, make_space
from compress.architecture_search.stopping import FEWEST_PEERS, PATIENCE, is_hopeless
from compress.architecture_search.worker import (
    LABELS,
    ROWS,
    Epoch,
    Failed,
    Lesson,
    Order,
    Stopped,
    Trained,
    work,
)
from compress.crew import Crew
from compress.metric import ACCURACY, MAE
from hlserve.datasets import Dataset, Rows
from hlserve.errors import ConfigError, DataError, TrainingError
from hlserve.frontend import Words
from hlserve.nn import build, checkpoint, evaluate
from hlserve.nn.split import validation_split
from hlserve.nn.trainer import LEARNING_RATE

SETTINGS = Settings(max_parameters=400, family="mlp", epochs=4)


def rings(n: int, seed: int = 0) -> Rows:
    """Two classes that no line tells apart."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    return Rows({"x": x}, (np.square(x[:, :2]).sum(axis=1) > 1.4).astype(np.int64))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset(
        "rings",
        rings(400),
        rings(200, seed=1),
        "classification",
        ("in", "out"),
        *[None] * 2,
        "",
        "",
    )


@pytest.fixture(scope="module")
def found(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("search")
    return search(dataset, SETTINGS, Effort(trials=12), folder), folder


# ----- what is drawn


@pytest.mark.parametrize(
    ("family", "shape", "bound"),
    [
        ("mlp", (4,), 60),
        ("mlp", (784,), 5_000),
        ("mlp", (30,), 300_000),
        ("cnn", (1, 28, 28), 3_000),
        ("cnn", (3, 16, 20), 50_000),
        ("auto", (1, 8, 8), 700),
        ("auto", (1, 28, 28), 100_000),
    ],
)
def test_no_candidate_has_more_parameters_than_allowed(
    family: str, shape: tuple[int, ...], bound: int
) -> None:
    def cost(spec: str) -> tuple[int, int]:
        network = build(spec, input_shape=shape, n_outputs=10 if bound > 60 else 1, task=None)
        return network.n_parameters, network.macs()

    space = make_space(family, shape, bound, cost)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    parameters = []
    for _ in range(40):
        trial = study.ask()
        candidate = space.draw(trial)
        parameters.append(cost(candidate.spec)[0])
    assert max(parameters) <= bound
    # Sizes are drawn evenly in their logarithm: the largest of 40 comes near the bound, and the
    # smallest is a small one wherever there is room below.
    assert max(parameters) > 0.5 * bound
    assert min(parameters) < 0.7 * bound


def test_a_bound_that_nothing_keeps_is_told() -> None:
    with pytest.raises(ConfigError, match=r"smallest network that is tried is mlp:4 with 15,950"):
        make_space("mlp", (784,), 1000, lambda spec: (3190 * len(spec), 1))


def test_convolutions_need_images() -> None:
    with pytest.raises(ConfigError, match="--family cnn takes images"):
        make_space("cnn", (30,), 1000, lambda _: (1, 1))


# ----- the front and the recommendation


def trial(
    number: int,
    score: float | None,
    macs: int,
    curve: tuple[float, ...] = (),
    state: str = "trained",
) -> Trial:
    candidate = Candidate("mlp:4", 0.01, 0.01)
    return Trial(number, candidate, macs, macs, state, score, curve, 1.0, "")


def dominates(a: Trial, b: Trial) -> bool:
    assert a.score is not None
    assert b.score is not None
    is_as_good = a.score >= b.score and a.macs <= b.macs
    is_equal = a.score == b.score and a.macs == b.macs
    return is_as_good and (not is_equal or a.number < b.number)


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_dominates(seed: int) -> None:
    draw = random.Random(seed)
    trials = [trial(n, draw.randint(0, 6) / 6, draw.randint(1, 6)) for n in range(15)]
    expected = [t for t in trials if not any(dominates(other, t) for other in trials)]
    assert front(trials) == sorted(expected, key=lambda t: t.macs)


def test_no_trial_has_no_front() -> None:
    assert front([trial(0, None, 5)]) == []


def test_a_network_that_is_proven_worse_is_not_recommended() -> None:
    best = np.ones(400)
    slightly, clearly = best.copy(), best.copy()
    slightly[:1] = 0
    clearly[:40] = 0
    behind = {
        n: behind_best(ACCURACY, best, row) for n, row in enumerate((clearly, slightly, best))
    }
    assert [b.is_proven for b in behind.values()] == [True, False, False]
    assert behind[0].estimate == pytest.approx(0.1)
    assert 0 < behind[0].low < 0.1 < behind[0].high
    assert recommended(behind, {0: 10, 1: 20, 2: 30}) == 1
    assert recommended(behind, {0: 10, 1: 40, 2: 30}) == 2


def test_errors_count_the_other_way_round() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.uniform(0, 1, 200), rng.uniform(1, 2, 200)
    assert behind_best(MAE, good, bad).is_proven
    assert not behind_best(MAE, bad, good).is_proven


# ----- when a training is given up


def running(macs: int, *curve: float) -> Running:
    return Running(99, None, Candidate("mlp:4", 0.01, 0.01), macs, macs, list(curve))


def test_only_what_lags_behind_cheaper_networks_is_given_up() -> None:
    finished = [trial(n, 0.9, 10, (0.5, 0.6, 0.7, 0.8)) for n in range(FEWEST_PEERS)]
    assert is_hopeless(running(10, 0.1, 0.2, 0.3), finished)
    assert not is_hopeless(running(10, 0.1, 0.7, 0.3), finished)  # the best epoch counts
    assert not is_hopeless(running(9, 0.1, 0.2, 0.3), finished)  # cheaper than all of them
    too_early = [0.1] * (PATIENCE - 1)
    assert not is_hopeless(running(10, *too_early), finished)
    assert not is_hopeless(running(10, 0.1, 0.2, 0.3), finished[1:])  # too few to compare with
    stopped = [dataclasses.replace(t, state="stopped") for t in finished]
    assert not is_hopeless(running(10, 0.1, 0.2, 0.3), stopped)


# ----- the search itself


def told(report: Report) -> list[tuple[object, ...]]:
    """What must repeat: everything but times."""
    return [(t.trial, t.architecture, t.learning_rate, t.state, t.metric) for t in report.trials]


def test_every_trial_keeps_the_bound_and_is_told(found: tuple[Report, Path]) -> None:
    report, folder = found
    assert len(report.trials) == 12
    assert max(t.parameters for t in report.trials) <= SETTINGS.max_parameters
    assert report.ending == "all trials"
    first = report.trials[0]  # the trainer's defaults, and about as large as is allowed
    assert (first.learning_rate, first.weight_decay) == (LEARNING_RATE, 0.01)
    assert re.fullmatch(r"mlp:[\d,]+", first.architecture)
    assert first.parameters > 0.8 * SETTINGS.max_parameters
    read = msgspec.json.decode((folder / "search.json").read_bytes(), type=Report)
    assert read == report
    assert read.schema_version == 1


def test_the_front_is_saved_and_nothing_else(found: tuple[Report, Path]) -> None:
    report, folder = found
    assert {n.file for n in report.front} == {f.name for f in folder.glob("*.safetensors")}
    assert report.recommended in [n.trial for n in report.front]
    trained = {t.trial: t for t in report.trials if t.state == "trained"}
    for network in report.front:
        assert trained[network.trial].metric == pytest.approx(network.validation.value)
        better = [t for t in trained.values() if t.metric > network.validation.value + 1e-9]
        assert all(t.macs > network.macs for t in better)


def test_figures_are_those_of_the_checkpoints(found: tuple[Report, Path], dataset: Dataset) -> None:
    report, folder = found
    assert dataset.test is not None
    _, apart = validation_split(400, SETTINGS.validation, seed=0, labels=dataset.train.y)
    for network in report.front:
        loaded = checkpoint.load(folder / network.file)
        assert (loaded.n_parameters, loaded.macs()) == (network.parameters, network.macs)
        on_validation = evaluate(loaded, dataset.train.x, dataset.train.y, indices=apart)
        on_test = evaluate(loaded, dataset.test.x, dataset.test.y)
        assert network.validation.value == pytest.approx(on_validation.metric)
        assert network.test is not None
        assert network.test.value == pytest.approx(on_test.metric)
        assert network.test.low < network.test.value < network.test.high
        assert set(network.latency_us) == {"1", "32"}
        assert min(network.latency_us.values()) > 0


def test_the_same_seed_gives_the_same_trials_however_often_it_is_interrupted(
    found: tuple[Report, Path], dataset: Dataset, tmp_path: Path
) -> None:
    whole, folder = found
    for trials in (5, 11, 12):
        report = search(dataset, SETTINGS, Effort(trials), tmp_path, is_resumed=True)
    assert told(report) == told(whole)
    assert report.recommended == whole.recommended
    for network in whole.front:
        ours, theirs = (checkpoint.load(f / network.file) for f in (tmp_path, folder))
        np.testing.assert_array_equal(ours.value, theirs.value)


def test_test_rows_decide_nothing(
    found: tuple[Report, Path], dataset: Dataset, tmp_path: Path
) -> None:
    whole, _ = found
    without = dataclasses.replace(dataset, test=None)
    report = search(without, SETTINGS, Effort(trials=12), tmp_path)
    assert told(report) == told(whole)
    assert report.recommended == whole.recommended
    assert [n.validation for n in report.front] == [n.validation for n in whole.front]
    assert all(n.test is None for n in report.front)


def test_several_processes_try_as_many(dataset: Dataset, tmp_path: Path) -> None:
    report = search(dataset, SETTINGS, Effort(trials=6, jobs=3), tmp_path)
    assert [t.trial for t in report.trials] == list(range(6))
    assert all(t.parameters <= SETTINGS.max_parameters for t in report.trials)


def test_numbers_are_searched_by_their_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 3)).astype(np.float32)
    rows = Rows({"x": x}, (100 * np.sin(3 * x[:, 0])).astype(np.float32))
    data = Dataset("wave", rows, None, "regression", None, None, None, "", "")
    settings = Settings(max_parameters=300, epochs=30)
    report = search(data, settings, Effort(trials=4), tmp_path)
    assert report.metric == "mae"
    first = report.trials[0]  # the trainer's defaults, as large as is allowed
    assert first.metric is not None
    assert 0 < first.metric < np.abs(rows.y).mean()
    errors = [n.validation.value for n in report.front]
    assert errors == sorted(errors, reverse=True)  # the front ends with the smallest error


def test_after_its_budget_a_search_has_at_least_one_network(
    dataset: Dataset, tmp_path: Path
) -> None:
    effort = Effort(trials=1000, budget_s=0.01)
    report = search(dataset, SETTINGS, effort, tmp_path)
    assert report.ending == "budget"
    assert len(report.trials) == len(report.front) == 1


def test_half_a_line_of_a_killed_process_does_no_harm(
    found: tuple[Report, Path], dataset: Dataset, tmp_path: Path
) -> None:
    whole, _ = found
    search(dataset, SETTINGS, Effort(trials=2), tmp_path)
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":4,"worker')
    (tmp_path / "2.safetensors").touch()  # and a checkpoint that no trial was told of
    (tmp_path / "mine.safetensors").touch()
    report = search(dataset, SETTINGS, Effort(trials=12), tmp_path, is_resumed=True)
    assert told(report) == told(whole)
    kept = {file.name for file in tmp_path.glob("*.safetensors")}
    assert kept == {"mine.safetensors"} | {network.file for network in report.front}


# ----- what goes wrong


def test_a_folder_in_use_is_refused_and_another_search_is_not_resumed(
    found: tuple[Report, Path], dataset: Dataset
) -> None:
    _, folder = found
    with pytest.raises(ConfigError, match="holds a search already; add --resume"):
        search(dataset, SETTINGS, Effort(trials=1), folder)
    other = dataclasses.replace(SETTINGS, max_parameters=500)
    with pytest.raises(ConfigError, match="max_parameters 400, now it is 500"):
        search(dataset, other, Effort(trials=1), folder, is_resumed=True)
    with pytest.raises(ConfigError, match="has rows"):
        search(
            dataclasses.replace(dataset, train=rings(400, seed=9)),
            SETTINGS,
            Effort(trials=1),
            folder,
            is_resumed=True,
        )


def test_a_second_search_in_one_folder_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    def search_again(_: str) -> None:
        with pytest.raises(ConfigError, match="another search is running there"):
            search(dataset, SETTINGS, Effort(trials=1), tmp_path, is_resumed=True)

    search(dataset, SETTINGS, Effort(trials=1), tmp_path, tell=search_again)


def test_rows_that_cannot_be_trained_on_are_told_before_the_work(
    dataset: Dataset, tmp_path: Path
) -> None:
    x = dataset.train.x.copy()
    x[7, 0] = np.inf  # NaN would be a gap, which a table may have
    with pytest.raises(DataError, match="row 7 holds NaN or infinity"):
        search(
            dataclasses.replace(dataset, train=Rows({"x": x}, dataset.train.y)),
            SETTINGS,
            Effort(),
            tmp_path,
        )
    alike = Rows({"x": dataset.train.x}, np.ones(400, np.int64))
    with pytest.raises(DataError, match="every row has class 1"):
        search(dataclasses.replace(dataset, train=alike), SETTINGS, Effort(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_without_labels_are_told(tmp_path: Path) -> None:
    rows = Rows({"x": np.zeros((5, 3), np.float32)})
    nothing = Dataset("rows", rows, None, None, None, None, None, "", "")
    with pytest.raises(DataError, match="no labels to train on"):
        search(nothing, SETTINGS, Effort(), tmp_path)


def test_ids_of_words_are_no_numbers_to_search_on(dataset: Dataset, tmp_path: Path) -> None:
    rows = Rows({"x": np.ones((40, 5), np.int64)}, np.arange(40) % 2)
    words = Words(vocabulary=("good", "bad"), max_length=5)
    texts = dataclasses.replace(dataset, train=rows, test=None, frontend=words)
    with pytest.raises(DataError, match=r"ids of words.*hlserve train --arch bigru:64"):
        search(texts, SETTINGS, Effort(trials=1), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["train", "test"])
def test_rows_that_are_streamed_are_refused(part: str, dataset: Dataset, tmp_path: Path) -> None:
    few = rings(60)
    np.save(tmp_path / "x.npy", few.x)
    rows = Rows({"x": np.load(tmp_path / "x.npy", mmap_mode="r")}, few.y)
    large = dataclasses.replace(dataset, **{part: rows})
    with pytest.raises(DataError, match="are streamed from their file"):
        search(large, SETTINGS, Effort(trials=1), tmp_path / "search")


def test_networks_that_no_search_wrote_are_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "7.safetensors").write_bytes(b"mine")
    for is_resumed in (False, True):
        with pytest.raises(ConfigError, match=r"holds 7\.safetensors, .* name another folder"):
            search(dataset, SETTINGS, Effort(trials=1), tmp_path, is_resumed=is_resumed)
    (tmp_path / "7.safetensors").unlink()
    search(dataset, SETTINGS, Effort(trials=1), tmp_path)
    (tmp_path / "7.safetensors").write_bytes(b"mine")
    search(dataset, SETTINGS, Effort(trials=2), tmp_path, is_resumed=True)
    assert (tmp_path / "7.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"jobs": 0}, {"budget_s": 0.0}])
def test_an_effort_of_nothing_is_told(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Effort(**wrong)


@pytest.fixture
def lesson(dataset: Dataset, tmp_path: Path) -> Lesson:
    """A training that would take forever."""
    np.save(tmp_path / ROWS, dataset.train.x)
    np.save(tmp_path / LABELS, dataset.train.y)
    return Lesson(tmp_path, "classification", None, None, 0.2, 10**6, 0)


def test_a_worker_that_dies_is_told(lesson: Lesson, tmp_path: Path) -> None:
    with Crew(work, lesson, jobs=1) as crew:
        crew.start(3, Order(Candidate("mlp:4", 0.01, 0.01), tmp_path / "3.safetensors"))
        (number, _epoch), *_ = crew.messages(None)
        assert number == 3
        os.kill(crew.processes[0].pid or 0, signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"trial 3 died \(exit code -9\); --resume"):
            list(crew.messages(None))


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (Candidate("mlp:4", 1e30, 0.0), Stopped("is the first whose output is not finite")),
        (Candidate("forest", 0.01, 0.0), Failed("unknown architecture 'forest'")),
    ],
)
def test_a_worker_tells_why_it_gives_up_and_takes_the_next_order(
    candidate: Candidate, expected: Stopped | Failed, lesson: Lesson
) -> None:
    with Crew(work, dataclasses.replace(lesson, epochs=2), jobs=1) as crew:
        for order in (candidate, Candidate("mlp:4", 0.01, 0.01)):
            crew.start(0, Order(order, lesson.rows / "0.safetensors"))
            message = last_message(crew)
            crew.release(0)
            if order is candidate:
                assert isinstance(message, type(expected))
                assert expected.reason in message.reason
        assert isinstance(message, Trained)
        assert len(crew.processes) == 1


def last_message(crew: Crew) -> object:
    while True:
        ((number, message),) = crew.messages(None)
        if not isinstance(message, Epoch):
            return message
        crew.answer(number, go_on=True)


def test_a_worker_that_is_told_no_stops(lesson: Lesson) -> None:
    with Crew(work, lesson, jobs=1) as crew:
        crew.start(0, Order(Candidate("mlp:4", 0.01, 0.01), lesson.rows / "0.safetensors"))
        ((_, message),) = crew.messages(None)
        assert isinstance(message, Epoch)
        crew.answer(0, go_on=False)
        ((_, message),) = crew.messages(None)
        assert message == Stopped("behind the median of networks that cost no more")
    assert not list(lesson.rows.glob("*.safetensors"))


def test_leaving_a_crew_ends_its_processes(lesson: Lesson, tmp_path: Path) -> None:
    with Crew(work, lesson, jobs=2) as crew:
        for number in range(2):
            file = tmp_path / f"{number}.safetensors"
            crew.start(number, Order(Candidate("mlp:4", 0.01, 0.01), file))
        assert not crew.is_free
        for process in crew.processes:
            assert process.pid is not None
            status = Path(f"/proc/{process.pid}/status").read_text()
            (blocked,) = re.findall(r"^SigBlk:\s*(\w+)$", status, re.M)
            assert int(blocked, 16) & 1 << signal.SIGINT - 1  # Ctrl-C is not for workers
        assert all(process.is_alive() for process in crew.processes)
    assert not any(process.is_alive() for process in crew.processes)


# ----- the picture


def test_a_reader_of_an_older_result_sees_all_of_it(
    found: tuple[Report, Path], tmp_path: Path
) -> None:
    report, _ = found
    for name in ("search.json", "front.svg"):
        (tmp_path / name).write_text("old")
        os.link(tmp_path / name, tmp_path / f"open {name}")  # as a reader that holds it open
    report.write(tmp_path)
    draw_front(report, tmp_path)
    for name in ("search.json", "front.svg"):
        assert (tmp_path / f"open {name}").read_text() == "old"
        assert (tmp_path / name).stat().st_size > 1000
    assert len(list(tmp_path.iterdir())) == 4


def test_the_front_is_drawn_the_same_each_time(found: tuple[Report, Path], tmp_path: Path) -> None:
    report, _ = found
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        texts.append(draw_front(report, tmp_path / name).read_text())
    assert texts[0] == texts[1]
    drawn = " ".join(text for text in ElementTree.fromstring(texts[0]).itertext() if text.strip())
    assert "multiply-accumulates a row" in drawn
    assert "accuracy on 80 validation rows" in drawn
    (chosen,) = (n for n in report.front if n.trial == report.recommended)
    assert f"recommended: {chosen.architecture}" in drawn
