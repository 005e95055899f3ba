"""ping --count: the distribution of connections over servers, and its explanation."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.observe.destinations import ResolvedDestination
from kubenetlab.observe.distribution import (
    PossibleServer,
    ServerShare,
    clients,
    endpoints,
    explanation,
    shares,
)
from kubenetlab.observe.series import Answer, failures, latency, parse_head
from kubenetlab.observe.service_ports import service_ports
from tests.unit.observe.documents import HOST, POD, SEEN, pod, service

SEEN_NODES: Any = {
    **SEEN,
    "nodes": [{**SEEN["nodes"][0], "pod_cidrs": ["10.244.1.0/24"]}],
}
WEB = next(port for port in service_ports(SEEN) if port.name == "web")


def head(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("received", "answer"),
    [
        (
            "HTTP/1.1 200 OK\nX-Kubenetlab-Pod: shop/db-0\nX-Kubenetlab-Client: 10.244.1.2:4711",
            Answer("answer", 1.0, "shop/db-0", client="10.244.1.2", status=200),
        ),
        (
            "HTTP/1.1 404 Not Found\nX-Kubenetlab-Pod: /client\nX-Kubenetlab-Client: [fd00::1]:80",
            Answer("answer", 1.0, "ext:client", client="fd00::1", status=404),
        ),
        ("HTTP/1.0 503 Busy\nServer: nginx", Answer("answer", 1.0, status=503)),
    ],
)
def test_the_head_of_a_reply_names_server_and_client(received: str, answer: Answer) -> None:
    """The built-in servers send these headers; other servers have only a status."""
    assert parse_head(head(received), 1.0) == answer


@pytest.mark.parametrize(
    "received", [b"", b"-ERR unknown command\r\n", b"HTTP/1.1 \r\n\r\n", b"SSH-2.0\r\n\r\n"]
)
def test_a_reply_that_is_not_http_is_an_error(received: bytes) -> None:
    """Such a reply never counts as an answer to a GET."""
    with pytest.raises(OSError, match="not HTTP"):
        parse_head(received, 1.0)


def test_failures_are_counted_by_kind() -> None:
    """An HTTP error is a failure, but also an answer of its server."""
    answers = [
        Answer("answer", 2.0),
        Answer("silence"),
        Answer("refused"),
        Answer("silence"),
        Answer("answer", 4.0, status=503),
    ]
    assert failures(answers) == {"silence": 2, "refused": 1, "HTTP 503": 1}
    assert (latency(answers), latency(answers[1:4])) == (latency([answers[0], answers[4]]), None)
    assert failures(answers[:1]) == {}


def test_every_ready_endpoint_has_a_row() -> None:
    """An endpoint without connections has one, too, and a server that is no endpoint is marked."""
    ready = endpoints(SEEN, ResolvedDestination("", WEB.address, 80, "TCP", WEB))
    assert ready == [PossibleServer("default/web-6bd7cd67c6-hcxd6", "worker")]
    answers = [
        Answer("answer", server="shop/db-0"),
        Answer("answer", hostname="db-0"),
        Answer("answer", server="ext:client", status=500),
    ]
    assert shares(SEEN, [*answers, Answer("refused"), Answer("answer")], ready) == [
        ServerShare(PossibleServer("shop/db-0", "worker"), 2, 0, False),
        ServerShare(PossibleServer("ext:client"), 1, 1, False),
        ServerShare(ready[0], 0, 0, True),
    ]


def test_endpoints_in_a_nodes_network_are_told_apart_by_their_ports() -> None:
    """Several pods have the node's address; the endpoint is the pod that listens on the port."""
    first, second = (pod(name, "172.18.0.3", host_network=True) for name in ("first", "second"))
    first["containers"], second["containers"] = [{"ports": [9100]}], [{"ports": [8080]}]
    seen: Any = {
        **SEEN,
        "pods": [first, second],
        "services": [service("edge", ["10.96.9.9"], endpoint="172.18.0.3")],
    }
    (port,) = service_ports(seen)
    assert endpoints(seen, ResolvedDestination("", port.address, 80, "TCP", port)) == [
        PossibleServer("default/second", "worker")
    ]
    headless: Any = {**seen, "services": [service("edge", [], endpoint="172.18.0.3")]}
    assert endpoints(
        headless, ResolvedDestination("", "172.18.0.3", 80, "TCP", service=("default", "edge"))
    ) == [PossibleServer("default/second", "worker")]
    assert endpoints(seen, ResolvedDestination("", "172.18.0.3")) == []


def test_source_addresses_have_owners() -> None:
    """The owner is a pod, a node (not a pod in its network), the bridge of a node, or unknown."""
    answers = [
        Answer("answer", client=address)
        for address in ("10.244.1.3", "172.18.0.3", "10.244.1.1", "192.0.2.1", "10.244.1.3")
    ]
    assert [(each.address, each.owner, each.count) for each in clients(SEEN_NODES, answers)] == [
        ("10.244.1.3", "shop/db-0", 2),
        ("172.18.0.3", "node:worker", 1),
        ("10.244.1.1", "node:worker", 1),
        ("192.0.2.1", "", 1),
    ]


def spread(*counts: int) -> list[ServerShare]:
    nodes = ("worker", "worker", "worker2")
    return [
        ServerShare(PossibleServer(f"default/{index}", nodes[index]), count, 0, True)
        for index, count in enumerate(counts)
    ]


@pytest.mark.parametrize(
    ("spec", "found", "is_outside", "text"),
    [
        ({}, spread(70, 60, 70), False, ""),
        ({}, spread(0, 0, 0), False, ""),
        ({}, spread(1, 1, 0), False, ""),
        ({}, spread(100, 100, 0), False, "ready, but without any connection: default/2"),
        (
            {"sessionAffinity": "ClientIP"},
            spread(9, 0, 0),
            False,
            "sessionAffinity is ClientIP, with a timeout of 10800 s",
        ),
        (
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
            },
            spread(0, 0, 9),
            False,
            "one endpoint got every connection: sessionAffinity is ClientIP, with a timeout of 7 s",
        ),
        (
            {"internalTrafficPolicy": "Local"},
            spread(5, 4, 0),
            False,
            "only endpoints on worker, the client's node",
        ),
        (
            {"internalTrafficPolicy": "Local"},
            spread(50, 0, 50),
            False,
            "ready, but without any connection: default/1",
        ),
        (
            {"externalTrafficPolicy": "Local"},
            spread(0, 0, 9),
            True,
            "only endpoints on worker2, the node that was reached",
        ),
        ({"externalTrafficPolicy": "Local"}, spread(0, 0, 9), False, ""),
        (
            {"trafficDistribution": "PreferClose"},
            spread(9, 9, 0),
            False,
            "trafficDistribution is PreferClose",
        ),
    ],
)
def test_endpoints_without_connections_are_explained(
    spec: dict[str, Any], found: list[ServerShare], is_outside: bool, text: str
) -> None:
    """Fields of the Service explain them; otherwise they are reported once chance is ruled out."""
    said = explanation(spec, found, POD, is_outside=is_outside)
    assert text in said
    assert bool(said) == bool(text)


def test_hosts_outside_are_not_on_a_node() -> None:
    """The field internalTrafficPolicy explains nothing for them."""
    assert (
        explanation({"internalTrafficPolicy": "Local"}, spread(5, 4, 0), HOST, is_outside=False)
        == ""
    )
