"""``python -m hlserve`` is the ``hlserve`` command."""

from hlserve.cli import main

main()
