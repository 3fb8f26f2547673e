"""Regions of POSIX shared memory that clients on the same machine name instead of sending bytes.

Read and written by ``pread`` and ``pwrite``, never mapped: a client that shortens its object while
the server reads would end a mapping's reader by SIGBUS, and here gets an error. What is read is a
copy, so that values cannot change after they were checked.
"""

from __future__ import annotations

import os
import stat
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from hlserve.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    NotFoundError,
    UnsupportedError,
)

_FOLDER = Path("/dev/shm")
_MAX_KEY_BYTES = 255  # a file name's bound
_MAX_REGIONS = 4096


class _Descriptor:
    """An open file; closed when the last one that uses it lets go, a request in flight perhaps."""

    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of one shared memory object.

    Attributes:
        name: how requests name it.
        key: the object's name, as given to ``shm_open``.
        offset: where it begins in the object, bytes.
        byte_size: its length, bytes.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    _file: _Descriptor = field(repr=False, compare=False)

    def read(self, offset: int, byte_size: int) -> bytes:
        """A copy of a part.

        Raises:
            InvalidRequestError: the part is not within the region, or the object is shorter now.
        """
        self.check(offset, byte_size)
        data = os.pread(self._file.number, byte_size, self.offset + offset)
        if len(data) != byte_size:
            raise InvalidRequestError(
                f"shared memory region {self.name!r} holds only {len(data)} of {byte_size} bytes "
                f"at offset {offset}: its object was shortened"
            )
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Puts bytes into a part.

        Raises:
            InvalidRequestError: the part is not within the region, or the object is shorter now.
        """
        self.check(offset, len(data))
        _check_file_size(self._file.number, self.key, self.offset + offset + len(data))
        os.pwrite(self._file.number, data, self.offset + offset)

    def check(self, offset: int, byte_size: int) -> None:
        """Whether a part lies within the region.

        Raises:
            InvalidRequestError: it does not.
        """
        if offset < 0 or byte_size < 0 or offset + byte_size > self.byte_size:
            raise InvalidRequestError(
                f"shared memory region {self.name!r} has {self.byte_size} bytes, "
                f"got offset {offset} and {byte_size} bytes"
            )


class SharedMemory:
    """The regions that clients have registered.

    Args:
        is_on: False: every call but those that change nothing says that it is off.
    """

    def __init__(self, *, is_on: bool = False) -> None:
        self.is_on = is_on
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Takes a region in; the object must exist.

        Raises:
            UnsupportedError: shared memory is off.
            AlreadyExistsError: the name is taken.
            InvalidRequestError: name, key, offset or size is impossible, or there is no object.
        """
        self._check_on()
        if not name:
            raise InvalidRequestError("a shared memory region needs a name, got ''")
        if name in self._regions:
            raise AlreadyExistsError(
                f"shared memory region {name!r} is registered already, unregister it first"
            )
        if len(self._regions) >= _MAX_REGIONS:
            raise InvalidRequestError(f"{_MAX_REGIONS} shared memory regions are registered")
        if byte_size < 1:
            raise InvalidRequestError(
                f"shared memory region {name!r} has {byte_size} bytes, expected 1 or more"
            )
        file = _Descriptor(_open(key))
        _check_file_size(file.number, key, offset + byte_size)
        self._regions[name] = Region(name, key, offset, byte_size, file)

    def unregister(self, name: str) -> None:
        """Forgets a region, or with an empty name all; requests in flight keep theirs.

        A name that is not known is none to forget, as in Triton: clients clean up blindly.

        Raises:
            UnsupportedError: shared memory is off.
        """
        self._check_on()
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str) -> list[Region]:
        """One region, or with an empty name all.

        Raises:
            UnsupportedError: shared memory is off.
            NotFoundError: no region of that name.
        """
        self._check_on()
        return [self.get(name)] if name else list(self._regions.values())

    def get(self, name: str) -> Region:
        """A region.

        Raises:
            UnsupportedError: shared memory is off.
            NotFoundError: no region of that name.
        """
        self._check_on()
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"shared memory region {name!r} is not registered")
        return region

    def _check_on(self) -> None:
        if not self.is_on:
            raise UnsupportedError(
                "shared memory is off on this server, start it with --system-shared-memory"
            )


def _open(key: str) -> int:
    """The object's descriptor; never a link, never anything but a plain file of the folder."""
    name = key.removeprefix("/")  # shm_open's customary first character
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidRequestError(
            f"shared memory key {key!r} is no name of an object, expected one without '/'"
        )
    if len(name.encode()) > _MAX_KEY_BYTES:
        raise InvalidRequestError(
            f"shared memory key of {len(name.encode())} bytes, expected at most {_MAX_KEY_BYTES}"
        )
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(_FOLDER / name, flags)
    except OSError as error:
        raise InvalidRequestError(
            f"shared memory key {key!r} cannot be opened: {error.strerror}"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequestError(f"shared memory key {key!r} is no shared memory object")
    return descriptor


def _check_file_size(descriptor: int, key: str, needed: int) -> None:
    size = os.fstat(descriptor).st_size
    if needed > size:
        raise InvalidRequestError(
            f"shared memory object {key!r} has {size} bytes, offset and size need {needed}"
        )
