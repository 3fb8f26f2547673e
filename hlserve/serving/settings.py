"""What can be asked and changed while the server runs: its log, and what is traced.

Names and values are Triton's (LogSettings, TraceSetting). The log's levels are Python's own, of the
logger ``hlserve``, so there is one truth however they were set.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hlserve.errors import InvalidRequestError, UnavailableError

LogValue = bool | int | str

_LOGGER = logging.getLogger("hlserve")
_LOG_FORMAT = "ISO8601"  # how lines tell the time
_TRACE_LEVELS = ("OFF", "TIMESTAMPS")
_MAX_INTEGER = 2**31 - 1
_FIELDS = {"trace_level": "level", "trace_rate": "rate", "trace_count": "count"}


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """What is traced of the requests to one model, or to all.

    Attributes:
        level: ``OFF`` or ``TIMESTAMPS``.
        rate: one request of so many is traced; 0, which only the start of a server can say: none
            but those whose caller traces them.
        count: how many more are traced; -1: no bound.
    """

    level: str = "OFF"
    rate: int = 1000
    count: int = -1


class ServerSettings:
    """The settings of one process; changed on the event loop only.

    Args:
        trace: what is traced from the start, for all models.
        can_trace: whether what is traced can be changed by call.
    """

    def __init__(self, trace: TraceSettings | None = None, *, can_trace: bool = False) -> None:
        self.can_trace = can_trace
        self._initial = trace or TraceSettings()
        self._all_models = self._initial
        self._by_model: dict[str, dict[str, tuple[str, ...]]] = {}
        self._verbose_level = 0

    def log(self) -> dict[str, LogValue]:
        """The log's settings as they are."""
        level = _LOGGER.getEffectiveLevel()
        return {
            "log_file": "",
            "log_info": level <= logging.INFO,
            "log_warning": level <= logging.WARNING,
            "log_error": level <= logging.ERROR,
            "log_verbose_level": max(self._verbose_level, 1) if level <= logging.DEBUG else 0,
            "log_format": _LOG_FORMAT,
        }

    def change_log(self, changes: Mapping[str, LogValue]) -> None:
        """Changes what is named, all or nothing.

        Raises:
            InvalidRequestError: a setting is unknown, of a wrong kind, or cannot be changed.
        """
        for name, value in changes.items():
            _check_log_change(name, value)
        wanted = {**self.log(), **changes}
        level = _level(wanted)
        _LOGGER.setLevel(level)
        self._verbose_level = int(wanted["log_verbose_level"])

    def trace(self, model: str = "") -> TraceSettings:
        """What is traced of a model; empty: what holds for models without settings of their own."""
        return _traced(self._all_models, self._by_model.get(model, {}))

    def traced(self, model: str) -> None:
        """Counts a request that was traced against the count that held for it."""
        count = self.trace(model).count
        if count <= 0:
            return
        own = self._by_model.get(model, {})
        if "trace_count" in own:
            own["trace_count"] = (str(count - 1),)
        else:
            self._all_models = replace(self._all_models, count=count - 1)

    def trace_values(self, model: str = "") -> dict[str, tuple[str, ...]]:
        """The same, as Triton's TraceSetting names and spells it."""
        settings = self.trace(model)
        return {
            "trace_level": (settings.level,),
            "trace_rate": (str(settings.rate),),
            "trace_count": (str(settings.count),),
            "log_frequency": ("0",),
            "trace_file": ("",),
            "trace_mode": ("opentelemetry",),
        }

    def change_trace(self, changes: Mapping[str, Sequence[str]], model: str = "") -> None:
        """Changes what is named, of one model or of all; no value: back to what held before.

        Raises:
            UnavailableError: what is traced cannot be changed on this server.
            InvalidRequestError: a setting is unknown, impossible, or cannot be changed.
        """
        if not self.can_trace:
            raise UnavailableError(
                "what is traced cannot be changed by call on this server, only at its start"
            )
        for name in changes:
            _check_trace_name(name)
        given = {name: tuple(values) for name, values in changes.items() if values}
        cleared = [name for name in changes if name not in given]
        if model:
            own = {**self._by_model.get(model, {}), **given}
            own = {name: values for name, values in own.items() if name not in cleared}
            _traced(self._all_models, own)
            self._by_model[model] = own
            return
        # Copied, not spelled and read again: the start may say what a call may not, such as rate 0.
        initial = {_FIELDS[name]: getattr(self._initial, _FIELDS[name]) for name in cleared}
        self._all_models = replace(_traced(self._all_models, given), **initial)


# ----------------------------------------------------------------------------- the log


def _check_log_change(name: str, value: LogValue) -> None:
    if name == "log_file":
        raise InvalidRequestError("log_file cannot be changed over the network")
    if name in ("log_info", "log_warning", "log_error"):
        if not isinstance(value, bool):
            raise InvalidRequestError(f"{name} is {value!r}, expected a bool")
    elif name == "log_verbose_level":
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequestError(f"{name} is {value!r}, expected an unsigned integer")
    elif name == "log_format":
        if value != _LOG_FORMAT:
            raise InvalidRequestError(
                f"log_format is {value!r}, expected {_LOG_FORMAT!r}: it cannot be changed while "
                "the server runs"
            )
    else:
        raise InvalidRequestError(
            f"unknown log setting {name!r}, expected log_info, log_warning, log_error "
            "or log_verbose_level"
        )


def _level(wanted: Mapping[str, LogValue]) -> int:
    """Python's level for Triton's switches; what is more severe than a shown line is shown too."""
    if wanted["log_verbose_level"]:
        return logging.DEBUG
    for name, level in (
        ("log_info", logging.INFO),
        ("log_warning", logging.WARNING),
        ("log_error", logging.ERROR),
    ):
        if wanted[name]:
            return level
    return logging.CRITICAL


# ----------------------------------------------------------------------------- traces


def _check_trace_name(name: str) -> None:
    if name == "trace_file":
        raise InvalidRequestError("trace_file cannot be changed over the network")
    if name in ("trace_mode", "log_frequency"):
        raise InvalidRequestError(f"{name} cannot be changed while the server runs")
    if name not in _FIELDS:
        raise InvalidRequestError(
            f"unknown trace setting {name!r}, expected trace_level, trace_rate or trace_count"
        )


def _traced(base: TraceSettings, changes: Mapping[str, tuple[str, ...]]) -> TraceSettings:
    settings = base
    for name, values in changes.items():
        if len(values) != 1:
            raise InvalidRequestError(f"{name} has {len(values)} values, expected one")
        if name == "trace_level":
            settings = replace(settings, level=_trace_level(values[0]))
        elif name == "trace_rate":
            settings = replace(settings, rate=_integer(name, values[0], 1))
        else:
            settings = replace(settings, count=_integer(name, values[0], -1))
    return settings


def _trace_level(value: str) -> str:
    if value not in _TRACE_LEVELS:
        raise InvalidRequestError(f"trace_level is {value!r}, expected one of {_TRACE_LEVELS}")
    return value


def _integer(name: str, text: str, least: int) -> int:
    if not re.fullmatch(r"-?[0-9]{1,10}", text) or not least <= int(text) <= _MAX_INTEGER:
        raise InvalidRequestError(f"{name} is {text!r}, expected an integer, {least} or more")
    return int(text)
