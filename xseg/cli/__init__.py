"""The command line: one thin file per command. Importing this imports no torch."""

from xseg.cli import explain, info, merge, methods  # noqa: F401 - each registers its commands
from xseg.cli.command import app, main

__all__ = ["app", "main"]
