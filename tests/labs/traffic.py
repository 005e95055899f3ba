"""Ask servers for their name and for the client address that they see.

This program does not import the package. It reads one request per line from standard input and
writes one line with its answers:

request:  [[netns path or null, [[protocol, address, port], …]], …]

answers:  [[{"server": name, "client": […], "source": […]} or {"error": …}, …], …]

The protocol is "TCP", "UDP" or "SCTP". All targets of a request are asked at the same time, each
from the network namespace of its entry (null: the one of this process). `client` and `source` are
address and port of the client, as the server sees them and in the client's namespace. `error` is
refused, unreachable, silence, or the text of the error.
"""

import ctypes
import errno
import json
import os
import select
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

PATIENCE = float(os.environ.get("KUBENETLAB_PATIENCE", "1"))
"""As in tests/patience.py.

It extends the time for answers, but not the time after which a connection attempt counts as
silence.
"""
DEADLINE_S = 1.5
"""Longer than the first SYN timeout of TCP, so that one lost packet is not silence."""
THREADS = 64
ERROR_NAMES = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}
CLONE_NEWNET = 0x40000000
RECEIVE_ERRORS = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),
}
"""IP_RECVERR and IPV6_RECVERR: an ICMP error is reported when it arrives.

Without it, a TCP client on the same machine as the sender of the error is notified only when it
repeats its SYN (net/ipv6/tcp_ipv6.c, tcp_v6_err()).
"""

libc = ctypes.CDLL(None, use_errno=True)


def open_socket(netns: str | None, family: int, kind: int, protocol: int) -> socket.socket:
    """Open a socket in a network namespace; only the calling thread moves there."""
    fd = os.open(netns or "/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), netns)
    finally:
        os.close(fd)
    return socket.socket(family, kind, protocol)


def connect(connection: socket.socket, address: str, port: int) -> None:
    """Connect within the deadline.

    Raises TimeoutError for silence, OSError for what the network answers.
    """
    connection.setsockopt(*RECEIVE_ERRORS[connection.family], 1)
    connection.setblocking(False)
    number = connection.connect_ex((address, port))
    if number == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        events = poll.poll(DEADLINE_S * 1000)
        if not events:
            raise TimeoutError
        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not number and events[0][1] & select.POLLERR:
            number = queued_error(connection)
    if number:
        raise OSError(number, os.strerror(number))


def queued_error(connection: socket.socket) -> int:
    """Return the errno of the first ICMP error that arrived; 0 without one."""
    try:
        _, ancillary, _, _ = connection.recvmsg(64, 512, socket.MSG_ERRQUEUE)
    except OSError:
        return 0
    return next((int.from_bytes(data[:4], sys.byteorder) for _, _, data in ancillary), 0)


def ask_tcp(connection: socket.socket) -> list[str]:
    """Ask both questions over one connection.

    A second connection to a Service may lead to another pod.
    """
    stream = connection.makefile("rwb")
    answers = []
    for path in ("/hostname", "/clientip"):
        stream.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        stream.flush()
        if b" 200 " not in (first := stream.readline()):
            raise OSError(f"answered {first.decode(errors='replace').strip()}")
        length = 0
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        answers.append(stream.read(length).decode())
    return answers


def ask_by_messages(connection: socket.socket) -> list[str]:
    """Ask over one socket: its datagrams are one flow and reach one pod.

    With SCTP they are one association.
    """
    answers = []
    for question in (b"hostname", b"clientip"):
        connection.send(question)
        answers.append(connection.recv(4096).decode())
    return answers


def ask(netns: str | None, protocol: str, address: str, port: int) -> dict[str, Any]:
    kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
    number = socket.IPPROTO_SCTP if protocol == "SCTP" else 0
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with open_socket(netns, family, kind, number) as connection:
            if protocol == "UDP":
                connection.settimeout(DEADLINE_S)
                connection.connect((address, port))
            else:
                connect(connection, address, port)
                connection.settimeout(DEADLINE_S * PATIENCE)
            server, seen_client = (ask_tcp if protocol == "TCP" else ask_by_messages)(connection)
            source = list(connection.getsockname()[:2])
    except TimeoutError:
        return {"error": "silence"}
    except OSError as error:
        return {"error": ERROR_NAMES.get(error.errno or 0, str(error))}
    address, _, client_port = seen_client.strip().rpartition(":")
    return {
        "server": server.strip(),
        "client": [address.strip("[]"), int(client_port)],
        "source": source,
    }


def main() -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for line in sys.stdin:
            request: Sequence[tuple[str | None, Sequence[tuple[str, str, int]]]] = json.loads(line)
            asked: list[list[Future[dict[str, Any]]]] = [
                [pool.submit(ask, netns, *target) for target in targets]
                for netns, targets in request
            ]
            print(
                json.dumps([[answer.result() for answer in answers] for answers in asked]),
                flush=True,
            )


if __name__ == "__main__":
    main()
