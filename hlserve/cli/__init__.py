"""The ``hlserve`` command: one verb a file, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click

from hlserve import __version__
from hlserve.errors import BoundNotMetError, ConfigError, HlserveError

# verb -> module under hlserve.cli; every module holds a click command named ``command``.
VERBS = {
    "train": "train",
    "search": "search",
    "compress": "compress",
    "replay": "replay",
    "inspect": "inspect",
    "doctor": "doctor",
    "serve": "serve",
    "models": "models",
    "publish": "publish",
    "evaluate": "evaluate",
    "predict": "predict",
    "bench": "bench",
    "health": "health",
    "datasets": "datasets",
    "demo": "demo",
}

_INSTALL = 'pip install "hlserve[cpu]" (or "hlserve[gpu]")'

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_BOUND_NOT_MET = 0, 1, 2, 3


class _LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is used or its help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"hlserve.cli.{VERBS[cmd_name]}")
        command: click.Command = module.command
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HLSERVE"},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _option, is_asked: _version(ctx) if is_asked else None,
    help="Show the version, and whether serving is compiled.",
)
def cli() -> None:
    """Train a network with hidden layers, compress it without losing accuracy, and serve it."""


def _version(ctx: click.Context) -> None:
    from hlserve.serving.builds import is_compiled

    kind = "compiled" if is_compiled() else "not compiled"
    click.echo(f"hlserve {__version__}, serving {kind}")
    ctx.exit()


def exit_code(error: HlserveError) -> int:
    """The process exit code for an error: 2 wrong usage, 3 bound not met, 1 anything else."""
    if isinstance(error, BoundNotMetError):
        return EXIT_BOUND_NOT_MET
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_FAILED


def run(command: click.Command, args: Sequence[str] | None = None, **extra: Any) -> int:
    """Runs a click command and answers its exit code; a user's mistake is one line, no trace."""
    try:
        result = command.main(args=args, standalone_mode=False, **extra)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except HlserveError as error:
        click.echo(f"error: {error}", err=True)
        return exit_code(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("hlserve", "compress"):
            raise
        click.echo(f"error: {error.name} is not installed; type: {_INSTALL}", err=True)
        return EXIT_FAILED
    return result if isinstance(result, int) else EXIT_DONE


def main() -> None:
    """The console script's entry."""
    raise SystemExit(run(cli, prog_name="hlserve"))
