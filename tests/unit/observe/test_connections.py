"""Ends of probes: the protocol, the ports and the addresses that their packets may have."""

from __future__ import annotations

from typing import Any

from kubenetlab.diagnostics import Connection
from kubenetlab.observe.connections import Ends
from kubenetlab.observe.targets.grammar import parse
from kubenetlab.observe.targets.locations import places
from tests.unit.observe.documents import HOST, POD, SEEN, service


def name_server() -> Any:
    """Return the Service of the name servers, which also has a port for metrics."""
    entry = service("kube-dns", ["10.96.0.10"], 53, "kube-system", "10.244.1.4")
    (dns,) = entry["endpoints"]
    metrics = {"name": "metrics", "port": 9153, "protocol": "TCP", "node_port": None}
    return {
        **entry,
        "ports": [*entry["ports"], metrics],
        "endpoints": [{**dns, "port": 5353}, {**dns, "port": 9153, "port_name": "metrics"}],
    }


def documents() -> Any:
    """Return a lab with name servers and with a Service that has a node port."""
    services = [*SEEN["services"], name_server()]
    services = [{**each, "external_ips": []} for each in services]
    services[0]["ports"] = [{**services[0]["ports"][0], "node_port": 30080}]
    return {**SEEN, "services": services}


def traffic(connection: Connection) -> tuple[str, set[int], set[str]]:
    return connection.protocol, set(connection.ports), set(connection.addresses)


def test_packets_to_a_service_have_its_port_and_those_of_its_endpoints() -> None:
    """A ping has no port, and a connection to a pod has no other."""
    ends = Ends(documents())
    to_service = ends.of_row(POD, parse("svc:web"), 80, "10.96.7.7")
    assert traffic(to_service) == ("TCP", {80, 8080}, {"10.96.7.7", "10.244.1.2"})
    node_port = ends.of_row(HOST, parse("nodeport:worker/default/web"), 30080, "172.18.0.3")
    assert traffic(node_port) == ("TCP", {80, 8080, 30080}, {"172.18.0.3", "10.244.1.2"})
    to_pod = ends.of_row(POD, parse("pod/both"), 8080, "10.244.1.4", "UDP")
    assert traffic(to_pod) == ("UDP", {8080}, {"10.244.1.4"})
    ping = ends.of_row(POD, parse("pod/both"), None, "10.244.1.4")
    assert traffic(ping) == ("ICMP", set(), {"10.244.1.4"})


def test_a_name_without_an_address_may_have_any_traffic() -> None:
    """The look-up goes to the name servers, on their port for requests."""
    connection = Ends(documents()).of_row(POD, parse("dns:a.example"), None)
    assert traffic(connection) == ("", set(), set())
    assert connection.lookup is not None
    assert connection.lookup.destinations == {"default/both"}
    assert traffic(connection.lookup) == ("", {53, 5353}, {"10.96.0.10", "10.244.1.4"})


def test_a_pod_with_host_network_has_the_address_of_its_node() -> None:
    ends = Ends(documents())
    (agent,) = [each for each in places(SEEN) if each.name == "agent"]
    sources = (agent, POD)
    found = [ends.of_row(each, parse("pod/both"), 80, "10.244.1.4") for each in sources]
    assert [each.has_node_address for each in found] == [True, False]
