"""Ports of Services at their addresses, as destinations of probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kubenetlab.observe.expect import ServiceTarget, is_same_family

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import (
        InspectedEndpoint,
        InspectedPort,
        InspectedService,
        Inspection,
    )


def service_ports(seen: Inspection) -> list[ServiceTarget]:
    """Return every Service port at every cluster IP, load balancer address and external IP.

    External IPs that are addresses of nodes or hosts outside, or of an earlier Service, are left
    out: they lead elsewhere. seen: document of `inspect`.
    """
    targets = []
    owned = {
        address for host in (*seen["nodes"], *seen["external"]) for address in host["addresses"]
    }
    for service in seen["services"]:
        external = [ip for ip in service.get("external_ips", ()) if ip not in owned]
        owned.update(external)
        for address, is_outside, is_external_ip in (
            *((ip, False, False) for ip in service["cluster_ips"]),
            *((ip, True, False) for ip in service["load_balancer_ips"]),
            *((ip, True, True) for ip in external),
        ):
            is_sent_on = is_outside and not is_external_ip and address not in service["virtual_ips"]
            has_ranges = is_outside and not is_external_ip
            for port in service["ports"]:
                has_target = port["node_port"] or not is_sent_on
                ready = ready_endpoints(service, port, address) if has_target else []
                is_local = service["internal_traffic_policy"] == "Local" and not is_outside
                has_families = len(service["cluster_ips"]) > 1 and not is_external_ip
                targets.append(
                    ServiceTarget(
                        service["namespace"],
                        service["name"],
                        address,
                        port["port"],
                        port["protocol"],
                        tuple((entry["address"], entry["port"]) for entry in ready),
                        service["proxied"],
                        tuple(entry["node"] or "" for entry in ready) if is_local else (),
                        family_of(address) if has_families else "",
                        is_outside,
                        tuple(
                            text
                            for text in service["source_ranges"]
                            if has_ranges and is_same_family(text, address)
                        ),
                        is_sent_on,
                        is_external_ip,
                        tuple(entry["node"] or "" for entry in ready) if is_outside else (),
                        is_outside and service.get("external_traffic_policy") == "Local",
                    )
                )
    return targets


def ready_endpoints(
    service: InspectedService, port: InspectedPort, address: str
) -> list[InspectedEndpoint]:
    """Return the ready endpoints of a port, of the family of an address."""
    return [
        entry
        for entry in service["endpoints"]
        if entry["ready"]
        and entry.get("port_name", port["name"]) == port["name"]
        and is_same_family(entry["address"], address)
    ]


def family_of(address: str) -> Literal["IPv4", "IPv6"]:
    """Return the family of an address."""
    return "IPv6" if ":" in address else "IPv4"
