"""The one error tree, and the append-only list of what can go wrong.

Errors change language at three borders and nowhere else: foreign bytes become `FormatError` in
the decoders, a store's failure becomes `SourceError` in `source`, and a `VzfsError` becomes an
errno in `fuse` (or an exit code in `cli`). A lower layer raises; an upper layer decides.

An error carries facts and advice: its kind, what happened, where, and what the user can do.
`docs/ERRORS.md` has one row for every kind; a test compares the two.
"""

import enum


class ErrorKind(enum.StrEnum):
    """A stable code for each way to fail. Append only: scripts and logs rely on the values."""

    # names
    NO_SUCH_NAME = "no-such-name"
    NOT_A_DIRECTORY = "not-a-directory"
    IS_A_DIRECTORY = "is-a-directory"
    NAME_TOO_LONG = "name-too-long"
    NO_SUCH_ATTRIBUTE = "no-such-attribute"
    READ_ONLY = "read-only"
    STALE_INODE = "stale-inode"
    # repositories
    NOT_A_REPOSITORY = "not-a-repository"
    UNSUPPORTED_FORMAT = "unsupported-format"
    CORRUPT_METADATA = "corrupt-metadata"
    REPOSITORY_OFFLINE = "repository-offline"
    REF_NOT_FOUND = "ref-not-found"
    AMBIGUOUS_SNAPSHOT = "ambiguous-snapshot"
    CANNOT_LIST = "cannot-list"
    # access
    NO_CONTAINER = "no-container"
    NOT_ALLOWED = "not-allowed"
    BAD_LOCATION = "bad-location"
    # sources
    SOURCE_DENIED = "source-denied"
    SOURCE_CHANGED = "source-changed"
    SOURCE_VANISHED = "source-vanished"
    SOURCE_MISMATCH = "source-mismatch"
    SOURCE_UNREACHABLE = "source-unreachable"
    SOURCE_TIMEOUT = "source-timeout"
    ADDRESS_REFUSED = "address-refused"
    OFFLINE = "offline"
    EGRESS_SPENT = "egress-spent"
    # the mount and its commands
    BAD_USAGE = "bad-usage"
    BAD_CONFIG = "bad-config"
    BAD_MOUNTPOINT = "bad-mountpoint"
    MOUNT_BUSY = "mount-busy"
    NOT_MOUNTED = "not-mounted"
    FUSE_UNAVAILABLE = "fuse-unavailable"
    BUG = "bug"
    TOO_MANY_OPEN = "too-many-open"
    NOT_DECODED = "not-decoded"
    NOT_PARSED = "not-parsed"
    # what is written
    NOT_JOINED = "not-joined"
    COMMIT_CONFLICT = "commit-conflict"
    CHECK_FAILED = "check-failed"
    NOT_WRITTEN = "not-written"


class VzfsError(Exception):
    """What went wrong (*kind* and *what*), *where*, and what the user can do (*advice*)."""

    def __init__(self, kind: ErrorKind, what: str, *, where: str = "", advice: str = "") -> None:
        super().__init__(kind, what, where, advice)
        self.kind = kind
        self.what = what
        self.where = where
        self.advice = advice

    def __str__(self) -> str:
        """One line: what, where, advice."""
        where = f" [{self.where}]" if self.where else ""
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.what}{where}{advice}"


class FormatError(VzfsError):
    """Foreign bytes are not what their format says."""


class AccessDenied(VzfsError):
    """Nobody who may do so has authorized this location."""


class SourceError(VzfsError):
    """An object store, server or file did not give the bytes that were asked for."""


class NameProblem(VzfsError):
    """A name, inode or attribute cannot be answered as asked."""


class RepositoryError(VzfsError):
    """The repository cannot be opened as asked: no such ref, offline, not a repository."""


class ConfigError(VzfsError):
    """The configuration or the command line is wrong."""


class MountError(VzfsError):
    """The mount itself cannot be made, found or ended."""
