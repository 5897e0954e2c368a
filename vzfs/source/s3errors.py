"""What obstore's errors mean.

Some have a class of their own; the others are told apart by what their text says before any foreign
part begins. That text holds the server's reply, which can hold a signature: none of it gets into
our errors.
"""

import contextlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Final

from obstore import exceptions

from vzfs.errors import ErrorKind, SourceError
from vzfs.source.wire import PreconditionFailed, Transient

_STATUS = re.compile(
    r"Generic S3 error: (?:Error [a-z ]+: )?Error performing [A-Z]+ (\S+) in \S+ - "
    r"(?:Server returned non-2xx status code: (\d{3})|(HTTP error|Received redirect without))"
)
_BROKEN = re.compile(r"Generic S3 error: (?:Error [a-z ]+: )?HTTP error")
_ADVICE_REGION: Final = "name the bucket's region: AWS_REGION, or region in the configuration"


@contextlib.contextmanager
def problems(where: str, key: str | None) -> Iterator[None]:
    """Turn what obstore raises into our terms; *key* is None for a listing.

    A panic of its Rust code is a BaseException, and must not end the daemon either.
    """
    try:
        yield
    except (SourceError, Transient):
        raise
    except Exception as problem:  # noqa: BLE001 -- builtin classes and its own
        raise _problem(problem, where, key) from None
    except BaseException as problem:
        if type(problem).__name__ != "PanicException":
            raise
        raise mismatch("the S3 client fails (PanicException)", where) from None


def _problem(problem: Exception, where: str, key: str | None) -> Exception:
    if isinstance(problem, FileNotFoundError):
        return SourceError(
            ErrorKind.SOURCE_VANISHED,
            "the object does not exist",
            where=where,
            advice="it was moved or deleted since it was referred to",
        )
    if isinstance(problem, exceptions.PreconditionError):
        return PreconditionFailed()
    if isinstance(problem, exceptions.PermissionDeniedError):
        return _denied("the server answers 403", where)
    if isinstance(problem, exceptions.UnauthenticatedError):
        return _denied("the server answers 401", where)
    if isinstance(problem, exceptions.InvalidPathError) and key is None:
        what = "a key below the prefix is not a valid path"
        return SourceError(ErrorKind.CANNOT_LIST, what, where=where)
    if not isinstance(problem, exceptions.GenericError | exceptions.NotSupportedError):
        return mismatch(f"the request cannot be made ({type(problem).__name__})", where)
    return _generic(str(problem), where, key)


def _generic(text: str, where: str, key: str | None) -> SourceError | Transient:
    """Tell obstore's many errors without a class apart by what it says before any foreign text."""
    match = _STATUS.match(text)
    if match is None:
        if "Received non-partial response" in text:
            return mismatch("the server ignores the range and sends the whole object", where)
        if _BROKEN.match(text):
            if "UnexpectedEof" in text:
                return Transient(mismatch("the body ends too early", where))
            return _unreachable("the connection broke", where)
        if text.startswith("Generic S3 error: Requested "):
            return mismatch("the bytes of another range come", where)
        return mismatch("the reply of the server cannot be understood", where)
    url, status, broken = match.groups()
    if not _is_about(url, key):
        return _denied("no credentials can be had", where)
    if status is not None:
        return _status(int(status), where)
    if broken.startswith("Received redirect"):
        return SourceError(
            ErrorKind.SOURCE_UNREACHABLE,
            "the bucket is not at this endpoint or in this region",
            where=where,
            advice=_ADVICE_REGION,
        )
    if "InvalidCertificate" in text:
        return SourceError(
            ErrorKind.SOURCE_UNREACHABLE,
            "the server's certificate is not trusted",
            where=where,
            advice="name the certificates of a private authority in SSL_CERT_FILE",
        )
    if "kind: Builder," in text:
        return SourceError(
            ErrorKind.SOURCE_DENIED,
            "the endpoint, or a redirect, is plain http:, which is not allowed",
            where=where,
            advice="allow it with --allow-http, or allow-http in its [[bucket]], if the network can be trusted",
        )
    if "kind: Connect," in text:
        return _unreachable("the server cannot be connected to", where)
    if "kind: Timeout," in text:
        return _unreachable("the server does not answer in time", where)
    return _unreachable("the connection broke", where)


def _is_about(url: str, key: str | None) -> bool:
    """Whether *url* is that of an object or a listing, and not that of a giver of credentials."""
    path, _, query = url.partition("?")
    if key is None:
        return "list-type=2" in query
    return urllib.parse.unquote(path).endswith("/" + key)


def _status(status: int, where: str) -> SourceError | Transient:
    said = f"the server answers {status}"
    if status in {401, 403}:
        return _denied(said, where)
    if status in {404, 410}:
        return SourceError(ErrorKind.SOURCE_VANISHED, f"nothing is there: {said}", where=where)
    if status == 416:
        return mismatch("the object ends before the range does", where)
    if status in {408, 425, 429, 500, 502, 503, 504}:
        return _unreachable(said, where)
    if status == 400:
        return SourceError(ErrorKind.SOURCE_MISMATCH, said, where=where, advice=_ADVICE_REGION)
    return mismatch(said, where)


def _denied(what: str, where: str) -> SourceError:
    return SourceError(
        ErrorKind.SOURCE_DENIED,
        what,
        where=where,
        advice="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles are not read), or read "
        "a public bucket with --anonymous; a missing object looks like this too, to who may not list",
    )


def _unreachable(what: str, where: str) -> Transient:
    return Transient(SourceError(ErrorKind.SOURCE_UNREACHABLE, what, where=where))


def mismatch(what: str, where: str) -> SourceError:
    """Return the error for a reply that is not what was asked for."""
    return SourceError(ErrorKind.SOURCE_MISMATCH, what, where=where)
