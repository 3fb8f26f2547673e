"""ONNX models as networks that can take their place: every output is there."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from compress.onnx_import.importer import Imported, NotImportableError, import_onnx
from hlserve.errors import ConfigError
from hlserve.nn.param import Array


def import_whole(
    model: onnx.ModelProto, feeds: Mapping[str, Array], *, labels: Array | None = None
) -> Imported:
    """As ``import_onnx``, for a network whose file is to replace the model.

    Raises:
        NotImportableError: an output would be missing, or there are several that a loss could
            look at; or see ``import_onnx``.
        DataError, ModelFileError: see ``import_onnx``.
    """
    found = import_onnx(model, feeds, labels=labels)
    if len(found.network.outputs) < len(model.graph.output):
        raise NotImportableError("; ".join(note for note in found.notes if "left out" in note))
    try:
        _ = found.network.logits_node
    except ConfigError as error:
        raise NotImportableError(
            f"it answers several numbers, {sorted(found.network.outputs)}; what is trained has one "
            "output, or scores and their softmax"
        ) from error
    if labels is not None and found.network.task is None:
        shapes = {name: found.network.shapes[n] for name, n in found.network.outputs.items()}
        raise NotImportableError(
            f"labels of shape {labels.shape} do not tell what its outputs {shapes} should be"
        )
    return found
