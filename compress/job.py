"""The whole job, from what a user has at hand to what the search found."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs

from compress.bound import parse_max_drop
from compress.candidates import Candidate, Plan, plan_for
from compress.clipping import clipping_of_graph, clipping_of_network
from compress.clock import Clock, parse_duration
from compress.endings import Course, Endings
from compress.evaluate import Judge, bind_rows, make_judge
from compress.explanation import sensitivity
from compress.export import Model, as_graph, is_valid
from compress.goal import Goal, Minimize
from compress.graph_planner import GraphPlanner, require_no_training
from compress.metric import metric_named
from compress.model_file import parameter_count, read_onnx
from compress.onnx_import import IMPORT_ROWS, NotImportableError, import_whole
from compress.planner import Planner
from compress.recipe import Recipe
from compress.row_checks import require_finite_answers, require_sound, takes_gaps, warnings_about
from compress.search import ORIGINAL, Bench, Result, Search, Tell, search
from compress.session import Provider, Session
from compress.shaping import Shaper
from compress.splits import Place, Split, three_way
from compress.student import student_for
from compress.teacher import learning_data, teacher_logits
from compress.technique import Data
from compress.trainee import BLAS_THREADS
from compress.workshop import Workshop
from hlserve.datasets import Rows
from hlserve.errors import CompressionError, ConfigError, DataError, ModelFileError
from hlserve.nn import checkpoint
from hlserve.nn.network import Network
from hlserve.nn.param import Array


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks for, unread: see ``compress.compress`` and ``hlserve compress --help``."""

    max_drop: str | float
    metric: str | None = None
    output: str | None = None
    minimize: Minimize = "latency"
    batches: tuple[int, ...] = (1, 32)
    plan: Plan = field(default_factory=Plan)
    teacher: Model | None = None
    student: str | None = None
    require_proof: bool = False
    provider: Provider = "cpu"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done, and where.

    Attributes:
        folder: where trained candidates are kept, for a search that is resumed.
        jobs: trainings at a time, each in a process of its own; with 1 in this one.
        is_resumed: whether to use what an interrupted search left in the folder.
        progress: whether a terminal shows bars.
    """

    folder: Path
    jobs: int = 1
    is_resumed: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ConfigError(f"jobs are {self.jobs}, expected 1 or more")


def read_model(path: Path) -> Model:
    """A checkpoint of ``hlserve train`` or an ONNX file, told apart by the file's name.

    Raises:
        ModelFileError: it cannot be read; says why.
    """
    if path.suffix == ".safetensors":
        return checkpoint.load(path)
    if path.suffix == ".onnx":
        return read_onnx(path)
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder; name the .safetensors or .onnx file in it")
    raise ModelFileError(f"{path}: expected a checkpoint (.safetensors) or an ONNX file (.onnx)")


def prepare(model: Model, split: Split, wishes: Wishes, effort: Effort) -> tuple[Search, Goal]:
    """Everything that can be wrong with the wishes is found here, before any long work.

    Raises:
        ConfigError, DataError, ModelFileError, CompressionError: see ``search``.
    """
    metric = None if wishes.metric is None else metric_named(wishes.metric)
    if isinstance(model, Network) and wishes.output is not None:
        raise ConfigError("--output is for ONNX files; a checkpoint has one output")
    graph = as_graph(model)
    content = graph.SerializeToString()
    session = Session(content, provider=wishes.provider)
    judge = make_judge(graph, session, split.search.y, metric=metric, output=wishes.output)
    goal = Goal(
        parse_max_drop(wishes.max_drop, judge.metric),
        wishes.minimize,
        wishes.batches,
        wishes.require_proof,
    )
    require_sound(split, judge, session, has_gaps=takes_gaps(graph))
    notes = [split.note] if split.note else []
    bench = _bench(session, judge, split.search, split.search_place)
    notes += warnings_about(judge, bench.answers, split.search.y)
    subject = _subject(model, graph, session, split.train, wishes, effort, notes)
    network = subject.network
    prepared = Search(
        original=Candidate(
            ORIGINAL,
            content,
            parameter_count(graph) if network is None else network.n_parameters,
            family="original",
            macs=None if network is None else network.macs(),
            network=network,
        ),
        session=session,
        is_valid=is_valid(graph),
        judge=judge,
        bench=bench,
        test=None if split.test is None else _bench(session, judge, split.test, split.test_place),
        ladder=lambda goal, clock: subject.ladder(prepared, goal, clock),
        sensitivity=subject.sensitivity,
        calibration=subject.calibration,
        n_train=len(split.train),
        smallest_provable=judge.smallest_provable(bench.answers, bench.targets),
        notes=notes,
    )
    return prepared, goal


def compress(
    model: Model | str | Path,
    *,
    train: Rows | tuple[Array, Array | None] | Mapping[str, Array],
    valid: Rows | tuple[Array, Array | None] | Mapping[str, Array] | None = None,
    test: Rows | tuple[Array, Array | None] | Mapping[str, Array] | None = None,
    max_drop: str | float,
    metric: str | None = None,
    output: str | None = None,
    minimize: Minimize = "latency",
    batches: Sequence[int] = (1, 32),
    budget: str | float | None = "10m",
    jobs: int = 1,
    prune: float | None = None,
    quantize: str | None = None,
    recipe: Recipe | None = None,
    teacher: Model | str | Path | None = None,
    student: str | None = None,
    require_proof: bool = False,
    provider: Provider = "cpu",
    folder: str | Path | None = None,
    is_resumed: bool = False,
    seed: int = 0,
    progress: bool = False,
    tell: Tell | None = None,
) -> Result:
    """The smallest and fastest model that keeps the metric within ``max_drop``.

    Args:
        model: a network, an ONNX model, or the path of a checkpoint or ONNX file; stays as it is.
        train: rows to learn from and calibrate with: ``(X, y)``, ``Rows``, or arrays by input
            name. X is (rows, ...) in raw units; labels may be None.
        valid: rows that choose; without, some of ``train`` are set apart.
        test: rows for one look at the end; without, some of those that choose are set apart.
        max_drop: absolute, in the metric's unit; ``"0.5pp"`` is 0.005.
        metric: ``accuracy``, ``f1``, ``roc_auc``, ``mse``, ``mae``, ``agreement``,
            ``label-agreement``, ``cosine`` or ``module:function``; None takes accuracy for class
            labels, mse for numbers, agreement with the original without labels.
        output: the output that is judged, of an ONNX model.
        minimize: ``latency``, ``bytes`` or ``macs``.
        batches: rows a run, at which latency is measured.
        budget: seconds, or ``"10m"``, after which nothing more is trained; None for no end.
        jobs: trainings at a time. More than 1 starts processes, so that a script needs its
            ``if __name__ == "__main__":``.
        prune: the only share of units to prune.
        quantize: ``int8`` or ``none``, to try only that.
        recipe: a ``compress.recipe.Recipe``, to try only that.
        teacher: whose answers are imitated; None: the original.
        student: an architecture such as ``mlp:64`` to distil into.
        require_proof: refuse what is inside the bound by its estimate alone.
        provider: what the model will run on, ``cpu``, ``cuda`` or ``tensorrt``; latency is measured
            there; int8 is for the CPU alone, fp16 for the others.
        folder: where what is trained is kept; None: nowhere.
        is_resumed: go on with what an interrupted search left in ``folder``.
        seed: of every random choice.
        progress: whether a terminal shows bars.
        tell: is called with one line for each candidate.

    Returns:
        The result; ``result.best.candidate.model`` is the ONNX file.

    Raises:
        BoundNotMetError: nothing passed, the original is best; carries the nearest miss.
        UsageError: the model, rows or wishes do not fit each other.
    """
    wishes = Wishes(
        max_drop=max_drop,
        metric=metric,
        output=output,
        minimize=minimize,
        batches=tuple(batches),
        plan=Plan(ratio=prune, quantize=quantize, recipe=recipe),
        teacher=None if teacher is None else _as_model(teacher),
        student=student,
        require_proof=require_proof,
        provider=provider,
        seed=seed,
    )
    budget_s = parse_duration(budget) if isinstance(budget, str) else budget
    split = three_way(
        _as_rows(train),
        None if valid is None else _as_rows(valid),
        None if test is None else _as_rows(test),
        seed=seed,
        names=("train", "valid", "test"),
    )
    with (
        tempfile.TemporaryDirectory(prefix="hlserve-") as temporary,
        threadpool_limits(limits=BLAS_THREADS, user_api="blas"),  # so that bits can be made again
    ):
        effort = Effort(Path(folder or temporary), jobs, is_resumed, progress)
        prepared, goal = prepare(_as_model(model), split, wishes, effort)
        return search(
            prepared, goal, clock=Clock(budget_s), seed=seed, progress=progress, tell=tell
        )


# ----- below


@dataclass(frozen=True, slots=True)
class _Subject:
    """What the candidates are made of.

    Attributes:
        network: that can be trained; None where there is only a graph.
        root: what is grown: the network, or a student for it.
        data: what it learns from.
        graph: the file from elsewhere; None where it came of ``network``.
    """

    network: Network | None
    root: Network | None
    data: Data | None
    plan: Plan
    graph: GraphPlanner | None
    effort: Effort
    notes: list[str]

    def ladder(self, prepared: Search, goal: Goal, clock: Clock) -> Course:
        """The candidates: of the graph as it came, then of the network."""
        found = []
        is_free = (self.plan.ratio, self.plan.recipe, self.plan.student) == (None,) * 3
        if self.graph is not None and is_free:  # first: it takes seconds
            found += yield from self.graph.ladder(goal)
        if self.root is not None and self.data is not None:
            found += yield from self._planner(prepared, goal, clock).ladder()
        return found

    def sensitivity(self, kept_float: tuple[str, ...]) -> dict[str, Any]:
        """What pruning and integers cost each part; nothing where there is only a graph."""
        if self.network is None or self.data is None:
            return {}
        return sensitivity(self.network, self.data, kept_float)

    def calibration(self, chosen: Candidate) -> list[dict[str, Any]]:
        """What was seen for the chosen one's static integers; nothing where it has none."""
        if chosen.network is not None and self.data is not None:
            return clipping_of_network(chosen.followed, chosen.network, self.data)
        if self.graph is None:
            return []
        graph = self.graph
        return clipping_of_graph(chosen.followed, graph.model, graph.feeds, seed=graph.seed)

    def _planner(self, prepared: Search, goal: Goal, clock: Clock) -> Planner:
        assert self.root is not None  # ladder
        assert self.data is not None
        effort, notes = self.effort, self.notes
        shop = Workshop.opened(
            self.root,
            self.data,
            effort.folder,
            jobs=effort.jobs,
            is_resumed=effort.is_resumed,
            notes=notes,
        )
        least = prepared.smallest_provable
        return Planner(
            shop,
            Endings(self.data, self.plan, goal, notes, clock),
            Shaper(self.data, goal, prepared.bench.feeds, prepared.batches(goal.batches)),
            self.plan,
            goal,
            clock,
            is_proof_possible=least is None or least <= goal.max_drop,
            notes=notes,
        )


def _subject(
    model: Model,
    graph: onnx.ModelProto,
    session: Session,
    train: Rows,
    wishes: Wishes,
    effort: Effort,
    notes: list[str],
) -> _Subject:
    (plan, note), reasons, network = plan_for(wishes.provider, wishes.plan), "", None
    notes += [note] if note else []
    if isinstance(model, Network):
        network = model
        if network.activation_qparams:
            raise CompressionError("the checkpoint is quantized already; start from the float one")
    else:
        network, reasons = _imported(graph, session, train, notes)
    root = network
    if wishes.student is not None:
        root = student_for(wishes.student, model, train, seed=wishes.seed)
        plan = replace(plan, student=root)
    if root is None:
        require_no_training(plan, reasons)
        if wishes.teacher is not None:
            raise ConfigError(
                f"a teacher needs a network to teach, and this file cannot be trained: {reasons}"
            )
    planner = None
    if not isinstance(model, Network):
        feeds = bind_rows(session, train)
        planner = GraphPlanner(graph, session, feeds, plan, notes, wishes.seed)
    data = None
    if root is not None:
        teacher = model if wishes.teacher is None else wishes.teacher
        logits = teacher_logits(teacher, train, wishes.output)
        data = learning_data(root, train, logits, seed=wishes.seed, progress=effort.progress)
    return _Subject(network, root, data, plan, planner, effort, notes)


def _imported(
    graph: onnx.ModelProto, session: Session, train: Rows, notes: list[str]
) -> tuple[Network | None, str]:
    """The graph as a network, or why it cannot be one."""
    feeds = bind_rows(session, train.take(slice(0, IMPORT_ROWS)))
    try:
        found = import_whole(graph, feeds, labels=train.y)
    except NotImportableError as error:
        notes.append(f"the file cannot be trained, only quantized: {error}")
        return None, str(error)
    notes += found.notes
    return found.network, ""


def _bench(session: Session, judge: Judge, rows: Rows, place: Place) -> Bench:
    feeds = bind_rows(session, rows)
    answers = judge.answers(session, feeds)
    require_finite_answers(judge, answers, place)
    targets = rows.y if judge.metric.needs_labels else answers
    assert targets is not None  # make_judge
    return Bench(feeds, targets, answers, judge.value(answers, targets))


def _as_model(model: Model | str | Path) -> Model:
    return read_model(Path(model)) if isinstance(model, str | Path) else model


def _as_rows(rows: Rows | tuple[Array, Array | None] | Mapping[str, Array]) -> Rows:
    if isinstance(rows, Rows):
        return rows
    if isinstance(rows, Mapping):
        inputs = {name: np.asarray(array) for name, array in rows.items() if name != "y"}
        return Rows(inputs, rows.get("y"))
    if isinstance(rows, tuple) and len(rows) == 2:
        x, y = rows
        return Rows({"x": np.asarray(x)}, None if y is None else np.asarray(y))
    raise DataError(f"rows are {type(rows).__name__}, expected (X, y), Rows or arrays by name")
