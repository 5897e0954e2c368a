"""Exit codes, as `docs/ERRORS.md` documents them."""

from typing import Final

from vzfs.errors import ErrorKind, VzfsError

UNEXPECTED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
DENIED: Final = 4
UNREACHABLE: Final = 5
DAMAGED: Final = 6
MOUNTPOINT: Final = 7
BUSY: Final = 8
NO_FUSE: Final = 9
LOSSES: Final = 10
NOT_INGESTED: Final = 11
PARTLY_INGESTED: Final = 12
PARTLY_EXPORTED: Final = 13
INTERRUPTED: Final = 130
"""What shells make of SIGINT."""

_CODES: Final = {
    ErrorKind.BAD_USAGE: USAGE,
    ErrorKind.BAD_CONFIG: USAGE,
    ErrorKind.NO_SUCH_NAME: NOT_FOUND,
    ErrorKind.NOT_A_DIRECTORY: NOT_FOUND,
    ErrorKind.NAME_TOO_LONG: NOT_FOUND,
    ErrorKind.NOT_A_REPOSITORY: NOT_FOUND,
    ErrorKind.REF_NOT_FOUND: NOT_FOUND,
    ErrorKind.AMBIGUOUS_SNAPSHOT: NOT_FOUND,
    ErrorKind.NO_CONTAINER: DENIED,
    ErrorKind.NOT_ALLOWED: DENIED,
    ErrorKind.BAD_LOCATION: DENIED,
    ErrorKind.SOURCE_DENIED: DENIED,
    ErrorKind.ADDRESS_REFUSED: DENIED,
    ErrorKind.CANNOT_LIST: UNREACHABLE,
    ErrorKind.SOURCE_CHANGED: UNREACHABLE,
    ErrorKind.SOURCE_VANISHED: UNREACHABLE,
    ErrorKind.SOURCE_MISMATCH: UNREACHABLE,
    ErrorKind.SOURCE_UNREACHABLE: UNREACHABLE,
    ErrorKind.SOURCE_TIMEOUT: UNREACHABLE,
    ErrorKind.OFFLINE: UNREACHABLE,
    ErrorKind.EGRESS_SPENT: UNREACHABLE,
    ErrorKind.UNSUPPORTED_FORMAT: DAMAGED,
    ErrorKind.CORRUPT_METADATA: DAMAGED,
    ErrorKind.NOT_DECODED: DAMAGED,
    ErrorKind.NOT_PARSED: DAMAGED,
    ErrorKind.REPOSITORY_OFFLINE: DAMAGED,
    ErrorKind.BAD_MOUNTPOINT: MOUNTPOINT,
    ErrorKind.NOT_MOUNTED: MOUNTPOINT,
    ErrorKind.MOUNT_BUSY: BUSY,
    ErrorKind.FUSE_UNAVAILABLE: NO_FUSE,
    ErrorKind.NOT_JOINED: NOT_INGESTED,
    ErrorKind.COMMIT_CONFLICT: NOT_INGESTED,
    ErrorKind.CHECK_FAILED: NOT_INGESTED,
    ErrorKind.NOT_WRITTEN: NOT_INGESTED,
}


def exit_code(error: VzfsError) -> int:
    """Return the exit code of a command that ends with *error*."""
    return _CODES.get(error.kind, UNEXPECTED)


def error_in(failure: BaseException) -> VzfsError | None:
    """Return the `VzfsError` that *failure* is, or is a group around; None if there is none."""
    if isinstance(failure, VzfsError):
        return failure
    if isinstance(failure, BaseExceptionGroup):
        return next(filter(None, map(error_in, failure.exceptions)), None)
    return None
