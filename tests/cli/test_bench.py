"""``hlserve bench`` against a real server."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hlserve.bench.asking import Asker, Target
from hlserve.bench.measuring import Plan, measure
from hlserve.cli import cli, run

SHORT = ["--seconds", "0.3", "--connections", "2"]


def test_a_closed_loop_tells_throughput_latency_and_processor_time(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    options = ["--callers", "3", "--rows", "2", "--server-pid", str(os.getpid())]
    assert run(cli, ["bench", address, "classes", *SHORT, *options, "--json", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "classes version 1: 2 rows a request, 3 callers, closed loop"
    assert re.split(r"  +", said[1].strip()) == [
        "answered/s",
        "rows/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "server CPU",
    ]
    figures = json.loads(file.read_text())
    (told,) = figures["runs"]
    assert told["loop"] == "closed"
    assert told["answered"] == told["requests"] > 0
    assert told["rows_per_second"] == 2 * told["per_second"]
    latencies = list(told["latency_ms"].values())
    assert latencies == sorted(latencies)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--callers", "2", "--rate", "10"], "give --callers (a closed loop) or --rate"),
        (["--callers", "8", "--rates", "10,20"], "give --callers (a closed loop) or --rate"),
        (["--server-pid", str(2**30)], "which is no process on this machine"),
    ],
)
def test_what_would_be_ignored_is_refused(
    address: str, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run(cli, ["bench", address, "classes", *SHORT, *options]) == 2
    assert words in capsys.readouterr().err


def test_rates_are_run_one_after_the_other_and_drawn(
    address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plot, file = tmp_path / "sweep.svg", tmp_path / "sweep.json"
    options = ["--rates", "20,50", "--arrivals", "constant", "--plot", str(plot)]
    assert run(cli, ["bench", address, "sums", *SHORT, *options, "--json", str(file)]) == 0
    runs = json.loads(file.read_text())["runs"]
    assert [each["offered_per_second"] for each in runs] == [20, 50]
    assert [each["requests"] for each in runs] == [6, 15]
    assert "constant arrivals" in capsys.readouterr().out
    assert plot.read_text().count("<svg") == 1


def test_one_rate_is_drawn_over_time(address: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plot = tmp_path / "one.png"
    assert run(cli, ["bench", address, "sums", *SHORT, "--rate", "30", "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", ["classes", "sums", "text", "digits"])
def test_rows_are_made_up_for_every_model(address: str, model: str) -> None:
    assert run(cli, ["bench", address, model, *SHORT, "--rate", "20"]) == 0


def test_rows_come_from_a_file_or_an_input(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((5, 8), np.float32))
    np.savez(tmp_path / "rows.npz", a=np.zeros((4, 2), "f4"), b=np.ones((4, 2), "f4"))
    for model, options in {
        "classes": ["--data", str(tmp_path / "rows.npy"), "--rows", "2"],
        "sums": ["--data", str(tmp_path / "rows.npz")],
        "digits": ["--input", str(tmp_path / "row.json")],
    }.items():
        (tmp_path / "row.json").write_text(json.dumps([[0.5] * 64]))
        assert run(cli, ["bench", address, model, *SHORT, *options, "--rate", "20"]) == 0
    few = ["--data", str(tmp_path / "rows.npy"), "--rows", "6"]
    assert run(cli, ["bench", address, "classes", *SHORT, *few]) == 1
    assert "the data has 5 rows, a request needs 6" in capsys.readouterr().err


WRONG: dict[str, tuple[list[str], int, str]] = {
    "two ways to load": (["--rate", "1", "--rates", "1,2"], 2, "--rate or --rates, not both"),
    "two sources": (["--data", "a.npy", "--input", "a"], 2, "--data or --input, not both"),
    "no number": (["--rates", "100,many"], 2, "expected numbers with commas"),
    "no rate": (["--rate", "0"], 2, "expected more than 0"),
    "an endless rate": (["--rate", "inf"], 2, "expected more than 0"),
    "no time": (["--seconds", "0"], 2, "not in the range"),
    "another picture": (["--plot", "a.txt"], 2, "expected a file ending in .svg"),
    "another file of rows": (["--data", "a.csv"], 1, "expected a .npy or .npz file"),
    "no such file": (["--data", "/absent.npy"], 1, "cannot read /absent.npy"),
    "no such authority": (["--tls-ca", "/absent.pem"], 2, "cannot read /absent.pem"),
    "no such version": (["--version", "9"], 1, "NOT_FOUND"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_told(
    address: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options, code, text = WRONG[name]
    assert run(cli, ["bench", address, "classes", *options]) == code
    assert text in capsys.readouterr().err


def test_nobody_at_home_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["bench", "127.0.0.1:1", "m", *SHORT]) == 1
    assert "cannot connect to 127.0.0.1:1" in capsys.readouterr().err


def test_ctrl_c_gives_what_was_measured(address: str) -> None:
    requests = [{"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 2), np.float32)}]

    def interrupt(passed_s: float, seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    async def go() -> Any:
        async with Asker(Target(address, "sums"), requests, connections=1) as asker:
            plan = Plan(seconds=600, rates=(50, 100))
            return await measure(asker, plan, on_progress=interrupt)

    (outcome,) = asyncio.run(go())  # the second rate is not begun
    assert outcome.seconds < 60
    assert outcome.errors == {}
