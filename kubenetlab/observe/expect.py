"""What Kubernetes promises about who reaches whom, as rules over the objects alone: no rule of the datapath is looked at.

1. Pods reach pods and nodes by their own addresses, nodes reach pods and nodes.
2. Pods and nodes reach hosts outside; hosts outside reach nodes and one another, and no pod.
3. A Service port leads to its ready endpoints, whose programs answer or refuse; without any it refuses at once.
   With internalTrafficPolicy Local only those on the client's node count; where it has none there is silence.
   From outside a cluster IP leads nowhere.
4. A load balancer's address leads from everywhere, or from its source ranges, to the ready endpoints of the Service; without any it
   refuses, but what a node itself sends there may go out to the next node first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal

from msgspec import Struct

from kubenetlab.observe.locations import Location
from kubenetlab.programs import COMMAND

Expectation = Literal["answer", "refused", "nothing", "any"]
"""nothing: silence, or word that there is no way."""


class ServiceTarget(Struct, frozen=True):
    """One port of one Service, as something to be connected to."""

    namespace: str
    name: str
    address: str
    port: int
    protocol: Literal["TCP", "UDP", "SCTP"]
    endpoints: tuple[tuple[str, int], ...]
    """(address, port) of those that are ready."""
    is_proxied: bool = True
    """False when no kube-proxy takes care of it: then its address leads nowhere."""
    nodes: tuple[str, ...] = ()
    """The node of each endpoint, where only those on the client's node count; empty: all do."""
    family: str = ""
    """Of the address, where the Service has several."""
    is_outside: bool = False
    """True for a load balancer's address."""
    sources: tuple[str, ...] = ()
    """The ranges from which it may be reached; empty: from everywhere."""
    is_sent_on: bool = False
    """True for a load balancer's address with ipMode Proxy: the balancer sends on to node ports what comes for it."""

    @property
    def title(self) -> str:
        return f"{'lb' if self.is_outside else 'svc'}:{self.namespace}/{self.name}:{self.port}/{self.protocol}{f' {self.family}' if self.family else ''}"


Destination = Location | ServiceTarget

_PASS_OWN_ON: Final = frozenset(("iptables",))
"""Modes in which what a node itself sends to a load balancer's address without endpoints is refused by another node, if one gets it:
KUBE-EXTERNAL-SERVICES is asked for what comes in and what is passed on, not for what goes out."""


class World(Struct, frozen=True):
    """What the rules must know beside source and destination."""

    listening: Mapping[str, frozenset[tuple[str, int]]]
    """Pod address → (protocol, port) of its programs; those of real commands are not known."""
    kube_proxy_mode: str = ""


def service_ports(seen: Mapping[str, Any]) -> list[ServiceTarget]:
    """Every Service port with a cluster IP; `seen` is what `inspect` shows."""
    found = []
    for service in seen["services"]:
        for address, is_outside in (
            *((ip, False) for ip in service["cluster_ips"]),
            *((ip, True) for ip in service["load_balancer_ips"]),
        ):
            is_sent_on = is_outside and address not in service["virtual_ips"]
            for port in service["ports"]:
                leads_on = port["node_port"] or not is_sent_on
                ready = [
                    entry
                    for entry in service["endpoints"]
                    if leads_on
                    and entry["ready"]
                    and entry.get("port_name", port["name"]) == port["name"]
                    and _is_alike(entry["address"], address)
                ]
                is_local = service["internal_traffic_policy"] == "Local" and not is_outside
                found.append(
                    ServiceTarget(
                        service["namespace"],
                        service["name"],
                        address,
                        port["port"],
                        port["protocol"],
                        tuple((entry["address"], entry["port"]) for entry in ready),
                        service["proxied"],
                        tuple(entry["node"] for entry in ready) if is_local else (),
                        ("IPv6" if ":" in address else "IPv4")
                        if len(service["cluster_ips"]) > 1
                        else "",
                        is_outside,
                        tuple(
                            text
                            for text in service["source_ranges"]
                            if is_outside and _is_alike(text, address)
                        ),
                        is_sent_on,
                    )
                )
    return found


def _is_alike(one: str, other: str) -> bool:
    """True for two addresses of the same family."""
    return (":" in one) == (":" in other)


def world(seen: Mapping[str, Any]) -> World:
    """What `inspect` shows, as far as the rules must know it."""
    listening: dict[str, set[tuple[str, int]]] = {}
    real = {
        address
        for pod in seen["pods"]
        for address in pod["addresses"]
        if any(entry.get("program") == COMMAND for entry in pod["containers"])
    }
    for pod in seen["pods"]:
        for address in (one for one in pod["addresses"] if one not in real):
            listening.setdefault(address, set()).update(_listening(pod["containers"]))
    return World(
        {address: frozenset(ports) for address, ports in listening.items()}, seen["kube_proxy_mode"]
    )


def _listening(containers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """Yield (protocol, port) of everything on which containers listen; an earlier version's agent tells no protocols: then it is any."""
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


def expect(source: Location, destination: Destination, known: World) -> Expectation:
    """What the source must see."""
    if isinstance(destination, ServiceTarget):
        return _service(source, destination, known)
    has_pod_address = destination.kind == "pod" and not destination.is_host_network
    return "nothing" if source.kind == "ext" and has_pod_address else "answer"


def _is_shut_out(source: Location, port: ServiceTarget) -> bool:
    """True for who is in none of a load balancer's source ranges."""
    own = [ip_address(address) for address in source.addresses if _is_alike(address, port.address)]
    return bool(port.sources) and not any(
        address in ip_network(text, strict=False) for text in port.sources for address in own
    )


def _service(source: Location, port: ServiceTarget, known: World) -> Expectation:
    if port.is_sent_on and (not port.is_proxied or (port.sources and source.kind == "pod")):
        return "any"  # without kube-proxy the node itself answers; a pod comes to the balancer from its node's address
    if _is_shut_out(source, port):
        return "nothing"
    if (source.kind == "ext" and not port.is_outside) or not port.is_proxied:
        return "nothing"
    if not port.endpoints:
        is_passed_on = (
            port.is_outside
            and known.kube_proxy_mode in _PASS_OWN_ON
            and (source.kind == "node" or source.is_host_network)
        )
        return "any" if is_passed_on else "refused"
    here = [
        endpoint
        for index, endpoint in enumerate(port.endpoints)
        if not port.nodes or port.nodes[index] == source.node
    ]
    if not here:
        return "nothing"
    if any(address not in known.listening for address, _ in here):
        return "any"
    serving = [(port.protocol, target) in known.listening[address] for address, target in here]
    return "answer" if all(serving) else "any" if any(serving) else "refused"
