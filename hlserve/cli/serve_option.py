"""An option of ``hlserve serve``: on the command line, or in the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def option(name: str, **attributes: Any) -> Callable[[_Command], _Command]:
    """An option that HLSERVE_<NAME> in the environment sets too."""
    variable = "HLSERVE_" + name.partition("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, show_default=True, **attributes)
