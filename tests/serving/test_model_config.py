"""Reading config.pbtxt and config.json: what is honoured, and that everything else is refused."""

from pathlib import Path

import pytest

from hlserve.errors import ConfigError, ModelFileError
from hlserve.repository import Repository
from hlserve.serving.batching_config import QueuePolicy
from hlserve.serving.config import (
    DeclaredTensor,
    ModelConfig,
    ProviderConfig,
    ServerConfig,
    WarmUpInput,
)
from hlserve.serving.model_config import ConfigText, read_model_config


def read(text: str, *, is_json: bool = False) -> ModelConfig:
    file = "config.json" if is_json else "config.pbtxt"
    return read_model_config("m", ConfigText(file, text, is_json), ServerConfig(models=Path()))


def test_a_config_as_triton_writes_it_is_read_whole() -> None:
    config = read(
        """
        name: "m"
        platform: "onnxruntime_onnx"
        backend: "onnxruntime"
        max_batch_size: 8
        default_model_filename: "net.onnx"
        input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1, 224 ] } ]
        output [ { name: "y" data_type: TYPE_STRING dims: 10 label_filename: "labels.txt" } ]
        instance_group [ { kind: KIND_GPU count: 2 gpus: [ 1 ] } ]
        version_policy { specific { versions: [ 1, 3 ] } }
        dynamic_batching {
          preferred_batch_size: [ 8, 4 ]
          max_queue_delay_microseconds: 250
          priority_levels: 2
          default_priority_level: 2
          default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5000 }
          priority_queue_policy { key: 1 value { allow_timeout_override: true max_queue_size: 7 } }
        }
        optimization { execution_accelerators {
          gpu_execution_accelerator: [ { name: "tensorrt"
            parameters { key: "trt_fp16_enable" value: "1" } } ] } }
        parameters { key: "intra_op_thread_count" value { string_value: "3" } }
        parameters { key: "session.intra_op.allow_spinning" value { string_value: "1" } }
        model_warmup [ { name: "one" batch_size: 2 count: 4 inputs {
          key: "x" value { data_type: TYPE_FP32 dims: [ 3, 4, 224 ] random_data: true } } } ]
        model_transaction_policy { decoupled: false }
        """
    )
    assert config.max_request_rows == config.batching.max_rows == 8
    assert (config.model_file, config.specific_versions) == ("net.onnx", (1, 3))
    assert config.inputs == (DeclaredTensor("x", "FP32", (3, -1, 224)),)
    assert config.outputs == (DeclaredTensor("y", "BYTES", (10,), "labels.txt"),)
    assert config.provider == ProviderConfig("tensorrt", 1, {"trt_fp16_enable": "1"})
    assert (config.intra_op_threads, config.spins) == (3, True)
    batching = config.batching
    assert (batching.preferred_rows, batching.max_queue_delay_s) == ((4, 8), 0.00025)
    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    assert batching.queue_policy == QueuePolicy("DELAY", 0.005, allow_timeout_override=False)
    assert batching.priority_queue_policies == {1: QueuePolicy(max_queue_size=7)}
    assert config.instances == 2
    warm_up = config.warm_ups[0]
    assert (warm_up.rows, warm_up.count) == (2, 4)
    assert warm_up.inputs == {"x": WarmUpInput("FP32", (3, 4, 224), "random")}


def test_a_model_without_a_config_takes_the_servers_defaults() -> None:
    defaults = ServerConfig(models=Path(), intra_op_threads=2, provider="cuda")
    config = read_model_config("m", None, defaults)
    assert (config.intra_op_threads, config.provider) == (2, ProviderConfig("cuda"))
    assert (config.max_request_rows, config.latest_versions) == (None, 1)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("", ProviderConfig("cpu")),
        ("instance_group { }", ProviderConfig("cpu")),
        ("instance_group { kind: KIND_CPU }", ProviderConfig("cpu")),
        ("instance_group { kind: KIND_GPU }", ProviderConfig("cuda")),
        ("instance_group { gpus: 2 }", ProviderConfig("cuda", 2)),
    ],
)
def test_instance_groups_choose_the_provider(group: str, expected: ProviderConfig) -> None:
    assert read(group).provider == expected


BAD_TEXTS = {
    "not_a_field: 1": 'line 1, column 1: unknown field "not_a_field"',
    'name: "m"\nmax_batch_sise: 4': 'line 2, column 1: unknown field "max_batch_sise"',
    'name: "m"\n\nmax_batch_size: "many"': "line 3, column 17: ",
    "max_batch_size: 99999999999": "line 1, column 17: ",
    "max_batch_size: 1\nmax_batch_size: 2": "line 2, column 17: ",
    "input [ { nam: 1 } ]": 'unknown field "nam"',
    "input { data_type: TYPE_FLOAT }": "TYPE_FLOAT",
    "input {": "line 1, column 7",
    "}": "line 1, column 1",
    "sequence_batching { }": "sequences that keep state in the server are not offered",
    "ensemble_scheduling { }": "ensembles are not offered",
    "response_cache { enable: true }": "answers are not cached",
    'model_operations { op_library_filename: "x.so" }': "custom-op libraries run code",
    'input { name: "x" allow_ragged_batch: true }': "rows of different shapes are not joined",
    "max_batch_size: -1": "max_batch_size is -1, expected 0 or more",
    'name: "other"': "name is 'other', expected 'm'",
    'platform: "tensorflow"': "platform is 'tensorflow', expected 'onnxruntime_onnx'",
    'backend: "python"': "backend is 'python', expected 'onnxruntime'",
    "model_transaction_policy { decoupled: true }": "decoupled is true",
    "version_policy { specific { } }": "version_policy.specific names no version",
    "version_policy { specific { versions: 0 } }": "names 0, expected 1 or more",
    'default_model_filename: "../x.onnx"': "default_model_filename is '../x.onnx', expected a",
    'input { name: "x" } input { name: "x" }': "input 'x' is declared twice",
    "output { dims: 1 }": "an output has no name",
    'input { name: "x" dims: 0 }': "input 'x': dims has 0, expected 1 or more, or -1",
    'input { name: "x" dims: -2 }': "input 'x': dims has -2",
    'input { name: "x" reshape { shape: 1 } }': "input 'x': reshape is not offered",
    'input { name: "x" optional: true }': "input 'x': optional inputs are not offered",
    'output { name: "y" label_filename: "/etc/passwd" }': "label_filename is '/etc/passwd'",
    "instance_group { count: -2 }": "instance_group.count is -2, expected 1 or more",
    "instance_group { kind: KIND_MODEL }": "KIND_MODEL, expected KIND_CPU or KIND_GPU",
    "instance_group { kind: KIND_CPU gpus: 0 }": "KIND_CPU and names gpus",
    "instance_group { gpus: 0 gpus: 1 }": "gpus is [0, 1], expected one device",
    "instance_group { } instance_group { }": "2 instance groups, expected one",
    'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }': (
        "cpu_execution_accelerator 'openvino' is not offered"
    ),
    'optimization { execution_accelerators { gpu_execution_accelerator { name: "x" } } }': (
        "gpu_execution_accelerator is 'x'"
    ),
    "dynamic_batching { preferred_batch_size: 0 }": "preferred batch size is 0, expected 1 to 64",
    "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }": "size is 8, expected 1 to 4",
    "dynamic_batching { priority_levels: 2 }": "default priority level is 0, expected 1 to 2",
    "dynamic_batching { default_priority_level: 1 }": "level is 1, expected 0 to 0",
    "dynamic_batching { priority_queue_policy { key: 1 value { } } }": "given for priority 1",
    'parameters { key: "x" value { string_value: "1" } }': "unknown parameter 'x'",
    'parameters { key: "max_queue_rows" value { string_value: "two" } }': "is 'two'",
    'parameters { key: "intra_op_thread_count" value { string_value: "5000" } }': "is 5000",
    'parameters { key: "session.intra_op.allow_spinning" value { string_value: "2" } }': (
        "is 2, expected at most 1"
    ),
    'model_warmup { name: "w" }': "model_warmup 'w' has no inputs",
    'model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 } } }': (
        "model_warmup 'w': 'x': expected one of zero_data"
    ),
    'model_warmup { name: "w" inputs { key: "x" value { zero_data: true } } }': "data_type is",
    'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 input_data_file: "a/b" } } }': (
        "input_data_file is 'a/b', expected a plain file name"
    ),
    "# " + "x" * (1 << 20): "expected at most 1 MiB",
}


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: text[:60])
def test_a_bad_config_says_file_place_and_what_was_expected(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith("config.pbtxt: ")
    assert BAD_TEXTS[text] in message
    assert "inference." not in message
    assert "\n" not in message


BAD_JSON = {
    '{"sequenceBatching": {}}': "sequences that keep state",
    '{"response_cache": {"enable": true}}': "answers are not cached",
    '{"max_batch_size": 4, "max_batch_size": 8}': "duplicate key",
    '{"input": [{"name": "x", "data_type": "TYPE_FLOAT"}]}': "TYPE_FLOAT",
    '{"input": {}}': "input",
    "{": "Failed to load JSON",
    "[]": "it holds no JSON object",
    "[" * 100_000: "it holds no JSON object",
    '{"input": ' * 20_000: "config.json: ",
}


@pytest.mark.parametrize("text", BAD_JSON, ids=lambda text: text[:60])
def test_bad_json_is_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, is_json=True)
    assert BAD_JSON[text] in str(caught.value)
    assert len(str(caught.value)) < 500


def test_two_configurations_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text("")
    repository = Repository(tmp_path)
    assert repository.config_file("m") == tmp_path / "m" / "config.pbtxt"
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"holds config.pbtxt and config.json, expected one"):
        repository.config_file("m")
