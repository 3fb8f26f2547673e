"""``python -m compress`` takes what ``hlserve compress`` takes."""

from hlserve.cli import run
from hlserve.cli.compress import command

raise SystemExit(run(command, prog_name="python -m compress"))
