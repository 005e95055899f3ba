"""TLS over the sockets that others have opened: for built-in programs, and for HTTPS probes and hooks.

The ssl module is imported with the first connection that needs it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kubenetlab.programs.localhost_certificate import CERTIFICATE, KEY

if TYPE_CHECKING:
    from ssl import SSLContext

HANDSHAKE: Final = b"\x16"
"""First byte of a TLS connection: the content type of its first record (RFC 8446 §5.1)."""
RECEIVE_BYTES: Final = 64 * 1024

T = TypeVar("T")


def server_context(tls: Mapping[str, str]) -> SSLContext:
    """Return the context of a server with a certificate (with its chain) and a key in PEM. Raises OSError when they do not fit."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    with _Held(tls["certificate"]) as certificate, _Held(tls["key"]) as key:
        try:
            context.load_cert_chain(
                certificate, key, password=""
            )  # with a password the library does not ask a terminal for one
        except ssl.SSLError as error:
            raise OSError(errno.EINVAL, f"tls: {error.reason or error}") from None
    return context


@cache
def localhost_context() -> SSLContext:
    """Return the context of a server that has no certificate of its own."""
    return server_context({"certificate": CERTIFICATE, "key": KEY})


@cache
def client_context() -> SSLContext:
    """Return the context of a client that takes any certificate, as a kubelet's probes do."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsConnection:
    """A TLS connection over a connected, non-blocking socket, of which it has the names. `handshake` comes first."""

    def __init__(
        self,
        connection: socket.socket,
        context: SSLContext,
        received: bytes = b"",
        *,
        is_server: bool,
    ) -> None:
        """received: what the peer has sent already."""
        import ssl

        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(received)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)

    async def handshake(self) -> None:
        """Agree on keys with the peer. Raises OSError."""
        await self._run(self._tls.do_handshake)

    async def receive(self, count: int) -> bytes:
        """Return what comes next; nothing when the peer has ended the connection, in order or not."""
        import ssl

        try:
            return await self._run(lambda: self._tls.read(count))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    async def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            sent = await self._run(partial(self._tls.write, rest))
            rest = rest[sent:]

    async def _run(self, operation: Callable[[], T]) -> T:
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
                with suppress(OSError):  # an alert tells the peer why, if it is there
                    await self._flush()
                raise
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    # --- of the socket ---

    @property
    def family(self) -> int:
        return self._socket.family

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def getpeername(self) -> Any:
        return self._socket.getpeername()

    def getsockname(self) -> Any:
        return self._socket.getsockname()

    def close(self) -> None:
        """Say that nothing more comes (close_notify), as far as that can be said at once, and close the socket."""
        with suppress(
            OSError
        ):  # of ssl: the handshake has failed, or the peer's own close_notify is not there yet
            self._tls.unwrap()
        with suppress(OSError):  # the peer is gone, or takes nothing
            self._socket.send(self._outgoing.read())
        self._socket.close()


class _Held:
    """A text as a file that is nowhere on a disk, for a library that takes paths alone."""

    def __init__(self, text: str) -> None:
        self._fd = os.memfd_create("tls", os.MFD_CLOEXEC)
        os.write(self._fd, text.encode())

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)
