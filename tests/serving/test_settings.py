"""Log and trace settings: what is asked, what changes, what is refused."""

import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from hlserve.errors import InvalidRequestError, UnavailableError
from hlserve.pb.messages import inference, message_class
from hlserve.rpcs import find
from hlserve.serving.settings import ServerSettings, TraceSettings
from tests.serving.running import RunningServer


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The level that was there is there again after a test."""
    found = logging.getLogger("hlserve")
    level = found.level
    yield found
    found.setLevel(level)


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"log_verbose_level": 2}, logging.DEBUG),
        ({"log_verbose_level": 0, "log_info": True}, logging.INFO),
        ({"log_info": False}, logging.WARNING),
        ({"log_info": False, "log_warning": False}, logging.ERROR),
        ({"log_info": False, "log_warning": False, "log_error": False}, logging.CRITICAL),
    ],
)
def test_switches_set_the_level_of_python(
    logger: logging.Logger, changes: dict[str, Any], level: int
) -> None:
    logger.setLevel(logging.INFO)
    settings = ServerSettings()
    settings.change_log(changes)
    assert logger.level == level
    assert {name: settings.log()[name] for name in changes} == changes


def test_what_was_set_elsewhere_shows(logger: logging.Logger) -> None:
    logger.setLevel(logging.ERROR)
    shown = ServerSettings().log()
    assert (shown["log_info"], shown["log_warning"], shown["log_error"]) == (False, False, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"log_file": "/tmp/x"}, "log_file cannot be changed over the network"),
        ({"log_info": 1}, "log_info is 1, expected a bool"),
        ({"log_verbose_level": True}, "log_verbose_level is True, expected an unsigned integer"),
        ({"log_format": "xml"}, "log_format is 'xml', expected 'ISO8601'"),
        ({"nope": True}, "unknown log setting 'nope'"),
    ],
)
def test_a_wrong_log_setting_changes_nothing(
    logger: logging.Logger, changes: dict[str, Any], words: str
) -> None:
    logger.setLevel(logging.INFO)
    with pytest.raises(InvalidRequestError, match=words):
        ServerSettings().change_log({"log_info": False, **changes})
    assert logger.level == logging.INFO


def test_a_model_has_settings_of_its_own_over_those_of_all() -> None:
    settings = ServerSettings(can_trace=True)
    settings.change_trace({"trace_rate": ["10"], "trace_level": ["TIMESTAMPS"]})
    settings.change_trace({"trace_rate": ["1"]}, "m")
    assert settings.trace() == TraceSettings("TIMESTAMPS", 10, -1)
    assert settings.trace("m") == TraceSettings("TIMESTAMPS", 1, -1)
    settings.change_trace({"trace_count": ["5"]})
    assert settings.trace("m") == TraceSettings("TIMESTAMPS", 1, 5)
    settings.change_trace({"trace_rate": []}, "m")
    settings.change_trace({"trace_level": [], "trace_count": []})
    assert settings.trace("m") == settings.trace() == TraceSettings("OFF", 10, -1)
    assert settings.trace_values()["trace_rate"] == ("10",)


def test_clearing_goes_back_to_what_only_the_start_can_say() -> None:
    settings = ServerSettings(TraceSettings("TIMESTAMPS", 0), can_trace=True)
    settings.change_trace({"trace_rate": ["10"], "trace_count": ["7"]})
    settings.change_trace({"trace_rate": [], "trace_count": ["5"]})
    assert settings.trace() == TraceSettings("TIMESTAMPS", 0, 5)
    with pytest.raises(InvalidRequestError, match="trace_rate is '0'"):
        settings.change_trace({"trace_rate": ["0"]})


def test_traced_requests_use_up_the_count_that_holds_for_their_model() -> None:
    settings = ServerSettings(TraceSettings("TIMESTAMPS", 1), can_trace=True)
    settings.traced("m")
    assert settings.trace("m").count == -1
    settings.change_trace({"trace_count": ["2"]})
    settings.change_trace({"trace_count": ["1"]}, "own")
    for _ in range(2):
        settings.traced("own")
    assert (settings.trace("own").count, settings.trace().count) == (0, 2)
    for _ in range(3):
        settings.traced("m")
    assert (settings.trace("m").count, settings.trace().count) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trace_file": ["/tmp/x"]}, "trace_file cannot be changed over the network"),
        ({"trace_mode": ["triton"]}, "trace_mode cannot be changed"),
        ({"trace_level": ["TENSORS"]}, "trace_level is 'TENSORS', expected one of"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "trace_level has 2 values, expected one"),
        ({"trace_rate": ["0"]}, "trace_rate is '0', expected an integer, 1 or more"),
        ({"trace_rate": ["1x"]}, "trace_rate is '1x'"),
        ({"trace_count": ["-2"]}, "trace_count is '-2', expected an integer, -1 or more"),
        ({"trace_count": ["9" * 30]}, "trace_count is '999"),
        ({"nope": ["1"]}, "unknown trace setting 'nope'"),
    ],
)
@pytest.mark.parametrize("model", ["", "m"])
def test_a_wrong_trace_setting_changes_nothing(
    model: str, changes: dict[str, list[str]], words: str
) -> None:
    settings = ServerSettings(can_trace=True)
    with pytest.raises(InvalidRequestError, match=words):
        settings.change_trace({"trace_level": ["TIMESTAMPS"], **changes}, model)
    assert settings.trace(model) == TraceSettings()


def test_traces_that_were_not_set_up_to_change_cannot_be_changed() -> None:
    with pytest.raises(UnavailableError, match="cannot be changed by call on this server"):
        ServerSettings().change_trace({"trace_level": ["TIMESTAMPS"]})


def refused(server: RunningServer, name: str, request: Any) -> tuple[str, str]:
    rpc = find(name)
    serializer = message_class(rpc.request).SerializeToString
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(rpc.path, request_serializer=serializer)(request, timeout=20)
    return caught.value.code().name, caught.value.details()


def test_wrong_settings_get_their_status(server: RunningServer) -> None:
    request = inference.LogSettingsRequest()
    request.settings["log_info"].SetInParent()
    assert refused(server, "LogSettings", request) == (
        "INVALID_ARGUMENT",
        "log setting 'log_info' holds no value",
    )
    trace = inference.TraceSettingRequest(model_name="absent")
    assert refused(server, "TraceSetting", trace)[0] == "NOT_FOUND"
    trace = inference.TraceSettingRequest()
    trace.settings["trace_level"].value.append("TIMESTAMPS")
    assert refused(server, "TraceSetting", trace)[0] == "UNAVAILABLE"


def test_tritonclient_reads_and_changes_the_log(
    server: RunningServer, logger: logging.Logger
) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    with triton.InferenceServerClient(server.address) as client:
        client.update_log_settings({"log_verbose_level": 1, "log_info": True})
        assert logger.level == logging.DEBUG
        answer = client.update_log_settings({"log_verbose_level": 0, "log_info": False})
        assert answer.settings["log_info"].bool_param is False
        assert answer.settings["log_verbose_level"].uint32_param == 0
        traced = client.get_trace_settings("mlp").settings
        assert list(traced["trace_mode"].value) == ["opentelemetry"]
