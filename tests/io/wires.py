"""A scripted server: it answers with exactly the bytes that a test gives it."""

import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import trio

type Reply = bytes | Callable[["Peer"], Awaitable[None]]


class Peer(NamedTuple):
    """The server's side of a connection. *socket* is what lies below TLS."""

    stream: trio.abc.Stream
    socket: trio.SocketStream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def reset(self) -> None:
        """End the connection with RST, or within TLS, without a farewell."""
        self.socket.setsockopt(
            trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        await self.socket.aclose()

    async def cut(self) -> None:
        """End the connection with FIN, within TLS without a farewell."""
        await self.socket.aclose()

    async def until_closed(self) -> None:
        """Wait until the client has closed the connection."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self.stream.receive_some():
                pass


class Wire:
    """A server on *host* that gives each request the next of *replies*, and then closes.

    Bytes are sent as they are, and the connection stays open for the next request; a function does
    with the connection what it likes, and closes it unless it returns. *heads* has the heads of the
    requests, and *connections* counts.
    """

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.heads: list[bytes] = []
        self.connections = 0
        self.port = 0

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def serve(
        self, context: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncIterator["Wire"]:
        async def answer(stream: trio.SocketStream) -> None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._answer(stream, context)

        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(port, host=host)
            self.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, answer, listeners)
            yield self
            nursery.cancel_scope.cancel()

    async def _answer(self, stream: trio.SocketStream, context: ssl.SSLContext | None) -> None:
        self.connections += 1
        secure = (
            stream
            if context is None
            else trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        )
        peer = Peer(secure, stream)
        try:
            while await self._request(peer) and self.replies:
                reply = self.replies.pop(0)
                if isinstance(reply, bytes):
                    await peer.send(reply)
                else:
                    await reply(peer)
            await secure.aclose()
        finally:
            await trio.aclose_forcefully(secure)

    async def _request(self, peer: Peer) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = await peer.stream.receive_some()
            if not piece:
                return False
            head += piece
        self.heads.append(head)
        return True


def reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a right reply with *body* and its length."""
    lines = "".join(f"{header}\r\n" for header in headers)
    return (
        f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode("latin-1") + body
    )
