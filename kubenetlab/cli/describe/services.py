"""describe of Services: addresses, policies, ports, endpoints, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kubenetlab.api.core import ClientIPConfig
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.cli.describe.cells import paint_readiness
from kubenetlab.cli.describe.fields import print_field, print_heading, print_mapping
from kubenetlab.cli.terminal.printing import echo, print_table
from kubenetlab.observe.targets.lookups import service_named

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client


def describe_service(client: Client, service: JsonMapping) -> None:
    """Print the part between a Service's metadata and its events."""
    spec, meta = service["spec"], service["metadata"]
    service_type = spec.get("type", "ClusterIP")
    print_mapping("Selector", spec.get("selector", {}))
    print_field("Type", service_type)
    if service_type == "ExternalName":
        print_field("External Name", spec["externalName"])
        print_field("Endpoints", "none: DNS answers with the external name (a CNAME)")
        return
    for name, value in _fields(service):
        print_field(name, value)
    for port in spec.get("ports", ()):
        at_nodes = f"  node port {port['nodePort']}" if port.get("nodePort") else ""
        target = port.get("targetPort", port["port"])
        number = f"{port['port']}/{port.get('protocol', 'TCP')}"
        print_field("Port", f"{port.get('name', '<unset>')}  {number}  →  {target}{at_nodes}")
    inspected = service_named(client.inspect(), meta["namespace"], meta["name"])
    rows = [
        (
            entry["address"],
            str(entry["port"]),
            entry["node"] or "",
            paint_readiness(is_ready=entry["ready"]),
        )
        for entry in (inspected["endpoints"] if inspected is not None else ())
    ]
    print_heading("Endpoints")
    if rows:
        print_table(("ADDRESS", "PORT", "NODE", "STATE"), rows, indent=2)
    else:
        effect = (
            "DNS has no address" if spec.get("clusterIP") == "None" else "connections are rejected"
        )
        reason = explain_no_endpoints(client, service)
        echo(f"  <none>  {effect}{f': {reason}' if reason else ''}")


def _fields(service: JsonMapping) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of the fields that a Service of this type has, in kubectl's order."""
    spec = service["spec"]
    type_, is_headless = spec.get("type", "ClusterIP"), spec.get("clusterIP") == "None"
    families = ", ".join(spec.get("ipFamilies", ())) or "<none>"
    yield "IP Families", f"{families} ({spec.get('ipFamilyPolicy', 'SingleStack')})"
    yield (
        "IPs",
        "None: headless, DNS answers with the endpoints"
        if is_headless
        else ", ".join(spec.get("clusterIPs", ())) or "<none>",
    )
    if spec.get("externalIPs"):
        yield "External IPs", ", ".join(spec["externalIPs"])
    if type_ == "LoadBalancer":
        outside = [
            entry["ip"]
            for entry in service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
        ]
        yield "Load balancer", ", ".join(outside) or "<pending>"
        if spec.get("loadBalancerSourceRanges"):
            yield "Source ranges", ", ".join(spec["loadBalancerSourceRanges"])
    if type_ in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        yield "External policy", spec.get("externalTrafficPolicy", "Cluster")
    if spec.get("healthCheckNodePort"):
        yield "Health check", f"node port {spec['healthCheckNodePort']}"
    if not is_headless:
        yield "Internal policy", spec.get("internalTrafficPolicy", "Cluster")
        timeout_s = (
            spec.get("sessionAffinityConfig", {})
            .get("clientIP", {})
            .get("timeoutSeconds", ClientIPConfig().timeout_seconds)
        )
        is_sticky = spec.get("sessionAffinity") == "ClientIP"
        yield "Affinity", f"ClientIP, for {timeout_s} s" if is_sticky else "None"
    if spec.get("trafficDistribution"):
        yield "Distribution", spec["trafficDistribution"]


def explain_no_endpoints(client: Client, service: JsonMapping) -> str:
    """Return the reason why a Service has no ready endpoint.

    It is derived from the selector, the ports and the pods of the namespace; empty if unknown.
    """
    from kubenetlab.api.pods import Pod
    from kubenetlab.lab.paths import kind_path
    from kubenetlab.observe.emptiness import explain_empty

    return explain_empty(
        service, client.get(kind_path(Pod, service["metadata"]["namespace"]))["items"]
    )
