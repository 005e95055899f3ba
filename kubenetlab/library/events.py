"""Events of a lab, as `get events` shows them."""

from __future__ import annotations

from msgspec import Struct

from kubenetlab.api.json_types import JsonObject


class LabEvent(Struct, frozen=True, kw_only=True):
    """Report of something that happened to an object, counted while it repeats."""

    type: str
    """Normal or Warning."""
    reason: str
    """Short machine-readable reason, such as FailedScheduling."""
    kind: str
    """Kind of the object."""
    namespace: str
    """Namespace of the object; empty for none."""
    name: str
    """Name of the object."""
    message: str
    """Human-readable description."""
    count: int
    """Number of times the event has occurred."""

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.type} {self.reason} {self.kind} {place}: {self.message}"


def event_of(document: JsonObject) -> LabEvent:
    """Return the event of an object of Kubernetes' API."""
    about = document["involvedObject"]
    return LabEvent(
        type=document.get("type", "Normal"),
        reason=document.get("reason", ""),
        kind=about.get("kind", ""),
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        message=document.get("message", ""),
        count=document.get("count", 1),
    )
