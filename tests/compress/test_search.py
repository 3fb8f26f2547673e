"""What is chosen, from measurements made up here: the models are real, the clock is not."""

import dataclasses

import numpy as np
import pytest

from compress import search as searching
from compress.candidates import Candidate, Plan
from compress.export import to_onnx
from compress.goal import Goal
from compress.job import Effort, Wishes, compress, prepare
from compress.latency import Latency
from compress.search import search
from compress.splits import Split, three_way
from hlserve.datasets import Rows
from hlserve.errors import BoundNotMetError, ConfigError, DataError
from hlserve.nn.architectures import build

GOAL = Goal(0.01, batches=(1, 8))


def ladder(candidates, told=None):
    """Offers the candidates in order; notes what the search said about each."""

    def offer(*_):
        for candidate in candidates:
            verdict = yield candidate
            if told is not None:
                told.append((candidate.name, not verdict.refusal))

    return offer


def prepared_on(rows, network, folder):
    prepared, _ = prepare(network, Split(rows, rows, rows, ""), Wishes(0.01), Effort(folder))
    return prepared


@pytest.fixture
def prepared(trained_mlp, mlp_rows, tmp_path):
    """A search whose ladder is still to be given; the original is right about most rows."""
    return prepared_on(mlp_rows, trained_mlp, tmp_path)


@pytest.fixture
def original(trained_mlp):
    return to_onnx(trained_mlp).SerializeToString()


@pytest.fixture
def spoilt(trained_mlp):
    """The same network with one class never told: inside no bound."""
    network = trained_mlp.copy()
    network.node(network.logits_node).layer.params()["bias"].value[0] = -1e4
    return to_onnx(network).SerializeToString()


@pytest.fixture
def clock(monkeypatch):
    """Latencies by candidate name: ``clock["fast"] = 0.5`` of the original's millisecond."""
    ratios: dict[str, float] = {}

    def measured(sessions, feeds, batches, **_):
        def rounds(session):
            return Latency((1e-3 * ratios.get(session.name, 1.0),) * 15)

        return {name: {b: rounds(s) for b in batches} for name, s in sessions.items()}

    real = searching.Session
    monkeypatch.setattr(searching, "measure", measured)
    # Sessions made for timing carry no name of their own; give each its candidate's.
    names: dict[bytes, str] = {}
    monkeypatch.setattr(
        searching,
        "Session",
        lambda model, name="model", **how: real(model, name=names.setdefault(model, name), **how),
    )
    return ratios


def candidate(name, model, size=0):
    """Bytes behind the end of a protobuf message would break it: a doc string makes it larger."""
    import onnx

    graph = onnx.load_model_from_string(model)
    graph.doc_string = name + "x" * size
    return Candidate(name, graph.SerializeToString(), 1, "", ())


def test_the_fastest_inside_the_bound_is_chosen(prepared, original, spoilt, clock):
    clock.update(quick=0.5, quicker=0.4, wrong=0.1)
    told = []
    tried = [
        candidate("quick", original),
        candidate("quicker", original),
        candidate("wrong", spoilt),
    ]
    result = search(dataclasses.replace(prepared, ladder=ladder(tried, told)), GOAL)
    assert result.best.candidate.name == "quicker"
    assert result.is_proven
    assert result.best.speed_up[1].ratio == pytest.approx(2.5)
    assert told == [("quick", True), ("quicker", True), ("wrong", False)]
    assert "drops by" in result.tried[2].refusal
    assert not result.tried[2].latency  # what is outside is not worth timing


def test_of_equally_fast_ones_the_smaller_is_chosen(prepared, original, clock):
    clock.update(large=0.50, small=0.52)
    tried = [candidate("large", original, size=5000), candidate("small", original)]
    result = search(dataclasses.replace(prepared, ladder=ladder(tried)), GOAL)
    assert result.best.candidate.name == "small"


def test_a_slower_model_is_never_handed_back(prepared, original, clock):
    clock.update(slow=1.3)
    tried = [candidate("slow", original)]
    with pytest.raises(BoundNotMetError, match=r"Nearest miss: slow, slower .* batch 1: 0\.769x"):
        search(dataclasses.replace(prepared, ladder=ladder(tried)), GOAL)


def test_a_model_as_fast_as_before_is_no_gain(prepared, original, clock):
    with pytest.raises(BoundNotMetError, match="no faster than the original"):
        search(dataclasses.replace(prepared, ladder=ladder([candidate("same", original)])), GOAL)


def test_slower_but_smaller_is_for_bytes_alone(prepared, clock, trained_mlp):
    from compress.quantization import QuantizeStatic
    from compress.technique import Data

    quantized = QuantizeStatic().apply(trained_mlp, Data(Rows(prepared.bench.feeds))).network
    small = Candidate("small", to_onnx(quantized).SerializeToString(), 1)
    clock.update(small=2.0)
    goal = dataclasses.replace(GOAL, minimize="bytes", max_drop=0.1)
    result = search(dataclasses.replace(prepared, ladder=ladder([small])), goal)
    assert result.best.candidate.name == "small"
    assert result.best.candidate.size_bytes < result.original.candidate.size_bytes


def test_outside_the_bound_names_the_nearest_miss(prepared, spoilt, clock):
    clock.update(wrong=0.1)
    with pytest.raises(BoundNotMetError, match="Nearest miss: wrong, drops by"):
        search(dataclasses.replace(prepared, ladder=ladder([candidate("wrong", spoilt)])), GOAL)


def test_nothing_to_try_says_so(prepared, clock):
    with pytest.raises(BoundNotMetError, match="There was nothing to try"):
        search(dataclasses.replace(prepared, ladder=ladder([])), GOAL)


def test_what_changes_its_outputs_or_does_not_load_is_refused(prepared, original, clock):
    import onnx

    clock.update(good=0.5)
    renamed = onnx.load_model_from_string(original)
    renamed.graph.node[-1].output[0] = "other"
    renamed.graph.output[0].name = "other"
    tried = [
        Candidate("renamed", renamed.SerializeToString(), 1),
        candidate("good", original),
    ]
    result = search(dataclasses.replace(prepared, ladder=ladder(tried)), GOAL)
    assert "changes the outputs" in result.tried[0].refusal
    assert result.best.candidate.name == "good"


def test_proof_can_be_required(trained_mlp, mlp_rows, clock, tmp_path):
    small = prepared_on(mlp_rows.take(slice(0, 40)), trained_mlp, tmp_path)
    assert small.smallest_provable > GOAL.max_drop
    goal = dataclasses.replace(GOAL, require_proof=True)
    model = to_onnx(trained_mlp).SerializeToString()
    clock.update(good=0.5)
    tried = [candidate("good", model)]
    with pytest.raises(BoundNotMetError, match="proof was asked for"):
        search(dataclasses.replace(small, ladder=ladder(tried)), goal)
    result = search(dataclasses.replace(small, ladder=ladder(tried)), GOAL)
    assert not result.is_proven


def test_the_last_look_is_at_rows_that_chose_nothing(prepared, original, clock):
    clock.update(quick=0.5)
    result = search(
        dataclasses.replace(prepared, ladder=ladder([candidate("quick", original)])), GOAL
    )
    assert result.test.rows == len(prepared.test.answers)
    assert result.test.drop.estimate == 0
    assert result.test.original == result.test.best
    low, high = result.test.best_interval
    assert low < result.test.best < high


def test_bounds_make_up_for_choosing_among_many(prepared, original, clock):
    """Twenty times the same answers count as one candidate, not as twenty."""
    clock.update({f"n{n}": 0.5 for n in range(20)})
    same = [candidate(f"n{n}", original) for n in range(20)]
    result = search(dataclasses.replace(prepared, ladder=ladder(same)), GOAL)
    assert 1 <= result.best.drop.comparisons <= 20


def test_ctrl_c_keeps_what_was_tried_by_then(prepared, original, clock):
    clock.update(quick=0.5)

    def interrupted(*_):
        yield candidate("quick", original)
        raise KeyboardInterrupt

    result = search(dataclasses.replace(prepared, ladder=interrupted), GOAL)
    assert result.is_interrupted
    assert result.best.candidate.name == "quick"
    assert "interrupted" in result.notes[-1]

    def at_once(*_):
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        search(dataclasses.replace(prepared, ladder=at_once), GOAL)


# ----- the whole job, on a real clock


def test_compress_hands_back_a_smaller_model_that_answers_as_well(trained_mlp, mlp_rows):
    split = three_way(mlp_rows, None, None, seed=1)
    result = compress(
        trained_mlp,
        train=split.train,
        valid=split.search,
        test=split.test,
        max_drop="5pp",
        minimize="bytes",
        batches=(1,),
        budget="20s",
    )
    assert result.best.candidate.size_bytes < result.original.candidate.size_bytes / 2
    assert result.best.drop.estimate <= 0.05
    names = [v.candidate.name for v in result.tried]
    assert names[:2] == ["folded", "int8"]
    assert any("low rank" in name for name in names)
    assert any(name.startswith("pruned to ") for name in names)
    assert any("no teacher" in name for name in names)


def test_an_onnx_file_needs_no_labels(trained_mlp, mlp_rows):
    result = compress(
        to_onnx(trained_mlp), train=(mlp_rows.x, None), max_drop=0.1, minimize="bytes"
    )
    assert result.judge.metric.name == "agreement"
    assert any("no labels" in note for note in result.notes)
    assert result.best.candidate.size_bytes < result.original.candidate.size_bytes


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_student_takes_the_originals_place(trained_mlp, mlp_rows, is_ours):
    original = trained_mlp if is_ours else to_onnx(trained_mlp)
    result = compress(
        original, train=mlp_rows, student="mlp:16", max_drop=0.2, minimize="bytes", batches=(1,)
    )
    assert result.best.candidate.name.startswith("student")
    assert result.best.candidate.parameters < trained_mlp.n_parameters / 2


def test_only_what_was_asked_for_is_tried(trained_mlp, mlp_rows):
    from compress.folding import FoldScale
    from compress.quantization import QuantizeStatic
    from compress.recipe import Recipe

    def tried(**wishes):
        result = compress(
            trained_mlp, train=mlp_rows, max_drop=0.2, minimize="bytes", batches=(1,), **wishes
        )
        return [v.candidate.name for v in result.tried]

    assert tried(prune=0.5, quantize="int8") == [
        "pruned 50 %, int8",
        "pruned 50 %, no teacher, int8",
    ]
    assert tried(prune=0.5, quantize="none") == ["pruned 50 %", "pruned 50 %, no teacher"]
    assert tried(recipe=Recipe((FoldScale(), QuantizeStatic()))) == ["recipe"]


def test_wishes_that_contradict_each_other_are_refused(trained_mlp, mlp_rows):
    from compress.recipe import Recipe

    with pytest.raises(ConfigError, match="a recipe says every step"):
        Plan(ratio=0.5, recipe=Recipe(()))
    with pytest.raises(ConfigError, match="not both"):
        compress(trained_mlp, train=mlp_rows, max_drop=0.1, prune=0.5, student="mlp:8")
    with pytest.raises(ConfigError, match="expected one of latency, bytes, macs"):
        compress(trained_mlp, train=mlp_rows, max_drop=0.1, minimize="joy")
    with pytest.raises(ConfigError, match="jobs are 0"):
        compress(trained_mlp, train=mlp_rows, max_drop=0.1, jobs=0)
    with pytest.raises(ConfigError, match="most likely a slip"):
        compress(trained_mlp, train=mlp_rows, max_drop=0.5)


def test_a_student_of_a_network_of_ids_is_refused(rng):
    network = build("mlp:8", input_shape=(5,), n_outputs=2, task="classification", n_ids=10)
    rows = Rows({"x": rng.integers(0, 10, (60, 5))}, rng.integers(0, 2, 60))
    with pytest.raises(ConfigError, match="--student takes float32; input 'input' is int64"):
        compress(network, train=rows, student="mlp:8", max_drop=0.1)


def test_labels_that_do_not_fit_are_refused(trained_mlp, mlp_rows):
    wrong = Rows(mlp_rows.inputs, mlp_rows.y + 100)
    with pytest.raises(DataError, match=r"label 10[0-3] does not fit"):
        compress(trained_mlp, train=mlp_rows, valid=wrong, max_drop=0.1)
    with pytest.raises(DataError, match="no rows to judge with"):
        compress(trained_mlp, train=mlp_rows, valid=mlp_rows.take(slice(0, 0)), max_drop=0.1)


def test_the_same_seed_tries_the_same_models(trained_mlp, mlp_rows):
    def models():
        result = compress(
            trained_mlp, train=mlp_rows, max_drop=0.2, minimize="bytes", batches=(1,), seed=3
        )
        return [v.candidate.model for v in result.tried]

    before = trained_mlp.value.copy()
    assert models() == models()
    np.testing.assert_array_equal(trained_mlp.value, before)


def test_a_provider_that_is_not_there_is_said_before_any_work(trained_mlp, mlp_rows):
    with pytest.raises(ConfigError, match=r"hlserve\[gpu\]"):
        compress(trained_mlp, train=mlp_rows, max_drop=0.1, provider="cuda")


def test_a_search_goes_on_with_what_was_trained(trained_mlp, mlp_rows, tmp_path):
    """The second run finds every network in the folder: it trains nothing, and finds the same."""
    wishes = {
        "train": mlp_rows,
        "max_drop": 0.2,
        "minimize": "bytes",
        "batches": (1,),
        "prune": 0.5,
    }
    first = compress(trained_mlp, folder=tmp_path / "kept", **wishes)
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "kept").glob("*.safetensors")}
    again = compress(trained_mlp, folder=tmp_path / "kept", is_resumed=True, **wishes)
    assert files == {f: f.stat().st_mtime_ns for f in (tmp_path / "kept").glob("*.safetensors")}
    assert [v.candidate.model for v in first.tried] == [v.candidate.model for v in again.tried]
