"""Probes: each a real packet from the node's namespace to the pod's address, by a new connection every time.

Pods that are only asked whether they are there are pinged, all those of a node by one socket, until each has answered.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address

from kubenetlab.datapath.probes import USER_AGENT, ProbeSpec
from kubenetlab.kernel.ping_sockets import echo_of
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.nodeagent.executor import Executor
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory
from kubenetlab.lab.transport import grpc_health
from kubenetlab.lab.transport.frames import Message
from kubenetlab.lab.transport.http import Connection, fetch
from kubenetlab.lab.transport.tls import TlsConnection, client_context
from kubenetlab.names import socket_address

FIRST_RETRY_S = 0.02
"""A packet can be lost while a link comes up, and the kernel repeats a SYN only after a second: so a new one is sent soon."""
RETRY_GROWTH = 1.6
FIRST_TIMEOUT_S = 0.05
HTTP_OK = range(200, 400)
BODY_BYTES = 10 * 1024
"""How much of an answer's body is read, as the kubelet does (pkg/probe/http/http.go maxRespBodyLength): the rest may be endless."""

Tell = Callable[[Message], None]


class ProbeState:
    """One probe and its latest answer. Told is every change of it, and each failure up to the threshold."""

    def __init__(self, spec: ProbeSpec, node: ProcessId, tell: Tell) -> None:
        self.spec = spec
        self.node = node
        """The pause process of the node from which it is asked."""
        self.is_stopped = False
        self._tell = tell
        self.last: Message | None = None

    def stop(self) -> None:
        """It is not asked any more."""
        self.is_stopped = True

    def succeed(self) -> None:
        """The answer is yes."""
        self._report(True, "", 0, is_settled=True)

    def fail(self, fault: str, failures: int, lasted_s: float) -> None:
        """The answer is no, so often in a row, since the first question so long ago."""
        is_failed = failures >= self.spec.failure_threshold
        if self.spec.kind != "readiness" or is_failed or self.last is None:
            self._report(
                False, fault, failures, is_settled=is_failed and lasted_s >= self.spec.final_after_s
            )

    def _report(self, ok: bool, message: str, failures: int, *, is_settled: bool) -> None:
        spec = self.spec
        said = {
            "netns": spec.netns,
            "container": spec.container,
            "attempt": spec.attempt,
            "kind": spec.kind,
            "ok": ok,
            "message": message,
            "failures": min(failures, spec.failure_threshold),
            "is_settled": is_settled,
        }
        if said != self.last:
            self.last = said
            self._tell({**said, "at": time.time()})


class PeriodicProbe(ProbeState):
    """One that is asked from now on until it is stopped."""

    def __init__(
        self,
        spec: ProbeSpec,
        node: ProcessId,
        namespace: NetnsSocketFactory,
        executor: Callable[[], Executor],
        tell: Tell,
    ) -> None:
        super().__init__(spec, node, tell)
        self._executor = executor
        self._namespace = namespace
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        super().stop()
        self._task.cancel()

    async def _run(self) -> None:
        """Startup and readiness are asked in quick succession at first, so that a pod is Ready as soon as it serves; then once a period.
        Of a startup probe only one failure a period counts."""
        spec, successes, failures, pause_s, is_first = self.spec, 0, 0, FIRST_RETRY_S, True
        await asyncio.sleep(spec.delay_s)
        begun = asyncio.get_running_loop().time()
        while True:
            timeout_s = (
                min(spec.timeout_s, FIRST_TIMEOUT_S)
                if is_first and spec.method != "exec"
                else spec.timeout_s
            )
            fault = await self._ask(timeout_s)
            if is_first and fault is not None and timeout_s < spec.timeout_s:
                is_first = (
                    False  # it was given less time than the manifest says, so it does not count
                )
                await asyncio.sleep(FIRST_RETRY_S)
                continue
            is_first = False
            if fault is None:
                successes, failures = successes + 1, 0
                if successes >= spec.success_threshold:
                    self.succeed()
                    if spec.is_implied:
                        return
                    pause_s = spec.period_s
            else:
                lasted_s = asyncio.get_running_loop().time() - begun
                successes, failures = (
                    0,
                    int(lasted_s / spec.period_s) + 1 if spec.kind == "startup" else failures + 1,
                )
                self.fail(fault, failures, lasted_s)
                pause_s = (
                    spec.period_s
                    if spec.kind == "liveness"
                    else min(pause_s * RETRY_GROWTH, spec.period_s)
                )
            await asyncio.sleep(pause_s)

    async def _ask(self, timeout_s: float) -> str | None:
        """None when the answer is yes, else what went wrong."""
        spec = self.spec
        target = socket_address(spec.address, spec.port)
        if spec.method not in ("ping", "exec") and not spec.port:
            return "the container has no port of the name that the probe gives"
        try:
            if spec.method == "exec":
                return (
                    await self._execute()
                )  # which keeps the time itself: what takes too long has to be ended
            async with asyncio.timeout(timeout_s):
                match spec.method:
                    case "ping":
                        return await self._ping()
                    case "tcp":
                        (await self._connect()).close()
                        return None
                    case "http":
                        return await self._get()
                    case "grpc":
                        return await self._check_health()
                    case "sleep" | "none":  # of hooks
                        return None
        except ValueError as error:
            return str(error)
        except TimeoutError:
            if spec.method == "exec":
                return f"command {list(spec.command)} timed out after {spec.timeout_s:g} s"
            return (
                f"dial tcp {target}: i/o timeout"
                if spec.method != "ping"
                else f"no answer to a ping to {spec.address}"
            )
        except OSError as error:
            if spec.method == "exec":
                return str(error)
            words = {
                errno.ECONNREFUSED: "connection refused",
                errno.EHOSTUNREACH: "no route to host",
                errno.ENETUNREACH: "network is unreachable",
            }
            return f"dial tcp {target}: connect: {words.get(error.errno or 0, error.strerror or str(error))}"

    async def _connect(self) -> socket.socket:
        try:
            ip_address(self.spec.address)
        except ValueError:
            raise ValueError(
                f"dial tcp: lookup {self.spec.address}: no such host"
            ) from None  # this machine's resolver is not asked
        connection = self._namespace.socket(socket.SOCK_STREAM, is_ipv6=":" in self.spec.address)
        # Closed with a reset: thousands of probes shall not leave thousands of sockets in TIME_WAIT.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            await asyncio.get_running_loop().sock_connect(
                connection, (self.spec.address, self.spec.port)
            )
        except BaseException:
            connection.close()
            raise
        return connection

    async def _get(self) -> str | None:
        plain = await self._connect()
        connection: Connection = plain
        try:
            if self.spec.is_tls:
                connection = await self._in_tls(plain)
            own = {
                "Host": socket_address(self.spec.address, self.spec.port),
                "User-Agent": USER_AGENT,
            }
            given = {name.lower() for name, _ in self.spec.headers}
            headers = {
                **{name: value for name, value in own.items() if name.lower() not in given},
                **dict(self.spec.headers),
            }
            answer = await fetch(
                connection, "GET", self.spec.path, headers=headers, enough_bytes=BODY_BYTES
            )
        finally:
            connection.close()
        is_fine = (
            self.spec.is_hook or answer.status in HTTP_OK
        )  # of a hook the kubelet takes any answer
        return None if is_fine else f"HTTP probe failed with statuscode: {answer.status}"

    async def _in_tls(self, connection: socket.socket) -> TlsConnection:
        """Return the connection with TLS around it. Raises ValueError with what a kubelet says when the server does not speak it."""
        tls = TlsConnection(connection, client_context(), is_server=False)
        try:
            await tls.handshake()
        except OSError as error:
            target = f"https://{socket_address(self.spec.address, self.spec.port)}{self.spec.path}"
            is_http = getattr(error, "reason", "") in (
                "WRONG_VERSION_NUMBER",
                "RECORD_LAYER_FAILURE",
            )
            words = (
                "http: server gave HTTP response to HTTPS client"
                if is_http
                else f"tls: {error.strerror or error}"
            )
            raise ValueError(f'Get "{target}": {words}') from None
        return tls

    async def _execute(self) -> str | None:
        """A command in the container."""
        spec = self.spec
        status, output = await self._executor().run(
            spec.netns, spec.container, spec.command, spec.timeout_s
        )
        return (
            None if status == 0 else output or f"command {list(spec.command)} ended with {status}"
        )

    async def _check_health(self) -> str | None:
        connection = await self._connect()
        try:
            return await grpc_health.check(
                connection, socket_address(self.spec.address, self.spec.port), self.spec.service
            )
        finally:
            connection.close()

    async def _ping(self) -> str | None:
        loop = asyncio.get_running_loop()
        echo = echo_of(self.spec.address)
        connection = self._namespace.run(
            lambda: socket.socket(
                echo.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, echo.protocol
            )
        )
        try:
            connection.connect((self.spec.address, 0))
            await loop.sock_sendall(connection, echo.request(1))
            await loop.sock_recv(connection, 64)
        finally:
            connection.close()
        return None
