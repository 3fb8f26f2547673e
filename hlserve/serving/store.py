"""ModelStore: what is loaded, what is not and why; loading, swapping and unloading while it serves.

A model is loaded by one thread of its own, beside the event loop, and takes requests when it has
replayed its golden samples and is warm: then the store's entry is replaced, and what it held before
is closed after its last request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from hlserve.errors import (
    ConfigError,
    HlserveError,
    InvalidRequestError,
    ModelFileError,
    ModelNotFoundError,
    ModelNotReadyError,
    RepositoryError,
    ShuttingDownError,
    VersionNotFoundError,
)
from hlserve.repository import Repository, is_model_name, parse_version
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ServerConfig
from hlserve.serving.loading import Loaded, Loader, close, give_memory_back
from hlserve.serving.model import ServedModel
from hlserve.serving.overrides import Overrides
from hlserve.serving.states import Entry, ModelState, states_of
from hlserve.serving.watch import Watch

_MAX_COMPARED_CHARS = 64  # with a model's name: longer ones are nobody's mistake

_LOG = logging.getLogger(__name__)

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_EVERYTHING = ("*",)


class ModelStore:
    """Answers from memory; a request's model name is only looked up here, never joined to a path.

    Args:
        repository: where the models lie.
        config: which of them are loaded, and how they are served.
        threads: where runs go.

    Raises:
        RepositoryError: there is no model, and none can come while the server runs.
        ConfigError: a model to load at the start is not in the repository.
    """

    def __init__(self, repository: Repository, config: ServerConfig, threads: RunThreads) -> None:
        self._repository = repository
        self._control = config.control
        self._loader = Loader(repository, config, threads)
        self._load_thread = ThreadPoolExecutor(1, thread_name_prefix="hlserve-load")
        # One a model that is loaded or unloaded just now; nobody holds one of an unknown name.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch = Watch(repository) if self._control.mode == "poll" else None
        for name in repository.refused_names():
            _LOG.warning("folder %r is no model: a bad name, or a link out of the repository", name)
        at_start = self._names_at_start()
        self._entries = {
            name: Entry.loading() if name in at_start else Entry() for name in repository.names()
        }
        self._is_loaded = False
        if not self._entries and self._control.mode == "none":
            raise RepositoryError(
                f"no models in {repository.root}: expected <model>/<version>/model.onnx"
                f"{repository.hint()}"
            )

    @property
    def is_loaded(self) -> bool:
        """Whether the first loading has ended, whatever came of each model."""
        return self._is_loaded

    def load_all(self) -> None:
        """Loads what is there at the start; one that fails is logged and is not ready. Blocks.

        Raises:
            RepositoryError: not one version of one model could be loaded, and no later load or
                look at the repository can change that.
        """
        for name in [name for name, entry in self._entries.items() if entry.is_loading]:
            loaded = self._loader.load(name)
            self._entries[name] = Entry.of(loaded)
            if loaded.reason:
                _LOG.error("model %r cannot be served: %s", name, loaded.reason)
        if self._control.mode == "none" and not self.ready_models():
            reasons = "; ".join(f"{n!r}: {e.why_not_ready()}" for n, e in self._entries.items())
            raise RepositoryError(
                f"no model in {self._repository.root} can be served: {reasons}"
                f"{self._repository.hint()}"
            )
        give_memory_back()
        self._is_loaded = True

    async def load(self, name: str, overrides: Overrides | None = None) -> None:
        """Loads a model, or loads it anew; what answered before does so until the new one can.

        Loads of one model follow each other. A caller that goes away does not stop a load.

        Raises:
            ModelNotFoundError: there is no such model.
            ModelFileError: a version failed, and the message says why. Where the model answered
                before, it is as it was; where it did not, the versions that could be loaded answer.
        """
        brings_files = overrides is not None and bool(overrides.files)
        if not is_model_name(name) or not (brings_files or name in self._repository.names()):
            raise self._not_found(name)
        await self._finish(self._load(name, overrides, keeps_unchanged=False))

    async def unload(self, name: str) -> None:
        """Takes no new request for a model; those in flight finish, then its memory goes back.

        Returns when new requests are refused.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        if name not in self._entries and name not in self._repository.names():
            raise self._not_found(name)
        await self._finish(self._unload(name, "it was unloaded"))

    async def poll(self) -> None:
        """One look at the repository: loads what changed and came to rest, unloads what is gone."""
        if self._watch is None:
            return
        try:
            changes = await self._in_load_thread(self._watch.look)
        except (HlserveError, OSError) as error:
            _LOG.error("the repository cannot be read, what is loaded goes on: %s", error)
            return
        except Exception:  # the next look may succeed
            _LOG.exception("the repository cannot be read, what is loaded goes on")
            return
        for name in changes.changed:
            try:
                await self._finish(self._load(name, None, keeps_unchanged=True))
            except HlserveError as error:
                _LOG.error("%s", error)
            except Exception:  # the others that changed are loaded all the same
                _LOG.exception("model %r cannot be loaded", name)
        for name in changes.gone:
            await self._finish(self._unload(name, "its folder is gone"))

    async def watch(self) -> None:
        """Polls until it is cancelled; returns at once where the control mode is another."""
        while self._watch is not None:
            await asyncio.sleep(self._control.poll_interval_s)
            await self.poll()

    async def settled(self) -> None:
        """Waits until what was swapped or unloaded is closed."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Nothing is loaded or closed from here on; what answers, answers."""
        for task in self._tasks:
            task.cancel()
        self._load_thread.shutdown(wait=False, cancel_futures=True)

    def index(self, *, ready_only: bool) -> tuple[ModelState, ...]:
        """Every model and version with its state, by name; on disk and not loaded included."""
        try:
            on_disk = self._repository.names()
        except RepositoryError:
            on_disk = []
        names = sorted({*self._entries, *on_disk})
        states = (
            state for name in names for state in states_of(name, self._entries.get(name, Entry()))
        )
        return tuple(state for state in states if not ready_only or state.state == "READY")

    def names(self) -> list[str]:
        """Every model that is known, ready or not."""
        return list(self._entries)

    def ready_models(self) -> list[ServedModel]:
        """Everything that answers, by name and version."""
        return [m for entry in list(self._entries.values()) for m in entry.versions.values()]

    def versions(self, name: str) -> list[int]:
        """The versions of a model that answer, ascending.

        Raises:
            ModelNotFoundError: no such model.
        """
        return sorted(self._entry(name).versions)

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a model, or one version of it, answers.

        Raises:
            ModelNotFoundError: no such model.
            VersionNotFoundError: no such version.
            InvalidRequestError: ``version`` is not a version number.
        """
        try:
            self.get(name, version)
        except ModelNotReadyError:
            return False
        return True

    def get(self, name: str, version: str = "") -> ServedModel:
        """The model to ask; without a version its latest that answers.

        Raises:
            ModelNotFoundError: no such model.
            VersionNotFoundError: no such version.
            ModelNotReadyError: it is known, but loading, unloaded or failed.
            InvalidRequestError: ``version`` is not a version number.
        """
        entry = self._entry(name)
        if version:
            return _get_version(name, version, entry)
        if not entry.versions:
            raise ModelNotReadyError(f"model {name!r} is not ready: {entry.why_not_ready()}")
        return entry.versions[max(entry.versions)]

    # ----- below: what load, unload and poll are made of

    def _names_at_start(self) -> list[str]:
        """What is loaded at the start."""
        names = self._repository.names()
        if self._control.mode != "explicit" or self._control.load_models == _EVERYTHING:
            return names
        missing = sorted(set(self._control.load_models) - set(names))
        if missing:
            raise ConfigError(
                f"load-model names {missing[0]!r}, and {self._repository.root} holds {names}"
            )
        return sorted(set(self._control.load_models))

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise self._not_found(name)
        return entry

    def _not_found(self, name: str) -> ModelNotFoundError:
        near = get_close_matches(name[:_MAX_COMPARED_CHARS], self._entries, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        return ModelNotFoundError(f"model {name!r} is not in this server's repository{hint}")

    async def _finish(self, action: Coroutine[Any, Any, None]) -> None:
        """Runs an action to its end, even where the caller is cancelled."""
        task = self._start(action)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # not the caller, but the server went away
                raise ShuttingDownError("the server is shutting down") from None
            raise

    def _start(self, action: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _load(self, name: str, overrides: Overrides | None, *, keeps_unchanged: bool) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            before = self._entries.get(name)
            if before is None or not before.versions:
                self._entries[name] = Entry.loading(before)
            kept = before.versions if before is not None and keeps_unchanged else None
            loaded = await self._in_load_thread(self._loader.load, name, overrides, kept)
            await self._take(name, before, loaded)
        if failure := loaded.failure():
            raise ModelFileError(f"model {name!r} cannot be loaded: {failure}")

    async def _take(self, name: str, before: Entry | None, loaded: Loaded) -> None:
        """Puts what was loaded in the place of what was there, or leaves that as it was."""
        served = before.versions if before is not None else {}
        now = self._entries[name]
        if loaded.failure() and served:
            _LOG.warning("model %r: the reload failed, what was loaded still answers", name)
            self._entries[name] = replace(now, reload_failure=loaded.failure())
            await self._in_load_thread(close, _others(loaded.versions.values(), served.values()))
            return
        if loaded.failure() and before is None and not self._is_on_disk(name):
            del self._entries[name]  # nothing but a call knows the name: it is forgotten
            await self._in_load_thread(close, list(loaded.versions.values()))
            return
        old = _others(served.values(), loaded.versions.values())
        self._entries[name] = replace(Entry.of(loaded), unloading=now.unloading)
        self._retire(name, old, is_shown=False)
        if loaded.versions:
            _LOG.info("model %r answers: versions %s", name, sorted(loaded.versions))

    def _is_on_disk(self, name: str) -> bool:
        """Whether a model has a folder; a repository that cannot be read forgets none."""
        try:
            return name in self._repository.names()
        except (HlserveError, OSError):
            return True

    async def _unload(self, name: str, reason: str) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            entry = self._entries.get(name, Entry())
            old = list(entry.versions.values())
            unloading = (*entry.unloading, *(model.version for model in old))
            self._entries[name] = Entry(reason=reason, unloading=unloading)
            self._retire(name, old, is_shown=True)
            _LOG.info("model %r answers no more: %s", name, reason)

    def _retire(self, name: str, models: list[ServedModel], *, is_shown: bool) -> None:
        if models:
            self._start(self._close_when_unused(name, models, is_shown=is_shown))

    async def _close_when_unused(
        self, name: str, models: list[ServedModel], *, is_shown: bool
    ) -> None:
        for model in models:
            await model.uses.ended()
        await self._in_load_thread(close, models)
        entry = self._entries.get(name)
        if is_shown and entry is not None:
            left = list(entry.unloading)
            for model in models:
                left.remove(model.version)
            self._entries[name] = replace(entry, unloading=tuple(left))

    async def _in_load_thread(
        self,
        function: Callable[_Parameters, _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._load_thread, lambda: function(*args, **kwargs))


def _others(models: Iterable[ServedModel], kept: Iterable[ServedModel]) -> list[ServedModel]:
    """Those that are not among the kept; by identity, since values with arrays do not compare."""
    ids = {id(model) for model in kept}
    return [model for model in models if id(model) not in ids]


def _get_version(name: str, version: str, entry: Entry) -> ServedModel:
    number = parse_version(version)
    if number is None:
        raise InvalidRequestError(
            f"model {name!r}: version is {version!r}, expected a positive integer"
        )
    if number in entry.versions:
        return entry.versions[number]
    if entry.reason:
        raise ModelNotReadyError(f"model {name!r} is not ready: {entry.reason}")
    if number in entry.failures:
        raise ModelNotReadyError(
            f"model {name!r} version {number} is not ready: {entry.failures[number]}"
        )
    raise VersionNotFoundError(
        f"model {name!r} version {number} is not served, only {sorted(entry.versions)}"
    )
