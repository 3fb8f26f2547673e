"""One model from its folder, or from what a call brought, to versions that can answer. Blocks."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from hlserve.errors import HlserveError, ModelFileError
from hlserve.repository import CONFIG_TEXT_FILE, Repository
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ModelConfig, ServerConfig
from hlserve.serving.file_stamps import file_stamps
from hlserve.serving.model import ServedModel, load_model
from hlserve.serving.model_config import ConfigText, read_model_config
from hlserve.serving.overrides import Overrides, private_folder

_LOG = logging.getLogger(__name__)

_M_ARENA_MAX = -8  # glibc's malloc.h


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading a model.

    Attributes:
        versions: what can answer, by number.
        failures: why a version cannot, by number.
        reason: why there is nothing at all.
    """

    versions: Mapping[int, ServedModel] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)
    reason: str = ""

    def failure(self) -> str:
        """What went wrong, in one line; empty where nothing did."""
        if self.reason:
            return self.reason
        return "; ".join(f"version {number}: {text}" for number, text in self.failures.items())


class Loader:
    """Loads models of one repository.

    Args:
        repository: where they lie.
        config: the server's; how a model is served where it says nothing itself.
        threads: where runs go.
    """

    def __init__(self, repository: Repository, config: ServerConfig, threads: RunThreads) -> None:
        self._repository = repository
        self._config = config
        self._threads = threads

    def load(
        self,
        name: str,
        overrides: Overrides | None = None,
        kept: Mapping[int, ServedModel] | None = None,
    ) -> Loaded:
        """A model's versions, checked and warm; one that fails is logged and does not raise.

        Args:
            name: the model.
            overrides: what takes the place of what lies on disk.
            kept: versions that stay as they are where neither files nor configuration changed.
        """
        try:
            with ExitStack() as stack:
                repository = self._repository
                if overrides is not None and overrides.files:
                    folder = stack.enter_context(private_folder(name, overrides.files))
                    repository = Repository(folder)
                return self._load(repository, name, overrides, kept or {})
        except (HlserveError, OSError) as error:
            return Loaded(reason=str(error))
        except Exception as error:  # a model must not end what loads the others
            _LOG.exception("model %r cannot be loaded", name)
            return Loaded(reason=_unexpected(error))

    def _load(
        self,
        repository: Repository,
        name: str,
        overrides: Overrides | None,
        kept: Mapping[int, ServedModel],
    ) -> Loaded:
        text = _config_text(repository, name, overrides)
        config = read_model_config(name, text, self._config)
        chosen = config.choose_versions(self._complete_versions(repository, name, config))
        if not chosen:
            return Loaded(
                reason=f"its folder holds no version, expected <version>/{config.model_file}"
            )
        versions: dict[int, ServedModel] = {}
        failures: dict[int, str] = {}
        for number in chosen:
            folder = repository.version_dir(name, number)
            old = kept.get(number)
            if old is not None and (old.config, old.files) == (config, file_stamps(folder)):
                versions[number] = old
                continue
            try:
                versions[number] = load_model(folder, name, config, threads=self._threads)
            except HlserveError as error:
                failures[number] = str(error)
                _LOG.error("model %r version %d cannot be served: %s", name, number, error)
            except Exception as error:  # the versions beside it are loaded, and answer
                failures[number] = _unexpected(error)
                _LOG.exception("model %r version %d cannot be served", name, number)
        return Loaded(versions, failures)

    def _complete_versions(
        self, repository: Repository, name: str, config: ModelConfig
    ) -> list[int]:
        """The versions on disk; while polling, those without their model yet are being copied."""
        versions = repository.versions(name)
        if self._config.control.mode != "poll":
            return versions
        folder = repository.model_dir(name)
        return [v for v in versions if (folder / str(v) / config.model_file).is_file()]


def close(models: Iterable[ServedModel]) -> None:
    """Ends sessions that nobody uses, and gives their memory back to the system."""
    for model in models:
        model.session.close()
    give_memory_back()


def give_memory_back() -> None:
    """Makes the C library return what it has freed; without glibc this does nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def share_heaps() -> None:
    """Lets threads share two heaps: one each would keep what it once held at its peak.

    For the process that serves, at its start; without glibc this does nothing.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    except (AttributeError, OSError):
        return


def _unexpected(error: Exception) -> str:
    """An error that is not ours in a line; a MemoryError has no words of its own."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _config_text(
    repository: Repository, name: str, overrides: Overrides | None
) -> ConfigText | None:
    if overrides is not None and overrides.config:
        return ConfigText("config of the call", overrides.config, is_json=True)
    path = repository.config_file(name)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"cannot read {path}: {error}") from error
    return ConfigText(path.name, text, is_json=path.name != CONFIG_TEXT_FILE)
