"""Which settings are in effect: the calls a process that starts late must run to catch up."""

from __future__ import annotations

from typing import Any

from hlserve.pb.messages import message_class
from hlserve.rpcs import by_path

# The field that says what a call is about: a later call about the same makes an earlier one
# needless.
_SUBJECTS = {
    "RepositoryModelLoad": ("model", "model_name"),
    "RepositoryModelUnload": ("model", "model_name"),
    "SystemSharedMemoryRegister": ("region", "name"),
    "SystemSharedMemoryUnregister": ("region", "name"),
    "TraceSetting": ("trace", "model_name"),
    "LogSettings": ("log", None),
}
_FORGETS = "SystemSharedMemoryUnregister"
# These change what they name and leave the rest, so a later one is added to an earlier one.
_SETTINGS = ("TraceSetting", "LogSettings")


class Journal:
    """Calls with the scope ``every`` that took effect, in order, without those overtaken."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], tuple[str, bytes]] = {}

    @property
    def calls(self) -> list[tuple[str, bytes]]:
        """Path and request, oldest first."""
        return list(self._calls.values())

    def add(self, path: str, request: bytes) -> None:
        """Notes a call that took effect."""
        rpc = by_path(path)
        message: Any = message_class(rpc.request).FromString(request)
        kind, field = _SUBJECTS[rpc.name]
        subject = "" if field is None else getattr(message, field)
        if rpc.name == _FORGETS:
            self._forget(kind, subject)
            return
        earlier = self._calls.pop((kind, subject), None)
        if rpc.name in _SETTINGS and earlier is not None:
            merged = message_class(rpc.request).FromString(earlier[1])
            merged.MergeFrom(message)
            request = merged.SerializeToString()
        if rpc.name not in _SETTINGS or message.settings or earlier is not None:
            self._calls[(kind, subject)] = (path, request)

    def _forget(self, kind: str, subject: str) -> None:
        """What was undone leaves nothing behind; an empty name undoes all of the kind."""
        for key in list(self._calls):
            if key[0] == kind and subject in ("", key[1]):
                del self._calls[key]
