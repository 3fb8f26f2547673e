"""ModelStore: what is loaded, what is not and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from hlserve.errors import (
    HlserveError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelNotReadyError,
    RepositoryError,
    VersionNotFoundError,
)
from hlserve.repository import Repository, parse_version
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ServerConfig, read_model_config
from hlserve.serving.model import ServedModel, load_model

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One model's state; replaced whole, so that a reader in another thread sees one moment.

    Attributes:
        versions: what answers, by number.
        failures: why a version does not, by number.
        reason: why the model as a whole has nothing: loading, or a bad configuration.
    """

    versions: Mapping[int, ServedModel] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)
    reason: str = ""

    def why_not_ready(self) -> str:
        """One line for the client."""
        if self.reason:
            return self.reason
        return "; ".join(f"version {number}: {text}" for number, text in self.failures.items())


class ModelStore:
    """Loads a repository once, and answers from memory after that.

    A request's model name is only ever looked up here, never joined to a path.
    """

    def __init__(self, repository: Repository, config: ServerConfig, threads: RunThreads) -> None:
        self._repository = repository
        self._config = config
        self._threads = threads
        for name in repository.refused_names():
            _LOG.warning("folder %r is no model: a bad name, or a link out of the repository", name)
        self._entries = {name: _Entry(reason="it is loading") for name in repository.names()}
        self._is_loaded = False
        if not self._entries:
            raise RepositoryError(
                f"no models in {repository.root}: expected <model>/<version>/model.onnx"
            )

    @property
    def is_loaded(self) -> bool:
        """Whether the first loading has ended, whatever came of each model."""
        return self._is_loaded

    def load_all(self) -> None:
        """Loads every model; one that fails is logged and stays not ready. Blocks.

        Raises:
            RepositoryError: not one version of one model could be loaded.
        """
        for name in self._entries:
            entry = self._load(name)
            self._entries[name] = entry
            if entry.reason:
                _LOG.error("model %r cannot be served: %s", name, entry.reason)
        if not any(entry.versions for entry in self._entries.values()):
            reasons = "; ".join(f"{n!r}: {e.why_not_ready()}" for n, e in self._entries.items())
            raise RepositoryError(f"no model in {self._repository.root} can be served: {reasons}")
        self._is_loaded = True

    def names(self) -> list[str]:
        """Every model, ready or not."""
        return list(self._entries)

    def ready_models(self) -> list[ServedModel]:
        """Everything that answers, by name and version."""
        return [m for name in self._entries for m in self._entries[name].versions.values()]

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
            ModelNotReadyError: it is known, but loading or failed.
            InvalidRequestError: ``version`` is not a version number.
        """
        entry = self._entry(name)
        if version:
            return _get_version(name, version, entry)
        if not entry.versions:
            raise ModelNotReadyError(f"model {name!r} is not ready: {entry.why_not_ready()}")
        return entry.versions[max(entry.versions)]

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFoundError(f"model {name!r} is not in this server's repository")
        return entry

    def _load(self, name: str) -> _Entry:
        try:
            config = read_model_config(name, self._repository.config(name), self._config)
            chosen = config.choose_versions(self._repository.versions(name))
        except HlserveError as error:
            return _Entry(reason=str(error))
        if not chosen:
            return _Entry(reason="its folder holds no version, expected <version>/model.onnx")
        versions: dict[int, ServedModel] = {}
        failures: dict[int, str] = {}
        for number in chosen:
            try:
                versions[number] = load_model(
                    self._repository.version_dir(name, number),
                    name,
                    config,
                    provider=self._config.provider,
                    threads=self._threads,
                )
            except HlserveError as error:
                failures[number] = str(error)
                _LOG.error("model %r version %d cannot be served: %s", name, number, error)
        return _Entry(versions=versions, failures=failures)


def _get_version(name: str, version: str, entry: _Entry) -> ServedModel:
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
