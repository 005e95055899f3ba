"""UDP flows to Services: valid destinations in connection tracking.

They are for the modes that leave address translation to connection tracking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kubenetlab.datapath.proxy.services import PortView
from kubenetlab.hoststate.rules.conntrack import FlowDestination
from kubenetlab.hoststate.rules.rulesets import SubjectRules


def udp_flows(
    subject: str, ports: Sequence[PortView], version: int
) -> tuple[SubjectRules[FlowDestination], ...]:
    """Return the destinations of a Service's UDP ports; empty without any."""
    destinations = tuple(
        destination
        for port in ports
        if port.protocol == "udp"
        for destination in _destinations(port, version)
    )
    return (
        (SubjectRules("conntrack", f"IPv{version}", subject, destinations),) if destinations else ()
    )


def _destinations(port: PortView, version: int) -> Iterator[FlowDestination]:
    endpoints = tuple((endpoint.address, endpoint.port) for endpoint in port.serving)
    for address in (port.cluster_ip, *port.outside_ips):
        yield FlowDestination("", address, port.port, version, endpoints)
    if port.node_port:
        yield FlowDestination("", "", port.node_port, version, endpoints)
