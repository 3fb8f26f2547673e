"""Make a trained network smaller and faster, inside a bound on what it may lose.

Example::

    import compress

    result = compress.compress("model.onnx", train=(x, y), valid=(xv, yv), max_drop="0.5pp")
    print(result.best.candidate.name, result.best.speed_up)
    Path("small.onnx").write_bytes(result.best.candidate.model)

Importing this loads nothing heavy; every technique also stands alone in its family's folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.job import compress as compress


def __getattr__(name: str) -> Any:
    if name != "compress":
        raise AttributeError(f"module 'compress' has no attribute {name!r}")
    from compress.job import compress

    return compress
