"""What ``hlserve train --report`` does: measures the trained network and writes the page."""

from __future__ import annotations

import functools
import re
from dataclasses import asdict, replace
from pathlib import Path

import click
import msgspec
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no stubs

from hlserve.cli.learning_curve import SHARES, CurveJob, learning_curve, train_copy
from hlserve.cli.report_measures import (
    Subject,
    baseline,
    kind_of,
    layer_health,
    layer_rows,
    measure_outcomes,
    part_figures,
    sample,
)
from hlserve.cli.training import (
    Job,
    Settings,
    fit_options,
    inputs_of,
    loss_of,
    optimizer_of,
    prepare,
)
from hlserve.cli.worst_examples import is_image, worst_examples
from hlserve.datasets import Dataset
from hlserve.errors import ConfigError, DivergenceError
from hlserve.nn.evaluation import Part, default_loss
from hlserve.nn.examples import Examples
from hlserve.nn.history import EpochRecord, History
from hlserve.nn.trainer import FEW_ROWS
from hlserve.report.advice import Levers
from hlserve.report.drawing import require_matplotlib
from hlserve.report.folder import require_folder, write_folder
from hlserve.report.learning import (
    Column,
    DataFacts,
    Epoch,
    LearningCurve,
    LearningReport,
    PartFigures,
)
from hlserve.report.page import as_html
from hlserve.report.signs import Facts, read_signs
from hlserve.report.verdict import judge
from hlserve.row_blocks import is_mapped

DOUBTFUL_ERROR = 0.1  # of the baseline's: below it a wider network has little left to win
AFFORDABLE_MACS, MOST_MACS_RATIO = 100_000, 3  # of the wider copy: it takes a quarter of the steps
_SMALL_WIDTH, _LEAST_WIDTH = 64, 16
_MLP = re.compile(r"mlp:(\d+(?:,\d+)*)(.*)")


def require_report(folder: Path, out: Path) -> None:
    """Finds out before the work that the report can be drawn and written.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ConfigError: the folder is not for a report.
    """
    require_matplotlib()
    if folder.resolve() in out.resolve().parents:
        raise ConfigError(f"--report {folder}: holds --out {out}; name a folder of its own")
    require_folder(folder)


def require_rows_in_memory(dataset: Dataset) -> None:
    """Refuses rows that are streamed from a file, which the report's measures would read whole.

    Raises:
        ConfigError: training or test rows are.
    """
    for rows in (dataset.train, dataset.test):
        if rows is not None and is_mapped(rows.x):
            raise ConfigError(
                f"--report: {dataset.name} has {rows.x.nbytes / 2**20:,.0f} MiB of rows, which are "
                "streamed from their file, and a report measures rows in memory; leave --report "
                "out, or train on fewer rows"
            )


def write_report(
    folder: Path,
    settings: Settings,
    job: Job,
    history: History,
    *,
    with_curve: bool,
) -> str:
    """Writes the page, and answers the lines that the command prints.

    Args:
        folder: checked by ``require_report``.
        settings: of the training.
        job: its rows, and the trained network.
        history: of the training.
        with_curve: whether copies are trained on fewer rows.
    """
    with threadpool_limits(limits=settings.threads, user_api="blas"):
        report = _Measuring(settings, job, history).report(with_curve)
    size = write_folder(folder, report, as_html(report))
    verdict = report.verdict
    lines = [f"verdict      {verdict.kind}: {verdict.sentence}"]
    lines += [f"try          {advice}" for advice in verdict.advice]
    lines.append(f"report       {folder / 'index.html'} ({size:,} bytes)")
    return "\n".join(lines)


class _Measuring:
    """One trained network, measured for its report."""

    def __init__(self, settings: Settings, job: Job, history: History) -> None:
        self._settings, self._job, self._history = settings, job, history
        self._network = job.network
        inputs = inputs_of(job.network, job.dataset.train)
        examples = Examples.checked(job.network, inputs, job.labels)
        used = loss_of(settings, job) or default_loss(job.network, Part(examples, job.kept))
        self._subject = Subject(inputs, job.labels, used, kind_of(job.network, job.labels))
        self._labels = _labels(job, settings.target)
        self._optimizer = optimizer_of(settings)
        self._batch_size = settings.batch_size or (32 if len(job.kept) < FEW_ROWS else 128)
        self._validation = self._subject.results(job.network, sample(job.apart))

    def report(self, with_curve: bool) -> LearningReport:
        """Everything, in the order of the page."""
        job, history, subject, network = self._job, self._history, self._subject, self._network
        facts = self._facts()
        if with_curve and not history.is_interrupted:
            facts = self._with_curve(facts)
        outcomes = measure_outcomes(subject, self._validation, self._labels)
        test = self._test_part()
        return LearningReport(
            title=f"{self._settings.arch} on {job.dataset.name}",
            data=self._data_facts(),
            architecture=self._settings.arch,
            layers=layer_rows(network),
            settings=self._settings_in_words(),
            metric=subject.metric,
            parts=(facts.train, facts.validation, *([test] if test else [])),
            baseline=facts.baseline,
            verdict=judge(facts, self._levers()),
            epochs=tuple(facts.epochs),
            best_epoch=history.best_epoch,
            ending=history.ending,
            curve=facts.curve,
            health=layer_health(network, subject, job.kept),
            confusion=outcomes.confusion,
            class_scores=outcomes.class_scores,
            calibration=outcomes.calibration,
            regression=outcomes.regression,
            worst=worst_examples(
                subject, self._validation, self._labels, job.dataset.feature_names
            ),
        )

    def _facts(self) -> Facts:
        job, subject = self._job, self._subject
        train = subject.results(self._network, sample(job.kept))
        return Facts(
            metric=subject.metric,
            train=part_figures(subject, "training", len(job.kept), train),
            validation=part_figures(subject, "validation", len(job.apart), self._validation),
            baseline=baseline(self._network, subject, job.kept, self._validation, self._labels),
            epochs=[_epoch(record) for record in self._history.epochs],
            best_epoch=self._history.best_epoch,
            curve=None,
        )

    def _test_part(self) -> PartFigures | None:
        test = self._job.dataset.test
        if test is None or test.y is None:
            return None
        subject = replace(self._subject, inputs=inputs_of(self._network, test), targets=test.y)
        indices = sample(np.arange(len(test)))
        return part_figures(subject, "test", len(test), subject.results(self._network, indices))

    def _with_curve(self, facts: Facts) -> Facts:
        """The facts with the learning curve, or with why there is none."""
        job = self._curve_job()
        click.echo(
            f"learning curve: {len(SHARES)} copies of {job.steps:,} steps each, on "
            f"{', '.join(f'{share:.0%}' for share in SHARES)} of the training rows",
            err=True,
        )
        try:
            curve = learning_curve(self._network, job, self._subject.scores(self._validation))
        except DivergenceError as error:  # the training itself is done, and its report is due
            return replace(facts, curve_failure=f"the training of a copy diverged ({error})")
        if curve is None:
            return facts
        facts = replace(facts, curve=curve)
        signs = read_signs(facts)
        is_doubtful = not signs.is_gap_notable and signs.train_error > DOUBTFUL_ERROR
        return self._with_wider_copy(facts, curve, job) if is_doubtful else facts

    def _with_wider_copy(self, facts: Facts, curve: LearningCurve, job: CurveJob) -> Facts:
        """The facts with what a wider copy gains, where one is known and affordable."""
        spec = wider_spec(self._settings.arch)
        if spec is None:
            return facts
        network = prepare(replace(self._settings, arch=spec)).network
        macs, own_macs = (sum(r.macs for r in layer_rows(n)) for n in (network, self._network))
        if macs > max(AFFORDABLE_MACS, MOST_MACS_RATIO * own_macs):
            return facts
        click.echo(f"learning curve: a wider copy ({spec}), {job.steps:,} steps", err=True)
        try:
            copy = train_copy(network, job, 1.0, self._job.kept)
        except DivergenceError as error:
            return replace(facts, curve_failure=f"the training of {spec} diverged ({error})")
        if copy is None:
            return facts
        gain = self._subject.gain(copy.scores, self._subject.scores(self._validation))
        wider = msgspec.structs.replace(curve, wider_spec=spec, wider=gain)
        return replace(facts, curve=wider)

    def _curve_job(self) -> CurveJob:
        settings, job = self._settings, self._job
        return CurveJob(
            subject=self._subject,
            kept=job.kept,
            apart=job.apart,
            make_options=functools.partial(fit_options, settings),
            batch_size=self._batch_size,
            total_steps=self._steps,
            seed=settings.seed,
            threads=settings.threads,
        )

    @property
    def _steps(self) -> int:
        rows_a_step = self._batch_size * self._settings.accumulate
        return len(self._history.epochs) * -(-len(self._job.kept) // rows_a_step)

    def _levers(self) -> Levers:
        return Levers(
            epochs=len(self._history.epochs),
            learning_rate=self._optimizer.learning_rate,
            weight_decay=float(getattr(self._optimizer, "weight_decay", 0.0)),
            wider_spec=wider_spec(self._settings.arch),
            narrower_spec=narrower_spec(self._settings.arch),
            is_image=is_image(self._subject),
            validation_share=self._settings.validation,
        )

    def _data_facts(self) -> DataFacts:
        dataset, network = self._job.dataset, self._network
        return DataFacts(
            name=dataset.name,
            source=dataset.source,
            licence=dataset.licence,
            task=str(network.task or "not told"),
            inputs=tuple(Column(i.name, i.shape, i.units) for i in network.inputs),
            classes=len(self._labels) if self._subject.kind in ("classes", "labels") else None,
        )

    def _settings_in_words(self) -> dict[str, str]:
        asked = {n: "default" if v is None else str(v) for n, v in asdict(self._settings).items()}
        return asked | {
            "epochs": f"{len(self._history.epochs)} ({self._history.ending})",
            "batch_size": str(self._batch_size),
            "steps": f"{self._steps:,}",
            "learning_rate": f"{self._optimizer.learning_rate:g}",
            "weight_decay": f"{self._levers().weight_decay:g}",
            "training seconds": f"{self._history.seconds:.1f}",
        }


def wider_spec(spec: str) -> str | None:
    """A clearly wider architecture; None where none is known.

    Small networks get four times the width, at least 16; larger ones, which would take too
    long, twice.
    """
    if spec == "lenet5":
        return "lenet5-caffe"
    found = _widths(spec)
    if found is None:
        return None
    widths, options = found
    factor = 4 if max(widths) < _SMALL_WIDTH else 2
    return _mlp([max(_LEAST_WIDTH, factor * width) for width in widths], options)


def narrower_spec(spec: str) -> str | None:
    """Half the width; None where none is known."""
    if spec == "lenet5-caffe":
        return "lenet5"
    found = _widths(spec)
    if found is None or min(found[0]) < 2:
        return None
    widths, options = found
    return _mlp([width // 2 for width in widths], options)


def _widths(spec: str) -> tuple[list[int], str] | None:
    found = _MLP.fullmatch(spec)
    return None if found is None else ([int(w) for w in found[1].split(",")], found[2])


def _mlp(widths: list[int], options: str) -> str:
    return f"mlp:{','.join(map(str, widths))}{options}"


def _labels(job: Job, target: str | None) -> tuple[str, ...]:
    """What the outputs are called."""
    given = job.network.class_labels
    n = job.network.shapes[job.network.logits_node][0]
    if given is not None and len(given) == n:
        return given
    if job.dataset.task == "regression" and n == 1:
        return (target or "target",)
    return tuple(str(i) for i in range(n))


def _epoch(record: EpochRecord) -> Epoch:
    return Epoch(
        epoch=record.epoch,
        train_loss=record.train_loss,
        validation_loss=record.validation_loss,
        validation_metric=record.validation_metric,
        learning_rate=record.learning_rate,
        seconds=record.seconds,
    )
