"""One version of one model, loaded, checked and warm."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlserve.errors import ModelFileError
from hlserve.pb.messages import model_config
from hlserve.repository import MODEL_FILE, Metadata, read_golden, read_metadata
from hlserve.serving.batchability import why_not_batchable
from hlserve.serving.batching import DynamicBatcher, RunThreads
from hlserve.serving.config import ModelConfig
from hlserve.serving.declared import (
    check_batching,
    full_config,
    narrow_to_declared,
    read_labels,
)
from hlserve.serving.file_stamps import FileStamps, file_stamps
from hlserve.serving.session import Session
from hlserve.serving.statistics import ModelStatistics
from hlserve.serving.uses import Uses
from hlserve.serving.warm_up import warm_up_as_stated, warm_up_with_made_up_rows

Array = NDArray[Any]

# Of the output's largest value. A golden sample was computed on another machine, perhaps: fp32
# kernels agree to about 1e-5, but int8 ones round, and saturate without VNNI, differently by up
# to a step (1/255 = 0.4 %). A wrong file, operator or preprocessing is off by far more.
GOLDEN_TOLERANCE = 0.01

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """What answers requests for one version.

    Attributes:
        name: the model.
        version: its number.
        session: the ONNX Runtime session; the truth about names, datatypes and shapes.
        metadata: what the version says it is; None where it says nothing.
        config: how it is served.
        joins: whether rows of different requests may be joined.
        batcher: the way in.
        statistics: what it has done so far.
        files: what lay in the model's and the version's folder when it was read.
        labels: of the classes of an output, by its name, where a label file says so.
        uses: the requests in flight; the session is closed after the last.
        accepted: signatures of requests that fit; kept by ``checks``.
    """

    name: str
    version: int
    session: Session
    metadata: Metadata | None
    config: ModelConfig
    joins: bool
    batcher: DynamicBatcher
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    files: FileStamps = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    uses: Uses = field(default_factory=Uses)
    accepted: set[object] = field(default_factory=set)

    @cached_property
    def version_text(self) -> str:
        """The version as the protocol carries it."""
        return str(self.version)

    @cached_property
    def label(self) -> str:
        """How messages name it."""
        return f"model {self.name!r} version {self.version}"

    def full_config(self) -> model_config.ModelConfig:
        """The whole of Triton's ModelConfig: what was declared, and what the graph says."""
        return full_config(self.name, self.session, self.config, joins=self.joins)


def load_model(
    version_dir: Path, name: str, config: ModelConfig, *, threads: RunThreads
) -> ServedModel:
    """Loads, checks and warms a version; what is returned can answer.

    Raises:
        ModelFileError: the model's file is missing, corrupt, not the one that metadata.json
            describes, or no longer answers its golden samples.
        ConfigError: the configuration does not fit the graph.
        InferenceError: a golden sample does not run.
        ProviderError: the execution provider is missing.
    """
    version = int(version_dir.name)
    files = file_stamps(version_dir)  # before anything is read: a later change is seen as one
    label = f"model {name!r} version {version}"
    metadata = read_metadata(version_dir)
    session = _open(version_dir, config, metadata)
    golden = read_golden(version_dir)
    golden_inputs = None if golden is None else _replay(session, golden)
    narrow_to_declared(session, config)
    reason = why_not_batchable(session, golden_inputs)
    check_batching(config, session, reason)
    joins = reason is None
    if not joins:
        _LOG.info("%s: requests are not joined, since %s", label, reason)
    warm_up_as_stated(session, config.warm_ups, version_dir.parent)
    if not config.warm_ups:
        warm_up_with_made_up_rows(session, (1, config.batching.max_rows) if joins else (1,), label)
    statistics = ModelStatistics(histograms=config.histograms)
    return ServedModel(
        name=name,
        version=version,
        session=session,
        metadata=metadata,
        config=config,
        joins=joins,
        batcher=DynamicBatcher(
            session.run,
            config.batching,
            threads,
            label=label,
            joins=joins,
            statistics=statistics,
            instances=config.instances,
            threads_a_run=config.intra_op_threads or threads.threads,
        ),
        files=files,
        labels=read_labels(version_dir.parent, config),
        statistics=statistics,
    )


def _open(version_dir: Path, config: ModelConfig, metadata: Metadata | None) -> Session:
    content = _read_model(version_dir / config.model_file)
    if metadata is not None:
        _check_sha256(content, metadata)
    session = Session(
        content,
        folder=version_dir,
        provider=config.provider,
        intra_op_threads=config.intra_op_threads,
        spins=config.spins,
    )
    if metadata is not None:
        _check_tensors(session, metadata)
    return session


def _read_model(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error


def _check_sha256(content: bytes, metadata: Metadata) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != metadata.sha256:
        raise ModelFileError(
            f"{MODEL_FILE} has sha256 {actual}, metadata.json expects {metadata.sha256}"
        )


def _check_tensors(session: Session, metadata: Metadata) -> None:
    for kind, tensors, specs in (
        ("inputs", session.inputs, metadata.inputs),
        ("outputs", session.outputs, metadata.outputs),
    ):
        actual = [(tensor.name, tensor.datatype.name) for tensor in tensors]
        described = [(spec.name, spec.datatype) for spec in specs]
        if actual != described:
            raise ModelFileError(f"{MODEL_FILE} has {kind} {actual}, metadata.json {described}")


def _replay(session: Session, golden: Mapping[str, Array]) -> dict[str, Array]:
    """Runs the golden samples, compares, and answers their inputs by name."""
    inputs = {k.removeprefix("input:"): a for k, a in golden.items() if k.startswith("input:")}
    wanted = {k.removeprefix("output:"): a for k, a in golden.items() if k.startswith("output:")}
    unknown = set(inputs) ^ {t.name for t in session.inputs} or set(wanted) - {
        t.name for t in session.outputs
    }
    if unknown:
        raise ModelFileError(f"golden samples and {MODEL_FILE} differ in {sorted(unknown)}")
    answers = session.run(inputs, list(wanted))
    for name, want in wanted.items():
        _check_golden(name, answers[name], want)
    return inputs


def _check_golden(name: str, got: Array, want: Array) -> None:
    if got.shape != want.shape:
        raise ModelFileError(
            f"golden output {name!r} has shape {want.shape}, the model answers {got.shape}"
        )
    if want.dtype.kind != "f":
        if not np.array_equal(got, want):
            raise ModelFileError(f"golden output {name!r}: the model answers other values")
        return
    scale = float(np.max(np.abs(want), initial=0.0, where=np.isfinite(want)))
    if not np.allclose(got, want, rtol=0, atol=GOLDEN_TOLERANCE * scale, equal_nan=True):
        difference = float(np.nanmax(np.abs(got.astype(np.float64) - want)))
        raise ModelFileError(
            f"golden output {name!r}: the model's answer is off by {difference:.3g}, expected at "
            f"most {GOLDEN_TOLERANCE:.0%} of {scale:.3g}"
        )
