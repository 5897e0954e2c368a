"""The `vzfs` command: its subcommands, and what becomes of their errors."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from vzfs import __version__
from vzfs.cli.exits import error_in, exit_code

_COMMANDS: Final = {
    "mount": "mounting",
    "umount": "mounting",
    "info": "showing",
    "refs": "showing",
    "log": "showing",
}
"""Where each subcommand is. They are imported when called: `umount` needs none of what `info` does."""


class _Subcommands(click.Group):
    """The subcommands of `vzfs`, in the order in which users meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"vzfs.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=_Subcommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="vzfs")
def vzfs() -> None:
    """Show virtual Zarr repositories as ordinary directories."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a documented code."""
    try:
        vzfs.main(arguments, prog_name="vzfs", standalone_mode=True)
    except Exception as failure:
        error = error_in(failure)
        if error is None:
            raise
        click.echo(f"vzfs: {error}", err=True)
        sys.exit(exit_code(error))
