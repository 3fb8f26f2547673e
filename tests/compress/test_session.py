"""What a session runs on is what was asked for."""

import numpy as np
import pytest

from compress.export import to_onnx
from compress.session import Session, optimized, optimized_operators, runtime
from hlserve.errors import ConfigError


def test_a_provider_that_is_missing_says_what_there_is_and_how_to_get_it(trained_mlp):
    _, available = runtime()
    if "CUDAExecutionProvider" in available:
        pytest.skip("this ONNX Runtime has CUDA")
    model = to_onnx(trained_mlp).SerializeToString()
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(ConfigError, match=r"this ONNX Runtime has .*CPU.*hlserve\[gpu\]"):
            Session(model, provider=provider)


def test_a_provider_that_nobody_knows_is_refused(trained_mlp):
    with pytest.raises(ConfigError, match="expected one of cpu, cuda, tensorrt"):
        Session(to_onnx(trained_mlp).SerializeToString(), provider="tpu")


def test_threads_change_no_answer(trained_mlp, mlp_rows):
    model = to_onnx(trained_mlp).SerializeToString()
    rows = {"input": mlp_rows.x[:64].astype(np.float32)}
    one, two = (Session(model, threads=n).run(rows)["probabilities"] for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)  # a few float32 sums of 40 to 64 terms


def test_the_graph_that_runs_has_its_operators_fused(trained_mlp):
    model = to_onnx(trained_mlp)
    found = optimized_operators(model.SerializeToString())
    assert found["FusedGemm"] == 2
    assert len(optimized(model.SerializeToString()).graph.node) < len(model.graph.node)
