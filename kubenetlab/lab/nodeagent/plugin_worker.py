"""Child process in the namespaces of a node, which answers requests one after the other.

Preparing the namespaces takes longer than most plugins run, so a worker serves many calls. It ends
when its parent or its node ends: a process in a network namespace keeps it alive. Then it kills the
plugin that it runs. A signal at the end of the parent would not give it the time to do so.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from collections.abc import Callable, Collection
from typing import NoReturn

from kubenetlab.kernel.processes.identity import Process, ProcessId
from kubenetlab.kernel.processes.inheritance import close_other_descriptors
from kubenetlab.kernel.syscalls import fork

_SIZE = struct.Struct("=I")
_DONE, _FAILED = b"\0", b"\1"
"""First byte of a reply: the rest is the answer, or the text of an exception."""


AnswerRequest = Callable[[bytes, Collection[int]], bytes]
"""Function that answers a request until one of some descriptors can be read."""


class PluginWorker:
    """The parent's end of a worker."""

    def __init__(self, node: ProcessId, enter: Callable[[], None], answer: AnswerRequest) -> None:
        """Fork the worker.

        node: pause process of the node.
        enter: called once in the worker, to enter the node's namespaces.
        answer: called in the worker with each request, and with descriptors; returns the reply.
            When one of the descriptors can be read, it raises SystemExit.
        Raises OSError if the process cannot be created.
        """
        self.idle_since = 0.0
        """Time of the latest reply, by the clock of the event loop."""
        self._connection, theirs = socket.socketpair()
        try:
            self._pid = fork()
        except OSError:
            self._connection.close()
            theirs.close()
            raise
        if self._pid == 0:
            _serve(theirs, node, enter, answer)
        theirs.close()
        self._connection.setblocking(False)

    async def call(self, request: bytes) -> bytes:
        """Return the reply to a request.

        Raises OSError if the worker has ended, or `answer` has raised an exception. After any
        exception the worker must be closed.
        """
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._connection, _SIZE.pack(len(request)) + request)
        (size,) = _SIZE.unpack(await self._receive(_SIZE.size))
        reply = await self._receive(size)
        if reply[:1] == _FAILED:
            raise OSError(reply[1:].decode(errors="replace"))
        return reply[1:]

    def close(self) -> asyncio.Future[None]:
        """Let the worker kill the plugin that it runs, and end; the result is set afterwards."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        pidfd = os.pidfd_open(self._pid)  # it has not been reaped, so the pid is its own
        loop.add_reader(pidfd, self._reap, pidfd, ended)
        loop.remove_reader(self._connection)  # a call may wait for it
        self._connection.close()
        return ended

    def _reap(self, pidfd: int, ended: asyncio.Future[None]) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        os.waitpid(self._pid, 0)
        if not ended.done():
            ended.set_result(None)

    async def _receive(self, size: int) -> bytes:
        loop, data = asyncio.get_running_loop(), bytearray()
        while len(data) < size:
            part = await loop.sock_recv(self._connection, size - len(data))
            if not part:
                raise OSError("the process that calls CNI plugins has died")
            data += part
        return bytes(data)


def _serve(
    connection: socket.socket,
    node: ProcessId,
    enter: Callable[[], None],
    answer: AnswerRequest,
) -> NoReturn:
    """Answer requests until the parent or the node ends."""
    try:
        close_other_descriptors([connection.fileno()])
        ends = [connection.fileno(), os.pidfd_open(os.getppid())]
        fault = ""
        try:
            holder = Process(node)
            ends.append(holder.pidfd)
            enter()
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        poll = select.poll()
        for descriptor in ends:
            poll.register(descriptor, select.POLLIN)
        while (ready := poll.poll()) and all(fd == connection.fileno() for fd, _ in ready):
            (size,) = _SIZE.unpack(_read(connection, _SIZE.size))
            request = _read(connection, size)
            try:
                reply = _FAILED + fault.encode() if fault else _DONE + answer(request, ends)
            except Exception as error:
                reply = _FAILED + f"{type(error).__name__}: {error}".encode()
            connection.sendall(_SIZE.pack(len(reply)) + reply)
    finally:
        os._exit(0)


def _read(connection: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes. Raises EOFError if the parent has closed the connection."""
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
