"""Events of the lab for kube-proxy's program: the results of the syncs of its node's rules."""

from __future__ import annotations

from msgspec import Struct


class RuleCounts(Struct, frozen=True):
    """Numbers of Services and endpoints that the rules of a node cover."""

    services: int
    """Number of Services with rules."""
    endpoints: int
    """Number of their ready endpoints."""
    no_local_internal: int
    """Number of Services whose internalTrafficPolicy Local leads to no endpoint on the node."""
    no_local_external: int
    """The same for externalTrafficPolicy."""


class SyncSucceeded(Struct, frozen=True, tag=True):
    """The rules of the node are up to date."""

    at: float
    """Time in seconds since 1970."""
    duration_ms: float | None
    """None for a program that has just started and missed no sync: the rules were in force."""
    counts: RuleCounts
    service_changes: int = 0
    """Number of Services that differ from the former sync."""
    endpoint_changes: int = 0
    """Number of EndpointSlices that differ from the former sync."""


class SyncFailed(Struct, frozen=True, tag=True):
    """The rules were refused; the lab tries again."""

    error: str


SyncEvent = SyncSucceeded | SyncFailed
