"""Network access of programs in a pod: sockets in its namespace, names from its own files."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from ipaddress import ip_address
from typing import Final, TypeVar

from msgspec import structs

from kubenetlab.kernel.processes.identity import Process
from kubenetlab.kernel.syscalls import inside_network
from kubenetlab.lab.transport import dns_stream
from kubenetlab.lab.transport.http import fetch
from kubenetlab.names import socket_address
from kubenetlab.programs.coredns import DNS_PORT
from kubenetlab.programs.dns.resolver import ResolverConfig, first_address, is_truncated
from kubenetlab.programs.support.http import Response

T = TypeVar("T")
DATAGRAM_BYTES = 64 * 1024
KINDS: Final = {
    "TCP": (socket.SOCK_STREAM, 0),
    "UDP": (socket.SOCK_DGRAM, 0),
    "SCTP": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
"""Socket type and protocol number by protocol. SCTP sockets are one-to-one (RFC 6458 §4)."""


class NetnsSocketFactory:
    """Factory of sockets in a network namespace, which it does not keep open."""

    def __init__(self, where: Process | str, home: int) -> None:
        """Create a factory.

        where: process in the namespace, or path of the namespace.
        home: descriptor of the network namespace to return to.
        """
        self._where = where
        self._home = home

    def run(self, open_: Callable[[], socket.socket]) -> socket.socket:
        """Call `open_` in the namespace and return its socket.

        Raises OSError; if the namespace no longer exists, ProcessLookupError for a process and
        FileNotFoundError for a path.
        """
        with self._inside():
            return open_()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function that leaves no socket open; raise the same errors as `run`."""
        with self._inside():
            return function()

    def _inside(self) -> AbstractContextManager[None]:
        if isinstance(self._where, str):
            return inside_network(os.open(self._where, os.O_RDONLY | os.O_CLOEXEC), self._home)
        return self._where.network(self._home)

    def socket(
        self, kind: socket.SocketKind, protocol: int = 0, *, is_ipv6: bool = False
    ) -> socket.socket:
        """Open a non-blocking socket in the namespace."""
        family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        return self.run(
            lambda: socket.socket(
                family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
            )
        )


class PodSockets:
    """Implementation of `programs.support.http.Network` with sockets of a pod.

    Every method raises OSError with a message for users.
    """

    def __init__(self, namespace: NetnsSocketFactory, resolver: ResolverConfig) -> None:
        self._namespace = namespace
        self._resolver = resolver

    async def resolve(self, name: str, versions: Sequence[int] = ()) -> str:
        """Return an address of a name, from /etc/hosts or the pod's name servers.

        versions: IP versions to query, in this order; by default those of the pod.
        """
        resolver = (
            structs.replace(self._resolver, versions=tuple(versions))
            if versions
            else self._resolver
        )
        try:
            return str(ip_address(name))
        except ValueError:
            pass
        if (listed := resolver.from_hosts(name)) is not None:
            return listed
        for candidate in resolver.candidates(name):
            for version in resolver.versions:
                address = await self._query_servers(candidate, version)
                if address is not None:
                    return address
        raise OSError(errno.ENOENT, f"lookup {name}: no such host")

    async def get(self, address: str, port: int, target: str, timeout_s: float) -> Response:
        """Return the response to an HTTP request."""
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connected("TCP", address, port)
                try:
                    return await fetch(
                        connection, "GET", target, headers={"Host": socket_address(address, port)}
                    )
                finally:
                    connection.close()
        except TimeoutError:
            raise OSError(
                errno.ETIMEDOUT, f"dial tcp {socket_address(address, port)}: i/o timeout"
            ) from None

    async def exchange(
        self, address: str, port: int, data: bytes, timeout_s: float, protocol: str = "UDP"
    ) -> bytes:
        """Send a message by UDP or SCTP and return the reply."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connected(protocol, address, port)
                try:
                    await loop.sock_sendall(connection, data)
                    return await loop.sock_recv(connection, DATAGRAM_BYTES)
                except OSError as error:
                    raise _explained(protocol.lower(), address, port, error) from None
                finally:
                    connection.close()
        except TimeoutError:
            raise OSError(
                errno.ETIMEDOUT,
                f"read {protocol.lower()} {socket_address(address, port)}: i/o timeout",
            ) from None

    async def connect(self, address: str, port: int, timeout_s: float) -> None:
        """Open a TCP connection and close it."""
        try:
            async with asyncio.timeout(timeout_s):
                (await self._connected("TCP", address, port)).close()
        except TimeoutError:
            raise OSError(
                errno.ETIMEDOUT, f"dial tcp {socket_address(address, port)}: i/o timeout"
            ) from None

    async def _connected(self, protocol: str, address: str, port: int) -> socket.socket:
        connection = self._namespace.socket(*KINDS[protocol], is_ipv6=":" in address)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
        except OSError as error:
            connection.close()
            raise _explained(protocol.lower(), address, port, error) from None
        except asyncio.CancelledError:
            connection.close()
            raise
        return connection

    async def _query_servers(self, name: str, version: int) -> str | None:
        """Return the address of a fully qualified name; None if a server reports that it has none.

        Raises OSError if no server responds.
        """
        last: OSError = OSError(errno.ENOENT, f"lookup {name}: no nameserver in /etc/resolv.conf")
        number = random.getrandbits(16)
        query = self._resolver.question(name, version, number)
        for _ in range(self._resolver.attempts):
            for server in self._resolver.nameservers:
                try:
                    return first_address(await self._query(server, query), version, number)
                except OSError as error:
                    reason = error.strerror or error
                    last = OSError(
                        error.errno,
                        f"lookup {name} on {socket_address(server, DNS_PORT)}: {reason}",
                    )
        raise last

    async def _query(self, server: str, query: bytes) -> bytes:
        """Return a name server's response; if it is truncated over UDP, query again over TCP."""
        timeout_s = self._resolver.timeout_s
        response = await self.exchange(server, DNS_PORT, query, timeout_s)
        if not is_truncated(response):
            return response
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connected("TCP", server, DNS_PORT)
                try:
                    return await dns_stream.query(connection, query)
                finally:
                    connection.close()
        except TimeoutError:
            raise OSError(
                errno.ETIMEDOUT, f"read tcp {socket_address(server, DNS_PORT)}: i/o timeout"
            ) from None


def _explained(protocol: str, address: str, port: int, error: OSError) -> OSError:
    """Return the error with the message of Go's net package, as agnhost shows it."""
    messages = {
        errno.ECONNREFUSED: "connection refused",
        errno.EHOSTUNREACH: "no route to host",
        errno.ENETUNREACH: "network is unreachable",
        errno.ETIMEDOUT: "connection timed out",
    }
    text = messages.get(error.errno or 0, error.strerror or str(error))
    return OSError(error.errno, f"dial {protocol} {socket_address(address, port)}: connect: {text}")
