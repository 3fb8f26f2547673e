"""Loads a whole repository without serving it: what would answer, and what would not and why."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from hlserve.errors import ModelNotReadyError, RepositoryError, VersionNotFoundError
from hlserve.repository import Repository
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ControlConfig, ServerConfig
from hlserve.serving.providers import execution_providers
from hlserve.serving.session import TensorInfo
from hlserve.serving.store import ModelStore


@dataclass(frozen=True, slots=True)
class CheckedVersion:
    """One version that the server would serve, or could not.

    Attributes:
        name: the model.
        version: its number; None: the model as a whole has a problem.
        joins: whether rows of different requests would be joined.
        inputs: as the model takes them.
        outputs: as it gives them.
        problem: why it would not answer; empty: it would.
    """

    name: str
    version: int | None
    joins: bool = False
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    problem: str = ""


def dry_run(config: ServerConfig) -> list[CheckedVersion]:
    """Loads, warms and replays every model as the server does at its start. Blocks.

    Raises:
        ConfigError, ProviderError: the provider is unknown, or not in this installation.
        RepositoryError: the repository is no folder, or holds no model.
    """
    execution_providers(config.provider)
    repository = Repository(config.models)
    threads = RunThreads(1)  # nothing runs in them
    everything = replace(config, control=ControlConfig())
    store = ModelStore(repository, everything, threads)
    try:
        with suppress(RepositoryError):  # no model can be served: each one's reason is told below
            store.load_all()
        checked = [row for name in store.names() for row in _model(store, repository, name)]
    finally:
        store.close()
        threads.shutdown(wait=True)
    refused = [
        CheckedVersion(name, None, problem="a bad name, or a link out of the repository")
        for name in repository.refused_names()
    ]
    return checked + refused


# ----- below


def _model(store: ModelStore, repository: Repository, name: str) -> list[CheckedVersion]:
    rows = [_version(store, name, number) for number in repository.versions(name)]
    found = [row for row in rows if row is not None]
    if found:
        return found
    try:
        store.get(name)
    except ModelNotReadyError as error:
        return [CheckedVersion(name, None, problem=str(error))]
    return []


def _version(store: ModelStore, name: str, number: int) -> CheckedVersion | None:
    """None: a version that the model's policy leaves out."""
    try:
        model = store.get(name, str(number))
    except VersionNotFoundError:
        return None
    except ModelNotReadyError as error:
        return CheckedVersion(name, number, problem=str(error))
    session = model.session
    return CheckedVersion(name, number, model.joins, tuple(session.inputs), tuple(session.outputs))
