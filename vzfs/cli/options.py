"""Options that several commands share, and the configuration that they make."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from vzfs.access import StoreOptions
from vzfs.config import (
    DEFAULT_FOLLOW,
    DEFAULT_VIEW,
    DEFAULT_ZARR_FORMAT,
    VIEW_NAMES,
    ZARR_FORMATS,
    Config,
    Flags,
    load,
)

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
    click.option(
        "--concat",
        metavar="DIM",
        help="Join files along this dimension, where that is exact (default: a group for each).",
    ),
]
_ACCESS: list[Decorator] = [
    click.option(
        "--allow",
        metavar="PREFIX[=NICKNAME]",
        multiple=True,
        help="Allow virtual chunks below this location to be read, as the bucket of that nickname "
        "is. Repeatable. Write = inside a location as %3D.",
    ),
    click.option(
        "--map",
        "map_",
        metavar="FROM=TO",
        multiple=True,
        help="Read sources below FROM, as the repository calls them, at TO. Repeatable.",
    ),
]
_REACH: list[Decorator] = [
    click.option("--region", help="Region of S3 buckets that no [[bucket]] describes."),
    click.option("--endpoint", metavar="URL", help="Their endpoint, where they are not on AWS."),
    click.option("--anonymous", is_flag=True, help="Send them no credentials."),
    click.option(
        "--credentials",
        metavar="FROM",
        help="Where to get credentials: environment, profile:NAME or file:PATH. Never a secret "
        "itself (default: what is usual for the store).",
    ),
    click.option("--account", metavar="NAME", help="The storage account, on Azure."),
    click.option("--requester-pays", is_flag=True, help="Agree to pay for requests to S3."),
    click.option(
        "--billing-project", metavar="ID", help="Who pays for requests to Google Cloud Storage."
    ),
    click.option(
        "--path-style/--virtual-host-style",
        default=None,
        help="Put the bucket into the path (default with --endpoint) or into the host name.",
    ),
    click.option("--allow-http", is_flag=True, help="Allow their endpoint to be without TLS."),
]
_STORE: list[Decorator] = [
    *_REACH,
    click.option("--config", metavar="FILE", help="Read this file instead of the user's own."),
    click.option(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="How long getting bytes from a source may take before the read fails (default: 60).",
    ),
]

_LIMITS: list[Decorator] = [
    click.option(
        "--offline", is_flag=True, help="Serve what the cache has, and ask no source for more."
    ),
    click.option(
        "--max-egress",
        metavar="SIZE[/day]",
        help="Fetch no more bytes than this, in all or each day (default: any amount).",
    ),
]

_VIEW: list[Decorator] = [
    click.option(
        "--view",
        type=click.Choice(VIEW_NAMES),
        help="How to say the snapshot: byte for byte as it is stored, in words that more readers "
        f"know, or with its chunks decoded (default: {DEFAULT_VIEW}).",
    ),
    click.option(
        "--zarr-format",
        type=click.Choice(ZARR_FORMATS),
        help=f"As which version of Zarr (default: {DEFAULT_ZARR_FORMAT}).",
    ),
]
_CONSOLIDATED = click.option(
    "--consolidated/--no-consolidated",
    default=None,
    help="Put the documents of all nodes below a group into its own (default), but in the view "
    "that is as stored.",
)
_FOLLOW = click.option(
    "--follow",
    metavar="[SECONDS]",
    help="Show new commits of the branch, and look for them every so many seconds, written "
    f"--follow=SECONDS (default: {DEFAULT_FOLLOW:g}).",
)


def _apply(options: list[Decorator], command: Command) -> Command:
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def reach_options(command: Command) -> Command:
    """Add the options that say how to reach a store."""
    return _apply(_REACH, command)


def limit_options(command: Command) -> Command:
    """Add the options that say what may be fetched at all."""
    return _apply(_LIMITS, command)


def store_options(command: Command) -> Command:
    """Add the options that say how to reach a repository."""
    return _apply(_STORE, command)


def view_options(command: Command) -> Command:
    """Add the options that choose a view."""
    return _apply(_VIEW, command)


def show_options(command: Command) -> Command:
    """Add the options that say what a mount shows besides its snapshot."""
    return _apply([*_VIEW, _CONSOLIDATED, _FOLLOW], command)


def ref_options(command: Command) -> Command:
    """Add the options that choose a snapshot, or how files become one."""
    return _apply(_REF, command)


def access_options(command: Command) -> Command:
    """Add the options that authorize sources."""
    return _apply(_ACCESS, command)


def take_store(given: dict[str, Any]) -> StoreOptions:
    """Take what `reach_options` gave out of *given*."""
    names = {field.name for field in dataclasses.fields(StoreOptions)} & given.keys()
    return StoreOptions(**{name: given.pop(name) for name in names})


def configuration(
    source: str | Sequence[str],
    given: dict[str, Any],
    environ: Mapping[str, str] = os.environ,
    *,
    lenient: bool = False,
) -> Config:
    """Turn what the options of a command gave into a configuration, as `load` does. Raises ConfigError."""
    store = take_store(given)
    if "map_" in given:
        given["map"] = given.pop("map_")
    return load(source, Flags(store=store, **given), environ, lenient=lenient)
