import lzma
from pathlib import Path

import numpy as np
import pytest

from compress.export import to_onnx
from compress.sizes import memory_bytes, packed_bytes, sizes
from hlserve.nn.architectures import build

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"
)


def mlp(spec):
    network = build(spec, input_shape=(784,), n_outputs=10, task="classification", scale=1 / 255)
    return to_onnx(network).SerializeToString()


@needs_proc
def test_a_larger_model_takes_at_least_its_weights_in_memory():
    small, large = mlp("mlp:8"), mlp("mlp:2000")
    added = memory_bytes(large, {"input": np.zeros((4, 784), np.uint8)}, runs=1)
    # 1.6 M weights of 4 bytes; the small model, with what any session takes, is far below
    assert added > 1_590_010 * 4
    assert memory_bytes(small, runs=1) < 1_590_010 * 4


def test_the_packed_file_unpacks_to_the_model():
    model = mlp("mlp:8")
    assert packed_bytes(bytes(100_000)) < 1000
    told = sizes(model, runs=1)
    assert told.file_bytes == len(model)
    packed = lzma.compress(model, preset=9 | lzma.PRESET_EXTREME)
    assert lzma.decompress(packed) == model
    assert told.packed_bytes == len(packed)


@needs_proc
def test_memory_is_none_where_the_model_does_not_run():
    assert memory_bytes(b"no model", runs=1) is None
    assert memory_bytes(mlp("mlp:8"), {"input": np.zeros((1, 3), np.uint8)}, runs=1) is None
