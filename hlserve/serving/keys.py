"""API keys: who may call which group of RPCs; the file is read again when it changes.

A key file is TOML or JSON, a list of keys for each group; ``all`` stands for every group::

    all = ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    inference = ["a key in plain text", "another"]
    metadata = ["another"]

A group that is not listed takes the keys of ``all`` only, except health, which then needs none.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from hlserve.errors import ConfigError
from hlserve.rpcs import Group
from hlserve.serving.file_stamps import file_stamp

ALL_GROUPS = "all"
OPEN_GROUP: Group = "health"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_OTHERS_MAY_READ = 0o077

_LOG = logging.getLogger(__name__)

# group -> SHA-256 digests of its keys
Digests = Mapping[str, tuple[bytes, ...]]


class ApiKeys:
    """The keys in force; a wrong new file is logged once and the old keys stay.

    Args:
        path: the key file.

    Raises:
        ConfigError: it cannot be read, or is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = file_stamp(path)
        self._digests = read_keys(path)

    def is_open(self, group: Group) -> bool:
        """Whether a group's calls need no key."""
        return group == OPEN_GROUP and group not in self._digests

    def groups_of(self, key: str) -> frozenset[str]:
        """The groups that a key opens; none: it is not known.

        Every key is compared, each in constant time: how long it takes tells nothing.
        """
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        found = set()
        for group, known in self._digests.items():
            for candidate in known:
                if hmac.compare_digest(candidate, digest):
                    found.add(group)
        return frozenset(found)

    def refresh(self) -> None:
        """Reads the file again where it changed; never raises."""
        stamp = file_stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = read_keys(self._path)
        except ConfigError as error:
            _LOG.error("the API keys changed and are wrong, the old ones stay: %s", error)
        else:
            _LOG.info("the API keys changed: %s was read again", self._path)


def read_keys(path: Path) -> Digests:
    """Digests by group.

    Raises:
        ConfigError: the file cannot be read, or is no such file; no message quotes a key.
    """
    try:
        if path.stat().st_mode & _OTHERS_MAY_READ:
            _LOG.warning("API key file %s can be read by others: chmod 600 it", path)
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the API key file {path}: {error.strerror}") from error
    groups = _parsed(path, content)
    known = (ALL_GROUPS, *get_args(Group))
    for group in groups:
        if group not in known:
            raise ConfigError(f"API key file {path}: unknown group {group!r}, expected {known}")
    return {group: _digests(path, group, keys) for group, keys in groups.items()}


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        text = content.decode()
        groups = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        # The parser's words could quote a key, so only the kind of the trouble is told.
        raise ConfigError(
            f'API key file {path} is no {kind}, expected lines like inference = ["key"]'
        ) from error
    if not isinstance(groups, dict) or not groups:
        raise ConfigError(f'API key file {path} names no group, expected such as all = ["key"]')
    return groups


def _digests(path: Path, group: str, keys: Any) -> tuple[bytes, ...]:
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        raise ConfigError(f'API key file {path}: {group} is no list of keys, expected ["key"]')
    return tuple(_digest(key) for key in keys)


def _digest(key: str) -> bytes:
    """Of a plain key, or the one that is written down instead of it."""
    given = _DIGEST.fullmatch(key)
    return bytes.fromhex(given[1]) if given else hashlib.sha256(key.encode()).digest()
