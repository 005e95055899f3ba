"""Runs of container programs, with the sockets on which they listen."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from kubenetlab.hoststate.object import Key, Object

ProgramOptions = dict[str, Any]
"""Options of a program, as JSON. Each program has its own, and knows their types."""


class ListenPort(Struct, frozen=True):
    """A listening port."""

    protocol: str
    port: int
    address: str = ""
    """Local address; empty: all addresses of the namespace."""

    def __str__(self) -> str:
        return f"{f'{self.address}:' if self.address else ''}{self.port}/{self.protocol.lower()}"


class ProgramRun(Object, frozen=True):
    """One run of a built-in program in the namespaces of a pod.

    A change of `attempt` ends the previous run, closes its sockets and starts a new run.
    """

    rank = 200
    applier = "programs"

    container: str
    attempt: int
    program: str
    """Name of the module in `programs/` that implements the program."""
    options: ProgramOptions
    listeners: tuple[ListenPort, ...]
    is_stopping: bool = False
    """True after SIGTERM, until the program exits."""

    @property
    def key(self) -> Key:
        return ("ProgramRun", self.container)

    def __str__(self) -> str:
        ports = ", ".join(str(listener) for listener in self.listeners)
        parts = [
            f"program {self.program} for container {self.container}",
            *([f"listening on {ports}"] if ports else ()),
            *([f"start {self.attempt + 1}"] if self.attempt else ()),
            *(["after SIGTERM"] if self.is_stopping else ()),
        ]
        return ", ".join(parts)
