"""Files that hold a secret: TOML with exactly the keys of one kind of credential.

    access-key-id, secret-access-key, and perhaps session-token     S3
    account-key                                                     Azure, the key of the account
    sas-token                                                       Azure, a shared access signature
    bearer-token                                                    HTTP, Google, Azure
    username, password                                              HTTP

Such a file must be regular, belong to whoever runs vzfs or to root, and give nobody else a
permission. It may be reached through links, as the secrets of containers are, since what is checked
is the file that was opened. No error says anything of its content.
"""

import os
import re
import stat
from pathlib import Path
from typing import Final

from vzfs.source.credentials.lease import Grant
from vzfs.source.credentials.values import (
    AwsKeys,
    AzureKey,
    AzureSas,
    Basic,
    Bearer,
    account_key,
    bad,
    basic,
    clean,
    shared_access,
)

MAX_SIZE: Final = 64 * 1024
"""Bytes that a secret file may have."""

_SHAPES: Final = (
    frozenset({"access-key-id", "secret-access-key"}),
    frozenset({"access-key-id", "secret-access-key", "session-token"}),
    frozenset({"account-key"}),
    frozenset({"sas-token"}),
    frozenset({"bearer-token"}),
    frozenset({"username", "password"}),
)
_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)\Z")

type Secret = AwsKeys | AzureKey | AzureSas | Bearer | Basic


class SecretFile:
    """One file, read again whenever it is another or has changed. An AzureKey has no account yet."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._secret: Secret | None = None

    def get(self) -> Grant[Secret]:
        """Return what the file holds now. Raises SourceError (BAD_CONFIG). Blocks."""
        seen, content = self._read()
        if content is not None or self._secret is None:
            self._secret = None
            self._secret = parse(content or b"", self._path)
            self._seen = seen
        return Grant(self._secret)

    def _read(self) -> tuple[tuple[int, ...], bytes | None]:
        """Return what tells this content from another, and the content, None if it is known."""
        reason = ""
        try:
            # Neither waiting for the writer of a FIFO nor taking a terminal.
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                status = os.fstat(file)
                _check(status, self._path)
                seen = (
                    status.st_dev,
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
                if self._secret is not None and seen == self._seen:
                    return seen, None
                return seen, _whole(file, self._path)
            finally:
                os.close(file)
        except OSError as error:
            reason = error.strerror or type(error).__name__
        raise bad(
            f"the secret file cannot be read: {reason}",
            self._path,
            'create it, with mode 0600, or name another with credentials = "file:/PATH"',
        )


def parse(content: bytes, where: str) -> Secret:
    """Return the one credential that *content* has. Raises SourceError (BAD_CONFIG)."""
    fields, problem = _fields(content)
    if fields is None:
        raise bad(f"the secret file is not TOML{problem}", where, 'write lines of KEY = "VALUE"')
    if frozenset(fields) not in _SHAPES:
        what = "the keys of the secret file are not those of one kind of credential"
        raise bad(what, where, "; or ".join(", ".join(sorted(shape)) for shape in _SHAPES))
    values = {}
    for key, value in fields.items():
        if not isinstance(value, str):
            raise bad(f"{key} is not a string", where, f'write {key} = "VALUE"')
        values[key] = value
    if "username" in values:
        return basic(values["username"], values["password"], where)
    if "sas-token" in values:
        return shared_access(values["sas-token"], "sas-token", where)
    if "account-key" in values:
        return account_key("", values["account-key"], "account-key", where)
    for key, value in values.items():
        values[key] = clean(value, key, where)
    if "bearer-token" in values:
        return Bearer(values["bearer-token"])
    return AwsKeys(
        values["access-key-id"], values["secret-access-key"], values.get("session-token")
    )


def _fields(content: bytes) -> tuple[dict[str, object] | None, str]:
    """Return the keys and values of a TOML document; or None, and where it is none."""
    import tomllib  # nobody needs it who has no such file

    try:
        return tomllib.loads(content.decode()), ""
    except UnicodeDecodeError:
        return None, ""
    except tomllib.TOMLDecodeError as error:
        # The rest of the message quotes the file.
        line = _LINE.search(str(error))
        return None, f" (line {line[1]})" if line else ""
    # Numbers of more than 4300 digits are a ValueError too.
    except (ValueError, RecursionError):
        return None, ""


def _check(status: os.stat_result, path: str) -> None:
    """Raise SourceError unless only its owner, who is we or root, can read what was opened."""
    if not stat.S_ISREG(status.st_mode):
        raise bad("the secret file is not a regular file", path, "name a file that is one")
    if status.st_uid not in {os.geteuid(), 0}:
        what = f"the secret file belongs to user {status.st_uid}"
        raise bad(what, path, f"make it yours: chown {os.geteuid()} {path}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        what = f"the secret file is open to others (mode {mode:04o})"
        raise bad(what, path, f"close it: chmod 600 {path}")


def _whole(file: int, path: str) -> bytes:
    """Return all that is in *file*. Raises SourceError if that is more than a secret has."""
    pieces = []
    size = 0
    while piece := os.read(file, MAX_SIZE + 1 - size):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_SIZE:
            what = f"the secret file has more than {MAX_SIZE} bytes"
            raise bad(what, path, "name a file that holds one credential")
    return b"".join(pieces)


def path_of(source: str) -> str:
    """Return the path that `file:PATH` names. Raises SourceError unless it is absolute."""
    path = source.removeprefix("file:")
    if not Path(path).is_absolute() or "\0" in path:
        what = f"credentials = {source!r} does not name a file by its whole path"
        raise bad(what, "configuration", "write it as file:/PATH")
    return path
