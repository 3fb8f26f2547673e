"""Whether serving is compiled is told as it is."""

from click.testing import CliRunner

from hlserve import __version__
from hlserve.cli import cli
from hlserve.serving import turn
from hlserve.serving.builds import is_compiled


def test_what_is_told_is_what_was_imported() -> None:
    assert is_compiled() == (not turn.__file__.endswith(".py"))


def test_the_version_tells_it_too() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    kind = "serving compiled" if is_compiled() else "serving not compiled"
    assert result.output.split(", ") == [f"hlserve {__version__}", f"{kind}\n"]
