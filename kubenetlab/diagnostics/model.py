"""What a check of the lab's objects reports, and which connections it concerns."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from msgspec import Struct

from kubenetlab.api.documents import Path


class Connection(Struct, frozen=True):
    """Both ends of a connection, as far as they are objects of the cluster; pods and Services are named `namespace/name`."""

    source: str = ""
    """Pod that connects; empty for nodes and hosts."""
    services: AbstractSet[str] = frozenset()
    """Services whose name, address or node port is used: two for an ExternalName that is another Service's name."""
    destinations: AbstractSet[str] = frozenset()
    """Pods that it may reach."""
    name_servers: AbstractSet[str] = frozenset()
    """Pods that resolve the target's name."""
    port: int = 0
    """Port that is asked for, of a Service its own also where a node port is used; 0 for a ping."""
    is_from_outside: bool = False


class Scope(Struct, frozen=True):
    """Connections that a diagnostic is about: those that fit any of the fields."""

    is_everything: bool = False
    services: tuple[str, ...] = ()
    """Connections to these Services."""
    port: int = 0
    """The only port of the Services that counts; 0 for all."""
    into: tuple[str, ...] = ()
    """Connections to these pods."""
    out_of: tuple[str, ...] = ()
    """Connections from these pods."""
    is_outside_only: bool = False
    """True where only connections from outside the cluster count."""

    def covers(self, connection: Connection) -> bool:
        """Return True when the diagnostic may change what becomes of a connection."""
        return self.covers_target(connection) or (
            not self.is_outside_only
            and (
                connection.source in self.out_of
                or not connection.name_servers.isdisjoint(self.into)
            )
        )

    def covers_target(self, connection: Connection) -> bool:
        """Return True when the diagnostic is about the target of a connection, not only about its source."""
        if self.is_outside_only and not connection.is_from_outside:
            return False
        return (
            self.is_everything
            or (
                self.port in (0, connection.port)
                and not connection.services.isdisjoint(self.services)
            )
            or not connection.destinations.isdisjoint(self.into)
        )


class Diagnostic(Struct, frozen=True):
    """Something about one object that Kubernetes accepts and that makes a result doubtful."""

    code: str
    """What it is, the same in every report: `selector-matches-no-pod`."""
    kind: str
    namespace: str
    name: str
    path: Path
    """Field that says so, in the object's document."""
    message: str
    hints: tuple[str, ...] = ()
    scope: Scope = Scope()

    @property
    def title(self) -> str:
        """`Service default/web`."""
        return (
            f"{self.kind} {self.namespace}/{self.name}"
            if self.namespace
            else f"{self.kind} {self.name}"
        )


NOT_ENFORCED = "not-enforced"
"""Code of an object that the lab keeps without enforcing it."""
PORT_NOT_SERVED = "port-not-served"
"""Code of a numeric target port on which no container listens."""
