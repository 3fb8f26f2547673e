"""Looking at a repository again and again: which models changed, and have come to rest since."""

from __future__ import annotations

from dataclasses import dataclass

from hlserve.errors import HlserveError
from hlserve.repository import Repository
from hlserve.serving.file_stamps import FileStamps, folder_stamps


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of models: those to load anew, and those whose folder is gone."""

    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


class Watch:
    """Remembers what was last acted on.

    A change counts when two looks in a row see the same files: what is still being copied differs
    from look to look. What changes while it is loaded differs from what was acted on, so that the
    next looks find it again.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._acted_on = self._stamps()
        self._last_seen = self._acted_on

    def look(self) -> Changes:
        """What changed since the last time that something was told. Blocks on the disk.

        Raises:
            RepositoryError: the repository cannot be read.
        """
        before, now = self._last_seen, self._stamps()
        self._last_seen = now
        names = sorted(before.keys() | now.keys() | self._acted_on.keys())
        settled = [
            name
            for name in names
            if now.get(name) == before.get(name) and now.get(name) != self._acted_on.get(name)
        ]
        for name in settled:
            if name in now:
                self._acted_on[name] = now[name]
            else:
                del self._acted_on[name]
        return Changes(
            changed=tuple(name for name in settled if name in now),
            gone=tuple(name for name in settled if name not in now),
        )

    def _stamps(self) -> dict[str, FileStamps]:
        return {name: self._model_stamps(name) for name in self._repository.names()}

    def _model_stamps(self, name: str) -> FileStamps:
        folder = self._repository.root / name
        try:
            versions = self._repository.versions(name)
        except HlserveError:  # it went away in between
            versions = []
        folders = (folder, folder / "warmup", *(folder / str(number) for number in versions))
        return tuple(stamp for path in folders for stamp in folder_stamps(path))
