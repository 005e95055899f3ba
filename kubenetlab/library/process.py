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
from typing import IO, Final, NamedTuple, Self

import msgspec
from msgspec import Struct

from kubenetlab import errors
from kubenetlab.api.json_types import JsonObject
from kubenetlab.errors import KubenetlabError, LabError, ManifestError, Problem, UsageError
from kubenetlab.library.argument_checks import argument_error
from kubenetlab.library.command_server import (
    FORGET,
    REMOVE_AT_END,
    RUN,
    RUN_UNTIL_END,
    STARTED,
)

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
        reason = argument_error(self.warnings) or self.output.strip()
        raise type_(reason or f"{' '.join(self.arguments)}: exit status {self.status}")


class Surroundings(NamedTuple):
    """Working directory and environment of a command."""

    directory: str
    environment: dict[str, str]

    @classmethod
    def present(cls) -> Self:
        """Return the present working directory and environment of this process."""
        try:
            directory = os.getcwd()
        except FileNotFoundError:  # it has been removed, and can still be entered
            directory = f"/proc/{os.getpid()}/cwd"
        return cls(directory, dict(os.environ))


def run_command(
    arguments: Sequence[str], *, stdin: str = "", timeout_s: float | None = None
) -> Completed:
    """Run `kubenetlab ARGUMENTS…` in a process of its own.

    stdin: standard input of the command.
    timeout_s: time after which the process is killed, in seconds; None for no limit.
    Raises the KubenetlabError that the command reports, and LabError after the timeout.
    """
    with StartedCommand(arguments, stdin=stdin) as command:
        return command.completed(timeout_s)


class StartedCommand:
    """Command in a process of its own, which runs in the background.

    It is killed at the end of the `with` block, or by `close`, unless it has ended.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdin: str = "",
        surroundings: Surroundings | None = None,
        ends_with_program: bool = False,
    ) -> None:
        """Start `kubenetlab ARGUMENTS…`.

        stdin: standard input of the command.
        surroundings: by default the present ones.
        ends_with_program: True if the command is killed should this process end first.
        """
        self._arguments = tuple(arguments)
        directory, environment = surroundings or Surroundings.present()
        request = {
            "arguments": list(arguments),
            "directory": directory,
            "environment": environment,
        }
        with ExitStack() as stack:
            self._error_file = stack.enter_context(_memory_file(b""))
            self._output, output_end = _pipe(stack)
            self._messages, messages_end = _pipe(stack)
            replies, replies_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(replies)
            self._process = stack.enter_context(_Process(replies, self._output, self._messages))
            with (
                replies_end,
                output_end,
                messages_end,
                _memory_file(json.dumps(request).encode()) as request_file,
                _memory_file(stdin.encode()) as input_file,
            ):
                outputs = (output_end, messages_end, self._error_file, replies_end)
                self._process.send(
                    [file.fileno() for file in (request_file, input_file, *outputs)],
                    RUN_UNTIL_END if ends_with_program else RUN,
                )
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(type_, error, traceback)

    def close(self) -> None:
        """Kill the process unless it has ended, and close its streams."""
        self._stack.close()

    def has_ended(self) -> bool:
        """Return True if `completed` would not wait."""
        try:
            self._process.wait(time.monotonic())
        except TimeoutError:
            return False
        except LabError:
            pass  # `completed` raises it again
        return True

    def completed(self, timeout_s: float | None = None) -> Completed:
        """Wait for the end of the command, and return its output and its exit status.

        Raises the KubenetlabError that the command reports, and LabError after the timeout.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            status = self._process.wait(deadline)
        except TimeoutError:
            raise LabError(
                f"kubenetlab {' '.join(self._arguments)} has not ended after {timeout_s:g} s"
            ) from None
        file = self._error_file.fileno()
        if error := os.pread(file, os.fstat(file).st_size, 0):
            raise read_error(json.loads(error))
        output, messages = map(self._process.text, (self._output, self._messages))
        return Completed(self._arguments, status, output, messages)


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


def _send(descriptors: Sequence[int], message: bytes) -> None:
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
        self._refusal = ""
        """Reason why the server did not start the process."""

    def send(self, descriptors: Sequence[int], message: bytes) -> None:
        """Send the request for the process to the server."""
        self._is_sent = True
        _send(descriptors, message)

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
                for key, _ in selector.select(None if left_s is None else max(0.0, left_s)):
                    if not self._read(key.fileobj):
                        selector.unregister(key.fileobj)
                if left_s is not None and left_s <= 0 and selector.get_map():
                    raise TimeoutError
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
            self._refusal = self._refusal or data.decode() or "the command server has ended"
            raise LabError(f"a command was not started: {self._refusal}")
        self._status = int(data)
        return False


def read_error(record: JsonObject) -> KubenetlabError:
    """Return the error that the process wrote (command.py)."""
    if "problems" in record:
        return ManifestError(msgspec.convert(record["problems"], list[Problem]))
    type_: type[KubenetlabError] = getattr(errors, record["type"])
    message: str = record["message"]
    return type_(argument_error(message) if type_ is UsageError else message)
