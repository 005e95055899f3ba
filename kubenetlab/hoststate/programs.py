"""ProgramRun: one run of a container's program, with the sockets it listens on."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object


class ListenPort(Struct, frozen=True):
    """A port on all addresses of the namespace, or on one."""

    protocol: str
    port: int
    address: str = ""
    """Which one; empty: all."""

    def __str__(self) -> str:
        return f"{f'{self.address}:' if self.address else ''}{self.port}/{self.protocol.lower()}"


class ProgramRun(Object, frozen=True):
    """A built-in program in a pod's namespaces. Another `attempt` is another run: the former ends, its sockets close."""

    rank = 200
    hand = "programs"

    container: str
    attempt: int
    program: str
    """The name of the module that knows what the program does."""
    options: dict[str, Any]
    listeners: tuple[ListenPort, ...]
    is_stopping: bool = False
    """True once the program has got SIGTERM, and goes on for a while."""

    @property
    def key(self) -> Key:
        return ("ProgramRun", self.container)

    def __str__(self) -> str:
        ports = ", ".join(str(listener) for listener in self.listeners)
        return f"program {self.program} for container {self.container}{f', listening on {ports}' if ports else ''}{f', start {self.attempt + 1}' if self.attempt else ''}{', after SIGTERM' if self.is_stopping else ''}"
