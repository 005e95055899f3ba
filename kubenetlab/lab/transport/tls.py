"""TLS over sockets that callers open, for built-in programs, and for HTTPS probes and hooks.

The ssl module is imported when the first connection needs it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Final, TypeVar

from kubenetlab.programs.support.http import SocketName
from kubenetlab.programs.support.localhost_certificate import CERTIFICATE, KEY

if TYPE_CHECKING:
    from ssl import SSLContext

HANDSHAKE: Final = b"\x16"
"""First byte of a TLS connection: the content type of its first record (RFC 8446 §5.1)."""
RECEIVE_BYTES: Final = 64 * 1024

T = TypeVar("T")


def server_context(tls: Mapping[str, str]) -> SSLContext:
    """Return the TLS context of a server.

    tls: PEM texts `certificate` (with its chain) and `key`.
    Raises OSError if they are invalid or do not belong together.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    with _MemoryFile(tls["certificate"]) as certificate, _MemoryFile(tls["key"]) as key:
        try:
            # Without a password the library would ask for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except ssl.SSLError as error:
            raise OSError(errno.EINVAL, f"tls: {error.reason or error}") from None
    return context


@cache
def localhost_context() -> SSLContext:
    """Return the TLS context of a server without a certificate of its own."""
    return server_context({"certificate": CERTIFICATE, "key": KEY})


@cache
def client_context() -> SSLContext:
    """Return the TLS context of a client that accepts any certificate, as the kubelet does."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsConnection:
    """TLS connection over a connected, non-blocking socket, with some of the socket's methods.

    `handshake` must be called first.
    """

    def __init__(
        self,
        connection: socket.socket,
        context: SSLContext,
        received: bytes = b"",
        *,
        is_server: bool,
    ) -> None:
        """Wrap a socket. `received`: bytes that were received already."""
        import ssl

        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(received)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)

    async def handshake(self) -> None:
        """Do the TLS handshake. Raises OSError."""
        await self._run(self._tls.do_handshake)

    async def receive(self, count: int) -> bytes:
        """Return up to `count` received bytes; none if the peer has closed the connection."""
        import ssl

        try:
            return await self._run(lambda: self._tls.read(count))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def send(self, data: bytes) -> None:
        """Send all bytes."""
        remaining = memoryview(data)
        while remaining:
            sent = await self._run(partial(self._tls.write, remaining))
            remaining = remaining[sent:]

    async def _run(self, operation: Callable[[], T]) -> T:
        """Run a TLS operation, exchanging data with the peer until it completes."""
        import ssl

        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await asyncio.get_running_loop().sock_recv(self._socket, RECEIVE_BYTES)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                with suppress(OSError):  # sends the alert with the reason, if the peer is there
                    await self._flush()
                raise
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    # --- methods of the socket ---

    @property
    def family(self) -> int:
        return self._socket.family

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def getpeername(self) -> SocketName:
        name: SocketName = self._socket.getpeername()
        return name

    def getsockname(self) -> SocketName:
        name: SocketName = self._socket.getsockname()
        return name

    def close(self) -> None:
        """Send close_notify if that does not block, and close the socket."""
        # An OSError of ssl: the handshake has failed, or the peer has not sent close_notify.
        with suppress(OSError):
            self._tls.unwrap()
        with suppress(OSError):  # the peer is gone, or its receive buffer is full
            self._socket.send(self._outgoing.read())
        self._socket.close()


class _MemoryFile:
    """Anonymous file in memory with a text, for a library that accepts only paths."""

    def __init__(self, text: str) -> None:
        self._fd = os.memfd_create("tls", os.MFD_CLOEXEC)
        os.write(self._fd, text.encode())

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)
