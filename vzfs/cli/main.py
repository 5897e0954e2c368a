"""The `vzfs` command: its subcommands, and what becomes of their errors."""

import sys
from collections.abc import Sequence

import click

from vzfs import __version__
from vzfs.cli import mounting, showing
from vzfs.cli.exits import error_in, exit_code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vzfs")
def vzfs() -> None:
    """Show virtual Zarr repositories as ordinary directories."""


vzfs.add_command(mounting.mount)
vzfs.add_command(mounting.umount)
vzfs.add_command(showing.info)
vzfs.add_command(showing.refs)
vzfs.add_command(showing.log)


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
