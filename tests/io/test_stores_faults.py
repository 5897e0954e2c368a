"""Every store behind a proxy that lies: each fault has one outcome and one number of requests.

The tables say, for whatever store is behind, what a fault ends in: the error's kind, or None where
the bytes come all the same, which are then the right ones; and how many requests that takes.
"""

import datetime
import email.utils
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import trio

from tests.conformance import DATA, keys_of
from tests.io.stores_fixtures import Authority, StoreWorld
from tests.io.test_source_conformance import LocalWorld
from tests.stores import liar as lies
from tests.stores.liar import Fault, Liar
from tests.stores.store import Store
from vzfs.errors import ErrorKind, SourceError
from vzfs.model.location import Checksum, ETag, LastModified
from vzfs.source import Timing

ATTEMPTS: Final = 3
TIMING: Final = Timing(deadline=10, connect=5, stall=5, attempts=ATTEMPTS, backoff=0.002)
IMPATIENT: Final = Timing(deadline=10, connect=5, stall=0.3, attempts=2, backoff=0.002)
SOON: Final = 15.0
"""Seconds that nothing here takes, unless a bound on time does not hold."""

OFFSET, LENGTH = 100, 50
RIGHT: Final = DATA[OFFSET : OFFSET + LENGTH]

CHANGED = ErrorKind.SOURCE_CHANGED
DENIED = ErrorKind.SOURCE_DENIED
MISMATCH = ErrorKind.SOURCE_MISMATCH
UNREACHABLE = ErrorKind.SOURCE_UNREACHABLE
VANISHED = ErrorKind.SOURCE_VANISHED


class Row(NamedTuple):
    """*times* requests are spoiled by *fault*; then *outcome* comes, after *requests* in all.

    *checksum* is what the reference records: nothing, the object's etag or its date.
    """

    name: str
    fault: Callable[[], Fault]
    times: int
    outcome: ErrorKind | None
    requests: int
    checksum: str = "none"


def status(code: int, **headers: str) -> Callable[[], Fault]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: lies.status(code, named)


def at(seconds: float) -> str:
    """Return the HTTP date in *seconds* from now."""
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return email.utils.format_datetime(moment, usegmt=True)


def header(name: str, value: str | Callable[[str], str] | None) -> Callable[[], Fault]:
    return lambda: lies.reply_header(name, value)


def content_range(text: str) -> Callable[[], Fault]:
    return header("Content-Range", text)


def unseen(name: str, value: str | None) -> Callable[[], Fault]:
    """Keep preconditions from the server, and change a header of its reply."""
    return lambda: lies.both(lies.no_preconditions(), lies.reply_header(name, value))


def shortened_in_chunks() -> Fault:
    return lies.both(lies.shortened(), lies.chunked())


LAST = OFFSET + LENGTH - 1
SIZE = len(DATA)
MANY = 99

PASSES = [
    Row(name, fault, ATTEMPTS - 1, None, ATTEMPTS)
    for name, fault in {
        "408": status(408),
        "429": status(429),
        "500": status(500),
        "502": status(502),
        "503": status(503),
        "504": status(504),
        "429, Retry-After 0": status(429, Retry_After="0"),
        "503, Retry-After past": status(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        "503, Retry-After no time": status(503, Retry_After="soon"),
        "503, Retry-After negative": status(503, Retry_After="-5"),
        "reset": lies.reset,
        "reset in the body": lies.reset_in_body,
        "cut": lies.cut,
        "cut at once": lambda: lies.cut(0),
        "cut, chunked": lies.cut_chunked,
    }.items()
]
"""What passes when it is tried again."""

ENDS = [
    Row("429 for ever", status(429), MANY, UNREACHABLE, ATTEMPTS),
    Row("500 for ever", status(500), MANY, UNREACHABLE, ATTEMPTS),
    Row("503 for ever", status(503), MANY, UNREACHABLE, ATTEMPTS),
    Row("503, Retry-After too late", status(503, Retry_After="3600"), MANY, UNREACHABLE, 1),
    Row("429, Retry-After too late", status(429, Retry_After="3600"), MANY, UNREACHABLE, 1),
    Row(
        "503, Retry-After a late date",
        lambda: lies.status(503, {"Retry-After": at(3600)}),
        MANY,
        UNREACHABLE,
        1,
    ),
    Row("reset for ever", lies.reset, MANY, UNREACHABLE, ATTEMPTS),
    Row("reset in the body for ever", lies.reset_in_body, MANY, UNREACHABLE, ATTEMPTS),
    Row("cut for ever", lies.cut, MANY, MISMATCH, ATTEMPTS),
    Row("cut, chunked, for ever", lies.cut_chunked, MANY, MISMATCH, ATTEMPTS),
    Row("shortened, chunked", shortened_in_chunks, MANY, MISMATCH, ATTEMPTS),
]
"""What is given up after all attempts, or when the server asks for more time than there is."""

FINAL = [
    Row("304", status(304), MANY, MISMATCH, 1),
    Row("400", status(400), MANY, MISMATCH, 1),
    Row("401", status(401), MANY, DENIED, 1),
    Row("403", status(403), MANY, DENIED, 1),
    Row("404", status(404), MANY, VANISHED, 1),
    Row("410", status(410), MANY, VANISHED, 1),
    Row("412", status(412), MANY, MISMATCH, 1),
    Row("416", status(416), MANY, MISMATCH, 1),
    Row("204", status(204), MANY, MISMATCH, 1),
    Row("shortened", lies.shortened, MANY, MISMATCH, 1),
    Row("too long", lies.overlong, MANY, MISMATCH, 1),
    Row("too long, chunked", lies.overlong_chunked, MANY, MISMATCH, 1),
    Row("the whole object", lies.whole_object, MANY, MISMATCH, 1),
    Row("as many first bytes", lambda: lies.first_bytes(LENGTH), MANY, MISMATCH, 1),
    Row("another range", content_range(f"bytes {OFFSET + 1}-{LAST + 1}/{SIZE}"), MANY, MISMATCH, 1),
    Row("a shorter range", content_range(f"bytes {OFFSET}-{LAST - 1}/{SIZE}"), MANY, MISMATCH, 1),
    Row("a range past the size", content_range(f"bytes {OFFSET}-{LAST}/{LAST}"), MANY, MISMATCH, 1),
    Row("no range", content_range(""), MANY, MISMATCH, 1),
    Row("another unit", content_range(f"items {OFFSET}-{LAST}/{SIZE}"), MANY, MISMATCH, 1),
    Row("no Content-Range", header("Content-Range", None), MANY, MISMATCH, 1),
    Row("encoded", header("Content-Encoding", "gzip"), MANY, MISMATCH, 1),
]
"""What is no reply to the request that was made, and would be none the next time."""

VERSIONS = [
    Row("etag as recorded", Fault, 1, None, 1, "etag"),
    Row("date as recorded", Fault, 1, None, 1, "date"),
    Row("chunked", lies.chunked, 1, None, 1, "etag"),
    Row("no etag", unseen("ETag", None), MANY, MISMATCH, 1, "etag"),
    Row("no etag, none wanted", header("ETag", None), 1, None, 1),
    Row("no date", unseen("Last-Modified", None), MANY, MISMATCH, 1, "date"),
    Row("no date, none wanted", header("Last-Modified", None), 1, None, 1, "etag"),
    Row("weak etag", header("ETag", lambda old: f"W/{old}"), MANY, CHANGED, 1, "etag"),
    Row("unquoted etag", header("ETag", lambda old: old.strip('"')), 1, None, 1, "etag"),
    Row("empty etag", unseen("ETag", ""), MANY, MISMATCH, 1, "etag"),
    Row("endless etag", unseen("ETag", '"' + "e" * 5000 + '"'), MANY, MISMATCH, 1, "etag"),
    Row("another etag", unseen("ETag", '"another"'), MANY, CHANGED, 1, "etag"),
    Row("changing etags", lies.changing_etag, MANY, CHANGED, 1, "etag"),
    Row(
        "a later date",
        unseen("Last-Modified", "Fri, 31 Dec 9999 23:59:59 GMT"),
        MANY,
        CHANGED,
        1,
        "date",
    ),
    Row("no date at all", unseen("Last-Modified", "yesterday"), MANY, MISMATCH, 1, "date"),
    Row("412 for the right version", status(412), 1, None, 3, "etag"),
]
"""What replies may say of the version, and what counts."""


def rows(*tables: list[Row]) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Run a test for each row of *tables*."""
    every = [row for table in tables for row in table]
    return pytest.mark.parametrize("row", every, ids=[row.name for row in every])


async def caught(
    call: Callable[..., Awaitable[Any]], *args: object, gives: object
) -> SourceError | None:
    """Return the error that a call ends in; None if there is none, and it gives what it should."""
    try:
        with trio.fail_after(SOON):
            given = await call(*args)
    except SourceError as error:
        return error
    assert getattr(given, "data", given) == gives
    return None


class Lied(StoreWorld):
    """One object of a store behind a liar."""

    def __init__(self, store: Store, liar: Liar, timing: Timing = TIMING) -> None:
        super().__init__(store, liar.url, timing)
        self.liar = liar
        self.put("object", DATA)

    def checksum(self, kind: str) -> Checksum | None:
        if kind == "etag":
            return ETag(self.etag("object"))
        return LastModified(self.modified("object")) if kind == "date" else None

    async def outcome(self, row: Row) -> tuple[ErrorKind | None, int]:
        """Say how a fetch ends under the faults of *row*, and how many requests came."""
        wanted = self.part("object", OFFSET, LENGTH, self.checksum(row.checksum))
        self.liar.fault(row.fault(), row.times)
        error = await caught(self.fetcher.fetch, wanted, gives=RIGHT)
        return error and error.kind, self.liar.count()


@pytest.fixture
async def lied(real_store: Store, liar: Liar, nursery: trio.Nursery) -> Lied:
    """Put an object into each store, behind a liar."""
    return await Lied(real_store, liar).run_in(nursery)


@pytest.fixture
async def impatient(real_store: Store, liar: Liar, nursery: trio.Nursery) -> Lied:
    """Put an object into each store, and read it with a short stall limit."""
    return await Lied(real_store, liar, IMPATIENT).run_in(nursery)


@rows(PASSES, ENDS, FINAL, VERSIONS)
async def test_every_fault_of_a_store_has_its_outcome(lied: Lied, row: Row) -> None:
    """Whatever store lies in whatever way: the right bytes come, or the error of that fault, after so many requests. When it is over, the right bytes come again."""
    assert await lied.outcome(row) == (row.outcome, row.requests)
    assert lied.fetcher.statistics().errors == (row.outcome is not None)
    lied.liar.clear_faults()
    wanted = lied.part("object", OFFSET, LENGTH, lied.checksum(row.checksum))
    assert await caught(lied.fetcher.fetch, wanted, gives=RIGHT) is None


async def test_errors_of_stores_are_one_line_and_say_where(lied: Lied) -> None:
    """The error for what a store denies names the object, gives advice, and is one line without what the server wrote."""
    lied.liar.fault(lies.status(403, body=b"hush\nhush"))
    error = await lied.refusal(lied.part("object", OFFSET, LENGTH))
    assert error.where == lied.url("object")
    assert error.advice
    assert "\n" not in str(error)
    assert "hush" not in str(error)


async def test_surplus_bytes_answer_no_other_request(lied: Lied) -> None:
    """Bytes behind the end of a reply are never taken for the reply to the next request."""
    lied.liar.fault(lies.surplus(), times=3)
    for _ in range(4):
        with trio.fail_after(SOON):
            assert (await lied.fetcher.fetch(lied.part("object", OFFSET, LENGTH))).data == RIGHT


async def test_garbage_is_no_reply(lied: Lied) -> None:
    """A server that does not speak HTTP gives an error, and no byte."""
    lied.liar.fault(lies.garbage(), times=MANY)
    with trio.fail_after(SOON):
        error = await lied.refusal(lied.part("object", OFFSET, LENGTH))
    assert error.kind in {UNREACHABLE, MISMATCH}
    assert 1 <= lied.liar.count() <= ATTEMPTS


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_stores_do_not_send_readers_elsewhere(lied: Lied, code: int) -> None:
    """A redirect out of the prefix is not followed, whatever store sends it: nobody else is asked."""
    with Liar(lied.real.url) as elsewhere:
        target = f"{elsewhere.url}/other/object?signature=hush"
        lied.liar.fault(lies.status(code, {"Location": target}), times=MANY)
        error = await lied.refusal(lied.part("object", OFFSET, LENGTH))
        assert error.kind is (MISMATCH if lied.lists else DENIED)
        assert "hush" not in str(error)
        assert (lied.liar.count(), elsewhere.connections) == (1, 0)


@pytest.mark.parametrize("fault", [lies.stall, lies.stall_in_body])
async def test_a_stall_is_overtaken(
    impatient: Lied, fault: Callable[[threading.Event], Fault]
) -> None:
    """A reply without a byte for the stall limit is left, and a second request gives the bytes."""
    gate = threading.Event()
    impatient.liar.fault(fault(gate))
    with trio.fail_after(SOON):
        fetched = await impatient.fetcher.fetch(impatient.part("object", OFFSET, LENGTH))
    assert fetched.data == RIGHT
    assert impatient.liar.count() == 2
    gate.set()


@pytest.mark.parametrize("fault", [lies.stall, lies.stall_in_body])
async def test_a_stall_without_end_is_given_up(
    impatient: Lied, fault: Callable[[threading.Event], Fault]
) -> None:
    """A store that stalls for ever fails the fetch after its attempts, each as long as the stall limit."""
    gate = threading.Event()
    impatient.liar.fault(fault(gate), times=MANY)
    started = time.monotonic()
    with trio.fail_after(SOON):
        error = await impatient.refusal(impatient.part("object", OFFSET, LENGTH))
    assert error.kind in {UNREACHABLE, ErrorKind.SOURCE_TIMEOUT}
    assert time.monotonic() - started < IMPATIENT.deadline / 2
    gate.set()


# -- versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignores", [False, True], ids=["honest", "ignores preconditions"])
@pytest.mark.parametrize("kind", ["etag", "date"])
async def test_a_replaced_object_gives_no_byte(lied: Lied, kind: str, ignores: bool) -> None:
    """An object that was replaced since it was referred to is refused, also where preconditions do not reach the server."""
    recorded = lied.checksum(kind)
    if isinstance(recorded, LastModified):
        recorded = LastModified(recorded.seconds - 1)
    else:
        lied.put("object", DATA[::-1])
    if ignores:
        lied.liar.fault(lies.no_preconditions(), times=MANY)
    with trio.fail_after(SOON):
        error = await lied.refusal(lied.part("object", OFFSET, LENGTH, recorded))
    assert error.kind is CHANGED
    checked = lied.real.honours_preconditions and not ignores
    assert lied.liar.count("GET") == 1
    assert lied.liar.count("HEAD") == checked


async def test_a_deleted_object_has_vanished_from_every_store(lied: Lied) -> None:
    """An object that was deleted has vanished, with and without a checksum, and comes back when it is restored."""
    recorded = lied.checksum("etag")
    lied.real.delete(f"{lied.folder}/data/object")
    for checksum in (None, recorded):
        error = await lied.refusal(lied.part("object", OFFSET, LENGTH, checksum))
        assert error.kind is VANISHED
    assert lied.liar.count("GET") == 2
    lied.put("object", DATA)
    assert (await lied.fetcher.fetch(lied.part("object", OFFSET, LENGTH))).data == RIGHT


@pytest.mark.parametrize("ignores", [False, True], ids=["honest", "ignores preconditions"])
async def test_a_pinned_version_is_kept_by_every_store(lied: Lied, ignores: bool) -> None:
    """A fetch that is pinned to the version seen first fails once the object was replaced."""
    part = lied.part("object", OFFSET, LENGTH)
    pinned = (await lied.fetcher.fetch(part)).version
    assert (await lied.fetcher.fetch(part, pinned)).data == RIGHT
    lied.put("object", DATA[::-1] + b"!")
    if ignores:
        lied.liar.fault(lies.no_preconditions(), times=MANY)
    assert (await lied.refusal(part, pinned)).kind is CHANGED


async def test_a_pinned_version_is_not_believed_from_changing_etags(lied: Lied) -> None:
    """A server that gives each reply another etag cannot be read twice as one version."""
    lied.liar.fault(lies.both(lies.no_preconditions(), lies.changing_etag()), times=MANY)
    part = lied.part("object", OFFSET, LENGTH)
    pinned = (await lied.fetcher.fetch(part)).version
    assert (await lied.refusal(part, pinned)).kind is CHANGED


# -- versions without bytes ------------------------------------------------------------------------

HEADS = [
    Row("503 2x", status(503), ATTEMPTS - 1, None, ATTEMPTS),
    Row("reset 2x", lies.reset, ATTEMPTS - 1, None, ATTEMPTS),
    Row("503 for ever", status(503), MANY, UNREACHABLE, ATTEMPTS),
    Row("503, Retry-After too late", status(503, Retry_After="3600"), MANY, UNREACHABLE, 1),
    Row("401", status(401), MANY, DENIED, 1),
    Row("403", status(403), MANY, DENIED, 1),
    Row("404", status(404), MANY, VANISHED, 1),
    Row("412", status(412), MANY, MISMATCH, 1),
    Row("no etag", header("ETag", None), MANY, MISMATCH, 1, "etag"),
    Row("no date", header("Last-Modified", None), MANY, MISMATCH, 1, "date"),
    Row("weak etag", header("ETag", lambda old: f"W/{old}"), MANY, CHANGED, 1, "etag"),
    Row("another etag", header("ETag", '"another"'), MANY, CHANGED, 1, "etag"),
]


@rows(HEADS)
async def test_every_fault_of_a_head_has_its_outcome(lied: Lied, row: Row) -> None:
    """Asking a store for a version alone is checked and tried again as reading is."""
    wanted = lied.part("object", OFFSET, LENGTH, lied.checksum(row.checksum))
    expected = await lied.fetcher.version(wanted)
    lied.liar.forget_requests()
    lied.liar.fault(row.fault(), row.times)
    error = await caught(lied.fetcher.version, wanted, gives=expected)
    assert (error and error.kind, lied.liar.count()) == (row.outcome, row.requests)
    assert lied.liar.count("HEAD") == row.requests


# -- listings --------------------------------------------------------------------------------------

LISTS = [
    Row("503 2x", status(503), ATTEMPTS - 1, None, ATTEMPTS),
    Row("reset 2x", lies.reset, ATTEMPTS - 1, None, ATTEMPTS),
    Row("cut 2x", lambda: lies.cut(60), ATTEMPTS - 1, None, ATTEMPTS),
    Row("500 for ever", status(500), MANY, UNREACHABLE, ATTEMPTS),
    Row("401", status(401), MANY, DENIED, 1),
    Row("403", status(403), MANY, DENIED, 1),
    Row("404", status(404), MANY, VANISHED, 1),
    Row("412", status(412), MANY, MISMATCH, 1),
    Row("another document", lambda: lies.status(200, body=b"<hush/>"), MANY, MISMATCH, 1),
    Row("no document", lambda: lies.status(200, body=b"hush"), MANY, MISMATCH, 1),
    Row("half a document", lambda: lies.shortened(20), MANY, MISMATCH, 1),
]


@rows(LISTS)
async def test_every_fault_of_a_listing_has_its_outcome(lied: Lied, row: Row) -> None:
    """A listing is whole or an error, never short, whatever the store answers."""
    if not lied.lists:
        pytest.skip("HTTP has no listings")
    lied.liar.fault(row.fault(), row.times)
    error = await caught(keys_of, lied.fetcher, lied.below(""), gives=["object"])
    assert (error and error.kind, lied.liar.count()) == (row.outcome, row.requests)
    assert "hush" not in str(error)


# -- files -----------------------------------------------------------------------------------------


def vanish(path: Path) -> None:
    path.unlink()


def shrink(path: Path) -> None:
    path.write_bytes(DATA[:OFFSET])


def replace(path: Path) -> None:
    path.write_bytes(DATA[::-1] + b"!")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_link_to_elsewhere(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    ("change", "checksum", "kind"),
    [
        (vanish, "none", VANISHED),
        (shrink, "none", MISMATCH),
        (shrink, "etag", CHANGED),
        (replace, "etag", CHANGED),
        (replace, "date", CHANGED),
        (become_a_folder, "none", MISMATCH),
        (become_a_pipe, "none", MISMATCH),
        (become_a_link_to_elsewhere, "none", DENIED),
    ],
)
async def test_every_fault_of_a_file_has_its_outcome(
    tmp_path: Path, change: Callable[[Path], None], checksum: str, kind: ErrorKind
) -> None:
    """What happens to a local file has one outcome too, and never gives wrong bytes."""
    folder = tmp_path / "data"
    folder.mkdir()
    world = LocalWorld(folder)
    world.put("object", DATA)
    recorded = {
        "etag": lambda: ETag(world.etag("object")),
        "date": lambda: LastModified(world.modified("object")),
    }.get(checksum, lambda: None)()
    wanted = world.part("object", OFFSET, LENGTH, recorded)
    assert (await world.fetcher.fetch(wanted)).data == RIGHT
    change(folder / "object")
    with trio.fail_after(SOON):
        assert (await world.refusal(wanted)).kind is kind


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture
async def over_tls(
    real_store: Store, authority: Authority, nursery: trio.Nursery
) -> AsyncIterator[Lied]:
    """Put an object into each store, behind a liar that speaks TLS."""
    with Liar(
        real_store.url,
        context=authority.context("127.0.0.1"),
        trust=authority.trust(),
        sign=real_store.sign,
    ) as liar:
        yield await Lied(real_store, liar).run_in(nursery)


async def test_every_store_is_read_over_tls(over_tls: Lied) -> None:
    """A store whose certificate a trusted authority signed is read over TLS."""
    wanted = over_tls.part("object", OFFSET, LENGTH, over_tls.checksum("etag"))
    with trio.fail_after(SOON):
        assert (await over_tls.fetcher.fetch(wanted)).data == RIGHT
    assert over_tls.liar.count() == 1


async def test_a_torn_tls_stream_is_tried_again(over_tls: Lied) -> None:
    """A body that ends without TLS saying so is never taken for whole, and is tried again."""
    over_tls.liar.fault(lies.torn(), times=ATTEMPTS - 1)
    with trio.fail_after(SOON):
        fetched = await over_tls.fetcher.fetch(over_tls.part("object", OFFSET, LENGTH))
    assert fetched.data == RIGHT
    assert over_tls.liar.count() == ATTEMPTS


@pytest.mark.parametrize("wrong", ["name", "authority", "expired"])
async def test_a_wrong_certificate_gets_no_request(
    over_tls: Lied, authority: Authority, wrong: str
) -> None:
    """A store whose certificate is of another name, of an unknown authority or expired is sent nothing, and the error says so at once."""
    context = {
        "name": lambda: authority.context("elsewhere.example"),
        "authority": lambda: Authority().context("127.0.0.1"),
        "expired": lambda: authority.context(
            "127.0.0.1", until=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        ),
    }[wrong]()
    over_tls.liar.fault(lies.certificate(context), times=MANY)
    with trio.fail_after(SOON):
        error = await over_tls.refusal(over_tls.part("object", OFFSET, LENGTH))
    assert error.kind is UNREACHABLE
    assert "certificate" in error.what
    assert error.advice
    assert over_tls.liar.count() == 0
    assert over_tls.liar.connections == 1


async def test_plain_text_on_a_tls_port_is_no_reply(over_tls: Lied) -> None:
    """A store that answers a TLS greeting in plain text gives an error, and is sent no request."""
    over_tls.liar.fault(lies.plain_text(), times=MANY)
    with trio.fail_after(SOON):
        error = await over_tls.refusal(over_tls.part("object", OFFSET, LENGTH))
    assert error.kind is UNREACHABLE
    assert over_tls.liar.count() == 0
    assert over_tls.liar.connections <= ATTEMPTS
