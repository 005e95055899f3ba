"""EndpointSlice and Endpoints: the addresses behind a Service and their state.

Source: k8s.io/api discovery/v1/types.go (1.33).
"""

from typing import Annotated, Literal

from msgspec import Meta

from kubenetlab.api.containers import Port, Protocol
from kubenetlab.api.core import SERVICE_NAME_LABEL, ObjectReference
from kubenetlab.api.meta import ObjectMeta, Record, Resource, Unmodelled

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"


class EndpointConditions(Record, frozen=True):
    """Conditions of an endpoint. A condition without a value is unknown."""

    ready: bool | None = None
    """True if the endpoint accepts traffic. Unknown counts as true."""
    serving: bool | None = None
    """Like `ready`, but also true while the endpoint terminates.

    Unknown counts as the value of `ready`.
    """
    terminating: bool | None = None
    """True if the endpoint is terminating. Unknown counts as false."""

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
    """Name of a zone or of a node."""

    name: str
    """Name of the zone or of the node."""


class EndpointHints(Record, frozen=True):
    """Clients that should prefer an endpoint."""

    for_zones: tuple[ForZone, ...] = ()
    """Zones whose clients should use the endpoint."""
    for_nodes: tuple[ForZone, ...] = ()
    """Nodes whose clients should use the endpoint."""


class Endpoint(Record, frozen=True):
    """Backend of a Service."""

    addresses: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100)]
    """Addresses of the endpoint, all of the slice's `addressType`."""
    conditions: EndpointConditions = EndpointConditions()
    """State of the endpoint."""
    hostname: str | None = None
    """Host name of the endpoint below the name of a headless Service."""
    node_name: str | None = None
    """Node that the endpoint runs on."""
    zone: str | None = None
    """Zone that the endpoint is in."""
    target_ref: ObjectReference | None = None
    """Object that the endpoint represents, usually a Pod."""
    hints: EndpointHints | None = None
    """Clients that should prefer the endpoint."""
    deprecated_topology: Unmodelled = None


class EndpointPort(Record, frozen=True):
    """Port that all endpoints of a slice or subset have."""

    name: str = ""
    """Name of the port, as in the Service."""
    port: Port | None = None
    """Port number."""
    protocol: Protocol = "TCP"
    """IP protocol of the port."""
    app_protocol: str | None = None
    """Application protocol of the port."""


class EndpointSlice(Resource, frozen=True):
    """Subset of the endpoints of a Service: at most 1,000, all of one address type."""

    api_version = "discovery.k8s.io/v1"
    kind = "EndpointSlice"
    plural = "endpointslices"

    metadata: ObjectMeta
    address_type: Literal["IPv4", "IPv6", "FQDN"]
    """Type of the addresses of all endpoints."""
    endpoints: tuple[Endpoint, ...] = ()
    """Endpoints of the slice."""
    ports: tuple[EndpointPort, ...] = ()
    """Ports that every endpoint has."""

    @property
    def service_name(self) -> str:
        """Name of the slice's Service, in the slice's namespace; empty if it has none."""
        return self.metadata.labels.get(SERVICE_NAME_LABEL, "")


class EndpointAddress(Record, frozen=True):
    """Address of an Endpoints object."""

    ip: str
    """IP address of the endpoint."""
    hostname: str = ""
    """Host name of the endpoint below the name of a headless Service."""
    node_name: str | None = None
    """Node that the endpoint runs on."""
    target_ref: ObjectReference | None = None
    """Object that the endpoint represents."""


class EndpointSubset(Record, frozen=True):
    """Addresses with the same ports."""

    addresses: tuple[EndpointAddress, ...] = ()
    """Addresses that accept traffic."""
    not_ready_addresses: tuple[EndpointAddress, ...] = ()
    """Addresses that do not accept traffic yet."""
    ports: tuple[EndpointPort, ...] = ()
    """Ports that every address has."""


class Endpoints(Resource, frozen=True):
    """All endpoints of the Service of the same name. Predecessor of EndpointSlice."""

    api_version = "v1"
    kind = "Endpoints"
    plural = "endpoints"
    short_names = ("ep",)

    metadata: ObjectMeta
    subsets: tuple[EndpointSubset, ...] = ()
    """Endpoints, grouped by their ports."""
