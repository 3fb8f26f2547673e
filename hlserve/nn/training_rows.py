"""The rows of a training run: checked, divided, and given out in batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Self, final

import numpy as np

from hlserve.errors import DataError
from hlserve.nn.batches import Batch, BatchSource, MemoryBatches
from hlserve.nn.evaluation import Part, Rows
from hlserve.nn.examples import Examples, require_several_classes, require_some_weight
from hlserve.nn.losses import LABELS, WEIGHTS, Targets
from hlserve.nn.network import Network
from hlserve.nn.param import Array
from hlserve.nn.split import Indices, validation_split
from hlserve.nn.streaming import StreamBatches, block_rows
from hlserve.row_blocks import RowReader, is_mapped, row_blocks

Validation = tuple[Rows, Targets] | float | None

# Of a stream, what is set apart for validation lies in memory: more rows would tell little more.
HELD_OUT_BYTES = 32 * 2**20


@final
@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows, divided.

    Attributes:
        source: the training rows.
        held_out: the validation rows, or None.
        sample: rows of training, checked: all of them where they lie in memory, else some.
        class_counts: training rows of each class, (classes,); None where there are no classes.
    """

    source: BatchSource
    held_out: Part | None
    sample: Part
    class_counts: Array | None

    @classmethod
    def checked(
        cls, network: Network, rows: Rows, targets: Targets, validation: Validation, seed: int
    ) -> Self:
        """What ``fit`` was given, or an error that says what does not fit.

        Raises:
            DataError: see ``Examples.checked``; or all rows are of one class.
        """
        arrays = network.fitting_rows(rows)  # of a stream each block is looked at by itself
        if any(is_mapped(array) for array in arrays.values()):
            return cls._streamed(network, arrays, _as_arrays(targets), validation, seed)
        examples = Examples.checked(network, arrays, targets)
        labels = examples.class_ids(network)
        if labels is not None:
            require_several_classes(labels, network.class_labels)
        everything = np.arange(len(examples))
        kept, held_out = everything, _given(network, validation)
        if validation is not None and not isinstance(validation, tuple):
            kept, apart = validation_split(len(examples), validation, seed=seed, labels=labels)
            held_out = Part(examples, apart)
        training = Part(examples, kept)
        counts = None if labels is None else _counts(network, labels[kept])
        return cls(MemoryBatches(training, network.dtype), held_out, training, counts)

    @classmethod
    def _streamed(
        cls,
        network: Network,
        inputs: dict[str, Array],
        targets: Targets,
        validation: Validation,
        seed: int,
    ) -> Self:
        named = dict(targets) if isinstance(targets, Mapping) else {LABELS: targets}
        lengths = {name: len(array) for name, array in {**inputs, **named}.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(f"rows and targets must be equally many, got {lengths}")
        share = None if isinstance(validation, tuple) else validation
        size, kept, apart = _divide_blocks(inputs, named, share, seed)
        walk = _Walk(network, inputs, targets, size)
        sample, counts = walk.check(kept)
        held_out = walk.examples(apart) if len(apart) else None
        if WEIGHTS in named:
            require_some_weight(block for _, block in row_blocks(named[WEIGHTS]))
        source = StreamBatches(inputs, targets, kept, size, Batch(sample.inputs, sample.targets))
        if counts is not None and np.count_nonzero(counts) == 1:
            require_several_classes(np.flatnonzero(counts), network.class_labels)
        return cls(
            source,
            _everything(held_out) if held_out else _given(network, validation),
            _everything(sample),
            counts,
        )


def stream_split(
    inputs: Mapping[str, Array], targets: Array, fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """Some training rows of a stream to look at, and the rows that ``fit`` sets apart in it."""
    n_rows = len(targets)
    size, kept, apart = _divide_blocks(inputs, {LABELS: targets}, fraction, seed)
    every = max(1, len(kept) * size * _row_bytes(inputs) // HELD_OUT_BYTES)
    looked_at, set_apart = (
        (blocks[:, np.newaxis] + np.arange(size)).reshape(-1) for blocks in (kept[::every], apart)
    )
    return looked_at[looked_at < n_rows], set_apart[set_apart < n_rows]


@final
class _Walk:
    """Reads blocks of a stream and checks them as ``Examples`` does."""

    def __init__(
        self, network: Network, inputs: dict[str, Array], targets: Targets, block_rows: int
    ) -> None:
        self._network = network
        self._inputs = inputs
        self._targets = targets
        self._block_rows = block_rows
        self._n_rows = len(next(iter(inputs.values())))

    def check(self, blocks: Indices) -> tuple[Examples, Array | None]:
        """A sample of the blocks, and the count of each class; every row is looked at."""
        counts: Array | None = None
        sample = self.examples(blocks[:: max(1, len(blocks) // 2)][:2])
        for first in blocks.tolist():
            labels = self._block(first).class_ids(self._network)
            if labels is not None:
                found = _counts(self._network, labels)
                counts = found if counts is None else counts + found
        return sample, counts

    def examples(self, blocks: Indices) -> Examples:
        """The blocks' rows in memory."""
        parts = [self._block(first) for first in blocks.tolist()]
        inputs = {name: np.concatenate([p.inputs[name] for p in parts]) for name in self._inputs}
        if not isinstance(self._targets, Mapping):
            return Examples(inputs, np.concatenate([_only(p.targets) for p in parts]))
        targets = {
            name: np.concatenate([_named(p.targets)[name] for p in parts]) for name in self._targets
        }
        return Examples(inputs, targets)

    def _block(self, first: int) -> Examples:
        last = min(first + self._block_rows, self._n_rows)
        inputs = {name: _read(array, first, last) for name, array in self._inputs.items()}
        targets: Targets
        if isinstance(self._targets, Mapping):
            targets = {name: _read(array, first, last) for name, array in self._targets.items()}
        else:
            targets = _read(self._targets, first, last)
        try:
            return Examples.checked(self._network, inputs, targets, is_part=True)
        except DataError as error:
            raise DataError(f"rows {first} to {last - 1}, counted from {first}: {error}") from error


def _given(network: Network, validation: Validation) -> Part | None:
    if not isinstance(validation, tuple):
        return None
    return _everything(Examples.checked(network, *validation))


def _everything(examples: Examples) -> Part:
    return Part(examples, np.arange(len(examples)))


def _divide_blocks(
    inputs: Mapping[str, Array], targets: Mapping[str, Array], fraction: float | None, seed: int
) -> tuple[int, Indices, Indices]:
    """The rows of a block; the first rows of the blocks to train on, and of those set apart."""
    size = block_rows({**inputs, **{f"target {n}": a for n, a in targets.items()}})
    everything = np.arange(0, len(next(iter(inputs.values()))), size)
    if fraction is None:
        return size, everything, everything[:0]
    most = HELD_OUT_BYTES // max(1, size * _row_bytes(inputs))
    return size, *_blocks_apart(everything, fraction, most, seed)


def _blocks_apart(
    blocks: Indices, fraction: float, most: int, seed: int
) -> tuple[Indices, Indices]:
    """Blocks to train on, and blocks at even distances to set apart, from a random first one.

    Even distances take their share of every class or time, if the rows lie sorted; neighbours,
    which are often alike, stay on one side.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the validation share is {fraction}, expected between 0 and 1")
    n_apart = max(1, min(round(len(blocks) * fraction), most))
    if n_apart >= len(blocks):
        raise DataError(f"{len(blocks)} blocks of rows are too few to set {fraction:g} apart")
    start = np.random.default_rng(seed).random()
    picks = ((np.arange(n_apart) + start) * len(blocks) / n_apart).astype(np.int64)
    is_apart = np.zeros(len(blocks), np.bool_)
    is_apart[picks] = True
    return blocks[~is_apart], blocks[is_apart]


def _read(array: Array, first: int, last: int) -> Array:
    with RowReader(array) as reader:
        return reader.read(first, last, np.empty((last - first, *array.shape[1:]), array.dtype))


def _row_bytes(arrays: Mapping[str, Array]) -> int:
    return sum(prod(a.shape[1:]) * a.itemsize for a in arrays.values())


def _counts(network: Network, labels: Array) -> Array:
    return np.bincount(labels, minlength=network.shapes[network.logits_node][0])


def _as_arrays(targets: Targets) -> Targets:
    """Lists become arrays; memory maps stay such."""
    if isinstance(targets, Mapping):
        return {name: np.asanyarray(target) for name, target in targets.items()}
    return np.asanyarray(targets)


def _only(targets: Targets) -> Array:
    assert not isinstance(targets, Mapping)  # as given, so checked
    return targets


def _named(targets: Targets) -> Mapping[str, Array]:
    assert isinstance(targets, Mapping)  # as given, so checked
    return targets
