"""Execution of CNI plugins: programs with a time limit, whose output is limited, too."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import IO, Final

from kubenetlab.cni.failures import Outcome
from kubenetlab.cni.invocations import Invocation
from kubenetlab.errors import os_error_text

TIMEOUT_S: Final = 30.0
"""Time after which a plugin is killed, in seconds.

containerd has no limit of its own; the kubelet's is 2 minutes for a whole sandbox.
"""
MAX_OUTPUT_BYTES: Final = 1 << 20
"""Size of the output above which a plugin is killed, in bytes, for each of stdout and stderr."""

_READ_BYTES: Final = 1 << 16
_BUSY_RETRIES: Final = 5
_BUSY_PAUSE_S: Final = 0.2


class PluginExecutor:
    """Runs plugins from some directories, in the namespaces of the calling thread."""

    def __init__(
        self,
        directories: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float = TIMEOUT_S,
        ends: Collection[int] = (),
    ) -> None:
        """Create an executor.

        environment: variables beside those of the specification; plugins call iptables and others,
            so PATH is among them.
        ends: descriptors; as soon as one of them can be read, a running program is killed.
        """
        self.directories = tuple(directories)
        self._environment = dict(environment)
        self._timeout_s = timeout_s
        self._ends = tuple(ends)

    def find(self, program: str) -> bool:
        return self._path(program) is not None

    def run(self, invocation: Invocation) -> Outcome:
        """Run a program in a process group of its own, which is killed at the time limit.

        Raises SystemExit if one of the descriptors `ends` can be read.
        """
        path = self._path(invocation.program)
        if path is None:
            return Outcome(start_error=f'failed to find plugin "{invocation.program}"')
        try:
            process = self._start(path, invocation)
        except OSError as error:
            return Outcome(start_error=f"cannot start the plugin: {os_error_text(error)}")
        with process:
            return _Conversation(process, self._timeout_s, self._ends).outcome()

    def _path(self, program: str) -> str | None:
        return plugin_path(program, self.directories)

    def _start(self, path: str, invocation: Invocation) -> subprocess.Popen[bytes]:
        # A file in place of a pipe: a plugin that does not read its input blocks no writer.
        with os.fdopen(os.memfd_create("cni-stdin", os.MFD_CLOEXEC), "w+b") as stdin:
            stdin.write(invocation.stdin)
            stdin.flush()
            for remaining in range(_BUSY_RETRIES, -1, -1):
                stdin.seek(0)
                try:
                    return subprocess.Popen(
                        [path],
                        stdin=stdin,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        env={**self._environment, **invocation.environment},
                        cwd="/",
                        start_new_session=True,
                    )
                except OSError as error:
                    # The program is being installed at this moment.
                    if error.errno != errno.ETXTBSY or not remaining:
                        raise
                    time.sleep(_BUSY_PAUSE_S)
        raise AssertionError("unreachable")


def plugin_path(program: str, directories: Iterable[str]) -> str | None:
    """Return the path of a plugin: the first regular file of that name; None if there is none."""
    paths = (os.path.join(directory, program) for directory in directories)
    return next((path for path in paths if os.path.isfile(path)), None)


class _Conversation:
    """Wait for a process to end, while reading its output."""

    def __init__(
        self, process: subprocess.Popen[bytes], timeout_s: float, ends: Collection[int]
    ) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._timeout_s = timeout_s
        self._ends = ends
        self._output: dict[IO[bytes], bytearray] = {
            process.stdout: bytearray(),
            process.stderr: bytearray(),
        }

    def outcome(self) -> Outcome:
        """Return the end of the process, which is killed if it takes or writes too much.

        Raises SystemExit, after killing it, if one of the descriptors `ends` can be read.
        """
        is_late = is_truncated = False
        deadline = time.monotonic() + self._timeout_s
        pidfd = os.pidfd_open(self._process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for stream in self._output:
                    os.set_blocking(stream.fileno(), False)
                    selector.register(stream, selectors.EVENT_READ, data=stream)
                for descriptor in (pidfd, *self._ends):
                    selector.register(descriptor, selectors.EVENT_READ)
                has_ended = False
                # The end of the process is enough: a process that it leaves behind may keep its
                # output open.
                while not has_ended and not is_late and not is_truncated:
                    events = selector.select(max(0.0, deadline - time.monotonic()))
                    if any(key.fd in self._ends for key, _ in events):
                        self._kill()
                        raise SystemExit("the caller of the plugin has ended")
                    has_ended = any(key.fd == pidfd for key, _ in events)
                    is_late = not has_ended and time.monotonic() >= deadline
                    for key, _ in events:
                        if key.fd != pidfd and not self._read(key.data):
                            selector.unregister(key.data)
                    is_truncated = not has_ended and self._is_too_much()
            if not has_ended:
                self._kill()
            for stream in self._output:
                self._drain(stream)
        finally:
            os.close(pidfd)
        status = self._process.wait()
        stdout, stderr = (bytes(data) for data in self._output.values())
        return Outcome(
            stdout, stderr, status, self._timeout_s if is_late else 0.0, self._is_too_much()
        )

    def _read(self, stream: IO[bytes]) -> bool:
        """Read what a stream has; return False at its end."""
        try:
            data = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return True
        self._output[stream] += data
        return bool(data)

    def _drain(self, stream: IO[bytes]) -> None:
        """Read what is left in a pipe, without waiting for more."""
        while len(self._output[stream]) <= MAX_OUTPUT_BYTES:
            before = len(self._output[stream])
            if not self._read(stream) or len(self._output[stream]) == before:
                return

    def _is_too_much(self) -> bool:
        return any(len(data) > MAX_OUTPUT_BYTES for data in self._output.values())

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended at this moment
        self._process.wait()


class ResultFiles:
    """Directory of results of ADD; it is created with the first result."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def read(self, name: str) -> bytes | None:
        try:
            with open(self._path(name), "rb") as file:
                return file.read()
        except OSError:
            return None

    def write(self, name: str, content: bytes) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        path = self._path(name)
        temporary = self._path(f".{name}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.rename(temporary, path)

    def delete(self, name: str) -> None:
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            pass

    def names(self) -> Collection[str]:
        try:
            return [name for name in os.listdir(self._directory) if not name.startswith(".")]
        except FileNotFoundError:
            return []

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)
