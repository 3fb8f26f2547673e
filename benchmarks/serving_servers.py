"""A server of the comparison while it runs: started, pinned, checked, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

from benchmarks import serving_model as model
from benchmarks.serving_subjects import CannotServeError, Subject, World
from hlserve.client import InferenceClient
from hlserve.errors import HlserveError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
# A batched run adds in another order than the one that the expected values came from.
TOLERANCE = 1e-4
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}


class Running:
    """A started server, pinned to cores."""

    def __init__(self, subject: Subject, world: World, cores: str) -> None:
        """Starts it and waits until it has answered a sample rightly.

        Raises:
            CannotServeError: it did not start, or answered wrongly.
        """
        self.subject = subject
        command = subject.command(world)
        self._log = (world.folder / f"{subject.name}.log").open("w+b")
        self._process = subprocess.Popen(
            ("taskset", "--cpu-list", cores, *command.words),
            stdout=subprocess.PIPE if command.port == 0 else self._log,
            stderr=self._log,
            cwd=world.folder,
            env={**os.environ, **_ONE_THREAD, **command.environment},
            start_new_session=True,
        )
        try:
            self.port = command.port or self._printed_port()
            self._check(world)
        except CannotServeError:
            self.stop()
            raise

    def pids(self) -> list[int]:
        """The process and all its descendants."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                except OSError:  # it has just ended
                    continue
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def stop(self) -> None:
        """Ends it and what it started."""
        self._kill(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self._kill(signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _kill(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)

    def _printed_port(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if ":" not in line:
            raise CannotServeError(f"did not start: {self._last_words()}")
        return int(line.rpartition(":")[2])

    def _check(self, world: World) -> None:
        """Asks for a sample until there is an answer, and compares it."""
        if self.subject.is_canned or self.subject.is_tls:
            return  # the load client checks TLS; nothing can be checked of a canned answer
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CannotServeError(f"did not start: {self._last_words()}")
            time.sleep(0.1)
        with InferenceClient(f"127.0.0.1:{self.port}") as client:
            for exchange in world.exchanges:
                answer = client.infer(model.NAME, {model.INPUT: exchange.rows})
                values = answer.outputs[model.OUTPUT]
                if not np.allclose(values, exchange.answer, rtol=TOLERANCE, atol=TOLERANCE):
                    raise CannotServeError("answers wrongly")

    def _is_ready(self) -> bool:
        try:
            with InferenceClient(f"127.0.0.1:{self.port}", timeout_s=2) as client:
                return client.is_model_ready(model.NAME)
        except HlserveError:
            return False

    def _last_words(self) -> str:
        self._process.poll()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
