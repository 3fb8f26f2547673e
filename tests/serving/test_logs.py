"""What the log says of calls, how it looks, and that nobody can flood it."""

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlserve.client import InferenceClient
from hlserve.errors import InferenceError, ModelNotFoundError, ServerError
from hlserve.rpcs import find
from hlserve.serving.config import ControlConfig
from hlserve.serving.logs import (
    LINES_A_SECOND,
    MAX_MESSAGE_CHARS,
    MAX_TEXT_CHARS,
    CallLog,
    JsonLines,
    NoFlood,
    PlainLines,
    StderrHandler,
    configure,
)
from hlserve.serving.observing import LogConfig
from hlserve.serving.transports.context import CallContext
from tests.serving import models
from tests.serving.running import running_server

MODEL_INFER = find("ModelInfer")
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
# Names as a client may send them: any text that protobuf takes.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@contextmanager
def logged(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """What comes to the root logger in the block, as a stream of lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def end_call(log: CallLog, context: CallContext, error: BaseException | None = None) -> None:
    log.end(context, log.begin(context), error)


def access_line(context: CallContext, error: BaseException | None = None) -> dict[str, Any]:
    with logged(JsonLines()) as stream:
        end_call(CallLog(access=True), context, error)
    line, *refusals = stream.getvalue().splitlines()
    assert len(refusals) == (error is not None)
    content: dict[str, Any] = json.loads(line)
    return content


def test_an_access_line_says_what_the_call_was() -> None:
    context = CallContext(MODEL_INFER, metadata={"traceparent": TRACEPARENT}, peer="ipv4:1.2.3.4:5")
    record = context.record
    record.model, record.version, record.request_id = "mlp", "2", "seven"
    record.rows, record.request_bytes = 3, 120
    line = access_line(context, ModelNotFoundError("no"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert 0 <= line.pop("duration_ms") < 60_000
    assert line == {
        "level": "info",
        "logger": "hlserve.access",
        "message": "call",
        "method": MODEL_INFER.path,
        "status": "NOT_FOUND",
        "model": "mlp",
        "version": "2",
        "request_id": "seven",
        "rows": 3,
        "bytes": 120,
        "peer": "ipv4:1.2.3.4:5",
        "trace_id": TRACE_ID,
    }


def test_what_is_not_there_is_a_dash() -> None:
    line = access_line(CallContext(MODEL_INFER, metadata={"traceparent": "nonsense"}))
    names = ("model", "version", "request_id", "peer", "trace_id")
    assert {line[name] for name in names} == {"-"}


@settings(deadline=None)  # the first example pays for what is made once
@given(name=TEXTS)
@pytest.mark.parametrize("formatter", [JsonLines(), PlainLines()])
def test_a_name_never_makes_a_line_of_its_own(formatter: logging.Formatter, name: str) -> None:
    context = CallContext(MODEL_INFER, peer=name)
    context.record.model = context.record.request_id = name
    with logged(formatter) as stream:
        end_call(CallLog(access=True), context)
        end_call(CallLog(access=False), context, ModelNotFoundError(f"model {name} is unknown"))
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert all(character.isprintable() or character == "\n" for character in text)


def test_long_names_and_messages_are_cut() -> None:
    context = CallContext(MODEL_INFER)
    context.record.model = "m" * 10_000
    assert access_line(context)["model"] == "m" * MAX_TEXT_CHARS + "...(10000 characters)"
    with logged(PlainLines()) as stream:
        end_call(CallLog(access=False), context, ModelNotFoundError("x" * 10_000))
    assert len(stream.getvalue()) < MAX_MESSAGE_CHARS + 200


def test_without_access_only_refusals_are_logged() -> None:
    context = CallContext(MODEL_INFER)
    log = CallLog(access=False)
    with logged(PlainLines()) as stream:
        end_call(log, context)
        end_call(log, context, InferenceError("the transport logs this one"))
        end_call(log, context, KeyError("and this one"))
        end_call(log, context, ModelNotFoundError("model 'x' is not here"))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(
        f"INFO hlserve.refusals: {MODEL_INFER.path} refused, NOT_FOUND: model 'x' is not here"
    )


def record_of(name: str, line: int = 1, **attributes: Any) -> logging.LogRecord:
    record = logging.LogRecord(name, logging.INFO, "file.py", line, "text", (), None)
    record.__dict__.update(attributes)
    return record


def test_a_flood_of_one_kind_is_held_back_and_counted() -> None:
    now_s = [0.0]
    no_flood = NoFlood(lambda: now_s[0])
    kinds = [("ModelInfer", "NOT_FOUND"), ("ModelInfer", "INVALID_ARGUMENT")]
    for kind in kinds:  # each has an allowance of its own
        passed = [no_flood.filter(record_of("hlserve.refusals", kind=kind)) for _ in range(1000)]
        assert sum(passed) == LINES_A_SECOND
    now_s[0] = 1.5
    later = record_of("hlserve.refusals", kind=kinds[0])
    assert no_flood.filter(later)
    assert PlainLines().format(later).endswith(f"suppressed={1000 - LINES_A_SECOND}")
    again = record_of("hlserve.refusals", kind=kinds[0])
    assert no_flood.filter(again)
    assert "suppressed" not in PlainLines().format(again)


def test_what_no_client_causes_is_never_held_back() -> None:
    no_flood = NoFlood(lambda: 0.0)
    for name in ("hlserve.serving.store", "hlserve.access"):
        assert all(no_flood.filter(record_of(name)) for _ in range(100))
    place = "hlserve.serving.transports.grpcio.handlers"
    assert sum(no_flood.filter(record_of(place, line=9)) for _ in range(100)) == LINES_A_SECOND


def test_a_traceback_is_one_field_of_the_object() -> None:
    with logged(JsonLines()) as stream:
        try:
            raise KeyError("a bug")
        except KeyError:
            logging.getLogger("hlserve.somewhere").exception("it %s", "failed")
    (line,) = stream.getvalue().splitlines()
    content = json.loads(line)
    assert (content["level"], content["message"]) == ("error", "it failed")
    assert content["exception"].endswith("KeyError: 'a bug'")


def test_settings_apply_to_the_whole_process() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        root.handlers = []  # pytest's own stay open
        configure(LogConfig(level="warning", format="json"), stream)
        logging.getLogger("any").info("not this")
        logging.getLogger("any").warning("this")
    finally:
        root.handlers = handlers
        root.setLevel(level)
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["this"]


def test_lines_go_to_what_stderr_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", before)
    handler = StderrHandler()
    record = logging.makeLogRecord({"msg": "a line"})
    handler.emit(record)
    before.close()
    monkeypatch.setattr(sys, "stderr", now)
    handler.emit(record)
    assert now.getvalue() == "a line\n"


def test_a_server_logs_a_line_a_call_and_no_values(tmp_path: Path, transport: str) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    row = {"input": np.full((2, 8), 0.12345, np.float32)}
    with (
        logged(JsonLines()) as stream,
        running_server(tmp_path, log=LogConfig(access=True), transport=transport) as running,
        InferenceClient(running.address, timeout_s=20) as client,
    ):
        client.infer("mlp", row)
        with pytest.raises(ServerError, match="NOT_FOUND"):
            client.infer("absent\nmodel", row)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    calls = [line for line in lines if line["logger"] == "hlserve.access"]
    assert [(c["model"], c["status"], c["rows"]) for c in calls] == [
        ("mlp", "OK", 2),
        ("absent\\nmodel", "NOT_FOUND", 0),
    ]
    assert all(call["bytes"] > 64 and call["peer"].startswith("ipv4:127.0.0.1") for call in calls)
    assert "0.12345" not in stream.getvalue()


def test_every_call_that_names_a_model_is_logged_with_it(tmp_path: Path) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    row = np.zeros((2, 8), np.float32)
    with (
        logged(JsonLines()) as stream,
        running_server(
            tmp_path,
            log=LogConfig(access=True),
            control=ControlConfig("explicit", load_models=("mlp",)),
        ) as running,
        InferenceClient(running.address, timeout_s=20) as client,
    ):
        client.is_model_ready("mlp", "1")
        client.model_metadata("mlp")
        client.model_config("mlp", "1")
        client.model_statistics("mlp")
        client.predict("mlp", list(row), request_id="seven")
        list(client.predict_stream("mlp", [list(row), list(row)]))
        client.unload_model("mlp")
        client.load_model("mlp")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    calls = [line for line in lines if line["logger"] == "hlserve.access"]
    assert [(call["method"].rsplit("/")[-1], call["version"], call["rows"]) for call in calls] == [
        ("ModelReady", "1", 0),
        ("ModelMetadata", "-", 0),
        ("ModelConfig", "1", 0),
        ("ModelStatistics", "-", 0),
        ("Predict", "1", 2),
        ("PredictStream", "1", 4),
        ("RepositoryModelUnload", "-", 0),
        ("RepositoryModelLoad", "-", 0),
    ]
    assert {call["model"] for call in calls} == {"mlp"}
    assert calls[4]["request_id"] == "seven"


def test_many_bad_requests_are_few_lines_without_a_traceback(tmp_path: Path) -> None:
    models.put(tmp_path, "mlp", models.mlp())
    process = subprocess.Popen(
        [sys.executable, "-m", "hlserve", "serve", str(tmp_path), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HLSERVE_LOG_FORMAT": "json"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().rsplit(" ", 1)[-1].strip()
        with InferenceClient(address, timeout_s=20) as client:
            for _ in range(300):
                with pytest.raises(ServerError, match="NOT_FOUND"):
                    client.infer("absent", {"input": np.zeros((1, 8), np.float32)})
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    lines = [json.loads(line) for line in err.splitlines()]
    refusals = [line for line in lines if line["logger"] == "hlserve.refusals"]
    assert refusals
    # 300 requests take a second or so, and a slow machine takes more: some windows, not 300 lines.
    assert len(refusals) < 150
    assert "Traceback" not in err
