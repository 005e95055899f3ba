"""Probes: every attempt is a new connection from the node's namespace to the pod's address.

Pods without probes are pinged until they reply once (ping_sweep.py).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address
from math import inf

from msgspec import structs

from kubenetlab.api.lab import ProbeReport
from kubenetlab.datapath.agents.handshakes import Handshakes
from kubenetlab.datapath.probes import USER_AGENT, ProbeSpec
from kubenetlab.kernel.file_trees import FileTrees
from kubenetlab.kernel.ping_sockets import echo_of
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.messages.node_agent import ProbeResult
from kubenetlab.lab.nodeagent import agent_check
from kubenetlab.lab.nodeagent.executor import Executor
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory
from kubenetlab.lab.transport import grpc_health
from kubenetlab.lab.transport.http import Connection, fetch
from kubenetlab.lab.transport.tls import TlsConnection, client_context
from kubenetlab.names import socket_address

FIRST_RETRY_S = 0.02
"""Pause before the first repetition of a probe, in seconds.

A packet may be lost while a link comes up, and the kernel repeats a SYN only after one second.
"""
RETRY_GROWTH = 1.6
"""Factor by which the pause grows with each repetition."""
FIRST_TIMEOUT_S = 0.05
"""Timeout of the first attempt, in seconds."""
AGENT_RETRY_S = 0.1
"""Longest pause between two checks of an agent of the CNI plugin that is starting, in seconds."""
AGENT_START_S = 10.0
"""Time after which such an agent is late, in seconds."""
HTTP_OK = range(200, 400)
BODY_BYTES = 10 * 1024
"""Maximum number of bytes read of a response's body, which may be endless.

Source: the kubelet's pkg/probe/http/http.go (maxRespBodyLength).
"""

OnResult = Callable[[ProbeResult], None]
"""Called with each result of a probe that differs from the former one."""


class ProbeState:
    """Probe and its latest result. A result that equals the latest one is not reported again."""

    def __init__(self, spec: ProbeSpec, node: ProcessId, on_result: OnResult) -> None:
        self.spec = spec
        self.node = node
        """Pause process of the node that sends the probe."""
        self.is_stopped = False
        self._on_result = on_result
        self._last: ProbeResult | None = None
        """Latest result, without its time."""

    def stop(self) -> None:
        """Stop probing."""
        self.is_stopped = True

    def succeed(self) -> None:
        """Report success."""
        self._report(True, "", 0, is_settled=True)

    def fail(self, fault: str, failures: int, elapsed_s: float) -> None:
        """Report a failure; of a readiness probe only the first result and from the threshold on.

        failures: number of failures in succession.
        elapsed_s: time since the first of them, in seconds.
        """
        is_failed = failures >= self.spec.failure_threshold
        if self.spec.kind != "readiness" or is_failed or self._last is None:
            self._report(
                False,
                fault,
                failures,
                is_settled=is_failed and elapsed_s >= self.spec.final_after_s,
            )

    def report_again(self) -> None:
        """Report the latest result, if there is one, as a result of now."""
        if (result := self._last) is not None:
            outcome = structs.replace(result.outcome, at=time.time())
            self._on_result(ProbeResult(result.netns, result.container, outcome))

    def _report(self, ok: bool, message: str, failures: int, *, is_settled: bool) -> None:
        spec = self.spec
        outcome = ProbeReport(
            spec.attempt,
            spec.kind,
            ok,
            message,
            failures=min(failures, spec.failure_threshold),
            is_settled=is_settled,
        )
        result = ProbeResult(spec.netns, spec.container, outcome)
        if result != self._last:
            self._last = result
            self.report_again()


class PeriodicProbe(ProbeState):
    """Probe that runs periodically, from its creation until it is stopped."""

    def __init__(
        self,
        spec: ProbeSpec,
        node: ProcessId,
        namespace: NetnsSocketFactory,
        executor: Callable[[], Executor],
        on_result: OnResult,
        trees: FileTrees,
    ) -> None:
        super().__init__(spec, node, on_result)
        self._executor = executor
        self._trees = trees
        self._namespace = namespace
        self._handshakes = Handshakes()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Stop probing, also in the middle of an attempt."""
        super().stop()
        self._task.cancel()

    async def _run(self) -> None:
        """Probe in quick succession at first, then at growing intervals up to the period.

        A pod is thus Ready soon after its server has started. The first attempt has a short timeout
        and does not count if it fails. A startup probe counts at most one failure per period.
        """
        spec, successes, failures, pause_s, is_first = self.spec, 0, 0, FIRST_RETRY_S, True
        await asyncio.sleep(spec.delay_s)
        now = asyncio.get_running_loop().time
        start, failing_since = now(), now()
        while True:
            timeout_s = (
                min(spec.timeout_s, FIRST_TIMEOUT_S)
                if is_first and spec.method != "exec"
                else spec.timeout_s
            )
            fault = await self._attempt(timeout_s)
            is_ignored = is_first and fault is not None and timeout_s < spec.timeout_s
            is_first = False
            if is_ignored:
                await asyncio.sleep(FIRST_RETRY_S)
                continue
            if fault is None:
                successes, failures = successes + 1, 0
                failing_since = inf
                if successes >= spec.success_threshold:
                    self.succeed()
                    if spec.is_implied:
                        return
                    pause_s = spec.period_s
            else:
                failing_since = min(failing_since, now())
                elapsed_s = now() - failing_since
                successes, failures = (
                    0,
                    int((now() - start) / spec.period_s) + 1
                    if spec.kind == "startup"
                    else failures + 1,
                )
                self.fail(fault, failures, elapsed_s)
                pause_s = (
                    spec.period_s
                    if spec.kind == "liveness"
                    else min(pause_s * RETRY_GROWTH, self._longest_pause_s(elapsed_s))
                )
            await asyncio.sleep(pause_s)

    def _longest_pause_s(self, elapsed_s: float) -> float:
        """Return the longest pause after a failure, in seconds; `up` waits for sessions of BGP."""
        is_starting = self.spec.method == "agent" and elapsed_s < AGENT_START_S
        return min(AGENT_RETRY_S, self.spec.period_s) if is_starting else self.spec.period_s

    async def _attempt(self, timeout_s: float) -> str | None:
        """Run the probe once; return an error message as the kubelet words it, None on success."""
        spec = self.spec
        if spec.method not in ("ping", "exec", "agent") and not spec.port:
            return "the container has no port of the name that the probe gives"
        try:
            if spec.method == "exec":
                return await self._execute()  # keeps the timeout itself, to kill the command
            async with asyncio.timeout(timeout_s):
                return await self._send()
        except ValueError as error:
            return str(error)
        except TimeoutError:
            return self._timeout_message()
        except OSError as error:
            return self._error_message(error)

    async def _send(self) -> str | None:
        """Run a probe that sends packets; return an error message, or None on success."""
        match self.spec.method:
            case "ping":
                await self._ping()
            case "tcp":
                (await self._connect()).close()
            case "http":
                return await self._get()
            case "grpc":
                return await self._check_health()
            case "agent":
                assert self.spec.health is not None
                return await agent_check.check(
                    self.spec.health,
                    self.spec.node_netns,
                    self._namespace,
                    self._trees,
                    self._handshakes,
                )
        return None

    def _timeout_message(self) -> str:
        spec = self.spec
        match spec.method:
            case "exec":
                return f"command {list(spec.command)} timed out after {spec.timeout_s:g} s"
            case "ping":
                return f"no answer to a ping to {spec.address}"
        return f"dial tcp {socket_address(spec.address, spec.port)}: i/o timeout"

    def _error_message(self, error: OSError) -> str:
        if self.spec.method == "exec":
            return str(error)
        reasons = {
            errno.ECONNREFUSED: "connection refused",
            errno.EHOSTUNREACH: "no route to host",
            errno.ENETUNREACH: "network is unreachable",
        }
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        return f"dial tcp {socket_address(self.spec.address, self.spec.port)}: connect: {reason}"

    async def _connect(self) -> socket.socket:
        try:
            ip_address(self.spec.address)
        except ValueError:
            # The kubelet would ask the machine's resolver; a lab does not.
            raise ValueError(f"dial tcp: lookup {self.spec.address}: no such host") from None
        connection = self._namespace.socket(socket.SOCK_STREAM, is_ipv6=":" in self.spec.address)
        # Closed with a reset, so that thousands of probes do not leave sockets in TIME_WAIT.
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
            defaults = {
                "Host": socket_address(self.spec.address, self.spec.port),
                "User-Agent": USER_AGENT,
            }
            given = {name.lower() for name, _ in self.spec.headers}
            headers = {
                **{name: value for name, value in defaults.items() if name.lower() not in given},
                **dict(self.spec.headers),
            }
            response = await fetch(
                connection, "GET", self.spec.path, headers=headers, enough_bytes=BODY_BYTES
            )
        finally:
            connection.close()
        # The kubelet accepts every status as the response to a hook.
        is_success = self.spec.is_hook or response.status in HTTP_OK
        return None if is_success else f"HTTP probe failed with statuscode: {response.status}"

    async def _in_tls(self, connection: socket.socket) -> TlsConnection:
        """Return a TLS connection over a connected socket.

        Raises ValueError with the kubelet's message if the handshake fails.
        """
        tls = TlsConnection(connection, client_context(), is_server=False)
        try:
            await tls.handshake()
        except OSError as error:
            target = f"https://{socket_address(self.spec.address, self.spec.port)}{self.spec.path}"
            is_http = getattr(error, "reason", "") in (
                "WRONG_VERSION_NUMBER",
                "RECORD_LAYER_FAILURE",
            )
            reason = (
                "http: server gave HTTP response to HTTPS client"
                if is_http
                else f"tls: {error.strerror or error}"
            )
            raise ValueError(f'Get "{target}": {reason}') from None
        return tls

    async def _execute(self) -> str | None:
        """Run the probe's command; return its output or status as the error message."""
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

    async def _ping(self) -> None:
        """Send a ping and wait for the reply."""
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
