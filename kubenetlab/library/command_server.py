"""Server process that forks commands for `Lab`, with all modules of the commands imported.

Most of the time of a short command is spent on imports. The server imports them once for a program
that uses `Lab`, as long as no request waits. Each command is a fork of it, with its own arguments,
environment, working directory and standard streams. The server ends with the program.

The program sends one message for each command, `RUN` or `RUN_UNTIL_END`, with descriptors: the
request as JSON in a file, standard input, output and error, the file for an error, and a socket for
replies. The replies are `started` with a pidfd of the command, then its exit status; or the reason
why it was not started.
Other messages name a lab that the server removes when the program has ended, however it ended.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, NoReturn

DESCRIPTORS: Final = 6
"""Number of descriptors of a request."""
RUN: Final = b"."
"""Message: run a command."""
RUN_UNTIL_END: Final = b":"
"""Message: run a command, and kill it if the program ends first."""
REMOVE_AT_END: Final = b"+"
"""Message: remove the lab with the name that follows when the program has ended."""
FORGET: Final = b"-"
"""Message: the lab with the name that follows no longer exists."""
_MAX_MESSAGE_BYTES: Final = 1024
STARTED: Final = b"started"
"""First reply for a command that was started."""
_FIRST_OTHER_FD: Final = 3
"""Lowest descriptor after the standard ones."""
_NOT_STARTED: Final = 126
"""Exit status of a command that failed before its arguments were read."""
_BLOCKED: Final = (signal.SIGINT, signal.SIGHUP)
_MODULES: Final = (
    "cli.app",
    "library.command",
    "cli.labs.up",
    "cli.input.manifests",
    "cli.input.kustomize",
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
    "observe.drop_logs",
    "observe.matrix",
    "cli.probing.ping_series",
    "cli.objects.get",
    "cli.objects.scale",
    "cli.objects.delete",
    "cli.labs.faults",
    "cli.terminal.reports",
    "lab.apiserver.diagnostics",
    "kernel.rules.conntrack",
    "programs.idle",
)
"""Modules that commands import, below `kubenetlab`, in the order in which a program needs them."""


_COMMANDS: Final = ("up", "ping", "down", "exec", "apply", "check", "get", "delete", "scale")
"""Commands whose options are parsed in advance."""
_MESSAGES: Final = ("app_worker", "creation", "daemons", "init", "node_agent")
"""Modules of messages between processes of a lab."""
_MANIFEST: Final = """\
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {containers: [{name: a, image: busybox}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a}
spec:
  podSelector: {matchLabels: {app: a}}
  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80}]}]
"""
"""Manifest of a lab with a network policy."""


def main() -> None:
    """Serve the program that has started this process; `sys.argv` names the socket."""
    # Ctrl-C and the end of the terminal are for the commands; the server must still remove labs.
    # The signals are blocked instead of ignored, so that a fork that has just begun gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    gc.disable()
    Server(socket.socket(fileno=int(sys.argv[1]))).run()


def _preparations() -> Iterator[Callable[[], object]]:
    """Yield functions that each do a part of what all commands would do again.

    Forks inherit imported modules, parsers of options, and decoders that were built at first use.
    """
    for name in _MODULES:
        yield partial(importlib.import_module, f"kubenetlab.{name}")
    from kubenetlab.cli.app import app, command, root

    yield root
    yield partial(app, ["list", "--help"], standalone_mode=False)
    for name in _COMMANDS:
        yield partial(command, name)
    for name in _MESSAGES:
        yield partial(_build_decoders, f"kubenetlab.lab.messages.{name}")
    from kubenetlab.library.planning import plan

    yield plan
    yield partial(plan, text=_MANIFEST)
    yield _fill_caches


def _fill_caches() -> None:
    """Do once what `up` and node agents do in every lab, so that forks inherit the caches."""
    from kubenetlab.api.store import Cluster
    from kubenetlab.cli.input.manifest_warnings import ignored_fields
    from kubenetlab.cli.input.manifests import read
    from kubenetlab.hoststate.rules import conntrack
    from kubenetlab.hoststate.rules.nftables import transactions
    from kubenetlab.lab.store.store_file import require_readable
    from kubenetlab.library.planning import plan

    ignored_fields(read(None, with_quickstart=True).all_entries)
    require_readable(plan(text=_MANIFEST).cluster, Cluster())
    transactions.prepare()
    conntrack.decode("[]")


def _build_decoders(module: str) -> None:
    """Let msgspec read the types of a module's messages, which it keeps with the types."""
    import msgspec

    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, type) and issubclass(value, msgspec.Struct):
            msgspec.msgpack.Decoder(value)


class _RunningCommand(NamedTuple):
    """Fork of the server that runs a command."""

    pid: int
    replies: socket.socket
    ends_with_program: bool
    """True if the command is killed when the program ends."""


class Server:
    """Loop over requests and exits of commands."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, _RunningCommand] = {}
        """Commands by their pidfds."""
        self._labs: dict[str, None] = {}
        """Labs to be removed when the program has ended."""

    def run(self) -> NoReturn:
        """Serve until the program closes its end of the socket or exits."""
        for prepare in _preparations():
            while self._serve(0.0):
                pass
            with suppress(Exception):  # the command that needs it reports the error
                prepare()
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
        """Handle one message; exit if the program has closed its end."""
        data, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE_BYTES, DESCRIPTORS)
        lab = data[1:].decode()
        if not data:
            self._kill_commands()
            self._remove_labs()
            os._exit(0)
        if data in (RUN, RUN_UNTIL_END):
            self._start(descriptors, ends_with_program=data == RUN_UNTIL_END)
        elif data.startswith(REMOVE_AT_END):
            self._labs[lab] = None
        elif data.startswith(FORGET):
            self._labs.pop(lab, None)

    def _kill_commands(self) -> None:
        """Kill the commands that end with the program: their labs are removed."""
        for command in self._running.values():
            if command.ends_with_program:
                os.kill(command.pid, signal.SIGKILL)  # a child that is not reaped keeps its pid
                os.waitpid(command.pid, 0)

    def _remove_labs(self) -> None:
        """Remove the labs that the program has left."""
        for lab in self._labs:
            pid = os.fork()
            if pid == 0:
                try:
                    gc.enable()
                    sys.argv = ["kubenetlab", "down", "--lab", lab]
                    from kubenetlab import cli

                    cli.main()
                finally:
                    os._exit(_NOT_STARTED)
            os.waitpid(pid, 0)

    def _start(self, descriptors: Sequence[int], *, ends_with_program: bool) -> None:
        """Start the command of a request."""
        *files, reply = descriptors
        replies = socket.socket(fileno=reply)
        pid = 0
        try:
            pid = os.fork()
            if pid == 0:
                _become_command(files)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            if pid:  # it could not be observed, and the program takes it for not started
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            replies.send(f"fork: {error.strerror}".encode())
            replies.close()
        else:
            try:
                socket.send_fds(replies, [STARTED], [pidfd])
            except OSError:
                pass  # the program has given up
            self._running[pidfd] = _RunningCommand(pid, replies, ends_with_program)
        finally:
            for fd in files:
                os.close(fd)

    def _report_exit(self, pidfd: int) -> None:
        pid, replies, _ = self._running.pop(pidfd)
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
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
        gc.enable()
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["kubenetlab", *request["arguments"]]
        from kubenetlab.library.command import run

        run(error_fd)
    finally:
        os._exit(_NOT_STARTED)
