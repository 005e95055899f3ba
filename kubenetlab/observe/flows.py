"""Flows: events of the ring buffers of nodes, with the pods, identities and Services they concern.

The text resembles that of `hubble observe`. Source: cilium/hubble pkg/printer/printer.go.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from kubenetlab.kernel.rules.flow_events import FlowEvent, Translation
from kubenetlab.names import socket_address
from kubenetlab.observe.inspection import IdentityTable, Inspection

_TCP_FLAGS: Final = (
    (0x02, "SYN"),
    (0x10, "ACK"),
    (0x08, "PSH"),
    (0x01, "FIN"),
    (0x04, "RST"),
)
"""Bit in the TCP header → its name, in the order in which they are shown."""
_ICMP: Final = {"1": "ICMP", "58": "ICMPv6"}
"""Number of a protocol without ports → its name."""
_INGRESS: Final = ("from-overlay", "from-network", "to-endpoint")
"""Points where packets enter the node, or a pod."""
_UNSHOWN_LABELS: Final = "k8s:io."
"""Prefix of the labels that the text leaves out: those of Kubernetes and Cilium themselves."""


_RESERVED: Final = "reserved:"
"""Prefix of the label of an identity that no pod has."""


class FlowEnd(Struct, frozen=True):
    """Source or destination of a packet."""

    address: str
    port: int
    """0 for protocols without ports."""
    name: str
    """`namespace/name` of a pod, `node:NAME`, `ext:NAME`, or empty."""
    identity: int
    labels: tuple[str, ...]
    """Labels of the identity; `reserved:world` and the like for an identity without labels."""

    def __str__(self) -> str:
        where = self.name or self.address
        end = where if not self.port else f"{where}:{self.port}"
        if not self.name and self.port:
            end = socket_address(self.address, self.port)
        shown = [
            label.removeprefix("k8s:")
            for label in self.labels
            if not label.startswith(_UNSHOWN_LABELS)
        ]
        return f"{end} ({' '.join((str(self.identity), *shown))})"


class Flow(Struct, frozen=True):
    """One event: what the programs of a node did with a packet."""

    at_s: float
    """Time, in seconds since 1970."""
    node: str
    verdict: Literal["forwarded", "dropped"]
    direction: Literal["ingress", "egress"]
    """Direction, as seen from the pods of the node."""
    point: str
    """Place of the program, such as `to-overlay`."""
    source: FlowEnd
    destination: FlowEnd
    protocol: str
    tcp_flags: tuple[str, ...]
    state: str
    """State of the connection: new, established, reply or unknown; empty for a dropped packet."""
    reason: str
    """Reason of a drop."""
    service: str
    """Port of a Service to which the client connects, as `namespace/name:port`; empty without."""
    service_address: str
    """Address and port of that Service, before translation."""
    length: int
    """Length of the frame in bytes."""

    def concerns(self, pods: frozenset[str]) -> bool:
        """Return True if one of the ends is one of these pods."""
        return self.source.name in pods or self.destination.name in pods

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.at_s))
        milliseconds = int(self.at_s % 1 * 1000)
        words = [
            f"{clock}.{milliseconds:03} {self.node}: {self.source} → {self.destination}",
            self.point,
            self.verdict,
            self.direction,
            " ".join((self.protocol, *self.tcp_flags)),
            self.reason or self.state,
        ]
        if self.service:
            words.append(f"service {self.service} ({self.service_address})")
        return "  ".join(words)


class FlowNames:
    """Names of addresses, identities and Services of a lab."""

    def __init__(self, inspected: Inspection, table: IdentityTable) -> None:
        self._labels = {
            int(number): tuple(labels) for number, labels in table["identities"].items()
        }
        self._unknown: set[tuple[str, int]] = set()
        """(address, identity) of ends that the lab does not know any more."""
        self._by_address = {
            address: name
            for places, prefix in ((inspected["external"], "ext:"), (inspected["nodes"], "node:"))
            for place in places
            for name in (f"{prefix}{place['name']}",)
            for address in place["addresses"]
        }
        pods = [pod for pod in inspected["pods"] if not pod["host_network"]]
        self._by_address |= {
            gateway: f"node:{node['name']}"
            for node in inspected["nodes"]
            for gateway in node["gateways"]
        }
        self._by_address |= {
            address: f"{pod['namespace']}/{pod['name']}"
            for pod in pods
            for address in pod["addresses"]
        }
        self._services: dict[tuple[str, int, str], str] = {
            (address, port["port"], port["protocol"]): f"{service['namespace']}/{service['name']}"
            for service in inspected["services"]
            for port in service["ports"]
            for address in (
                *service["cluster_ips"],
                *service["load_balancer_ips"],
                *service["external_ips"],
            )
        }

    def knows(self, event: FlowEvent, *, is_final: bool = True) -> bool:
        """Return True if identities and pods of an event are known.

        is_final: True if ends that keep_unknown() took count as known, too.
        """
        return all(
            self._is_known(*end) or (is_final and end in self._unknown) for end in _ends(event)
        )

    def keep_unknown(self, events: Iterable[FlowEvent]) -> None:
        """Take the ends of these events that are not known as such: their pods are gone or new."""
        ends = (end for event in events for end in _ends(event))
        self._unknown.update(end for end in ends if not self._is_known(*end))

    def _is_known(self, address: str, identity: int) -> bool:
        labels = self._labels.get(identity)
        if labels is None:
            return False
        # Pods of one identity come and go, and a new one may have the name of an old one.
        is_pod = not any(label.startswith(_RESERVED) for label in labels)
        return not is_pod or address in self._by_address

    def end(self, address: str, port: int, identity: int) -> FlowEnd:
        name, labels = self._by_address.get(address, ""), self._labels.get(identity, ())
        return FlowEnd(address, port, name, identity, labels)

    def service(
        self, event: FlowEvent, translations: Mapping[Translation, tuple[str, int]]
    ) -> tuple[str, str]:
        """Return the Service of an event, and its address; empty for a packet without one."""
        source = (event.source, event.source_port)
        destination = (event.destination, event.destination_port)
        for client, server in ((source, destination), (destination, source)):
            address, port = translations.get((*client, *server, event.protocol), server)
            if name := self._services.get((address, port, event.protocol)):
                return f"{name}:{port}", socket_address(address, port)
        return "", ""


def _ends(event: FlowEvent) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return (address, identity) of source and destination."""
    return (
        (event.source, event.source_identity),
        (event.destination, event.destination_identity),
    )


def flows_of(
    events: Iterable[tuple[str, FlowEvent]],
    names: FlowNames,
    translations: Mapping[Translation, tuple[str, int]],
    clock_offset_s: float,
) -> list[Flow]:
    """Return events of several nodes as flows, in the order of time.

    events: (node, event). clock_offset_s: time of the clock minus that of CLOCK_MONOTONIC.
    """
    ordered: Sequence[tuple[str, FlowEvent]] = sorted(events, key=lambda entry: entry[1].at_ns)
    return [_flow(node, event, names, translations, clock_offset_s) for node, event in ordered]


def _flow(
    node: str,
    event: FlowEvent,
    names: FlowNames,
    translations: Mapping[Translation, tuple[str, int]],
    clock_offset_s: float,
) -> Flow:
    service, address = names.service(event, translations)
    return Flow(
        round(event.at_ns / 1e9 + clock_offset_s, 6),
        node,
        "dropped" if event.is_dropped else "forwarded",
        "ingress" if event.point in _INGRESS else "egress",
        event.point,
        names.end(event.source, event.source_port, event.source_identity),
        names.end(event.destination, event.destination_port, event.destination_identity),
        _ICMP.get(event.protocol, event.protocol),
        tuple(name for bit, name in _TCP_FLAGS if event.tcp_flags & bit),
        "" if event.is_dropped else event.detail,
        event.detail if event.is_dropped else "",
        service,
        address,
        event.length,
    )
