"""Server process that forks commands for `Lab`, with all modules of the commands imported.

Most of the time of a short command is spent on imports. The server imports them once for a program
that uses `Lab`, as long as no request waits. Each command is a fork of it, with its own arguments,
environment, working directory and standard streams. The server ends with the program.

The program sends one message for each command, with descriptors: the request as JSON in a file,
standard input, output and error, the file for an error, and a socket for replies. The replies are
`started` with a pidfd of the command, then its exit status; or the reason why it was not started.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

DESCRIPTORS: Final = 6
"""Number of descriptors of a request."""
STARTED: Final = b"started"
"""First reply for a command that was started."""
_FIRST_OTHER_FD: Final = 3
"""Lowest descriptor after the standard ones."""
_NOT_STARTED: Final = 126
"""Exit status of a command that failed before its arguments were read."""
_MODULES: Final = (
    "cli.app",
    "library.command",
    "cli.labs.up",
    "cli.input.manifests",
    "cli.input.manifest_warnings",
    "cli.labs.progress",
    "datapath.sandboxes",
    "kernel.namespaces.netns_pool",
    "lab.up",
    "lab.bootstrap",
    "lab.requirements",
    "lab.transport.exchange",
    "lab.processes.roles",
    "lab.runtime.container_limits",
    "lab.agent.agent",
    "lab.agent.application",
    "cli.labs.down",
    "cli.probing.ping",
    "cli.probing.ping_once",
    "cli.objects.exec",
    "kernel.namespaces.enter",
    "cli.probing.check",
    "observe.checks.check",
    "observe.matrix",
    "cli.probing.ping_series",
    "cli.objects.get",
    "cli.objects.scale",
    "cli.objects.delete",
    "cli.labs.faults",
    "cli.terminal.reports",
    "lab.apiserver.diagnostics",
)
"""Modules that commands import, below `kubenetlab`, in the order in which a program needs them."""


def main() -> None:
    """Serve the program that has started this process; `sys.argv` names the socket."""
    # A request of the program blocks until a command has ended: Ctrl-C is for the command. It is
    # blocked instead of ignored, so that it is not lost in a fork that has just begun.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    gc.disable()
    Server(socket.socket(fileno=int(sys.argv[1]))).run()


class Server:
    """Loop over requests and exits of commands."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, tuple[int, socket.socket]] = {}
        """Pidfd of a command → its pid, and the socket for replies."""

    def run(self) -> NoReturn:
        """Serve until the program closes its end of the socket or exits."""
        for name in _MODULES:
            while self._serve(0.0):
                pass
            importlib.import_module(f"kubenetlab.{name}")
        gc.collect()
        gc.freeze()  # keeps the memory of all modules shared between forks
        while True:
            self._serve(None)

    def _serve(self, timeout_s: float | None) -> bool:
        """Handle the next requests and exits; return False if there were none in time."""
        ready, _, _ = select.select([self._control.fileno(), *self._running], [], [], timeout_s)
        for fd in ready:
            if fd == self._control.fileno():
                self._receive()
            else:
                self._report_exit(fd)
        return bool(ready)

    def _receive(self) -> None:
        """Start the command of one request; exit if the program has closed its end."""
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, DESCRIPTORS)
        if not data:
            os._exit(0)
        *files, reply = descriptors
        replies = socket.socket(fileno=reply)
        try:
            pid = os.fork()
            if pid == 0:
                _become_command(files)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            replies.send(f"fork: {error.strerror}".encode())
            replies.close()
        else:
            try:
                socket.send_fds(replies, [STARTED], [pidfd])
            except OSError:
                pass  # the program has given up
            self._running[pidfd] = pid, replies
        finally:
            for fd in files:
                os.close(fd)

    def _report_exit(self, pidfd: int) -> None:
        pid, replies = self._running.pop(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        try:
            replies.send(str(os.waitstatus_to_exitcode(status)).encode())
        except OSError:
            pass  # the program has given up
        replies.close()


def _become_command(files: Sequence[int]) -> NoReturn:
    """Turn this fork into the command of a request, as if it had been started anew."""
    try:
        request_file, *streams, error_file = files
        request = json.loads(os.pread(request_file, os.fstat(request_file).st_size, 0))
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        error_fd = os.dup2(error_file, _FIRST_OTHER_FD, inheritable=False)
        os.closerange(_FIRST_OTHER_FD + 1, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        gc.enable()
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["kubenetlab", *request["arguments"]]
        from kubenetlab.library.command import run

        run(error_fd)
    finally:
        os._exit(_NOT_STARTED)
