"""Ports of pods as destinations of probes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, cast

from kubenetlab.observe.expect import ClusterFacts, Expectation, ServiceTarget
from kubenetlab.observe.targets.grammar import pod_title, with_port
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

_Protocol = Literal["TCP", "UDP", "SCTP"]


class PodPort(ServiceTarget, frozen=True):
    """One port of a pod at one of its addresses, which is also its only endpoint."""

    @property
    def title(self) -> str:
        family = f" {self.family}" if self.family else ""
        return with_port(pod_title(self.namespace, self.name), self.port, self.protocol) + family


def pod_ports(seen: Inspection) -> Iterator[PodPort]:
    """Yield the ports on which the containers of running pods listen.

    Pods with hostNetwork are left out: their ports are those of their node.
    """
    for pod in seen["pods"]:
        if not pod["pid"] or pod["host_network"]:
            continue
        listening = dict.fromkeys(
            text for container in pod["containers"] for text in container.get("listening", ())
        )
        for address in pod["addresses"]:
            family = "IPv6" if ":" in address else "IPv4"
            for text in listening:
                number, _, protocol = text.partition("/")
                yield PodPort(
                    pod["namespace"],
                    pod["name"],
                    address,
                    int(number),
                    cast(_Protocol, protocol),
                    ((address, int(number)),),
                    family=family if len(pod["addresses"]) > 1 else "",
                )


def expect_port(source: Location, port: PodPort, context: ClusterFacts) -> Expectation:
    """Return the expected outcome of a connection to a port on which a pod listens."""
    if source.kind not in ("pod", "node") and not context.is_announced(port.address):
        return "nothing"
    # The port of a program of the user may be open later, or never.
    is_known = port.address in context.listening
    if context.policies is not None:
        decision = context.policies.decision(source, port.address, port.port, port.protocol)
        if decision == "denied":
            return "nothing"
        is_known = is_known and decision == "allowed"
    return "answer" if is_known else "any"
