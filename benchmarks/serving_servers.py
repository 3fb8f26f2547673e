"""A server of the comparison while it runs: started, pinned, checked, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import grpc
import numpy as np

from benchmarks import serving_model as model
from benchmarks.serving_subjects import CannotServeError, Subject, World
from hlserve.client import InferenceClient
from hlserve.errors import HlserveError
from hlserve.pb.messages import inference

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
READY_TIMEOUT_S, ANSWER_TIMEOUT_S = 2.0, 10.0
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
        except BaseException:
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
        for exchange in world.exchanges:
            answer = self._infer(exchange)
            if not np.allclose(answer, exchange.answer, rtol=TOLERANCE, atol=TOLERANCE):
                raise CannotServeError("answers wrongly")

    def _is_ready(self) -> bool:
        try:
            with InferenceClient(f"127.0.0.1:{self.port}", timeout_s=READY_TIMEOUT_S) as client:
                return client.is_model_ready(model.NAME)
        except HlserveError:
            return False

    def _infer(self, exchange: model.Exchange) -> model.Array:
        """By grpcio itself: our client refuses MLServer's empty ``contents`` beside raw values."""
        tensor = inference.ModelInferRequest.InferInputTensor(
            name=model.INPUT, datatype="FP32", shape=exchange.rows.shape
        )
        request = inference.ModelInferRequest(
            model_name=model.NAME, inputs=[tensor], raw_input_contents=[exchange.rows.tobytes()]
        )
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=inference.ModelInferRequest.SerializeToString,
                response_deserializer=inference.ModelInferResponse.FromString,
            )
            try:
                answer = call(request, timeout=ANSWER_TIMEOUT_S)
            except grpc.RpcError as error:
                raise CannotServeError(f"answers with an error: {error.details()}") from error
        if answer.raw_output_contents:
            values = np.frombuffer(answer.raw_output_contents[0], "<f4")
        else:
            values = np.array(answer.outputs[0].contents.fp32_contents, np.float32)
        return values.reshape(exchange.answer.shape)

    def _last_words(self) -> str:
        self._process.poll()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
