"""The command line: `vzfs mount`, `umount`, `info`, `refs` and `log`."""

from vzfs.cli.main import main

__all__ = ["main"]
