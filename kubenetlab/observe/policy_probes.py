"""Probes of the ports that policies name and on which nothing listens.

Where the policies allow a connection to such a port, the kernel of the destination refuses it.
"""

from __future__ import annotations

import socket
from collections.abc import Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct, structs

from kubenetlab.api.containers import MAX_PORT, Protocol
from kubenetlab.api.pods import Pod
from kubenetlab.observe.pod_ports import HostPort, PodPort, host_port
from kubenetlab.observe.policies.policy_ports import (
    NO_PORTS,
    PolicyPorts,
    PortRange,
    RulePorts,
    other_port,
)
from kubenetlab.observe.policies.verdicts import PolicyVerdicts
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

MAX_PROBES: Final = 20_000
"""Maximum number of probes for all pairs of places.

If there are more, one pair of two nodes stands for all pairs that the policies treat alike.
"""

_Port = PodPort | HostPort
_SSH: Final = 22
_DNS: Final = 53


class _Destination(Struct, frozen=True):
    """A pod or an external host at one address."""

    port: _Port
    """Any port of it."""
    served: AbstractSet[tuple[str, int]]
    """(protocol, port) pairs on which it listens."""
    rules: RulePorts = NO_PORTS
    """Ports in the rules of policies for connections to it."""
    declared: tuple[tuple[str, Protocol, int], ...] = ()
    """Name, protocol and number of the ports that have a name."""
    node: str = ""


class PolicyProbes(Struct, frozen=True):
    """Probes of the ports that policies name."""

    ports: Mapping[str, Sequence[_Port]] = {}
    """Sandbox of a source → the ports to which it connects."""
    left_out: int = 0
    """Number of probes of SCTP that are left out, because this kernel does not have it.

    They are those of rules about every protocol. Ports of rules about SCTP are never left out.
    """
    is_sampled: bool = False
    """True if one probe stands for several, since there are more than `MAX_PROBES`."""


def policy_probes(
    sources: Sequence[Location], seen: Inspection, policies: PolicyVerdicts
) -> PolicyProbes:
    """Return the probes of the ports that policies name, from some sources.

    For a pod, these are the ports in the rules about connections to it, and for a source those in
    the rules about its connections that mean the destination: single ports, both ends of ranges and
    the port beside.
    """
    ports = PolicyPorts(policies.objects.cluster)
    destinations = [*_pods(seen, policies, ports), *_hosts(seen)]
    has_sctp = _has_sctp()
    result: dict[str, list[_Port]] = {}
    left_out = 0
    for source in sources:
        own = result.setdefault(source.sandbox, [])
        rules = ports.of(f"{source.namespace}/{source.name}", "Egress")
        if source.kind != "pod" or source.is_host_network:
            rules = NO_PORTS
        for destination in destinations:
            if _is_probed(source, destination.port):
                numbers = dict.fromkeys(_numbers(source, rules, destination, policies))
                unserved = [
                    _with_port(destination.port, protocol, number)
                    for protocol, number in sorted(numbers, key=lambda pair: pair[::-1])
                    if (protocol, number) not in destination.served
                ]
                stated = rules.stated | destination.rules.stated
                probed = [
                    port
                    for port in unserved
                    if has_sctp or port.protocol != "SCTP" or _is_stated(port, stated, destination)
                ]
                left_out += len(unserved) - len(probed)
                own += probed
    if sum(map(len, result.values())) > MAX_PROBES:
        nodes = {each.port.address: each.node for each in destinations}
        return PolicyProbes(_distinct(sources, result, nodes, policies), left_out, is_sampled=True)
    return PolicyProbes(result, left_out)


class ClosedPort(NamedTuple):
    """A port that policies deny to a source, although no policy names it."""

    source: Location
    port: _Port
    is_telling: bool
    """True if the port is likely to be opened for this source by a change of policies."""


def closed_ports(
    sources: Sequence[Location], seen: Inspection, policies: PolicyVerdicts
) -> list[ClosedPort]:
    """Return ports that policies deny, although no policy names them and nothing listens there.

    They become open when policies stop to isolate a destination, when a rule loses its ports, and
    by most additions of a port or a range. Pods of the system are not among the destinations.
    """
    ports = PolicyPorts(policies.objects.cluster)
    destinations = [
        each
        for each in (*_pods(seen, policies, ports), *_hosts(seen))
        if each.port.namespace not in seen["system_namespaces"]
    ]
    return [
        closed
        for source in sources
        for destination in destinations
        for closed in _closed(
            source,
            ports.of(f"{source.namespace}/{source.name}", "Egress"),
            destination,
            policies,
        )
    ]


def _closed(
    source: Location, rules: RulePorts, destination: _Destination, policies: PolicyVerdicts
) -> Iterator[ClosedPort]:
    """Yield a few ports of a destination that are closed for a source.

    They are the port of SSH, the ones after those that rules name, and the same numbers in the
    other one of TCP and UDP; at least one for each of both.
    rules: ports in the rules of policies for connections from the source.
    """
    is_isolated = rules.has_policies or destination.rules.has_policies
    if not is_isolated or not _is_probed(source, destination.port):
        return
    address = destination.port.address
    numbers = _numbers(source, rules, destination, policies, has_beside=False)
    named = dict.fromkeys(numbers)
    known = rules.ranges | destination.rules.ranges
    taken = {*named, *destination.served}

    def is_denied(protocol: Protocol, number: int) -> bool:
        return policies.decision(source, address, number, protocol) == "denied"

    def is_free(protocol: Protocol, number: int) -> bool:
        return (
            0 < number <= MAX_PORT
            and (protocol, number) not in taken
            and not any(
                each.protocol == protocol and each.first <= number <= each.last for each in known
            )
        )

    lowest = min((port for protocol, port in destination.served if protocol == "TCP"), default=_DNS)
    candidates: dict[tuple[Protocol, int], bool] = {("TCP", _SSH): True}
    for protocol, number in sorted(named):
        if protocol != "SCTP":
            is_telling = not is_denied(protocol, number)
            other: Protocol = "UDP" if protocol == "TCP" else "TCP"
            for each in ((protocol, number + 1), (other, number)):
                candidates[each] = candidates.get(each, False) or is_telling
    if not any(protocol == "UDP" and is_free(protocol, port) for protocol, port in candidates):
        candidates["UDP", lowest] = True
    for (protocol, number), is_telling in candidates.items():
        if is_free(protocol, number) and is_denied(protocol, number):
            yield ClosedPort(source, _with_port(destination.port, protocol, number), is_telling)


def _pods(seen: Inspection, policies: PolicyVerdicts, ports: PolicyPorts) -> Iterator[_Destination]:
    """Yield the running pods with a network of their own, once for each address."""
    for entry in seen["pods"]:
        pod = policies.objects.cluster.get(Pod, entry["namespace"], entry["name"])
        if not entry["pid"] or entry["host_network"] or pod is None:
            continue
        listening = [
            text.partition("/")
            for container in entry["containers"]
            for text in container.get("listening", ())
        ]
        declared = tuple(
            (port.name.lower(), port.protocol, port.container_port)
            for container in pod.spec.long_running_containers
            for port in container.ports
            if port.name
        )
        for address in entry["addresses"]:
            family = "IPv6" if ":" in address else "IPv4"
            any_port = PodPort(
                entry["namespace"],
                entry["name"],
                address,
                0,
                "TCP",
                (),
                family=family if len(entry["addresses"]) > 1 else "",
                is_served=False,
            )
            yield _Destination(
                any_port,
                frozenset((protocol, int(number)) for number, _, protocol in listening),
                ports.of(pod.full_name, "Ingress"),
                declared,
                entry["node"] or "",
            )


def _hosts(seen: Inspection) -> Iterator[_Destination]:
    """Yield the external hosts, once for each address."""
    for host in seen["external"]:
        if host["pid"]:
            served = frozenset(("TCP", port) for port in host.get("ports", ()))
            for address in host["addresses"]:
                yield _Destination(host_port(host, address, 0, is_served=False), served)


def _is_probed(source: Location, port: _Port) -> bool:
    """Return True if packets of a source may reach a destination that is not the source itself."""
    if (":" in port.address) not in {":" in address for address in source.addresses}:
        return False
    if isinstance(port, HostPort):
        return source.kind == "pod"
    return source.kind in ("pod", "node") and port.address not in source.addresses


def _numbers(
    source: Location,
    rules: RulePorts,
    destination: _Destination,
    policies: PolicyVerdicts,
    *,
    has_beside: bool = True,
) -> Iterator[tuple[Protocol, int]]:
    """Yield protocol and number of the ports to probe, also of those on which something listens.

    rules: ports in the rules of policies for connections from the source.
    has_beside: also yield the port beside each range.
    """
    known = rules.ranges | destination.rules.ranges
    for each in known:
        if each in destination.rules.ranges or _is_meant(
            source, each, known, destination, policies
        ):
            yield each.protocol, each.first
            if each.last != each.first:
                yield each.protocol, each.last
                beside = each.last + 1 if each.last < MAX_PORT else each.first - 1
                if beside and has_beside:
                    yield each.protocol, beside
    names = rules.names | destination.rules.names
    yield from (
        (protocol, number) for name, protocol, number in destination.declared if name in names
    )


def _is_stated(port: _Port, stated: AbstractSet[PortRange], destination: _Destination) -> bool:
    """Return True for a port of a rule about its protocol, one beside it, or one with a name.

    stated: ports of the rules about one protocol.
    """
    return (port.protocol, port.port) in {each[1:] for each in destination.declared} or any(
        each.protocol == port.protocol and each.first - 1 <= port.port <= each.last + 1
        for each in stated
    )


def _is_meant(
    source: Location,
    ports: PortRange,
    known: AbstractSet[PortRange],
    destination: _Destination,
    policies: PolicyVerdicts,
) -> bool:
    """Return True if policies of a source decide about some ports unlike about other ports."""
    served = {PortRange(ports.protocol, port, port) for _, port in destination.served}
    other = other_port(ports.protocol, known | served)
    if other is None:
        return True
    address = destination.port.address
    return policies.decision(source, address, ports.first, ports.protocol) != policies.decision(
        source, address, other, ports.protocol
    )


def _with_port(port: _Port, protocol: Protocol, number: int) -> _Port:
    return structs.replace(
        port, port=number, protocol=protocol, endpoints=((port.address, number),)
    )


def _distinct(
    sources: Sequence[Location],
    probes: Mapping[str, Sequence[_Port]],
    nodes: Mapping[str, str],
    policies: PolicyVerdicts,
) -> Mapping[str, Sequence[_Port]]:
    """Return one probe for those between two nodes about which policies decide alike.

    nodes: address of a destination → node of the pod.
    """
    seen: set[Hashable] = set()
    result: dict[str, list[_Port]] = {}
    for source in sources:
        for port in probes[source.sandbox]:
            key = policies.key(source, port.address, port.port, port.protocol)
            place = (key, source.node, nodes[port.address])
            if place not in seen:
                seen.add(place)
                result.setdefault(source.sandbox, []).append(port)
    return result


def _has_sctp() -> bool:
    """Return True if this kernel has SCTP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True
