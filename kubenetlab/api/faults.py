"""Fault: something that was broken on purpose, until it is healed."""

from typing import Any

from kubenetlab.api.meta import Labels, ObjectMeta, Record, Resource


class StoppedPods(Record, frozen=True):
    """The pods of a node with these labels: their processes do not run."""

    node: str
    namespace: str
    labels: Labels


class FaultSpec(Record, kw_only=True, frozen=True):
    """What is broken, and how. It goes with its node."""

    fault: str
    """Which one of those that `break` knows."""
    options: dict[str, Any] = {}
    """What was said of it on the command line."""
    node: str = ""
    """Where it is; empty where it is of no node."""
    summary: str = ""
    """In words."""
    stops: tuple[StoppedPods, ...] = ()
    """Whose processes do not run as long as it lasts."""


class Fault(Resource, frozen=True):
    """One fault, by its number; `break` makes it, `heal` deletes it, and what it broke is as it was."""

    api_version = "kubenetlab.dev/v1alpha1"
    kind = "Fault"
    plural = "faults"
    is_namespaced = False

    metadata: ObjectMeta
    spec: FaultSpec

    @property
    def title(self) -> str:
        return f"fault {self.name}"
