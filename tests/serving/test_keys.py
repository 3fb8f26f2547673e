"""API keys: each group of calls opens to its keys, at once when the file changes."""

import hashlib
import json
import logging
import os
from pathlib import Path

import grpc
import pytest

from hlserve.errors import ConfigError
from hlserve.pb.messages import inference
from hlserve.rpcs import find
from hlserve.serving.keys import ApiKeys, read_keys
from tests.serving import models
from tests.serving.running import running_server

LIVE = find("ServerLive").path
METADATA = find("ServerMetadata").path
INFER = find("ModelInfer").path


def write(path: Path, content: str) -> Path:
    """As an editor does: a new file takes the old one's place."""
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    fresh.chmod(0o600)
    return fresh.replace(path)


def status(channel: grpc.Channel, path: str, **headers: str) -> str:
    metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
    request = inference.ModelInferRequest(model_name="absent") if path == INFER else None
    data = request.SerializeToString() if request else b""
    try:
        channel.unary_unary(path)(data, timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        refused = error
    else:
        return "OK"
    assert "secret" not in refused.details()
    return str(refused.code().name)


def test_each_group_opens_to_its_keys_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, transport: str
) -> None:
    models.put(tmp_path / "models", "mlp", models.mlp())
    digest = hashlib.sha256(b"secret of all").hexdigest()
    path = write(
        tmp_path / "keys.toml", f'all = ["sha256:{digest}"]\nmetadata = ["secret of facts"]\n'
    )
    with (
        caplog.at_level(logging.DEBUG),
        running_server(tmp_path / "models", api_key_file=path, transport=transport) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        assert status(channel, LIVE) == "OK"
        assert status(channel, METADATA) == "UNAUTHENTICATED"
        assert status(channel, METADATA, x_api_key="secret guess") == "UNAUTHENTICATED"
        assert status(channel, METADATA, x_api_key="secret of facts") == "OK"
        assert status(channel, METADATA, authorization="Bearer secret of all") == "OK"
        assert status(channel, INFER, x_api_key="secret of facts") == "PERMISSION_DENIED"
        assert status(channel, INFER, authorization="bearer secret of all") == "NOT_FOUND"
        assert status(channel, METADATA, x_api_key=digest) == "UNAUTHENTICATED"

        write(path, 'inference = ["secret of late"]\nhealth = ["secret of late"]\n')
        assert status(channel, INFER, x_api_key="secret of late") == "NOT_FOUND"
        assert status(channel, INFER, x_api_key="secret of all") == "UNAUTHENTICATED"
        assert status(channel, LIVE) == "UNAUTHENTICATED"

        write(path, "inference = [not TOML")
        assert status(channel, INFER, x_api_key="secret of late") == "NOT_FOUND"
        assert status(channel, INFER, x_api_key="secret of late") == "NOT_FOUND"
    assert caplog.text.count("the old ones stay") == 1
    assert "secret" not in caplog.text


def test_a_group_that_is_not_listed_is_closed_and_the_file_may_be_json(
    tmp_path: Path, transport: str
) -> None:
    models.put(tmp_path / "models", "mlp", models.mlp())
    path = write(tmp_path / "keys.json", json.dumps({"inference": ["secret"]}))
    with (
        running_server(tmp_path / "models", api_key_file=path, transport=transport) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        assert status(channel, INFER) == "UNAUTHENTICATED"
        assert status(channel, METADATA, x_api_key="secret") == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("k.toml", "inference = [", "is no TOML"),
        ("k.json", "[1]", "names no group"),
        ("k.json", "{", "is no JSON"),
        ("k.toml", "", "names no group"),
        ("k.toml", 'models = ["a"]', "unknown group 'models', expected"),
        ("k.toml", 'inference = "a"', "inference is no list of keys"),
        ("k.toml", 'inference = [""]', "inference is no list of keys"),
    ],
)
def test_a_wrong_key_file_is_told(tmp_path: Path, name: str, content: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_keys(write(tmp_path / name, content))


def test_a_key_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the API key file .*No such file"):
        ApiKeys(tmp_path / "absent.toml")


def test_a_key_file_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "keys.toml", 'all = ["secret"]')
    os.chmod(path, 0o644)
    assert ApiKeys(path).groups_of("secret") == {"all"}
    assert "can be read by others: chmod 600" in caplog.text
