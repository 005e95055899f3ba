"""Types of the data that `inspect` returns; lab/apiserver/inspection.py makes them.

They describe JSON objects of the lab's API, which a lab of an older version may have sent: nothing
checks them when a command runs.
"""

from __future__ import annotations

from typing import Literal, TypedDict


class InspectedSandbox(TypedDict):
    """Namespaces of a pod, a node, an external host or the router."""

    pid: int
    """Pid of the pause process in the lab's PID namespace; 0 if it does not run."""
    netns: str | None
    """Path of the network namespace."""
    sandbox: str


class InspectedHost(InspectedSandbox):
    """An external host."""

    name: str
    addresses: list[str]
    """At most one per family, the primary family first."""


class InspectedExternalHost(InspectedHost):
    """An external host with its ports."""

    ports: list[int]
    """TCP ports on which it serves."""


class InspectedNode(InspectedHost):
    """A node."""

    pod_cidrs: list[str]
    pod_addresses: list[str]
    """First and last address for pods in each range, as `first-last`, beside those of pools."""
    gateways: list[str]
    """Gateways of its pods in these ranges."""
    pod_sources: list[str]
    """Source addresses of its own and masqueraded packets to pods of other nodes."""
    node_port_addresses: list[str]
    """Those of its addresses at which node ports answer."""
    ready: bool
    agent: str
    """State of the CNI plugin's agent: running or stopped; empty if the plugin has none."""


class InspectedRouter(InspectedHost):
    """The router between the nodes, and between the nodes and the internet."""

    announced: list[str]
    """Ranges that nodes announce to it by BGP."""


class InspectedContainer(TypedDict):
    """A container of a pod."""

    name: str
    pid: int | None
    """Pid of a container that is a process of its own."""
    ports: list[int]
    listening: list[str]
    """Ports and protocols, such as `80/TCP`."""
    assumed_ports: list[str]
    """Ports that no manifest declares."""
    program: str | None
    """Name of the program that runs."""
    real: bool
    """True if its own command runs, and not a built-in program."""


class InspectedPod(InspectedSandbox):
    """A pod."""

    namespace: str
    name: str
    node: str
    addresses: list[str]
    """At most one per family, the primary family first."""
    host_network: bool
    workload: str | None
    """Topmost owner, such as `Deployment/web`."""
    host_ifname: str | None
    phase: str
    ready: bool
    containers: list[InspectedContainer]


class InspectedPort(TypedDict):
    """A port of a Service."""

    port: int
    protocol: Literal["TCP", "UDP", "SCTP"]
    node_port: int | None
    name: str


class InspectedEndpoint(TypedDict):
    """An address of a Service's EndpointSlices, with one of its ports."""

    address: str
    port: int
    port_name: str
    node: str | None
    ready: bool


class ServedEndpoint(InspectedEndpoint):
    """An endpoint in the data of `inspect svc:NAME`."""

    pod: str | None
    """Pod that has the address."""


class InspectedService(TypedDict):
    """A Service."""

    namespace: str
    name: str
    type: str
    internal_traffic_policy: str
    external_traffic_policy: str
    proxied: bool
    """True if the nodes have rules for it."""
    cluster_ips: list[str]
    load_balancer_ips: list[str]
    virtual_ips: list[str]
    external_ips: list[str]
    source_ranges: list[str]
    ports: list[InspectedPort]
    endpoints: list[InspectedEndpoint]


class InspectedProxy(TypedDict):
    """Options of the implementation of Services: kube-proxy, or the CNI plugin."""

    detect_local_mode: str
    """Criterion for traffic of pods; `none` or empty without one."""
    dsr: bool
    """True if endpoints of other nodes see clients outside in place of the node in between."""


class InspectedFault(TypedDict):
    """A fault that was created with `break`."""

    name: str
    fault: str
    """Kind of fault."""
    summary: str


class Inspection(TypedDict):
    """A running lab."""

    lab: str
    init_pid: int
    """Pid in the machine's PID namespace, as `agent_pid`."""
    agent_pid: int
    run_directory: str
    cni: str
    kube_proxy_mode: str
    service_proxy: InspectedProxy
    policy_engine: str
    system_namespaces: list[str]
    """Namespaces of kube-proxy and of the CNI plugin's agents."""
    pod_layout: str
    neighbors: str
    nodes: list[InspectedNode]
    pods: list[InspectedPod]
    external: list[InspectedExternalHost]
    services: list[InspectedService]
    router: InspectedRouter
    other_routers: list[InspectedRouter]
    """Second router between segments, if there is one."""
    uplink: list[str]
    """Addresses of the router at the link to the machine."""
    faults: list[InspectedFault]


class IdentityTable(TypedDict):
    """Identities of a lab, as its API describes them."""

    cni: str
    modes: list[str]
    """CNI modes whose programs know identities."""
    identities: dict[str, list[str]]
    """Number → labels; those of reserved identities are `reserved:world` and the like."""
    pods: dict[str, int]
    """`namespace/name` of each pod → its number."""
