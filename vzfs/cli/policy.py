"""`vzfs policy`: who may read what, asked, explained and changed in the configuration files."""

import dataclasses
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import trio
from rich.table import Table

from vzfs import mounttable
from vzfs.access import (
    Access,
    AccessPolicy,
    BucketConfig,
    StoreOptions,
    Verdict,
    Visibility,
    in_force,
)
from vzfs.cli import running
from vzfs.cli.exits import DENIED
from vzfs.cli.options import (
    access_options,
    configuration,
    reach_options,
    store_options,
    take_store,
)
from vzfs.cli.terminal import console, plain, waiting
from vzfs.config import editing, files
from vzfs.config.files import PolicyEntry, is_nickname, user_file
from vzfs.config.loading import load_rules
from vzfs.config.rules import Rules, subprefix_of
from vzfs.config.values import absolute, checked_store, readable_prefix
from vzfs.errors import AccessDenied, ConfigError, ErrorKind
from vzfs.model.location import Prefix
from vzfs.model.snapshot import VirtualChunkContainer
from vzfs.mount import authorized, open_repository_of

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
_CONFIG = click.option(
    "--config", metavar="FILE", help="The file to use in the place of the user's own."
)
_SYSTEM = click.option(
    "--system", metavar="NAME", help="Change /etc/vzfs/conf.d/NAME.toml, for all users."
)


@click.group(short_help="Show and change who may read what.")
def policy() -> None:
    """Show, change and explain the access policies: which virtual chunks may be read.

    A policy names a bucket of a configuration file, or a part of it, and whether mounts that are
    open to all users may read it too.
    """


# -- list --------------------------------------------------------------------------------------


@policy.command("list", short_help="Show all buckets and policies.")
@_CONFIG
@_JSON
def list_(*, config: str | None, as_json: bool) -> None:
    """Show every bucket and policy, the file that it stands in, and whether it counts."""
    rules = load_rules(config, os.environ, lenient=True)
    counting = {id(p) for p in in_force(rules.policies)}
    buckets: list[dict[str, Any]] = [
        {
            "nickname": bucket.nickname or None,
            "prefix": str(bucket.prefix),
            "options": _options(bucket.store),
            "file": bucket.origin,
            "effective": not rules.is_overridden(bucket),
        }
        for bucket in rules.buckets
    ]
    policies: list[dict[str, Any]] = [
        _as_json(p) | {"effective": id(p) in counting} for p in rules.policies
    ]
    if as_json:
        found = {
            "limited_by": rules.limited_by or None,
            "buckets": buckets,
            "policies": policies,
            "left_out": list(map(str, rules.left_out)),
        }
        click.echo(json.dumps(found, indent=2))
        return
    if not buckets:
        click.echo("no bucket and no policy is configured")
    if buckets:
        table = Table("bucket", "below", "options", "counts", "file", box=None, pad_edge=False)
        for said in buckets:
            options = ", ".join(f"{k}={_word(v)}" for k, v in said["options"].items())
            _row(table, said["nickname"] or "-", said["prefix"], options, said)
        console().print(table)
    if policies:
        table = Table("policy", "allows", "for", "counts", "file", box=None, pad_edge=False)
        for said in policies:
            who = "all users" if said["public"] else "yourself"
            _row(table, said["bucket"], said["prefix"], who, said)
        console().print(table)
    for error in rules.left_out:
        click.echo(f"does not count: {error}")
    if rules.limited_by:
        click.echo(f"users may allow no more than this: {rules.limited_by}")


def _row(table: Table, name: str, prefix: str, what: str, said: dict[str, Any]) -> None:
    counts = "yes" if said["effective"] else "overridden"
    table.add_row(*map(plain, (name, prefix, what, counts, said["file"])))


def _options(store: StoreOptions) -> dict[str, Any]:
    """Return the options that are not what they are anyway, under the names that files use."""
    default = StoreOptions()
    return {
        field.name.replace("_", "-"): value
        for field in dataclasses.fields(store)
        if (value := getattr(store, field.name)) != getattr(default, field.name)
    }


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _as_json(found: AccessPolicy) -> dict[str, Any]:
    return {
        "bucket": found.nickname or None,
        "subprefix": found.subprefix,
        "public": found.public,
        "prefix": str(found.prefix),
        "file": found.origin,
    }


# -- set and delete ----------------------------------------------------------------------------


@policy.command("set", short_help="Allow a prefix to be read.")
@click.argument("prefix")
@click.option("--nickname", metavar="NAME", help="The bucket to use, or the name of a new one.")
@click.option(
    "--public/--private",
    default=None,
    help="Whether mounts that are open to all users may read it too (default: private).",
)
@reach_options
@click.option(
    "--address",
    "addresses",
    metavar="NETWORK",
    multiple=True,
    help="A network into which names of servers may lead, though it is loopback or link-local. "
    "Repeatable.",
)
@_CONFIG
@_SYSTEM
def set_(
    prefix: str,
    *,
    nickname: str | None,
    public: bool | None,
    config: str | None,
    system: str | None,
    **given: Any,  # noqa: ANN401 -- options
) -> None:
    """Allow virtual chunks below PREFIX to be read, in your configuration file.

    The bucket that describes PREFIX most closely is used, unless options say how to reach it; then,
    or where there is none, a bucket is written too.
    """
    place = readable_prefix(absolute(prefix))
    store = checked_store(take_store(given))
    target = _target(config, system)
    entry = PolicyEntry("")

    def change(text: str) -> str:
        nonlocal entry
        rules = load_rules(config, os.environ, {target: text})
        bucket, is_new = _bucket(place, nickname, store, rules, target)
        if is_new or store != StoreOptions():
            text = editing.put_bucket(text, bucket, _options(store))
        subprefix = subprefix_of(bucket.prefix, place)
        before = _same(rules, target, bucket.nickname, place)
        if before is not None:
            subprefix = before.subprefix
        is_public = before is not None and before.public if public is None else public
        entry = PolicyEntry(bucket.nickname, subprefix, is_public)
        text = editing.put_policy(text, entry)
        load_rules(config, os.environ, {target: text})
        return text

    editing.rewrite(target, change)
    click.echo(f"{place} may be read, by bucket {entry}: written to {target}")
    _tell_mounts()


@policy.command("delete", short_help="Take a policy back.")
@click.argument("nickname")
@click.option("--subprefix", default="", metavar="PATH", help="As the policy says it.")
@click.option("--public/--private", default=False, help="As the policy says it.")
@_CONFIG
@_SYSTEM
def delete(
    nickname: str, *, subprefix: str, public: bool, config: str | None, system: str | None
) -> None:
    """Delete the policy of the bucket NICKNAME that has this subprefix and is public, or private.

    All three must be what the policy says. The bucket stays.
    """
    target = _target(config, system)
    entry = PolicyEntry(nickname, subprefix, public)

    def change(text: str) -> str:
        rules = load_rules(config, os.environ, {target: text}, lenient=True)
        read = files.read_files(config, os.environ, {target: text})
        if not any(entry in file.policies for file in read if file.path == target):
            raise _no_such_policy(entry, rules, target)
        text = editing.drop_policy(text, entry)
        load_rules(config, os.environ, {target: text}, lenient=True)
        return text

    editing.rewrite(target, change)
    click.echo(f"deleted the policy of bucket {entry} from {target}")
    _tell_mounts()


def _entry(found: AccessPolicy) -> PolicyEntry:
    return PolicyEntry(found.nickname, found.subprefix, found.public)


def _no_such_policy(entry: PolicyEntry, rules: Rules, target: Path) -> ConfigError:
    there = [
        f"{_entry(p)} in {p.origin}" for p in rules.policies if p.nickname == entry.bucket
    ] or [f"{_entry(p)} in {p.origin}" for p in rules.policies]
    return ConfigError(
        ErrorKind.BAD_USAGE,
        f"there is no policy of bucket {entry}",
        where=str(target),
        advice=f"there are: {'; '.join(there)}" if there else "there is no policy at all",
    )


def _target(config: str | None, system: str | None) -> Path:
    """Return the file to change."""
    if system is not None:
        if config is not None:
            raise click.UsageError("--config and --system exclude each other")
        if not is_nickname(system) or system.startswith("."):
            raise click.UsageError(f"{system!r} is not the name of a file")
        return files.SYSTEM_FOLDER / f"{system}.toml"
    path = user_file(config, os.environ)
    if path is None:
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            "there is no home directory for a configuration file",
            advice="name the file with --config",
        )
    return path


def _bucket(
    place: Prefix, nickname: str | None, store: StoreOptions, rules: Rules, target: Path
) -> tuple[BucketConfig, bool]:
    """Return the bucket for a policy about *place*, and whether it is to be written."""
    if files.in_system_folders(target):
        theirs = [b for b in rules.buckets if b.origin in rules.administrators]
        rules = dataclasses.replace(rules, buckets=theirs)
    if nickname is not None:
        if not is_nickname(nickname):
            raise click.UsageError(f"{nickname!r} is no nickname")
        own_first = sorted(rules.buckets, key=lambda b: b.origin != str(target))
        found = next((b for b in own_first if b.nickname == nickname), None)
        if found is None:
            return BucketConfig(place, store, nickname, str(target)), True
        _check_bucket(found, place, store, target)
        return found, False
    found = rules.bucket_for(place)
    is_own = found is not None and found.origin == str(target)
    is_meant = found is not None and (store == StoreOptions() or (is_own and found.prefix == place))
    if found is None or not is_meant:
        return BucketConfig(place, store, _fresh_nickname(place, rules), str(target)), True
    if found.nickname:
        return found, False
    if not is_own:
        raise ConfigError(
            ErrorKind.BAD_CONFIG,
            f"the bucket that describes {place} has no nickname",
            where=found.origin,
            advice="write nickname = there",
        )
    return dataclasses.replace(found, nickname=_fresh_nickname(found.prefix, rules)), True


def _check_bucket(found: BucketConfig, place: Prefix, store: StoreOptions, target: Path) -> None:
    if not found.prefix.covers(place):
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"the bucket {found.nickname!r} does not cover {place}",
            where=found.origin,
            advice=f"it describes {found.prefix}; choose another nickname",
        )
    if store != StoreOptions() and found.origin != str(target):
        raise ConfigError(
            ErrorKind.BAD_USAGE,
            f"the bucket {found.nickname!r} stands in another file",
            where=found.origin,
            advice="change its options there, or choose another nickname",
        )


def _fresh_nickname(place: Prefix, rules: Rules) -> str:
    """Make a nickname of a prefix that no bucket has."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{place.authority}/{place.key}").strip("-.")
    taken = {bucket.nickname for bucket in rules.buckets}
    name = words[-56:].strip("-.") or "bucket"
    names = (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3)))
    return next(n for n in names if n not in taken)


def _same(rules: Rules, target: Path, nickname: str, place: Prefix) -> AccessPolicy | None:
    """Return the policy in *target* that is about the same bucket and place."""
    return next(
        (
            p
            for p in rules.policies
            if (p.origin, p.nickname, p.prefix) == (str(target), nickname, place)
        ),
        None,
    )


def _tell_mounts() -> None:
    """Say how mounts that run come to know."""
    found = dict(_running())
    if not found:
        click.echo("mounts that run already read it on SIGHUP (systemctl reload, kill -HUP)")
        return
    places = ", ".join(dict.fromkeys(found.values()))
    pids = " ".join(map(str, sorted(found)))
    click.echo(f"mounted are {places}: to have them read it, kill -HUP {pids} (systemctl reload)")


def _running() -> Iterator[tuple[int, str]]:
    """Yield the daemons of this user with their mountpoints; no mount is touched."""
    for mounted in mounttable.parse(Path("/proc/self/mountinfo").read_bytes()):
        if mounted.fstype == mounttable.FSTYPE:
            for daemon in running.daemons_at(Path(mounted.mountpoint)):
                yield daemon.pid, mounted.mountpoint


# -- check -------------------------------------------------------------------------------------


@policy.command(short_help="Explain whether a location may be read.")
@click.argument("location")
@click.option(
    "--mount",
    "mountpoint",
    metavar="MOUNTPOINT",
    type=click.Path(path_type=Path),
    help="Ask for this mount: its repository, its options, and the files as they are now.",
)
@click.option("--source", metavar="SOURCE", help="Ask for this repository.")
@click.option("--public", is_flag=True, help="Ask for a mount that is open to all users.")
@access_options
@store_options
@_JSON
def check(
    location: str,
    *,
    mountpoint: Path | None,
    source: str | None,
    public: bool,
    as_json: bool,
    **given: Any,  # noqa: ANN401 -- options
) -> int:
    """Explain which rules allow the virtual chunks at LOCATION to be read, or deny it.

    Two must agree: a container of the repository, and a policy. Without --mount and --source only
    the policies are asked. Exits with 0 if it may be read, and with 4 if not.
    """
    if mountpoint is not None and source is not None:
        raise click.UsageError("--mount and --source exclude each other")
    visibility = Visibility.PUBLIC if public else Visibility.PRIVATE
    if mountpoint is not None:
        mounted = running.find(mountpoint)
        config = running.configuration_of(mounted, given)
        visibility = Visibility.PUBLIC if public else mounted.visibility
    else:
        # Where no repository is named none is opened, and that of the working directory never is.
        config = configuration(source or os.curdir, given)
    rules = load_rules(given.get("config"), os.environ)
    access = config.access(visibility)
    has_repository = mountpoint is not None or source is not None
    if has_repository:
        with waiting(f"opening {config.source}"):
            repository = trio.run(open_repository_of, config)
        access = authorized(access, repository)
        verdict = access.examine(absolute(location))
    else:
        verdict = _examine_alone(access, absolute(location))
    report = _report(verdict, rules, visibility, has_repository=has_repository)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print_report(absolute(location), report)
    return DENIED if verdict.refusal else 0


def _examine_alone(access: Access, text: str) -> Verdict:
    """Ask the policies alone: as if a repository declared a container of the place around."""
    if text.lower().startswith("vcc://"):
        raise click.UsageError("a container's name needs its repository: give --mount or --source")
    verdict = access.with_containers([VirtualChunkContainer(posixpath.dirname(text))]).examine(text)
    if verdict.container is not None:
        return verdict
    return access.with_containers([VirtualChunkContainer(text)]).examine(text)


def _report(
    verdict: Verdict, rules: Rules, visibility: Visibility, *, has_repository: bool
) -> dict[str, Any]:
    refusal = verdict.refusal
    return {
        "location": None if verdict.location is None else str(verdict.location),
        "place": None if verdict.place is None else str(verdict.place),
        "visibility": visibility,
        "allowed": refusal is None,
        "container": verdict.container.url_prefix if has_repository and verdict.container else None,
        "container_asked": has_repository,
        "policy": None if verdict.policy is None else _as_json(verdict.policy),
        "reason": None if refusal is None else refusal.kind,
        "message": None if refusal is None else refusal.what,
        "advice": None if refusal is None else _advice(refusal, rules),
    }


def _advice(refusal: AccessDenied, rules: Rules) -> str:
    """Say what to write, and where, or who can."""
    if refusal.kind is ErrorKind.NOT_ALLOWED and rules.limited_by:
        return f"the administrator must allow it: {rules.limited_by} binds users"
    return refusal.advice


def _print_report(text: str, report: dict[str, Any]) -> None:
    def say(name: str, value: str) -> None:
        console().print(plain(f"{name:<10} {value}"), highlight=False)

    say("location", report["location"] or text)
    if report["place"] != report["location"]:
        say("read at", report["place"])
    if report["container_asked"]:
        say("container", report["container"] or "none")
    else:
        say("container", "not asked for: no --mount and no --source")
    found = report["policy"]
    if found is None:
        say("policy", "none")
    else:
        who = "public" if found["public"] else "private"
        bucket = f"bucket {found['bucket']}, " if found["bucket"] else ""
        say("policy", f"{found['prefix']} ({bucket}{who}, {found['file']})")
    say("mount", report["visibility"])
    if report["allowed"]:
        say("verdict", "it may be read")
        return
    say("verdict", f"it may not be read: {report['message']}")
    if report["advice"]:
        say("to change", report["advice"])
