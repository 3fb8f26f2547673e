"""The closed loop, against a real server in this process."""

import os
from pathlib import Path

import numpy as np
import pytest

from hlserve.bench.load import Load, closed_loop, together
from hlserve.errors import ConfigError, HlserveError
from hlserve.serving.observing import MetricsConfig
from tests.serving import models
from tests.serving.running import running_server

ROWS = {"input": np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    models.put(tmp_path, "m", models.mlp())
    return tmp_path


def test_every_caller_counts_its_answers(root: Path) -> None:
    with running_server(root) as server:
        load = closed_loop(
            server.address, "m", ROWS, callers=3, seconds=0.3, server_pid=os.getpid()
        )
    assert load.requests == len(load.latencies_s) > 10
    assert load.per_second == pytest.approx(load.requests / load.seconds)
    assert 0 < load.percentile_s(50) <= load.percentile_s(95) < load.seconds
    assert load.server_cpu_s is not None
    assert load.server_cpu_s > 0


def test_a_request_is_of_as_many_rows_as_asked_for(root: Path) -> None:
    with running_server(root) as server:
        load = closed_loop(server.address, "m", ROWS, seconds=0.2, rows=3)
        statistics = server.server.models[0].statistics
        rows, requests = statistics.inference_count, statistics.success.count
    assert requests >= load.requests > 0
    assert rows == 3 * requests
    with pytest.raises(ConfigError, match="a request is of 6 rows, and only 5 are given"):
        closed_loop("nowhere", "m", ROWS, rows=6)


def test_a_request_that_is_refused_is_not_sent_again(root: Path) -> None:
    with running_server(root, metrics=MetricsConfig(port=None)) as server:
        server.server.data_plane.begin_drain()
        with pytest.raises(HlserveError, match="UNAVAILABLE"):
            closed_loop(server.address, "m", ROWS, callers=1, seconds=5)
        refused = [call for call in server.server.snapshot().calls if call.method == "ModelInfer"]
    assert [(call.status, call.count) for call in refused] == [("UNAVAILABLE", 1)]


def test_what_a_request_says_is_raised(root: Path) -> None:
    with running_server(root) as server, pytest.raises(HlserveError, match="NOT_FOUND"):
        closed_loop(server.address, "other", ROWS, seconds=0.3)


def test_processor_time_that_cannot_be_known_is_none() -> None:
    load = Load(10, 2.0, np.full(10, 0.1), None)
    assert load.server_cpu_per_request_s is None
    assert load.per_second == 5


def test_parts_add_up() -> None:
    both = together([Load(10, 2.0, np.full(10, 0.1), 1.0), Load(5, 1.0, np.full(5, 0.2), 0.5)])
    assert (both.requests, both.seconds, both.server_cpu_s) == (15, 3.0, 1.5)
    assert both.percentile_s(100) == 0.2
    assert together([both, Load(1, 1.0, np.ones(1), None)]).server_cpu_s is None
