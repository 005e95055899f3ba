"""Targets of a lab, and expected reachability."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from kubenetlab.errors import UsageError
from kubenetlab.observe.destinations import service_port
from kubenetlab.observe.expect import ClusterFacts, ServiceTarget, expect, facts_of
from kubenetlab.observe.service_ports import service_ports
from kubenetlab.observe.targets.grammar import Target, parse
from kubenetlab.observe.targets.locations import Location, places
from kubenetlab.observe.targets.resolution import named_places, pod_of, resolve
from tests.unit.observe import documents
from tests.unit.observe.documents import pod, service

SEEN: Any = {
    **documents.SEEN,
    "pods": [
        {
            **pod("web-6bd7cd67c6-hcxd6", "10.244.1.2", workload="Deployment/web"),
            "netns": "/n20",
        },
        {
            **pod("cart", "", "shop", "Job/once"),
            "node": "",
            "pid": 0,
            "netns": None,
            "addresses": [],
            "ready": False,
            "containers": [],
        },
        {
            **pod("agent", "172.18.0.3", "shop", host_network=True),
            "netns": "/n10",
            "containers": [],
        },
    ],
    "services": [
        {
            **service("web", ["10.96.7.7"]),
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP", "node_port": None},
                {"name": "x", "port": 81, "protocol": "TCP", "node_port": None},
            ],
            "endpoints": [
                {"address": "10.244.1.2", "port": 8080, "port_name": "http", "ready": True},
                {"address": "10.244.1.9", "port": 9, "port_name": "x", "ready": False},
            ],
        },
        {**service("headless", []), "endpoints": []},
    ],
}


POD, NODE, EXT = (
    next(place for place in places(SEEN) if place.kind == kind) for kind in ("pod", "node", "ext")
)


HOST_POD = next(place for place in places(SEEN) if place.is_host_network)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("web-0", Target("word", "", "web-0")),
        ("shop/cart", Target("pod", "shop", "cart")),
        ("deploy:web", Target("deploy", "default", "web")),
        ("deployment/web", Target("deploy", "default", "web")),
        ("sts:shop/db", Target("sts", "shop", "db")),
        ("statefulset/db", Target("sts", "default", "db")),
        ("job/once", Target("job", "default", "once")),
        ("svc:shop/cart", Target("svc", "shop", "cart")),
        ("svc/cart", Target("svc", "default", "cart")),
        ("node:worker", Target("node", "", "worker")),
        ("ext:client", Target("ext", "", "client")),
        ("ip:10.0.0.1", Target("ip", "", "10.0.0.1")),
        ("web.shop", Target("name", "", "web.shop")),
        ("each:Deployment/shop/cart", Target("each", "shop", "Deployment/cart")),
        ("each:StatefulSet/db", Target("each", "default", "StatefulSet/db")),
        ("nodeport:worker/shop/cart", Target("nodeport", "shop", "worker/cart")),
        ("nodeport:*/cart", Target("nodeport", "default", "*/cart")),
    ],
)
def test_targets_have_prefixes_slashes_and_dots(text: str, target: Target) -> None:
    """Prefixes, kubectl's KIND/NAME and DNS names are accepted."""
    assert parse(text) == target


@pytest.mark.parametrize(
    ("protocol", "port", "found", "lacking"),
    [
        ("", None, "svc:default/web:80/TCP", ""),
        ("TCP", 81, "svc:default/web:81/TCP", ""),
        (
            "TCP",
            82,
            "svc:default/web:82/TCP",
            "the Service has no port 82/TCP; it has 80/TCP, 81/TCP",
        ),
        (
            "UDP",
            80,
            "svc:default/web:80/UDP",
            "the Service has no port 80/UDP; it has 80/TCP, 81/TCP",
        ),
    ],
)
def test_a_missing_port_of_a_service_is_refused(
    protocol: str, port: int | None, found: str, lacking: str
) -> None:
    """A refusal is expected, and not because endpoints are missing."""
    where = service_port(SEEN, POD, parse("svc:web"), protocol, port)
    assert (where.title, where.lacking) == (found, lacking)
    assert where.known is not None
    assert expect(POD, where.known, facts_of(SEEN)) == (
        "answer" if not lacking and port != 81 else "refused"
    )


def test_a_namespace_option_is_the_default_namespace() -> None:
    """`-n shop cart` is `shop/cart`."""
    assert (parse("cart", "shop"), parse("svc:cart", "shop")) == (
        Target("word", "shop", "cart"),
        Target("svc", "shop", "cart"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wbe", "there is no pod default/wbe; did you mean deploy:default/web?"),
        ("agent", "there is no pod default/agent; did you mean shop/agent?"),
        ("shop/cart", "shop/cart is not running; see: kubenetlab describe pod cart -n shop"),
        ("node:workr", "there is no node:workr; did you mean worker?; known: worker"),
        ("we", "there is no pod default/we; did you mean deploy:default/web?"),
        ("deploy:shop", "deployment default/shop has no pod that runs"),
        ("deploy:agent", "default/agent has no pod that runs; did you mean shop/agent?"),
        ("job:shop/once", "job shop/once has no pod that runs"),
        (
            "nod:worker",
            "expected [ns/]pod, deploy: (sts:, ds:, job:, rs:, rc:), each:, node:, ext:, fabric:, "
            "svc:, lb:, nodeport:, an address, a DNS name or http://NAME/PATH; did you mean node?",
        ),
        ("nodeport:worker", "expected nodeport:NODE/[NAMESPACE/]SERVICE, with * for every node"),
        (
            "svc:web",
            "svc:default/web: expected a pod, workload (deploy: and others), node:, ext: or "
            "fabric:; no process runs in a Service, its pods are: default/web-6bd7cd67c6-hcxd6",
        ),
    ],
)
def test_an_unknown_target_is_reported_with_suggestions(text: str, message: str) -> None:
    """Suggestions are targets with similar names."""
    with pytest.raises(UsageError) as caught:
        resolve(parse(text), SEEN)
    assert message in str(caught.value)


def test_each_is_every_pod_of_a_workload() -> None:
    """Only running pods are returned; any other target is a single place."""
    assert [
        place.netns_path for place in named_places(parse("each:Deployment/default/web"), SEEN)
    ] == ["/n20"]
    assert [place.netns_path for place in named_places(parse("node:worker"), SEEN)] == ["/n10"]
    with pytest.raises(
        UsageError, match="StatefulSet/db in namespace default has no pod that runs"
    ):
        named_places(parse("each:StatefulSet/db"), SEEN)


def test_targets_lead_to_namespaces() -> None:
    """A pod, one pod of a Deployment, a node and a host have a namespace if they run."""
    assert resolve(parse("deploy:web"), SEEN).netns_path == "/n20"
    assert resolve(parse("node:worker"), SEEN).netns_path == "/n10"
    assert pod_of(parse("deployment/web"), SEEN) == ("default", "web-6bd7cd67c6-hcxd6")
    assert pod_of(parse("job:shop/once"), SEEN) == (
        "shop",
        "cart",
    )  # which has ended, but has a log
    assert [place.title for place in places(SEEN)] == [
        "default/web-6bd7cd67c6-hcxd6",
        "shop/agent",
        "node:worker",
        "ext:client",
    ]


KNOWN = facts_of(SEEN)
WITH_BGP: Any = {
    **SEEN,
    "router": {**SEEN["router"], "announced": ["10.244.1.0/26", "10.96.0.0/16"]},
}
"""Nodes announce the pod and the Service to the router."""
ANNOUNCED = facts_of(WITH_BGP)


WEB, EMPTY = service_ports(SEEN)


@pytest.mark.parametrize(
    ("source", "destination", "known", "expected"),
    [
        (POD, NODE, KNOWN, "answer"),
        (NODE, POD, KNOWN, "answer"),
        (POD, EXT, KNOWN, "answer"),
        (EXT, POD, KNOWN, "nothing"),
        (EXT, POD, ANNOUNCED, "answer"),
        (EXT, WEB, ANNOUNCED, "answer"),
        (EXT, HOST_POD, KNOWN, "answer"),
        (EXT, NODE, KNOWN, "answer"),
        (POD, WEB, KNOWN, "answer"),
        (NODE, WEB, KNOWN, "answer"),
        (EXT, WEB, KNOWN, "nothing"),
        (POD, EMPTY, KNOWN, "refused"),
        (POD, structs.replace(WEB, is_proxied=False), KNOWN, "nothing"),
        (
            POD,
            ServiceTarget("d", "s", "10.96.0.9", 80, "TCP", (("10.244.1.2", 9),)),
            KNOWN,
            "refused",
        ),
        (
            POD,
            ServiceTarget(
                "d", "s", "10.96.0.9", 80, "TCP", (("10.244.1.2", 9), ("10.244.1.2", 8080))
            ),
            KNOWN,
            "any",
        ),
        (
            POD,
            ServiceTarget("d", "s", "10.96.0.9", 80, "TCP", (("198.51.100.10", 9),)),
            KNOWN,
            "any",
        ),
        (
            POD,
            ServiceTarget(
                "d", "s", "10.96.0.9", 80, "TCP", (("10.244.1.2", 8080),), True, ("worker",)
            ),
            KNOWN,
            "answer",
        ),
        (
            POD,
            ServiceTarget(
                "d", "s", "10.96.0.9", 80, "TCP", (("10.244.2.2", 8080),), True, ("worker2",)
            ),
            KNOWN,
            "nothing",
        ),
    ],
)
def test_expectations_follow_the_network_model(
    source: Location, destination: Any, known: ClusterFacts, expected: str
) -> None:
    """Pods and nodes reach each other and hosts; hosts reach nodes.

    Services lead to their ready endpoints.
    """
    assert expect(source, destination, known) == expected


def test_a_port_of_another_protocol_is_not_served() -> None:
    """A UDP Service refuses if the pod listens on the same port by TCP only."""
    pods = [
        {**entry, "containers": [{"ports": [8080], "listening": ["8080/TCP"]}]}
        for entry in SEEN["pods"]
    ]
    seen: Any = {**SEEN, "pods": pods}
    known = facts_of(seen)
    port = ServiceTarget("d", "s", "10.96.0.9", 80, "UDP", (("10.244.1.2", 8080),))
    assert expect(POD, port, known) == "refused"
    assert expect(POD, structs.replace(port, protocol="TCP"), known) == "answer"
