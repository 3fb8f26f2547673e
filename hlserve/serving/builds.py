"""Whether this installation runs serving's hot path compiled (``setup.py``), or as Python."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

_ONE_OF_THEM = "hlserve.serving.turn"


def is_compiled() -> bool:
    """Whether it is compiled; imports no more than the package around it."""
    spec = find_spec(_ONE_OF_THEM)
    origin = None if spec is None else spec.origin
    return origin is not None and origin.endswith(tuple(EXTENSION_SUFFIXES))
