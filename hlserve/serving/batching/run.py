"""One batch, run: rows joined, the answers taken apart, and a bad row failing alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hlserve.serving.batching.pending import Array, Outputs, Pending
from hlserve.serving.statistics import Phases

Run = Callable[[Mapping[str, Array], Sequence[str]], Outputs]

_LOG = logging.getLogger(__name__)


class Execution(NamedTuple):
    """One run that answered, and where its time went."""

    rows: int
    elements: int
    input_ns: int
    infer_ns: int
    output_ns: int

    def phases(self, queue_ns: int) -> Phases:
        """Where the time of one of its requests went, which waited so long."""
        return Phases(queue_ns, self.input_ns, self.infer_ns, self.output_ns)


@dataclass(slots=True)
class BatchResult:
    """What became of a batch.

    Attributes:
        answers: for each request outputs and the run that gave them, an error, or None: nobody
            waited any more right before the run, so it did not run.
        executions: the runs that answered.
        changed_rows: whether the joined run gave a number of rows that cannot be taken apart.
        started_ns: when the worker began.
        ended_ns: when it ended.
    """

    answers: list[tuple[Outputs, Execution] | Exception | None] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    changed_rows: bool = False
    started_ns: int = 0
    ended_ns: int = 0


class BatchRun:
    """Runs batches of one model; safe from several threads at once where ``run`` is.

    Args:
        run: inputs, names of outputs -> outputs.
        clock_ns: a monotonic clock, the one that deadlines are on.
        label: how messages name the model.
    """

    def __init__(self, run: Run, clock_ns: Callable[[], int], label: str) -> None:
        self._run = run
        self._clock_ns = clock_ns
        self._label = label

    def __call__(self, batch: Sequence[Pending]) -> BatchResult:
        """An answer or an error for each; if the joined run fails, each runs alone.

        Never raises: an error that reached nobody would leave its callers waiting.
        """
        result = BatchResult(started_ns=self._clock_ns())
        now_s = result.started_ns / 1e9
        if len(batch) == 1:
            result.answers.append(self._alone(batch[0], result, result.started_ns))
            result.ended_ns = self._clock_ns()
            return result
        wanted = [
            pending
            for pending in batch
            if not pending.is_done and (pending.begin_by_s is None or now_s < pending.begin_by_s)
        ]
        joined = self._joined(wanted, result) if len(wanted) > 1 else None
        if joined is None:
            result.answers = [self._alone(p, result, self._clock_ns()) for p in batch]
        else:
            execution = result.executions[-1]
            answers = iter([(outputs, execution) for outputs in joined])
            if len(wanted) == len(batch):
                result.answers = list(answers)
            else:
                kept = set(wanted)
                result.answers = [next(answers) if p in kept else None for p in batch]
        result.ended_ns = self._clock_ns()
        return result

    def _joined(self, batch: Sequence[Pending], result: BatchResult) -> list[Outputs] | None:
        """Each request's outputs from one run; None: they cannot be had that way."""
        begun_ns = self._clock_ns()
        ends, end, elements = [], 0, 0
        for pending in batch:
            pending.taken_ns = pending.taken_ns or begun_ns
            end += pending.rows
            ends.append(end)
            elements += pending.elements
        try:
            inputs = _concatenated(batch)
            joined_ns = self._clock_ns()
            outputs = self._run(inputs, batch[0].outputs)
            ran_ns = self._clock_ns()
            answers = _split(outputs, ends)
        except Exception:
            # One bad row must not fail its neighbours; alone, the culprit raises it again.
            _LOG.debug("%s: a joined run failed, going one by one", self._label, exc_info=True)
            return None
        if answers is None:
            result.changed_rows = True
            return None
        input_ns, infer_ns = joined_ns - begun_ns, ran_ns - joined_ns
        output_ns = self._clock_ns() - ran_ns
        result.executions.append(Execution(end, elements, input_ns, infer_ns, output_ns))
        return answers

    def _alone(
        self, pending: Pending, result: BatchResult, begun_ns: int
    ) -> tuple[Outputs, Execution] | Exception | None:
        if not pending.is_wanted(begun_ns / 1e9):
            return None
        pending.taken_ns = pending.taken_ns or begun_ns
        try:
            outputs = self._run(pending.inputs, pending.outputs)
        except Exception as error:  # handed to the caller, who raises it
            return error
        infer_ns = self._clock_ns() - begun_ns
        execution = Execution(pending.rows, pending.elements, 0, infer_ns, 0)
        result.executions.append(execution)
        return outputs, execution


def _concatenated(batch: Sequence[Pending]) -> dict[str, Array]:
    first = batch[0].inputs
    if len(first) == 1:  # nearly always; an inner loop would be a call for each input
        [name] = first
        return {name: np.concatenate([pending.inputs[name] for pending in batch])}
    return {name: np.concatenate([pending.inputs[name] for pending in batch]) for name in first}


def _split(outputs: Outputs, ends: Sequence[int]) -> list[Outputs] | None:
    """Each request's part of every output; None: an output has another number of rows.

    Args:
        outputs: of the joined run.
        ends: the row after the last one of each request.
    """
    rows = ends[-1]
    for array in outputs.values():
        if array.ndim == 0 or array.shape[0] != rows:
            return None
    places = zip((0, *ends[:-1]), ends, strict=True)
    if len(outputs) == 1:
        [(name, array)] = outputs.items()
        return [{name: array[start:end]} for start, end in places]
    return [{name: array[start:end] for name, array in outputs.items()} for start, end in places]
