"""Ping sweep: all pods of a node whose only probe is a ping, pinged through one socket.

Each pod is pinged until it has replied once.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.errors import os_error_text
from kubenetlab.kernel.ping_sockets import echo_of
from kubenetlab.lab.nodeagent.prober import FIRST_RETRY_S, RETRY_GROWTH, ProbeState
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory

SENT_PER_DRAIN = 64
"""Number of pings after which replies are read, so that the socket's buffer does not overflow."""
REPLY_BYTES = 64


def is_sweepable(spec: ProbeSpec) -> bool:
    """Return True for a probe that a sweep can run."""
    return spec.is_implied and spec.method == "ping" and not spec.delay_s


class PingSweep:
    """Pings from one node to addresses of one family; it ends when no probe is pending."""

    def __init__(self, probes: Sequence[ProbeState], namespace: NetnsSocketFactory) -> None:
        self._probes = list(probes)
        """Probes of the current pass. The index is the sequence number of the ping."""
        self._pending = set(range(len(probes)))
        """Sequence numbers without a reply."""
        self._all_replied = asyncio.Event()
        self._namespace = namespace
        self._echo = echo_of(probes[0].spec.address)
        self._period_s, self._timeout_s = probes[0].spec.period_s, probes[0].spec.timeout_s
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def ended(self) -> None:
        """Wait until every probe has succeeded or was stopped."""
        await self._task

    async def _run(self) -> None:
        """Ping in quick succession at first, then at growing intervals up to the period."""
        loop = asyncio.get_running_loop()
        start, pause_s, failures = loop.time(), FIRST_RETRY_S, 0
        while True:
            # The open socket keeps the node's namespace alive, so the wait is limited.
            wait_s = min(pause_s, self._timeout_s)
            try:
                await self._ping_all(wait_s)
                fault = ""
            except OSError as error:  # no descriptor is left, or the node has exited
                fault = os_error_text(error)
            self._probes = [
                self._probes[number]
                for number in sorted(self._pending)
                if not self._probes[number].is_stopped
            ]
            self._pending = set(range(len(self._probes)))
            if not self._probes:
                return
            elapsed_s = loop.time() - start
            if elapsed_s >= self._timeout_s:
                failures += 1
                for probe in self._probes:
                    message = fault or f"no answer to a ping to {probe.spec.address}"
                    probe.fail(message, failures, elapsed_s)
            await asyncio.sleep(pause_s if fault else pause_s - wait_s)
            pause_s = min(pause_s * RETRY_GROWTH, self._period_s)

    async def _ping_all(self, wait_s: float) -> None:
        """Send one ping per probe and read replies until all have come or `wait_s` has passed."""
        with self._namespace.run(self._open_socket) as pings:
            for number, probe in enumerate(self._probes):
                try:
                    pings.sendto(self._echo.request(number), (probe.spec.address, 0))
                except OSError:
                    continue  # no route to the pod: the same as no reply
                if number % SENT_PER_DRAIN == SENT_PER_DRAIN - 1:
                    self._read_replies(pings)
            self._read_replies(pings)
            loop = asyncio.get_running_loop()
            loop.add_reader(pings, self._read_replies, pings)
            try:
                async with asyncio.timeout(wait_s):
                    await self._all_replied.wait()
            except TimeoutError:
                pass
            finally:
                loop.remove_reader(pings)

    def _open_socket(self) -> socket.socket:
        return socket.socket(
            self._echo.family,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            self._echo.protocol,
        )

    def _read_replies(self, pings: socket.socket) -> None:
        """Read all replies that have arrived."""
        while True:
            try:
                number = self._echo.replied(pings.recv(REPLY_BYTES))
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error from a router: the same as no reply
            if number in self._pending:
                self._pending.discard(number)
                if not self._probes[number].is_stopped:
                    self._probes[number].succeed()
                if not self._pending:
                    self._all_replied.set()
