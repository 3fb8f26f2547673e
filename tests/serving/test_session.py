"""The session: providers, errors in our words, and what stays out of the process."""

import subprocess
import sys

import numpy as np
import pytest

from hlserve.errors import ConfigError, InferenceError, InvalidRequestError, ProviderError
from hlserve.serving.providers import execution_providers
from hlserve.serving.session import Session
from tests.serving import models


def test_a_provider_that_is_not_there_is_an_error_and_no_silent_cpu() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the provider")
    with pytest.raises(ProviderError, match=r'needs CUDAExecutionProvider.*hlserve\[gpu\]"'):
        Session(models.mlp(), provider="cuda")
    with pytest.raises(ConfigError, match="unknown provider 'tpu'"):
        execution_providers("tpu")


def test_a_failed_run_names_the_cause_without_source_locations() -> None:
    session = Session(models.lookup())
    with pytest.raises(InferenceError) as caught:
        session.run({"index": np.array([99])}, ["y"])
    text = str(caught.value)
    assert "indices element out of data bounds" in text
    assert "onnxruntime_src" not in text
    assert "ONNXRuntimeError" not in text


def test_text_that_is_not_utf8_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequestError, match="input 'x' holds bytes that are not UTF-8"):
        Session(models.identity("BYTES")).run({"x": np.array([[b"\xff"]], object)}, ["y"])


def test_symbols_and_fixed_dimensions_are_told_apart() -> None:
    session = Session(models.mlp())
    assert session.inputs[0].shape == (-1, 8)
    assert session.inputs[0].symbols == ("batch", None)


NO_RUNTIME = """
import sys
sys.modules["onnxruntime"] = None
from hlserve.errors import MissingDependencyError
from hlserve.serving.session import Session
try:
    Session(b"")
except MissingDependencyError as error:
    print(error)
"""

IMPORTS = """
import sys
import hlserve.client, hlserve.repository
heavy = {"onnx", "onnxruntime", "safetensors", "hlserve.nn", "hlserve.serving", "compress"}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [(NO_RUNTIME, 'pip install "hlserve[cpu]"'), (IMPORTS, "[]")],
    ids=["without ONNX Runtime", "the light client"],
)
def test_what_a_process_needs(code: str, expected: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert expected in ran.stdout
