"""MLServer's custom runtime for an ONNX file, written as its documentation does.

Runs in .venv-mlserver.
"""

from __future__ import annotations

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):
    """One input, one output, on one thread."""

    async def load(self) -> bool:
        """Opens ``parameters.uri`` of model-settings.json."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers ``y`` of ``x``."""
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        (answer,) = self._session.run(None, {payload.inputs[0].name: rows})
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(name="y", payload=answer)],
        )
