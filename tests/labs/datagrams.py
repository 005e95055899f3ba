"""Make or receive many connections in a network namespace; this program runs on the machine.

Run as: datagrams.py send NETNS ADDRESS PORT INTERVAL_S
        datagrams.py connect NETNS ADDRESS PORT INTERVAL_S
        datagrams.py receive NETNS PORT

NETNS is the path of a namespace, for which the program waits. `send` sends UDP datagrams. They have
several source ports, and are never answered, so each of them is new to connection tracking.
`connect` opens TCP connections, which have no other data. Both print a line with the time for each
HEARTBEAT attempts. When the standard input is closed, the program prints its report in JSON:

send:    the number of datagrams sent, and of attempts that failed before the first one
connect: the time when each connection was begun that was established
receive: the time when each datagram was sent that arrived

Times are those of the monotonic clock, in nanoseconds.
"""

import ctypes
import json
import os
import select
import socket
import struct
import sys
import time

SOCKETS = 16
HEARTBEAT = 10
CLONE_NEWNET = 0x40000000
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 16 << 20  # no datagram is lost while this program waits for the processor
DATAGRAM = struct.Struct("!Q")


def enter(path: str) -> None:
    """Enter a namespace as soon as it exists, or return when the standard input is closed."""
    while not is_over(0):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        error = ctypes.CDLL(None).setns(descriptor, CLONE_NEWNET)
        os.close(descriptor)
        assert not error
        return


def is_over(seconds: float) -> bool:
    """Return True if the standard input is closed; wait for that at most for a time."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def report_time(number: int) -> None:
    if number % HEARTBEAT == 0:
        print(time.monotonic_ns(), flush=True)


def send(path: str, address: str, port: int, interval_s: float) -> tuple[int, int]:
    enter(path)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    sockets = [socket.socket(family, kind) for _ in range(SOCKETS)]
    sent = failed = attempts = 0
    while not is_over(interval_s):
        try:
            datagram = DATAGRAM.pack(time.monotonic_ns())
            sockets[sent % SOCKETS].sendto(datagram, (address, port))
            sent += 1
        except OSError:
            failed += not sent
        attempts += 1
        report_time(attempts)
    return sent, failed


def connect(path: str, address: str, port: int, interval_s: float) -> list[int]:
    enter(path)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    established, pending = [], {}
    poll = select.poll()
    begun = 0
    while not is_over(interval_s):
        client = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        started_at = time.monotonic_ns()
        client.connect_ex((address, port))
        pending[client.fileno()] = client, started_at
        poll.register(client, select.POLLOUT)
        begun += 1
        report_time(begun)
        for descriptor, _ in poll.poll(0):
            poll.unregister(descriptor)
            ended, started_at = pending.pop(descriptor)
            if not ended.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                established.append(started_at)
            ended.close()
    return established


def receive(path: str, port: int) -> list[int]:
    enter(path)
    sent_at: list[int] = []
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        server.bind(("::", port))
        print("ready", flush=True)
        is_ended = False
        while not is_ended or select.select([server], [], [], 0)[0]:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if server in ready:
                sent_at += DATAGRAM.unpack(server.recv(DATAGRAM.size))
            is_ended = sys.stdin in ready
    return sent_at


if __name__ == "__main__":
    role, netns, *words = sys.argv[1:]
    if role == "receive":
        print(json.dumps(receive(netns, int(words[0]))))
    else:
        make = send if role == "send" else connect
        print(json.dumps(make(netns, words[0], int(words[1]), float(words[2]))))
