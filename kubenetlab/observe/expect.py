"""Expected reachability by the Kubernetes network model, computed from the objects alone.

The rules of the datapath are not considered.

1. Pods reach pods and nodes by their own addresses; nodes reach pods and nodes.
2. Pods and nodes reach hosts outside; hosts outside reach nodes and other hosts, but no pod. If
   nodes announce the range of a pod to the router by BGP, hosts outside reach the pod.
3. A Service port leads to its ready endpoints, whose programs answer or refuse. Without endpoints
   it refuses at once. With internalTrafficPolicy Local only endpoints on the client's node count;
   if there is none, packets are dropped. From outside, a cluster IP is not reachable, unless nodes
   announce it.
4. A load balancer's address leads to the ready endpoints of the Service from everywhere, or from
   its source ranges. Without endpoints it refuses, but packets of a node itself may go to the next
   node first. So does an external IP, without source ranges.
5. A node port leads to the ready endpoints from everywhere, and refuses without endpoints. With
   externalTrafficPolicy Local, hosts outside and other nodes reach only endpoints on the node that
   they address; if there is none, packets are dropped. The node itself and its pods reach all.
   Nothing is promised to pods of other nodes then, unless all endpoints are on that node.
6. If the lab enforces network policies, nothing answers to a connection that they deny, as their
   evaluator says (policies/verdicts.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from kubenetlab.observe.policies.verdicts import Decision, PolicyVerdicts, combined
from kubenetlab.observe.targets.grammar import with_port
from kubenetlab.observe.targets.locations import Location
from kubenetlab.programs import COMMAND

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedContainer, Inspection

Expectation = Literal["answer", "refused", "nothing", "any"]
"""Expected outcome of a probe; `nothing` is silence or a report that there is no route."""


class ServiceTarget(Struct, frozen=True):
    """One port of one Service at one address, as a destination."""

    namespace: str
    name: str
    address: str
    port: int
    protocol: Literal["TCP", "UDP", "SCTP"]
    endpoints: tuple[tuple[str, int], ...]
    """(address, port) of the ready endpoints."""
    is_proxied: bool = True
    """False if no kube-proxy has rules for the Service: its address leads nowhere."""
    nodes: tuple[str, ...] = ()
    """Node of each endpoint if only endpoints on the client's node count; empty if all do."""
    family: str = ""
    """Family of the address if the Service has several; else empty."""
    is_outside: bool = False
    """True for a load balancer's address, and for an external IP."""
    sources: tuple[str, ...] = ()
    """Ranges of the allowed clients; empty allows every client."""
    is_sent_on: bool = False
    """True if the load balancer forwards to node ports (ipMode Proxy)."""
    is_external_ip: bool = False
    """True for one of `externalIPs`; then `is_outside`, too."""
    endpoint_nodes: tuple[str, ...] = ()
    """Node of each endpoint, for addresses and ports to which externalTrafficPolicy applies."""
    is_local_only: bool = False
    """True for such an address or port with externalTrafficPolicy Local."""

    @property
    def title(self) -> str:
        if self.is_external_ip:
            return with_port(self.address, self.port, self.protocol)
        prefix = "lb" if self.is_outside else "svc"
        family = f" {self.family}" if self.family else ""
        return f"{prefix}:{self.namespace}/{self.name}:{self.port}/{self.protocol}{family}"


class ServiceNodePort(ServiceTarget, frozen=True):
    """One port of one Service at an address of a node; `port` is the node port."""

    node: str = ""
    service_port: int = 0

    @property
    def target(self) -> str:
        """Target of commands and tables, without the port."""
        return f"nodeport:{self.node}/{self.namespace}/{self.name}"

    @property
    def title(self) -> str:
        family = f" {self.family}" if self.family else ""
        return f"{self.target}:{self.service_port}/{self.protocol}{family}"


Destination = Location | ServiceTarget

_FORWARD_OWN_PACKETS: Final = frozenset(("iptables",))
"""Modes in which a node forwards its own packets to a load balancer address without endpoints.

They are refused by the node that gets them, if any: KUBE-EXTERNAL-SERVICES is called from INPUT and
FORWARD, but not from OUTPUT.
"""


_DETECTING_BY_ADDRESS: Final = ("ClusterCIDR", "NodeCIDR")
"""Values of `detectLocalMode` that find all pods of a node; interfaces may be others."""


class ClusterFacts(Struct, frozen=True):
    """Facts that the rules need beside source and destination."""

    listening: Mapping[str, frozenset[tuple[str, int]]]
    """Pod address → (protocol, port) of its programs; unknown for pods with real commands."""
    kube_proxy_mode: str = ""
    announced: tuple[IPv4Network | IPv6Network, ...] = ()
    """Ranges that nodes announce to the router, which hosts outside reach."""
    policies: PolicyVerdicts | None = None
    """Network policies that the lab enforces; None if there are none."""
    detects_pods: bool = True
    """False if traffic of pods may be like that of hosts outside (`detectLocalMode`)."""

    def is_announced(self, address: str) -> bool:
        """Return True if the router has a route to an address of a pod or a Service."""
        return any(ip_address(address) in network for network in self.announced)


def is_same_family(first: str, second: str) -> bool:
    """Return True for two addresses of the same family."""
    return (":" in first) == (":" in second)


def facts_of(seen: Inspection, policies: PolicyVerdicts | None = None) -> ClusterFacts:
    """Return the facts in a document of `inspect` that the rules need.

    policies: network policies that the lab enforces; None without any.
    """
    listening: dict[str, set[tuple[str, int]]] = {}
    unknown = {
        address
        for pod in seen["pods"]
        for address in pod["addresses"]
        if any(entry.get("program") == COMMAND for entry in pod["containers"])
    }
    for pod in seen["pods"]:
        for address in (address for address in pod["addresses"] if address not in unknown):
            listening.setdefault(address, set()).update(_listening(pod["containers"]))
    return ClusterFacts(
        {address: frozenset(ports) for address, ports in listening.items()},
        seen["kube_proxy_mode"],
        tuple(map(ip_network, seen["router"].get("announced", ()))),
        policies,
        "service_proxy" not in seen
        or seen["service_proxy"]["detect_local_mode"] in _DETECTING_BY_ADDRESS,
    )


def _listening(containers: Sequence[InspectedContainer]) -> Iterator[tuple[str, int]]:
    """Yield (protocol, port) of every port on which containers listen.

    The agent of an earlier version reports no protocols: then any protocol is assumed.
    """
    for container in containers:
        if "listening" not in container:
            yield from (
                (protocol, port)
                for port in container["ports"]
                for protocol in ("TCP", "UDP", "SCTP")
            )
        for text in container.get("listening", ()):
            port, _, protocol = text.partition("/")
            yield protocol, int(port)


def expect(source: Location, destination: Destination, context: ClusterFacts) -> Expectation:
    """Return the expected outcome of a probe."""
    if isinstance(destination, ServiceNodePort):
        return _node_port(source, destination, context)
    if isinstance(destination, ServiceTarget):
        return _service(source, destination, context)
    has_pod_address = destination.kind == "pod" and not destination.is_host_network
    is_reached = (
        not has_pod_address
        or source.kind in ("pod", "node")
        or all(map(context.is_announced, destination.addresses))
    )
    if not is_reached:
        return "nothing"
    policies = context.policies
    if policies is None:
        return "answer"
    decision = combined(
        policies.decision(source, address, 0, "ICMP")
        for address in destination.addresses
        if any(is_same_family(address, own) for own in source.addresses)
    )
    return _restricted("answer", decision)


def _restricted(expectation: Expectation, decision: Decision) -> Expectation:
    """Return the outcome for a connection about which policies have decided."""
    match decision:
        case "allowed":
            return expectation
        case "denied":
            return "nothing"
        case "either":
            return "any" if expectation != "nothing" else "nothing"


def _is_excluded(source: Location, port: ServiceTarget) -> bool:
    """Return True for a source in none of a load balancer's source ranges."""
    own = [
        ip_address(address) for address in source.addresses if is_same_family(address, port.address)
    ]
    return bool(port.sources) and not any(
        address in ip_network(text, strict=False) for text in port.sources for address in own
    )


def _service(source: Location, port: ServiceTarget, context: ClusterFacts) -> Expectation:
    if port.is_sent_on and (not port.is_proxied or (port.sources and source.kind == "pod")):
        # Without kube-proxy the node itself answers. A pod reaches the balancer with the address of
        # its node.
        return "any"
    if _is_excluded(source, port):
        return "nothing"
    is_inside = source.kind in ("pod", "node") or context.is_announced(port.address)
    if not (is_inside or port.is_outside) or not port.is_proxied:
        return "nothing"
    if not port.endpoints:
        is_passed_on = (
            port.is_outside
            and context.kube_proxy_mode in _FORWARD_OWN_PACKETS
            and (source.kind == "node" or source.is_host_network)
        )
        is_refused = not is_passed_on and _may_leave(source, port, context)
        return "refused" if is_refused else "any"
    usable = [
        endpoint
        for index, endpoint in enumerate(port.endpoints)
        if not port.nodes or not source.node or port.nodes[index] == source.node
    ]
    if not usable:
        return "nothing"
    if source.kind not in ("pod", "node") and port.nodes:
        return "any"
    if port.is_local_only and not _is_detected(source, source.node, port, context):
        return "any"
    return _of_endpoints(source, usable, port, context)


def _node_port(source: Location, port: ServiceNodePort, context: ClusterFacts) -> Expectation:
    if not port.endpoints:
        return "refused" if _may_leave(source, port, context) else "any"
    usable = _usable_at_node(source, port, context)
    if usable is None:
        return "any"
    return _of_endpoints(source, usable, port, context) if usable else "nothing"


def _usable_at_node(
    source: Location, port: ServiceNodePort, context: ClusterFacts
) -> Sequence[tuple[str, int]] | None:
    """Return the endpoints to which a node port may lead; None if packets may also be lost."""
    if not port.is_local_only:
        return port.endpoints
    if source.node == port.node:
        return port.endpoints if _is_detected(source, port.node, port, context) else None
    local = _local_endpoints(port, port.node)
    if source.kind == "pod" and not source.is_host_network:
        # It may be known as a pod there. An endpoint elsewhere answers from an unknown address.
        return port.endpoints if len(local) == len(port.endpoints) else None
    return local


def _is_detected(source: Location, node: str, port: ServiceTarget, context: ClusterFacts) -> bool:
    """Return True if traffic of a node itself, or of a pod there, is known to reach an endpoint.

    With externalTrafficPolicy Local, pods of a node without an endpoint need to be detected.
    """
    is_pod = source.kind == "pod" and not source.is_host_network
    return not is_pod or context.detects_pods or bool(_local_endpoints(port, node))


def _local_endpoints(port: ServiceTarget, node: str) -> list[tuple[str, int]]:
    return [
        endpoint
        for endpoint, own in zip(port.endpoints, port.endpoint_nodes, strict=True)
        if own == node
    ]


def _of_endpoints(
    source: Location,
    usable: Sequence[tuple[str, int]],
    port: ServiceTarget,
    context: ClusterFacts,
) -> Expectation:
    """Return the outcome of a connection to one of several endpoints."""
    policies = context.policies
    if policies is None:
        outcomes = {_of_endpoint(endpoint, port, context) for endpoint in usable}
    else:
        decisions = policies.decisions(source, port.address, port.port, port.protocol)
        outcomes = {
            _restricted(_of_endpoint(endpoint, port, context), decisions[endpoint])
            for endpoint in usable
        }
    return outcomes.pop() if len(outcomes) == 1 else "any"


def _of_endpoint(
    endpoint: tuple[str, int], port: ServiceTarget, context: ClusterFacts
) -> Expectation:
    """Return the outcome at an endpoint that packets reach."""
    address, target = endpoint
    listening = context.listening.get(address)
    if listening is None:
        return "any"
    return "answer" if (port.protocol, target) in listening else "refused"


def _may_leave(source: Location, port: ServiceTarget, context: ClusterFacts) -> bool:
    """Return True if no policy denies packets to the address of a Service itself.

    Without endpoints nothing translates it. The node may refuse packets before policies see them.
    """
    policies = context.policies
    return policies is None or policies.may_leave(source, port.address, port.port, port.protocol)
