"""A sweep: pings to all the pods of a node that are only asked whether they are there, by one socket, until each has answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.errors import refusal
from kubenetlab.kernel.ping_sockets import echo_of
from kubenetlab.lab.nodeagent.prober import FIRST_RETRY_S, RETRY_GROWTH, ProbeState
from kubenetlab.lab.runtime.pod_network import NetnsSocketFactory

SENT_PER_DRAIN = 64
"""After so many the answers are read: the socket's buffer is to hold them."""
REPLY_BYTES = 64


def is_sweepable(spec: ProbeSpec) -> bool:
    """True for a question that a sweep can ask."""
    return spec.is_implied and spec.method == "ping" and not spec.delay_s


class PingSweep:
    """Questions from one node, to addresses of one family. It ends when none of them is open."""

    def __init__(self, questions: Sequence[ProbeState], namespace: NetnsSocketFactory) -> None:
        self._asked = list(questions)
        """Those of the round that is under way, by the number of the ping."""
        self._open = set(range(len(questions)))
        """The numbers of those without an answer."""
        self._is_over = asyncio.Event()
        self._namespace = namespace
        self._echo = echo_of(questions[0].spec.address)
        self._period_s, self._timeout_s = questions[0].spec.period_s, questions[0].spec.timeout_s
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def ended(self) -> None:
        """Returns when all have answered, or are not asked any more."""
        await self._task

    async def _run(self) -> None:
        """Rounds in quick succession at first, then less and less often."""
        loop = asyncio.get_running_loop()
        begun, pause_s, failures = loop.time(), FIRST_RETRY_S, 0
        while True:
            wait_s = min(
                pause_s, self._timeout_s
            )  # a socket keeps a node's namespace alive, so it is not kept open for longer
            try:
                await self._ask(wait_s)
                said = ""
            except OSError as error:  # no room for a descriptor, or the node is gone
                said = refusal(error)
            self._asked = [
                self._asked[number]
                for number in sorted(self._open)
                if not self._asked[number].is_stopped
            ]
            self._open = set(range(len(self._asked)))
            if not self._asked:
                return
            lasted_s = loop.time() - begun
            if lasted_s >= self._timeout_s:
                failures += 1
                for question in self._asked:
                    question.fail(
                        said or f"no answer to a ping to {question.spec.address}",
                        failures,
                        lasted_s,
                    )
            await asyncio.sleep(pause_s if said else pause_s - wait_s)
            pause_s = min(pause_s * RETRY_GROWTH, self._period_s)

    async def _ask(self, wait_s: float) -> None:
        """Asks once, and takes what is answered in time."""
        with self._namespace.run(self._opened) as pings:
            for number, question in enumerate(self._asked):
                try:
                    pings.sendto(self._echo.request(number), (question.spec.address, 0))
                except OSError:
                    continue  # no way there: no answer
                if number % SENT_PER_DRAIN == SENT_PER_DRAIN - 1:
                    self._take(pings)
            self._take(pings)
            loop = asyncio.get_running_loop()
            loop.add_reader(pings, self._take, pings)
            try:
                async with asyncio.timeout(wait_s):
                    await self._is_over.wait()
            except TimeoutError:
                pass
            finally:
                loop.remove_reader(pings)

    def _opened(self) -> socket.socket:
        return socket.socket(
            self._echo.family,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            self._echo.protocol,
        )

    def _take(self, pings: socket.socket) -> None:
        """The answers that have come."""
        while True:
            try:
                number = self._echo.replied(pings.recv(REPLY_BYTES))
            except BlockingIOError:
                return
            except OSError:
                continue  # an error that a router sent back: no answer
            if number in self._open:
                self._open.discard(number)
                if not self._asked[number].is_stopped:
                    self._asked[number].succeed()
                if not self._open:
                    self._is_over.set()
