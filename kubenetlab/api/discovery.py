"""EndpointSlice: which addresses stand behind a Service, and in what state.

Source: k8s.io/api discovery/v1/types.go (1.33).
"""

from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.containers import Port, Protocol
from kubenetlab.api.core import SERVICE_NAME_LABEL, ObjectReference
from kubenetlab.api.meta import ObjectMeta, Record, Resource, Unmodelled

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"


class EndpointConditions(Record, frozen=True):
    """None means unknown: ready counts as true, serving as ready's value, terminating as false."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None

    @property
    def is_ready(self) -> bool:
        return self.ready is not False

    @property
    def is_serving(self) -> bool:
        return self.is_ready if self.serving is None else self.serving

    @property
    def is_terminating(self) -> bool:
        return self.terminating is True


class ForZone(Record, frozen=True):
    """A zone (or a node) by name."""

    name: str


class EndpointHints(Record, frozen=True):
    """For whom an endpoint is meant first."""

    for_zones: tuple[ForZone, ...] = ()
    for_nodes: tuple[ForZone, ...] = ()


class Endpoint(Record, frozen=True):
    """One pod, or whatever else serves, with its addresses and state."""

    addresses: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100)]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    target_ref: ObjectReference | None = None
    hints: EndpointHints | None = None
    deprecated_topology: Unmodelled = None


class EndpointPort(Record, frozen=True):
    """One port that all endpoints of a slice have."""

    name: str = ""
    port: Port | None = None
    protocol: Protocol = "TCP"
    app_protocol: str | None = None


class EndpointSlice(Resource, frozen=True):
    """Up to a thousand endpoints of one Service and one address family."""

    api_version = "discovery.k8s.io/v1"
    kind = "EndpointSlice"
    plural = "endpointslices"

    metadata: ObjectMeta
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    @property
    def service_name(self) -> str:
        """The Service this slice belongs to, in its own namespace; empty when it belongs to none."""
        return self.metadata.labels.get(SERVICE_NAME_LABEL, "")


class EndpointAddress(Record, frozen=True):
    """One address of an old-style Endpoints object."""

    ip: str
    hostname: str = ""
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class EndpointSubset(Record, frozen=True):
    """Addresses that all have the same ports."""

    addresses: tuple[EndpointAddress, ...] = ()
    not_ready_addresses: tuple[EndpointAddress, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Endpoints(Resource, frozen=True):
    """What EndpointSlices were before: all endpoints of the Service of the same name, in one object."""

    api_version = "v1"
    kind = "Endpoints"
    plural = "endpoints"
    short_names = ("ep",)

    metadata: ObjectMeta
    subsets: tuple[EndpointSubset, ...] = ()
