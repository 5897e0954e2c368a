"""Options that several commands share, and the configuration that they make."""

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from vzfs.access import StoreOptions
from vzfs.config import Config, Flags, load

type Command = Callable[..., Any]
type Decorator = Callable[[Command], Command]

_REF: list[Decorator] = [
    click.option("--branch", metavar="NAME", help="Show the tip of this branch (default: main)."),
    click.option("--tag", metavar="NAME", help="Show this tag."),
    click.option(
        "--snapshot", metavar="ID", help="Show this snapshot: its id or a unique beginning."
    ),
    click.option(
        "--as-of",
        metavar="TIME",
        help="Show the branch as it was then (ISO 8601; UTC unless it says otherwise).",
    ),
]
_ACCESS: list[Decorator] = [
    click.option(
        "--allow",
        metavar="PREFIX",
        multiple=True,
        help="Allow virtual chunks below this location to be read. Repeatable. Write = as %3D.",
    ),
    click.option(
        "--map",
        "map_",
        metavar="FROM=TO",
        multiple=True,
        help="Read sources below FROM, as the repository calls them, at TO. Repeatable.",
    ),
]
_STORE: list[Decorator] = [
    click.option("--region", help="Region of S3 buckets that no [[bucket]] describes."),
    click.option("--endpoint", metavar="URL", help="Their endpoint, where they are not on AWS."),
    click.option("--anonymous", is_flag=True, help="Send them no credentials."),
    click.option(
        "--path-style/--virtual-host-style",
        default=None,
        help="Put the bucket into the path (default with --endpoint) or into the host name.",
    ),
    click.option("--allow-http", is_flag=True, help="Allow their endpoint to be without TLS."),
    click.option("--config", metavar="FILE", help="Read this file instead of the user's own."),
    click.option(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="How long getting bytes from a source may take before the read fails (default: 60).",
    ),
]


def _apply(options: list[Decorator], command: Command) -> Command:
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def store_options(command: Command) -> Command:
    """Add the options that say how to reach a repository."""
    return _apply(_STORE, command)


def ref_options(command: Command) -> Command:
    """Add the options that choose a snapshot."""
    return _apply(_REF, command)


def access_options(command: Command) -> Command:
    """Add the options that authorize sources."""
    return _apply(_ACCESS, command)


def configuration(source: str, given: dict[str, Any]) -> Config:
    """Turn what the options of a command gave into a configuration. Raises ConfigError."""
    store = StoreOptions(
        region=given.pop("region"),
        endpoint=given.pop("endpoint"),
        anonymous=given.pop("anonymous"),
        path_style=given.pop("path_style"),
        allow_http=given.pop("allow_http"),
    )
    if "map_" in given:
        given["map"] = given.pop("map_")
    return load(source, Flags(store=store, **given), os.environ)
