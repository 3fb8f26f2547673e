"""A metric of the user's own, ``module:function``: found by its name, and called with care."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hlserve.errors import ConfigError, DataError
from hlserve.nn.param import Array

_NAME = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class UserMetric:
    """``function(outputs, labels) -> float``, rows first; its answer is a finite number.

    Attributes:
        name: ``module:function``.
        function: the user's.
    """

    name: str
    function: Callable[[Array, Array], float]

    @property
    def higher_is_better(self) -> bool:
        """True unless the function carries ``higher_is_better = False``."""
        return bool(getattr(self.function, "higher_is_better", True))

    def __call__(self, outputs: Array, labels: Array) -> float:
        """The metric over all these rows.

        Raises:
            DataError: the function raises on them, or its answer is no finite number.
        """
        where = f"--metric {self.name} on {len(outputs):,} outputs and {len(labels):,} labels"
        try:
            answer = self.function(outputs, labels)
        except Exception as error:  # the user's code may raise anything
            raise DataError(f"{where} raised {type(error).__name__}: {error}") from error
        try:
            value = float(answer)
        except (TypeError, ValueError):
            raise DataError(
                f"{where} answered {_short(answer)} ({type(answer).__name__}), expected a number"
            ) from None
        if not math.isfinite(value):
            raise DataError(f"{where} answered {value}, expected a finite number")
        return value


def is_user_metric(name: str) -> bool:
    """Whether a metric's name asks for a function of the user's."""
    return ":" in name


def load_user_metric(name: str) -> UserMetric:
    """Imports ``module:function``, from the current folder first, then as Python does.

    This runs the module's code, so the name must come from the user, never from a file.

    Raises:
        ConfigError: the name is malformed, or there is no such module or function; or the
            module cannot be imported.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError(f"--metric {name!r}: expected module:function, such as scores:recall")
    module_name, function_name = found["module"], found["function"]
    module = _imported(module_name, name)
    function = getattr(module, function_name, None)
    if not callable(function):
        what = "no function" if function is None else f"{function_name!r} but no function"
        raise ConfigError(f"--metric {name}: module {module_name!r} holds {what} of that name")
    return UserMetric(name, function)


# ----- below


def _imported(module_name: str, name: str) -> object:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"--metric {name}: there is no module {error.name!r} in {here} nor on Python's path"
            ) from error
        raise ConfigError(f"--metric {name}: importing {module_name!r}: {error}") from error
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ConfigError(
            f"--metric {name}: importing {module_name!r} raised {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(here)


def _short(answer: object) -> str:
    text = repr(answer)
    return text if len(text) <= 60 else f"{text[:57]}..."
