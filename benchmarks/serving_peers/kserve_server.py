"""KServe's model server with an ONNX file behind it; runs in .venv-kserve.

kserve_server.py NAME MODEL.onnx --http_port N --grpc_port N: KServe reads its own two from the
command line when it is imported.
"""

from __future__ import annotations

import logging
import sys

import kserve
import onnxruntime
from kserve.logging import KSERVE_LOGGER_NAME, KSERVE_TRACE_LOGGER_NAME


class OnnxModel(kserve.Model):
    """One input, one output, on one thread."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.ready = True

    async def predict(
        self,
        payload: kserve.InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> kserve.InferResponse:
        """Answers ``y`` of ``x``."""
        rows = payload.inputs[0].as_numpy()
        (answer,) = self._session.run(None, {payload.inputs[0].name: rows})
        output = kserve.InferOutput(name="y", shape=list(answer.shape), datatype="FP32")
        output.set_data_from_numpy(answer, binary_data=True)
        return kserve.InferResponse(
            response_id=payload.id, model_name=self.name, infer_outputs=[output]
        )


def main() -> None:
    """Serves until it is told to stop; the two lines that KServe logs a request are silenced."""
    name, path = sys.argv[1:3]
    server = kserve.ModelServer(enable_latency_logging=False)
    for logger in (KSERVE_LOGGER_NAME, KSERVE_TRACE_LOGGER_NAME, "uvicorn.access"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    server.start([OnnxModel(name, path)])


if __name__ == "__main__":
    main()
