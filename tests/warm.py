"""Run kubenetlab commands in forks of a process that has already imported the package.

Most of the time of a short command is spent on imports. Each command is a fork with its own
arguments, environment, working directory and standard streams; it calls `kubenetlab.cli.main`, like
the installed command. Tests of the installed command itself, of other users and of other namespaces
start a Python of their own.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parents[1]
_TITLE_SPACE = "-" * 200
"""Last argument of the server.

A process can overwrite no more than its own arguments, and titles of labs are long.
"""
_LENGTH_BYTES = 4
_DESCRIPTORS = 4
"""Standard input, output and error of a command, and the socket for its PID and exit status."""


class Server:
    """Client side: starts the process that forks commands. The two processes end together."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Start the process; `environment` applies to the import of the package."""
        ours, theirs = socket.socketpair()
        with theirs:
            line = [sys.executable, "-m", "tests.warm", str(theirs.fileno()), _TITLE_SPACE]
            process = subprocess.Popen(
                line,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours
        self._lock = threading.Lock()
        weakref.finalize(self, _end, ours, process)

    def run(
        self,
        words: Sequence[str],
        stdin: str | None,
        timeout_s: float,
        cwd: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> subprocess.CompletedProcess[str]:
        """Run `kubenetlab WORDS…` like subprocess.run(); raise subprocess.TimeoutExpired."""
        request = {
            "words": list(words),
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(environment),
        }
        ours, theirs = socket.socketpair()
        with (
            ours,
            tempfile.TemporaryFile() as input_file,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            input_file.write((stdin or "").encode())
            input_file.seek(0)
            with theirs:
                self._send(
                    json.dumps(request).encode(),
                    [stream.fileno() for stream in (input_file, out, err, theirs)],
                )
            pid = _read_number(ours)
            if not select.select([ours], [], [], timeout_s)[0]:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(
                    ["kubenetlab", *words], timeout_s, _content(out), _content(err)
                )
            return subprocess.CompletedProcess(
                ["kubenetlab", *words], _read_number(ours), _content(out), _content(err)
            )

    def _send(self, request: bytes, descriptors: Sequence[int]) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        with self._lock:
            self._socket.sendmsg([len(request).to_bytes(_LENGTH_BYTES, "big")], [rights])
            self._socket.sendall(request)


def _end(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """End the process: it exits when the socket is closed."""
    control.close()
    process.wait()


@cache
def server() -> Server:
    """Return the server of this process, which the first call starts."""
    return Server()


def _content(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


def _read_number(connection: socket.socket) -> int:
    data = connection.recv(_LENGTH_BYTES)
    if not data:
        raise RuntimeError("the process that runs commands for tests has ended")
    return int.from_bytes(data, "big", signed=True)


# --- the server ---


def serve(control: socket.socket) -> None:
    """Fork a command for each request, until the client's end is closed."""
    running: dict[int, socket.socket] = {}
    children, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the commands, too
    while True:
        ready, _, _ = select.select([control.fileno(), children], [], [])
        if children in ready:
            os.read(children, 4096)
            _reap(running)
        if control.fileno() not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, _LENGTH_BYTES, _DESCRIPTORS)
        if not data:
            return
        request = json.loads(control.recv(int.from_bytes(data, "big"), socket.MSG_WAITALL))
        *streams, answers = descriptors
        pid = os.fork()
        if pid == 0:
            _become(request, streams)
        for stream in streams:
            os.close(stream)
        running[pid] = socket.socket(fileno=answers)
        running[pid].send(pid.to_bytes(_LENGTH_BYTES, "big"))


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as connection:
            try:
                connection.send(
                    os.waitstatus_to_exitcode(status).to_bytes(_LENGTH_BYTES, "big", signed=True)
                )
            except OSError:
                pass  # the command has timed out, and nothing reads its status


def _become(request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """Become the command, as if it had been started anew."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 1024)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = [str(ROOT / "kubenetlab" / "__main__.py"), *request["words"]]
        from kubenetlab.cli import main

        main()
    finally:
        os._exit(1)


_ON_DEMAND = ("kubenetlab.__main__",)
"""Modules that commands do not import as a whole: the second one imports pyroute2."""


def _import_everything() -> None:
    import kubenetlab

    for module in pkgutil.walk_packages(kubenetlab.__path__, "kubenetlab."):
        if module.name not in _ON_DEMAND:
            importlib.import_module(module.name)


if __name__ == "__main__":
    _import_everything()
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
