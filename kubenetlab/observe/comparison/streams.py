"""TCP between two locations: the time of a connection, and the throughput of one stream."""

from __future__ import annotations

import socket
import statistics
import struct
import threading
import time
from typing import Final

from kubenetlab.errors import LabError
from kubenetlab.observe.comparison.sockets import open_sockets
from kubenetlab.observe.targets.locations import Location

CONNECTIONS: Final = 200
"""Number of connections whose times are measured."""
SECONDS: Final = 2
"""Duration of the stream, in seconds."""
_RESET: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER that leaves no socket in TIME_WAIT."""
_CHUNK_BYTES: Final = 1 << 20
_ATTEMPTS: Final = 10
_BLOCKED_S: Final = 0.5
"""Time after which a connection counts as blocked, and time for a policy to take effect."""


def median_connect_ms(source: Location, destination: Location, home: int) -> float:
    """Return the median time of a connect in milliseconds.

    The kernel completes the handshake; no program answers. Raises LabError if a connect fails.
    """
    with _listener(destination, home) as listener:
        times = []
        for client in open_sockets(source, socket.SOCK_STREAM, home, CONNECTIONS):
            with client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                start = time.perf_counter()
                _connect(client, source, destination, listener)
                times.append(time.perf_counter() - start)
                listener.accept()[0].close()
    return statistics.median(times) * 1000


def best_gbit_per_s(source: Location, destination: Location, home: int) -> float:
    """Return the throughput of the best second of a stream. Takes two seconds.

    Raises LabError if the connection fails.
    """
    (client,) = open_sockets(source, socket.SOCK_STREAM, home)
    with _listener(destination, home) as listener, client:
        _connect(client, source, destination, listener)
        server = listener.accept()[0]
        with server:
            received = [0] * (SECONDS + 1)
            reader = threading.Thread(target=_receive, args=(server, received), daemon=True)
            reader.start()
            _fill(client)
            client.shutdown(socket.SHUT_WR)
            reader.join()
    return max(received[:SECONDS]) * 8 / 1e9


def is_blocked(source: Location, destination: Location, home: int) -> bool:
    """Return True if a connection fails within half a second of attempts."""
    with _listener(destination, home) as listener:
        for client in open_sockets(source, socket.SOCK_STREAM, home, _ATTEMPTS):
            with client:
                client.settimeout(_BLOCKED_S)
                if client.connect_ex(listener.getsockname()):
                    return True
                listener.accept()[0].close()
                time.sleep(_BLOCKED_S / _ATTEMPTS)
    return False


def _listener(place: Location, home: int) -> socket.socket:
    (listener,) = open_sockets(place, socket.SOCK_STREAM, home)
    listener.bind((place.address, 0))
    listener.listen()
    return listener


def _connect(
    client: socket.socket, source: Location, destination: Location, listener: socket.socket
) -> None:
    try:
        client.connect(listener.getsockname())
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror
        raise LabError(
            f"TCP from {source.title} to {destination.title} ({destination.address}): {reason}"
        ) from None


def _fill(client: socket.socket) -> None:
    """Send as fast as the receiver reads."""
    chunk = bytes(_CHUNK_BYTES)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        client.send(chunk)


def _receive(server: socket.socket, received: list[int]) -> None:
    """Add the received bytes to the counter of the second in which they arrive."""
    buffer = bytearray(_CHUNK_BYTES)
    start = time.monotonic()
    while count := server.recv_into(buffer):
        received[min(int(time.monotonic() - start), SECONDS)] += count
