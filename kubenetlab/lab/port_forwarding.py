"""Relay from ports of this machine into a namespace of the lab, like `kubectl port-forward`.

    browser ──► 127.0.0.1:8080 ─ listener ┄ task per connection ┄ socket ──► 127.0.0.1:80 ─ program
    └──────── this machine's network ───┘                       └────── the pod's network ────────┘

A socket belongs to the network namespace in which it was created, so one process can hold both
ends. The relay ends when its target exits.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from kubenetlab.errors import LabError
from kubenetlab.kernel.syscalls import inside_network, open_namespace
from kubenetlab.names import socket_address
from kubenetlab.observe.forwarding import LOCALHOST, Forward

CHUNK_BYTES = 64 * 1024
"""Maximum number of bytes that are buffered per direction of a connection."""
MAX_CONNECTIONS = 4096
LISTEN_BACKLOG = 1024
ACCEPT_PAUSE_S = 0.1
"""Pause after a connection could not be accepted for lack of descriptors or memory, in seconds."""
_OTHER_FILES = 64
"""Descriptors that this process needs besides its connections."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class ForwardedPort(NamedTuple):
    """Listening socket of this machine, and the port of the target that it is forwarded to."""

    socket: socket.socket
    address: str
    local: int
    remote: int

    @property
    def title(self) -> str:
        """Local address and port."""
        return socket_address(self.address, self.local)


def listen(addresses: Sequence[str], forwards: Sequence[Forward]) -> list[ForwardedPort]:
    """Open a listener for each address and port; an unspecified port is the same at all addresses.

    One of the two addresses of `localhost` may be missing on this machine.
    Raises LabError with all ports that cannot be opened; no listener is left open then.
    """
    opened: list[ForwardedPort] = []
    problems: list[str] = []
    for forward in forwards:
        local = forward.local
        for address in addresses:
            try:
                opened.append(_listener(address, local, forward.remote))
                local = opened[-1].local
            except OSError as error:
                if not (
                    error.errno in _NO_SUCH_ADDRESS
                    and address == LOCALHOST[1]
                    and LOCALHOST[0] in addresses
                ):
                    problems.append(_problem(error, address, local, forward.remote))
    if problems:
        for listener in opened:
            listener.socket.close()
        raise LabError("\n".join(dict.fromkeys(problems)))
    return opened


class Relay:
    """Relay of the connections of several listeners to one namespace of the lab."""

    def __init__(
        self,
        listeners: Sequence[ForwardedPort],
        pidfd: int,
        *,
        on_connection: Callable[[ForwardedPort], None],
        on_failure: Callable[[ForwardedPort, OSError], None],
    ) -> None:
        """Create a relay, which owns the listeners and the pidfd.

        pidfd: of the pause process of the target namespace; the relay ends when it exits.
        on_connection: called with the listener of each accepted connection.
        on_failure: called if the target refuses a connection.
        """
        self._listeners = listeners
        self._pidfd = pidfd
        self._home = open_namespace("net")
        self._on_connection = on_connection
        self._on_failure = on_failure
        self._connections: set[asyncio.Task[None]] = set()
        self._capacity = asyncio.Semaphore(_max_connections())

    async def run(self, on_ready: Callable[[], None]) -> bool:
        """Relay connections until the relay ends, then close everything.

        Return True if SIGINT or SIGTERM ended it, False if its target exited.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[bool] = loop.create_future()

        def end(is_stopped: bool) -> None:
            if not ended.done():
                ended.set_result(is_stopped)

        loop.add_reader(self._pidfd, end, False)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, True)
        accepting = [loop.create_task(self._accept(listener)) for listener in self._listeners]
        try:
            on_ready()
            waiting: list[asyncio.Future[bool] | asyncio.Task[None]] = [ended, *accepting]
            for done in (await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))[0]:
                done.result()  # raises if an accept loop has failed
            return ended.result()
        finally:
            tasks = (*accepting, *self._connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            loop.remove_reader(self._pidfd)
            for listener in self._listeners:
                listener.socket.close()
            os.close(self._home)
            os.close(self._pidfd)

    async def _accept(self, listener: ForwardedPort) -> None:
        """Accept connections up to the maximum number; further ones wait in the kernel's queue."""
        loop = asyncio.get_running_loop()
        while True:
            await self._capacity.acquire()
            client = await self._next(listener)
            self._on_connection(listener)
            task = loop.create_task(self._serve(listener, client))
            self._connections.add(task)
            task.add_done_callback(self._forget)

    async def _next(self, listener: ForwardedPort) -> socket.socket:
        while True:
            try:
                client, _ = await asyncio.get_running_loop().sock_accept(listener.socket)
            except ConnectionAbortedError:
                continue  # the client has closed the connection already
            except OSError:
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            return client

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._capacity.release()

    async def _serve(self, listener: ForwardedPort, client: socket.socket) -> None:
        """Relay one connection in both directions until both sides have shut it down.

        If one side resets its connection, the other connection is reset, too.
        """
        with client:
            try:
                server = await self._connect(listener.remote)
            except OSError as error:
                self._on_failure(listener, error)
                return
            with server:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    async with asyncio.TaskGroup() as directions:
                        directions.create_task(_copy(client, server))
                        directions.create_task(_copy(server, client))
                except* OSError:
                    for end in (client, server):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    async def _connect(self, port: int) -> socket.socket:
        """Connect to a port of localhost in the target namespace, by IPv4 or else by IPv6.

        Raises the OSError of the first attempt if both fail.
        """
        failure: OSError | None = None
        for family, address in zip((socket.AF_INET, socket.AF_INET6), LOCALHOST, strict=True):
            try:
                with inside_network(self._pidfd, self._home, is_kept=True):
                    server = socket.socket(
                        family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
                    )
            except OSError as error:
                failure = failure or error
                continue
            try:
                await asyncio.get_running_loop().sock_connect(server, (address, port))
            except OSError as error:
                server.close()
                failure = failure or error
            except asyncio.CancelledError:
                server.close()
                raise
            else:
                return server
        assert failure is not None
        raise failure


async def _copy(source: socket.socket, destination: socket.socket) -> None:
    """Copy a stream to its end, and shut down the destination.

    The next part is read after the former has been sent: a slow receiver slows down the sender.
    """
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK_BYTES):
        await loop.sock_sendall(destination, data)
    destination.shutdown(socket.SHUT_WR)


def _listener(address: str, local: int, remote: int) -> ForwardedPort:
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((address, local))
        opened.listen(LISTEN_BACKLOG)
    except OSError:
        opened.close()
        raise
    return ForwardedPort(opened, address, opened.getsockname()[1], remote)


def _problem(error: OSError, address: str, local: int, remote: int) -> str:
    """Return the message for a port that cannot be opened."""
    endpoint = socket_address(address, local)
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{endpoint} is used by another program; "
                f"choose another local port, or any free one with :{remote}"
            )
        case errno.EACCES:
            return (
                f"{endpoint}: only root may use this port; "
                f"choose a local port from 1024, or any free one with :{remote}"
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"{endpoint}: this machine has no address {address}; see: ip addr"
    return f"cannot listen on {endpoint}: {error.strerror}"


def _max_connections() -> int:
    """Return the number of connections that fit into this process's descriptor limit, two each.

    The soft limit is raised to the hard limit.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(1, min(MAX_CONNECTIONS, (hard - _OTHER_FILES) // 2))
