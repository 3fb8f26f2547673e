"""What every step on an ONNX graph is: model in, model out; it follows the steps on a network."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import onnx

from hlserve.nn.param import Array


class GraphStep(ABC):
    """A way to make an ONNX file smaller or faster, wherever it is from.

    Implementations are final, frozen dataclasses whose fields are their settings.

    Attributes:
        name: what reports call it; a field of each, which a recipe file need not name where it
            is always the same (``init=False``).
    """

    name: str

    @abstractmethod
    def apply(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], *, batch: int | None = None
    ) -> onnx.ModelProto:
        """The changed model, the same bytes each time; the one given stays as it is.

        Args:
            model: any valid model.
            feeds: rows by input name, to calibrate with or to compare on.
            batch: rows a run, where the model takes only one number of them.

        Raises:
            CompressionError: the step cannot take this graph.
        """

    def settings(self) -> dict[str, Any]:
        """The fields that a recipe file gives, as JSON and TOML can hold them."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]  # each is a dataclass
        given = [f.name for f in dataclasses.fields(self) if f.init]  # type: ignore[arg-type]
        return {name: values[name] for name in given if values[name] is not None}
