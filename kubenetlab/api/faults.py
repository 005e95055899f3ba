"""Fault: a defect injected by `break` and removed by `heal`."""

from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import Labels, ObjectMeta, Record, Resource


class StoppedPods(Record, frozen=True):
    """Pods of a node whose processes do not run."""

    node: str
    """Name of the node."""
    namespace: str
    """Namespace of the pods."""
    labels: Labels
    """Labels of the pods."""


class SharedAddresses(Record, frozen=True):
    """Addresses that two pods have. Names are `namespace/name`."""

    owner: str
    """Pod to which the addresses belong."""
    pod: str
    """Pod that gets them, too."""


class FaultSpec(Record, kw_only=True, frozen=True):
    """Description of a fault. It is deleted with its node, and with any of its pods."""

    fault: str
    """Name of the fault, as `break` lists it."""
    options: JsonMapping = {}
    """Options given on the command line."""
    node: str = ""
    """Node that has the fault; empty for a fault of no particular node."""
    summary: str = ""
    """Human-readable description."""
    stops: tuple[StoppedPods, ...] = ()
    """Pods whose processes do not run while the fault lasts."""
    shares: tuple[SharedAddresses, ...] = ()
    """Pods that have the addresses of others while the fault lasts."""


class Fault(Resource, frozen=True):
    """Injected fault. Its name is a number. Deleting it restores the previous state."""

    api_version = "kubenetlab.dev/v1alpha1"
    kind = "Fault"
    plural = "faults"
    is_namespaced = False

    metadata: ObjectMeta
    spec: FaultSpec

    @property
    def title(self) -> str:
        return f"fault {self.name}"
