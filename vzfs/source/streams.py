"""Byte streams to servers, plain and encrypted, and the heads of replies that come over them.

A `Stream` belongs to one task at a time, waits a bounded time for each byte, and tells an end that
the peer meant from a broken connection. `transport` makes them.
"""

import contextlib
import select
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from vzfs.errors import ErrorKind
from vzfs.source.messages import MAX_HEAD

PIECE: Final = 1 << 18
"""Bytes received at once that have to be decrypted or parsed: other tasks wait some 0.2 ms."""

_BURST: Final = 4
"""Pieces that are received before other tasks have their turn, though more are there."""

_MANY: Final = 1 << 13
"""Bytes due from which on the kernel is told to wake us for no less than some of them."""

_ROOM_PART: Final = 4
_MARK: Final = 1 << 18
"""One part in so many of the receive buffer, and so many bytes, are the most that is waited for."""

_LOOKS: Final = 8
"""Looks at the waiting streams in the time that one may take: a stall is seen an eighth late."""

_RECORD: Final = 1 << 14
"""Bytes of the longest record of TLS."""

_EMPTY_LINE: Final = b"\r\n\r\n"
_TLS_FAILS: Final = "the TLS connection fails"


class Trouble(Exception):
    """Why there is no reply: *kind*, *what* and *advice* as in `VzfsError`. *passes* if it may pass.

    Neither has anything secret in it, nor text of the server's.
    """

    def __init__(self, kind: ErrorKind, what: str, advice: str = "", *, passes: bool) -> None:
        super().__init__(kind, what, advice, passes)
        self.kind = kind
        self.what = what
        self.advice = advice
        self.passes = passes


class Broken(Trouble):
    """The connection is lost."""

    def __init__(self, what: str = "the connection broke") -> None:
        super().__init__(ErrorKind.SOURCE_UNREACHABLE, what, passes=True)


class Stalled(Trouble):
    """No byte moved for as long as a server may be silent."""

    def __init__(self, seconds: float) -> None:
        what = f"the server sends nothing for {seconds:g} s"
        super().__init__(ErrorKind.SOURCE_UNREACHABLE, what, passes=True)


class Stream(Protocol):
    """Bytes to and from a server, for one task at a time.

    All that waits raises Broken, and Stalled after some *patience* in which no byte moved, in
    seconds. Where so many bytes as *due* must come, less than some of them are not worth a turn.
    """

    patience: float

    async def send(self, data: bytes) -> None:
        """Send all of *data*."""

    async def receive(self, limit: int, due: int = 1) -> bytes:
        """Return the next bytes, from 1 to *limit*, or none at the end that the peer meant."""

    async def fill(self, buffer: memoryview, came: Callable[[int], None]) -> int:
        """Receive bytes, all of which are due, until *buffer* is full, and return how many came.

        Those are fewer only at the end that the peer meant. *came* is told, each time, how many
        there are.
        """

    def is_quiet(self) -> bool:
        """Whether the peer has neither sent more nor closed."""

    def close(self) -> None:
        """Close at once, without a word. A task that waits for the stream gets Broken."""


class Watch:
    """Ends the waits of streams for which no byte moves for *patience* seconds, or a little more.

    A cancel scope around each wait would cost as much as the wait. So one task looks after all of
    them now and then, and is there only while a stream waits.
    """

    def __init__(self, patience: float) -> None:
        self.patience: Final = patience
        self._since: dict[Plain, float] = {}
        self._is_looking = False

    def begin(self, stream: "Plain") -> None:
        """Say that *stream* waits from now on."""
        self._since[stream] = trio.current_time()
        if not self._is_looking:
            self._is_looking = True
            trio.lowlevel.spawn_system_task(self._look)

    def end(self, stream: "Plain") -> None:
        """Say that *stream* does not wait any more."""
        del self._since[stream]

    async def _look(self) -> None:
        try:
            while self._since:
                await trio.sleep_until(trio.current_time() + self.patience / _LOOKS)
                before = trio.current_time() - self.patience
                for stream in [one for one, since in self._since.items() if since <= before]:
                    stream.stall()
        finally:
            self._is_looking = False


class Plain:
    """A TCP connection, not encrypted."""

    __slots__ = ("_burst", "_is_stalled", "_mark", "_poll", "_socket", "_watch", "patience")

    def __init__(self, connected: socket.socket, watch: Watch) -> None:
        self.patience = watch.patience
        self._watch = watch
        self._socket = connected
        self._burst = 0
        self._mark = 1
        self._is_stalled = False
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    async def send(self, data: bytes) -> None:
        """Do as `Stream.send`."""
        while True:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                raise Broken from None
            if sent == len(data):
                break
            data = data[sent:]
            await self._wait(trio.lowlevel.wait_writable)
        # When the processor is what is short, the reply has come by our next turn, and looking is
        # a third of the cost of waiting. When it is not, a look in vain does not matter.
        await trio.lowlevel.checkpoint()
        self._burst = 1

    async def receive(self, limit: int, due: int = 1) -> bytes:
        """Do as `Stream.receive`."""
        while True:
            if self._burst:
                self._burst -= 1
                try:
                    return self._socket.recv(limit)
                except BlockingIOError:
                    pass
                except OSError:
                    raise Broken from None
            await self._wait_for(due)

    async def fill(self, buffer: memoryview, came: Callable[[int], None]) -> int:
        """Do as `Stream.fill`."""
        receive_into, come, size = self._socket.recv_into, 0, len(buffer)
        while come < size:
            if self._burst:
                self._burst -= 1
                try:
                    count = receive_into(buffer[come:])
                except BlockingIOError:
                    pass
                except OSError:
                    raise Broken from None
                else:
                    if not count:
                        break
                    come += count
                    came(come)
                    continue
            await self._wait_for(size - come)
        return come

    async def _wait_for(self, due: int) -> None:
        """Wait for what comes next, where so many bytes as *due* must come."""
        self._set_mark(due)
        try:
            await self._wait(trio.lowlevel.wait_readable)
        except Stalled:
            # Less than the mark may have come.
            if self._mark == 1 or self.is_quiet():
                raise
        self._burst = _BURST

    def _set_mark(self, due: int) -> None:
        """Have the kernel wake us for no less than a good part of the bytes that are *due*.

        A quarter of the receive buffer at most, which grows with the speed of the connection: the
        peer never has to stop for want of room, and on a slow connection bytes are seen soon.
        """
        try:
            if due >= _MANY:
                room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                mark = min(due, room // _ROOM_PART, _MARK)
            else:
                mark = 1
            if mark != self._mark:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
                self._mark = mark
        except OSError:
            raise Broken from None

    async def _wait(self, until_ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._is_stalled = False
        self._watch.begin(self)
        try:
            await until_ready(self._socket)
        except (trio.ClosedResourceError, OSError, ValueError):
            raise (Stalled(self.patience) if self._is_stalled else Broken()) from None
        finally:
            self._watch.end(self)

    def stall(self) -> None:
        """Have the task that waits for the stream get Stalled."""
        self._is_stalled = True
        trio.lowlevel.notify_closing(self._socket)

    def is_quiet(self) -> bool:
        """Do as `Stream.is_quiet`."""
        self._set_mark(1)
        return not self._poll.poll(0)

    def close(self) -> None:
        """Do as `Stream.close`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class Tls:
    """A stream inside of another, encrypted."""

    __slots__ = ("_incoming", "_inner", "_outgoing", "_tls", "patience")

    def __init__(self, inner: Stream, context: ssl.SSLContext, host: str) -> None:
        self.patience = inner.patience
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    async def shake_hands(self) -> None:
        """Agree on keys, and check whose certificate it is. Raises Trouble."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLCertVerificationError:
                with contextlib.suppress(Trouble):
                    await self._flush()
                raise Trouble(
                    ErrorKind.SOURCE_UNREACHABLE,
                    "the server's certificate is not trusted",
                    "name the certificates of a private authority in SSL_CERT_FILE",
                    passes=False,
                ) from None
            except ssl.SSLError:
                raise Broken(_TLS_FAILS) from None
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        """Do as `Stream.send`."""
        try:
            self._tls.write(data)
        except ssl.SSLError:
            raise Broken(_TLS_FAILS) from None
        await self._flush()

    async def receive(self, limit: int, due: int = 1) -> bytes:
        """Do as `Stream.receive`. Only a farewell of the peer is an end."""
        read, pending, incoming = self._tls.read, self._tls.pending, self._incoming
        pieces: list[bytes] = []
        while True:
            try:
                while limit:
                    # A record at a time is decrypted; none are no bytes, but for the farewell.
                    piece = read(min(limit, _RECORD))
                    if not piece:
                        return b"".join(pieces)
                    pieces.append(piece)
                    limit -= len(piece)
                    if not incoming.pending and not pending():
                        break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                raise Broken(_TLS_FAILS) from None
            await self._flush()
            if pieces:
                return b"".join(pieces)
            await self._fill(due)

    async def fill(self, buffer: memoryview, came: Callable[[int], None]) -> int:
        """Do as `Stream.fill`. Only a farewell of the peer is an end."""
        read, incoming, come, size = self._tls.read, self._incoming, 0, len(buffer)
        while come < size:
            before = come
            try:
                while come < size:
                    # A record at a time is decrypted; none are no bytes, but for the farewell.
                    count = int(read(size - come, buffer[come:]))  # typed as if without a buffer
                    if not count:
                        return come
                    come += count
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                raise Broken(_TLS_FAILS) from None
            if come > before:
                came(come)
            await self._flush()
            if come < size:
                # No byte becomes shorter by encryption, and of one record some may have come.
                await self._fill(size - come - incoming.pending - 2 * _RECORD)
        return come

    def is_quiet(self) -> bool:
        """Do as `Stream.is_quiet`."""
        return not self._incoming.pending and not self._tls.pending() and self._inner.is_quiet()

    def close(self) -> None:
        """Do as `Stream.close`."""
        self._inner.close()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._inner.send(self._outgoing.read())

    async def _fill(self, due: int = 1) -> None:
        data = await self._inner.receive(PIECE, due)
        if not data:
            raise Broken("the TLS connection ends without a farewell")
        self._incoming.write(data)


# -- heads -------------------------------------------------------------------------------------


async def receive_head(stream: Stream, size: int, data: bytes = b"") -> tuple[bytes, int]:
    """Receive the head of a reply, *size* bytes at a time, of which *data* has come already.

    Return what has come, and where in it the head ends. Raises Trouble.
    """
    if not data:
        data = await stream.receive(size)
        if not data:
            raise Broken("the server closes the connection without a reply")
    end = data.find(_EMPTY_LINE)
    if end < 0:
        data, end = await _rest_of_head(stream, size, data)
    end += len(_EMPTY_LINE)
    if end > MAX_HEAD:
        raise malformed("its head is too long")
    return data, end


async def _rest_of_head(stream: Stream, size: int, data: bytes) -> tuple[bytes, int]:
    until = trio.current_time() + 2 * stream.patience
    received = bytearray(data)
    searched = 0
    while True:
        # What cannot become a head is not waited for.
        if not received.startswith(b"HTTP/"[: len(received)]):
            raise malformed("it is not HTTP")
        if received.find(b"\n\n", searched) >= 0:
            raise malformed("a line of its head does not end in CRLF")
        if len(received) > MAX_HEAD:
            raise malformed("its head is too long")
        if trio.current_time() > until:
            raise Stalled(stream.patience)
        searched = max(0, len(received) - len(_EMPTY_LINE) + 1)
        piece = await stream.receive(size)
        if not piece:
            raise Trouble(
                ErrorKind.SOURCE_MISMATCH, "the head of the reply ends early", passes=True
            )
        received += piece
        end = received.find(_EMPTY_LINE, searched)
        if end >= 0:
            return bytes(received), end


def malformed(reason: str) -> Trouble:
    """Return the trouble with a reply that is not HTTP as it ought to be."""
    return Trouble(ErrorKind.SOURCE_MISMATCH, f"the reply is malformed: {reason}", passes=False)
