"""Which settings are in effect: the calls a process that starts late must run to catch up."""

from __future__ import annotations

from hlserve.pb.messages import message_class
from hlserve.rpcs import by_path

# A later call with the same subject makes an earlier one needless.
_SUBJECTS = {
    "RepositoryModelLoad": ("model", "model_name"),
    "RepositoryModelUnload": ("model", "model_name"),
    "SystemSharedMemoryRegister": ("region", "name"),
    "SystemSharedMemoryUnregister": ("region", "name"),
}
_FORGETS = "SystemSharedMemoryUnregister"


class Journal:
    """Calls with the scope ``every`` that took effect, in order, without those overtaken."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str | bytes], tuple[str, bytes]] = {}

    @property
    def calls(self) -> list[tuple[str, bytes]]:
        """Path and request, oldest first."""
        return list(self._calls.values())

    def add(self, path: str, request: bytes) -> None:
        """Notes a call that took effect."""
        rpc = by_path(path)
        kind, field = _SUBJECTS.get(rpc.name, (path, ""))
        subject: str | bytes = request
        if field:
            subject = getattr(message_class(rpc.request).FromString(request), field)
        if rpc.name == _FORGETS:
            self._forget(kind, subject)
            return
        self._calls.pop((kind, subject), None)
        self._calls[(kind, subject)] = (path, request)

    def _forget(self, kind: str, subject: str | bytes) -> None:
        """What was undone leaves nothing behind; an empty name undoes all of the kind."""
        for key in list(self._calls):
            if key[0] == kind and subject in ("", key[1]):
                del self._calls[key]
