"""A running `port-forward`, and servers in pods that it reaches."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.labs.lab import COMMAND, DEADLINE_S, Lab

MIB = 1 << 20


class Forwarding:
    """A running port-forward and the ports that it has announced."""

    def __init__(self, process: subprocess.Popen[str], count: int) -> None:
        self.process = process
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(count)]
        assert all(lines), process.communicate()[1]
        self.announced = [
            re.fullmatch(r"Forwarding from (\S+):(\d+) -> (\d+)\n", line) for line in lines
        ]
        self.ports = [int(match[2]) for match in self.announced if match]
        assert len(self.ports) == count, lines

    def connect(self, index: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[index]), timeout=DEADLINE_S)

    def get(self, path: str, index: int = 0) -> str:
        return get(self.connect(index), path)

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """Send a signal; return the exit status, the output since the start, and the errors."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, err


@contextmanager
def forwarding(lab: Lab, *words: str, count: int = 1, **more: Any) -> Iterator[Forwarding]:
    command = [*COMMAND, "port-forward", "--lab", lab.name, *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )
    try:
        yield Forwarding(process, count)
    finally:
        process.kill()
        process.communicate()


def get(connection: socket.socket, path: str) -> str:
    with connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = receive_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return body.decode()


def receive_all(connection: socket.socket) -> bytes:
    received = bytearray()
    while data := connection.recv(MIB):
        received += data
    return bytes(received)


@contextmanager
def server(lab: Lab, pod: str, program: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Yield the port and the process of a program that serves one connection, `peer`.

    The program of this machine listens on the localhost of a pod.
    """
    script = f"""
import hashlib, socket, struct, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
{program}
"""
    command = [
        "nsenter",
        f"--net={lab.pod(pod)['netns']}",
        sys.executable,
        "-S",
        "-E",
        "-c",
        script,
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


@contextmanager
def relayed_connection(
    lab: Lab, program: str
) -> Iterator[tuple[socket.socket, subprocess.Popen[str]]]:
    """Yield a relayed connection to a program in the pod `client`, and the process."""
    with (
        server(lab, "client", program) as (port, process),
        forwarding(lab, "client", f":{port}") as forward,
        forward.connect() as connection,
    ):
        yield connection, process


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
