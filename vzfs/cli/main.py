"""The `vzfs` command: its subcommands, and what becomes of their errors."""

import importlib
import sys
from typing import Final

import click

from vzfs import __version__
from vzfs.cli.exits import INTERRUPTED, USAGE, error_in, exit_code
from vzfs.cli.starting import importing

_COMMANDS: Final = {
    "mount": "mounting",
    "umount": "mounting",
    "info": "showing",
    "refs": "showing",
    "log": "showing",
    "stat": "stat",
    "map": "map",
    "verify": "verify",
    "warm": "warm",
    "export": "exporting",
    "policy": "policy",
    "cache": "cache",
    "ingest": "ingesting",
}
"""Where each subcommand is. They are imported when called: `umount` needs none of what `info`
does."""


class _Subcommands(click.Group):
    """The subcommands of `vzfs`, in the order in which users meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            import difflib

            close = difflib.get_close_matches(cmd_name, _COMMANDS, 1)
            ctx.fail(
                f"there is no command {cmd_name!r}"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
        with importing():
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


def main() -> None:
    """Run the command line of this process and exit with a documented code; an error is one line."""
    try:
        code = vzfs.main(prog_name="vzfs", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as wanted:
        click.echo(wanted.format_message(), err=True)
        sys.exit(USAGE)
    except click.ClickException as wrong:
        command = (
            wrong.ctx.command_path if isinstance(wrong, click.UsageError) and wrong.ctx else "vzfs"
        )
        message = " ".join(wrong.format_message().split()).removesuffix(".")
        click.echo(f"vzfs: {message}: see `{command} --help`", err=True)
        sys.exit(USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("vzfs: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except Exception as failure:
        error = error_in(failure)
        if error is None:
            raise
        click.echo(f"vzfs: {error}", err=True)
        sys.exit(exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)
