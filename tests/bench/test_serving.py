"""The serving benchmark, on runs that were made up: no server, no load."""

import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks import serving_model as model
from benchmarks.serving_floors import Floor
from benchmarks.serving_load import Cost
from benchmarks.serving_rows import ROWS, Row
from benchmarks.serving_subjects import CANNED, GRPCIO, MLSERVER, OURS, TWO, subjects
from benchmarks.serving_table import Line, Measured, as_text, lines_of, quiet, score
from hlserve.pb.messages import inference

FLOORS = {rows: Floor(rows, 20e-6, 18e-6, 50e-6) for rows in (1, 32)}


def cost(cpu_us: float, *, answered: int = 1000, client_cpu_s: float = 0.1) -> Cost:
    return Cost(answered, 1.0, answered * cpu_us / 1e6, client_cpu_s, 218e-6, 550e-6)


def row(name: str) -> Row:
    return next(one for one in ROWS if one.name == name)


def lines(name: str, runs: dict[str, list[Cost]], failed: dict[str, str]) -> dict[str, Line]:
    made = lines_of(Measured(row(name), runs, failed), FLOORS)
    return {line.figure.strip(): line for line in made}


def test_every_row_names_servers_that_there_are() -> None:
    known = {subject.name for subject in subjects()}
    assert {name for one in ROWS for name in one.servers} <= known


def test_a_figure_is_the_median_and_a_ratio_that_of_the_rounds_ratios() -> None:
    runs = {
        OURS: [cost(10), cost(20), cost(30)],
        MLSERVER: [cost(1000), cost(400), cost(900)],  # 100, 20 and 30 times
        CANNED: [cost(20), cost(20), cost(20)],  # ours: 0.5, 1 and 1.5 times
    }
    told = lines("batch-1", runs, {GRPCIO: "left out"})
    assert told["batch 1, 4 x 8"].ours == "20.0 µs"
    assert told["batch 1, 4 x 8"].others[MLSERVER] == "900.0 µs"
    assert told["against mlserver"].ours == "30.0x less"
    assert (told["against mlserver"].reached, told["against mlserver"].stretched) == (True, False)
    assert told["against canned-c++"].ours == "1.00x"
    assert told["against grpcio"].others == {GRPCIO: "left out"}
    assert told["against grpcio"].reached is None


@pytest.mark.parametrize(
    ("cpu_us", "reached", "stretched"),
    [(19.9, True, True), (34.9, True, False), (35.1, False, False)],
)
def test_less_than_a_bound_reaches_it_and_more_does_not(
    cpu_us: float, reached: bool, stretched: bool
) -> None:
    line = lines("batch-1", {OURS: [cost(cpu_us)]}, {})["batch 1, 4 x 8"]
    assert (line.reached, line.stretched) == (reached, stretched)


def test_latency_is_what_comes_on_top_of_the_run_alone() -> None:
    told = lines("latency", {OURS: [cost(10)]}, {})
    assert told["added, open loop at 50 %, p50"].ours == "200 µs"
    assert told["added, open loop at 50 %, p99"].ours == "500 µs"


def test_two_processes_are_not_charged_for_the_clients_share_of_their_cores() -> None:
    # The client used half a core of the two: what is left made 1500 answers a second of it.
    runs = {OURS: [cost(10)], TWO: [cost(10, answered=1500, client_cpu_s=0.5)]}
    told = lines("processes", runs, {})
    assert told["two processes against one, throughput"].ours == "2.00x"
    assert told["CPU a request, of one's"].ours == "1.00x"


def test_a_row_without_our_server_has_no_figure_and_counts_for_nothing() -> None:
    without_plain = {row("metrics").servers[1]: "no"}
    made = lines_of(Measured(row("metrics"), {OURS: [cost(1)]}, without_plain), FLOORS)
    assert [line.reached for line in made] == [None]
    assert "none" in as_text(lines_of(Measured(row("stream"), {}, {OURS: "no"}), FLOORS))
    assert score(made) == "must reached: 0 of 0; stretch: 0 of 0"


def test_the_table_tells_which_server_had_least_of_its_core() -> None:
    runs = {OURS: [cost(900), cost(500)], GRPCIO: [cost(990)]}
    assert "50% (batch-1, ours)" in quiet([Measured(row("batch-1"), runs, {})])


def test_requests_hold_an_id_between_their_parts_and_expect_the_networks_answer(
    tmp_path: Path,
) -> None:
    file = model.write_model(tmp_path / "models")
    some = model.exchanges(file, 2)
    model.write_requests(tmp_path / "requests.bin", some)
    content = (tmp_path / "requests.bin").read_bytes()
    (count,), at = struct.unpack_from("<I", content), 4
    blobs = []
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        blobs.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    assert (count, len(blobs)) == (model.REQUESTS, 3 * model.REQUESTS)
    head, tail, answer = blobs[-3:]
    request = inference.ModelInferRequest.FromString(head + b"\x1a\x02it" + tail)
    assert (request.model_name, request.id) == (model.NAME, "it")
    rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(request.inputs[0].shape)
    # The same session, the same rows: no difference at all.
    assert np.array_equal(rows, some[-1].rows)
    expected = model.session_of(file).run(None, {model.INPUT: rows})[0]
    assert np.array_equal(np.frombuffer(answer, "<f4").reshape(expected.shape), expected)


def test_the_canned_answers_are_messages_of_the_protocol(tmp_path: Path) -> None:
    exchange = model.exchanges(model.write_model(tmp_path / "models"), 1)[0]
    unary, streamed = model.write_canned(tmp_path, exchange)
    answer = inference.ModelInferResponse.FromString(unary.read_bytes())
    assert answer.raw_output_contents[0] == exchange.answer.tobytes()
    # Field 2 and a length of two bytes before the same message.
    assert streamed.read_bytes()[3:] == unary.read_bytes()
    assert streamed.read_bytes()[0] == 2 << 3 | 2
