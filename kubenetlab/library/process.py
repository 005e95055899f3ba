"""Commands in processes of their own: their output, their exit status and their error."""

from __future__ import annotations

import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from types import TracebackType
from typing import IO, Final, Self

import msgspec
from msgspec import Struct

from kubenetlab import errors
from kubenetlab.api.json_types import JsonObject
from kubenetlab.errors import KubenetlabError, LabError, ManifestError, Problem, UsageError
from kubenetlab.library.command_server import FORGET, REMOVE_AT_END, RUN, STARTED

_NOT_WARNINGS: Final = ("note: ", "next: ")
"""Beginnings of messages that are no warnings."""
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from kubenetlab.library.command_server import main; main()"
)
"""Program of the command server. It finds the same modules as this process, wherever they are."""
_TITLE_SPACE: Final = "-" * 200
"""Last argument of the server.

A process can overwrite no more than its own arguments, and titles of a lab's processes are long.
"""
_INTERRUPT_TIMEOUT_S: Final = 0.25
"""Time allowed for an interrupted command to end by itself, in seconds, as in subprocess.run()."""
_START_TIMEOUT_S: Final = 5.0
"""Time allowed for the server to start a command that is to be killed, in seconds."""
_READ_BYTES: Final = 65536


class Completed(Struct, frozen=True):
    """Command that has ended."""

    arguments: tuple[str, ...]
    status: int
    """Exit status; negative for the number of a signal."""
    output: str
    """Standard output."""
    messages: str
    """Standard error: warnings and other messages."""

    @property
    def warnings(self) -> str:
        """Messages without notes, and without the hint which command to run next."""
        lines = self.messages.splitlines()
        return "\n".join(line for line in lines if not line.startswith(_NOT_WARNINGS))

    def require(self, *statuses: int) -> Completed:
        """Return the command if it has ended with one of some statuses.

        Raises UsageError for status 2, and LabError for any other.
        """
        if self.status in statuses:
            return self
        type_ = UsageError if self.status == UsageError.exit_status else LabError
        reason = self.warnings or self.output.strip()
        raise type_(reason or f"{' '.join(self.arguments)}: exit status {self.status}")


def run_command(
    arguments: Sequence[str], *, stdin: str = "", timeout_s: float | None = None
) -> Completed:
    """Run `kubenetlab ARGUMENTS…` in a process of its own.

    stdin: standard input of the command.
    timeout_s: time after which the process is killed, in seconds; None for no limit.
    Raises the KubenetlabError that the command reports, and LabError after the timeout.
    """
    request = {
        "arguments": list(arguments),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
    }
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with ExitStack() as stack:
        error_file = stack.enter_context(_memory_file(b""))
        output, output_end = _pipe(stack)
        messages, messages_end = _pipe(stack)
        replies, replies_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(replies)
        process = stack.enter_context(_Process(replies, output, messages))
        with (
            replies_end,
            output_end,
            messages_end,
            _memory_file(json.dumps(request).encode()) as request_file,
            _memory_file(stdin.encode()) as input_file,
        ):
            sent = (request_file, input_file, output_end, messages_end, error_file, replies_end)
            process.send([file.fileno() for file in sent])
        try:
            status = process.wait(deadline)
        except TimeoutError:
            raise LabError(
                f"kubenetlab {' '.join(arguments)} has not ended after {timeout_s:g} s"
            ) from None
        if error := os.pread(error_file.fileno(), os.fstat(error_file.fileno()).st_size, 0):
            raise read_error(json.loads(error))
    return Completed(tuple(arguments), status, process.text(output), process.text(messages))


class _CommandServer:
    """Client side of the command server (command_server.py); it ends with this object."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            line = [sys.executable, "-P", "-c", _START, json.dumps(sys.path), str(theirs.fileno())]
            process = subprocess.Popen(
                [*line, _TITLE_SPACE],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.socket = ours
        weakref.finalize(self, _end, ours, process)


def _end(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """End the server: it exits when the socket is closed."""
    control.close()
    process.wait()


@lru_cache(maxsize=1)
def _server(*identity: int) -> _CommandServer:
    """Return the server for this process, which the first call starts.

    The caller holds `_lock`: two threads would start two servers, and one would end with its socket
    in use.
    identity: attributes of this process that the server inherits. A fork, and a process that has
        changed its user, get a server of their own.
    """
    return _CommandServer()


_lock = threading.Lock()
"""Held while the server is started or used, because threads share it."""
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


def _send(descriptors: Sequence[int], message: bytes = RUN) -> None:
    """Send a request to the server; start the server again if it has ended."""
    identity = (os.getpid(), *os.getresuid(), *os.getresgid())
    with _lock:
        try:
            socket.send_fds(_server(*identity).socket, [message], descriptors)
        except (BrokenPipeError, ConnectionError):
            _server.cache_clear()
            socket.send_fds(_server(*identity).socket, [message], descriptors)


def remove_at_end(lab: str, *, is_gone: bool = False) -> None:
    """Let the command server remove a lab when this process ends, even if it is killed.

    is_gone: True if the lab has been removed.
    """
    _send([], (FORGET if is_gone else REMOVE_AT_END) + lab.encode())


def _memory_file(content: bytes) -> IO[bytes]:
    """Return an open file in memory, at its beginning."""
    file = os.fdopen(os.memfd_create("kubenetlab"), "r+b", buffering=0)
    file.write(content)
    file.seek(0)
    return file


def _pipe(stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Return the ends of a pipe for reading, which `stack` closes, and for writing."""
    reader, writer = os.pipe()
    return (
        stack.enter_context(os.fdopen(reader, "rb", buffering=0)),
        os.fdopen(writer, "wb", buffering=0),
    )


class _Process:
    """Process of a command: its output as far as it has been read, and its exit status.

    It is killed at the end of the `with` block, unless it has ended.
    """

    def __init__(self, replies: socket.socket, *streams: IO[bytes]) -> None:
        self._replies = replies
        self._contents: dict[IO[bytes], bytearray] = {stream: bytearray() for stream in streams}
        self._is_sent = False
        """True if the server may have started the process."""
        self._pidfd: int | None = None
        self._status: int | None = None

    def send(self, descriptors: Sequence[int]) -> None:
        """Send the request for the process to the server."""
        self._is_sent = True
        _send(descriptors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill the process unless it has ended.

        After a KeyboardInterrupt it gets time to end by itself: the terminal sends SIGINT to it,
        too.
        """
        if self._is_sent and self._status is None:
            if self._pidfd is None:
                self._replies.settimeout(_START_TIMEOUT_S)
                with suppress(OSError, LabError):
                    self._receive()
            if isinstance(error, KeyboardInterrupt):
                with suppress(TimeoutError, LabError):
                    self.wait(time.monotonic() + _INTERRUPT_TIMEOUT_S)
        if self._pidfd is not None:
            if self._status is None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)

    def text(self, stream: IO[bytes]) -> str:
        """Return what the process has written to a stream, with uniform ends of lines."""
        text = self._contents[stream].decode(errors="replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def wait(self, deadline: float | None) -> int:
        """Return the exit status once the process has ended and its streams are closed.

        deadline: time of `time.monotonic()`, or None.
        Raises TimeoutError at the deadline, and LabError if the process was not started.
        """
        with selectors.DefaultSelector() as selector:
            for stream in self._contents:
                if not stream.closed:
                    selector.register(stream, selectors.EVENT_READ)
            if self._status is None:
                selector.register(self._replies, selectors.EVENT_READ)
            while selector.get_map():
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimeoutError
                for key, _ in selector.select(left_s):
                    if not self._read(key.fileobj):
                        selector.unregister(key.fileobj)
        assert self._status is not None
        return self._status

    def _read(self, file: object) -> bool:
        """Read from a stream or a reply; return False after its end."""
        if file is self._replies:
            return self._receive()
        assert isinstance(file, io.FileIO)
        data = file.read(_READ_BYTES)
        self._contents[file] += data or b""
        if not data:
            file.close()
        return bool(data)

    def _receive(self) -> bool:
        """Receive a reply of the server; return False after the last one."""
        data, descriptors, _, _ = socket.recv_fds(self._replies, _READ_BYTES, 1)
        if data == STARTED:
            (self._pidfd,) = descriptors
            return True
        if not data or self._pidfd is None:
            self._is_sent = False
            raise LabError(
                f"a command was not started: {data.decode() or 'the command server has ended'}"
            )
        self._status = int(data)
        return False


def read_error(record: JsonObject) -> KubenetlabError:
    """Return the error that the process wrote (command.py)."""
    if "problems" in record:
        return ManifestError(msgspec.convert(record["problems"], list[Problem]))
    type_: type[KubenetlabError] = getattr(errors, record["type"])
    return type_(record["message"])
