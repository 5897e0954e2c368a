"""The error of files that cannot be joined exactly."""

from vzfs.errors import ErrorKind, FormatError

ADVICE = "join only files that are alike, or leave out --concat, and each is a group of its own"


class JoinError(FormatError):
    """Why files cannot be one hierarchy: what differs, and *where*."""

    def __init__(self, what: str, *, where: str = "", advice: str = ADVICE) -> None:
        super().__init__(ErrorKind.NOT_JOINED, what, where=where, advice=advice)

    def __reduce__(self) -> tuple[object, ...]:
        """Say how to make it again: another class makes it of other arguments."""
        return _again, (self.what, self.where, self.advice)


def _again(what: str, where: str, advice: str) -> JoinError:
    return JoinError(what, where=where, advice=advice)
