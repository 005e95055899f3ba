"""A relay from ports of this machine into a namespace of the lab, as the kubelet's for `kubectl port-forward`.

    browser ──► 127.0.0.1:8080 ─ listener ┄┄ one task a connection ┄┄ socket ──► 127.0.0.1:80 ─ program
    └──────── this machine's network ───┘                             └─────── the pod's network ──────┘

A socket stays in the network in which it was made: so one process holds both ends. It lives no longer than what it leads to.
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
from typing import Any, NamedTuple

from kubenetlab.errors import LabError
from kubenetlab.kernel.syscalls import inside_network, open_namespace
from kubenetlab.names import socket_address
from kubenetlab.observe.forwarding import LOCALHOST, Forward

CHUNK_BYTES = 64 * 1024
"""What is held of one direction of a connection until the other side takes it."""
MAX_CONNECTIONS = 4096
LISTEN_BACKLOG = 1024
ACCEPT_PAUSE_S = 0.1
"""When the machine has no descriptor or memory left for a connection."""
_OTHER_FILES = 64
"""What this process may have open beside its connections."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class ForwardedPort(NamedTuple):
    """A listening socket of this machine, and the port inside that it leads to."""

    socket: socket.socket
    address: str
    local: int
    remote: int

    @property
    def title(self) -> str:
        return socket_address(self.address, self.local)


def listen(addresses: Sequence[str], forwards: Sequence[Forward]) -> list[ForwardedPort]:
    """A listener for each port and address; a free port is the same at all addresses.

    Raises LabError with everything that cannot be had, and then leaves none open. Of `localhost` the machine may lack one address.
    """
    opened: list[ForwardedPort] = []
    faults: list[str] = []
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
                    faults.append(_fault(error, address, local, forward.remote))
    if faults:
        for listener in opened:
            listener.socket.close()
        raise LabError("\n".join(dict.fromkeys(faults)))
    return opened


class Relay:
    """Connections of some listeners, each joined to one that is made inside."""

    def __init__(
        self,
        listeners: Sequence[ForwardedPort],
        pidfd: int,
        *,
        on_connection: Callable[[ForwardedPort], None],
        on_failure: Callable[[ForwardedPort, OSError], None],
    ) -> None:
        """`pidfd` is of the pause process that holds the namespace: when that dies the relay is over."""
        self._listeners = listeners
        self._pidfd = pidfd
        self._home = open_namespace("net")
        self._on_connection = on_connection
        self._on_failure = on_failure
        self._connections: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_room())

    async def run(self, on_ready: Callable[[], None]) -> bool:
        """Relays until somebody stops it (True: SIGINT or SIGTERM) or what it leads to is gone (False). Nothing is open then."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[bool] = loop.create_future()

        def end(is_stopped: bool) -> None:
            if not over.done():
                over.set_result(is_stopped)

        loop.add_reader(self._pidfd, end, False)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, True)
        accepting = [loop.create_task(self._accept(listener)) for listener in self._listeners]
        try:
            on_ready()
            waiting: list[asyncio.Future[Any]] = [over, *accepting]
            for first in (await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))[0]:
                first.result()  # an accept loop ends by an error only
            return over.result()
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
        """Takes connections while there is room; those beyond wait in the kernel's queue."""
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            near = await self._next(listener)
            self._on_connection(listener)
            task = loop.create_task(self._serve(listener, near))
            self._connections.add(task)
            task.add_done_callback(self._forget)

    async def _next(self, listener: ForwardedPort) -> socket.socket:
        while True:
            try:
                near, _ = await asyncio.get_running_loop().sock_accept(listener.socket)
            except ConnectionAbortedError:
                continue  # whoever knocked has gone
            except OSError:
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            return near

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._room.release()

    async def _serve(self, listener: ForwardedPort, near: socket.socket) -> None:
        """One connection, both ways, until both sides have said all. Where one is reset, so is the other."""
        with near:
            try:
                far = await self._connect(listener.remote)
            except OSError as error:
                self._on_failure(listener, error)
                return
            with far:
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    async with asyncio.TaskGroup() as directions:
                        directions.create_task(_pass_on(near, far))
                        directions.create_task(_pass_on(far, near))
                except* OSError:
                    for end in (near, far):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    async def _connect(self, port: int) -> socket.socket:
        """A connection to localhost, inside: by IPv4, else by IPv6. Raises the first of the two errors."""
        failure: OSError | None = None
        for family, address in zip((socket.AF_INET, socket.AF_INET6), LOCALHOST, strict=True):
            try:
                with inside_network(self._pidfd, self._home, is_kept=True):
                    far = socket.socket(
                        family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
                    )
            except OSError as error:
                failure = failure or error
                continue
            try:
                await asyncio.get_running_loop().sock_connect(far, (address, port))
            except OSError as error:
                far.close()
                failure = failure or error
            except asyncio.CancelledError:
                far.close()
                raise
            else:
                return far
        assert failure is not None
        raise failure


async def _pass_on(source: socket.socket, destination: socket.socket) -> None:
    """Everything that comes, then the end of it. No more is read than the other side takes."""
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


def _fault(error: OSError, address: str, local: int, remote: int) -> str:
    where = socket_address(address, local)
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where} is taken by another program; choose another local port, or any free one with :{remote}"
        case errno.EACCES:
            return f"{where}: this port is root's; choose a local port from 1024, or any free one with :{remote}"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"{where}: this machine has no address {address}; see: ip addr"
    return f"cannot listen on {where}: {error.strerror}"


def _room() -> int:
    """How many connections fit into the descriptors that this process may have, at two each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(1, min(MAX_CONNECTIONS, (hard - _OTHER_FILES) // 2))
