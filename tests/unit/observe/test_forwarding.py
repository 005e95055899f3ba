"""Port forwarding: port arguments in kubectl's syntax, resolved to ports of a pod."""

from __future__ import annotations

from typing import Any

import pytest

from kubenetlab.api.core import Service
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.errors import UsageError
from kubenetlab.observe.forwarding import (
    Forward,
    PortArgument,
    parse_addresses,
    parse_ports,
    service_pod,
    to_host,
    to_pod,
    to_service,
)
from tests.clusters import pod, pod_named, running, store

PORTS = (
    ", ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: "
    "UDP}, {name: dns-tcp, containerPort: 53}, {containerPort: 9, protocol: UDP}]"
)
MANIFEST = (
    pod("b", meta=", labels: {app: web}", container=PORTS)
    + pod("a", meta=", labels: {app: web}", container=PORTS.replace("8080", "8888"))
    + pod("other")
    + """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports:
  - {name: front, port: 80, targetPort: http}
  - {name: plain, port: 81}
  - {name: dns, port: 53, protocol: UDP, targetPort: dns}
  - {name: dns-tcp, port: 53, targetPort: dns-tcp}
  - {name: talk, port: 7, protocol: UDP}
  - {name: gone, port: 82, targetPort: gone}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: manual}
spec: {ports: [{port: 80}]}
"""
)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return running(store(MANIFEST))


def service(cluster: Cluster, name: str) -> Service:
    found = cluster.get(Service, "default", name)
    assert found is not None
    return found


def seen(cluster: Cluster, **states: bool) -> Any:
    """Return the document of `inspect` with these running pods, ready or not."""
    pods = [
        {
            "namespace": "default",
            "name": name,
            "pid": 20 if name in states else None,
            "ready": states.get(name, False),
        }
        for name in "ab"
    ]
    return {"pods": pods}


@pytest.mark.parametrize(
    ("word", "asked"),
    [
        ("80", PortArgument("80")),
        ("8080:80", PortArgument("80", 8080)),
        (":80", PortArgument("80", 0)),
        ("0:80", PortArgument("80", 0)),
        ("http", PortArgument("http")),
        ("8080:http-alt", PortArgument("http-alt", 8080)),
    ],
)
def test_ports_have_kubectls_syntax(word: str, asked: PortArgument) -> None:
    """The form is [LOCAL:]PORT; LOCAL empty or 0 is any free port, PORT a number or a name."""
    assert parse_ports([word]) == [asked]


@pytest.mark.parametrize(
    "word",
    [
        "",
        ":",
        "80:",
        "0",
        "65536",
        "70000:80",
        "-1",
        "8080:0",
        "a:b",
        "1:2:3",
        "http!",
        "²",
        "1e3:80",
        "080808",
    ],
)
def test_an_invalid_port_is_refused(word: str) -> None:
    """The message shows the expected form."""
    with pytest.raises(UsageError, match=r"expected \[LOCAL:\]PORT, such as"):
        parse_ports([word])


def test_only_tcp_is_forwarded() -> None:
    """The suffix /udp or /sctp is refused."""
    with pytest.raises(UsageError, match="53/udp: UDP cannot be forwarded, only TCP can"):
        parse_ports(["53/udp"])


def test_a_local_port_is_used_once() -> None:
    """Any number of arguments may use a free port."""
    assert len(parse_ports([":80", ":80", "0:81"])) == 3
    with pytest.raises(
        UsageError,
        match="8080 and 8080:80 both use port 8080 of this machine; give one of them another, or "
        ":80",
    ):
        parse_ports(["8080", "8080:80"])


def test_addresses_to_listen_on() -> None:
    """Several are accepted, `localhost` is both loopback addresses, names are refused."""
    assert parse_addresses("127.0.0.1") == ["127.0.0.1"]
    assert parse_addresses("localhost,0.0.0.0,127.0.0.1") == ["127.0.0.1", "::1", "0.0.0.0"]
    for word in ("here", "", "127.0.0.1,", "127.0.0.1:80"):
        with pytest.raises(UsageError, match="expected localhost or IP addresses"):
            parse_addresses(word)


def test_one_pod_is_used_for_a_service(cluster: Cluster) -> None:
    """It is a selected running pod: a ready one first, then by name."""
    web, pods = service(cluster, "web"), cluster.all(Pod)
    assert service_pod(web, pods, seen(cluster, a=True, b=True)).name == "a"
    assert service_pod(web, pods, seen(cluster, a=False, b=True)).name == "b"
    assert service_pod(web, pods, seen(cluster, b=False)).name == "b"
    with pytest.raises(
        UsageError,
        match="Service default/web has no pod that runs; see: kubenetlab describe service web -n "
        "default",
    ):
        service_pod(web, pods, seen(cluster))
    with pytest.raises(
        UsageError, match="Service default/manual has no selector, and so no pods; name a pod"
    ):
        service_pod(service(cluster, "manual"), pods, seen(cluster, a=True))


@pytest.mark.parametrize(
    ("name", "pod_name", "asked", "forward"),
    [
        ("web", "a", PortArgument("80"), Forward(80, 8888)),
        ("web", "b", PortArgument("80"), Forward(80, 8080)),
        ("web", "b", PortArgument("front"), Forward(80, 8080)),
        ("web", "b", PortArgument("front", 0), Forward(0, 8080)),
        ("web", "b", PortArgument("81", 8081), Forward(8081, 81)),
        ("web", "b", PortArgument("53"), Forward(53, 53)),
        ("headless", "b", PortArgument("80"), Forward(80, 80)),
    ],
)
def test_ports_of_a_service_become_ports_of_its_pod(
    cluster: Cluster, name: str, pod_name: str, asked: PortArgument, forward: Forward
) -> None:
    """Target ports are resolved in the pod; ports of a headless Service are not translated."""
    assert to_service(asked, service(cluster, name), pod_named(cluster, pod_name)) == forward


@pytest.mark.parametrize(
    ("asked", "forward"),
    [
        (PortArgument("8080"), Forward(8080, 8080)),
        (PortArgument("http"), Forward(8080, 8080)),
        (PortArgument("http", 1), Forward(1, 8080)),
        (PortArgument("53"), Forward(53, 53)),
        (PortArgument("4711", 0), Forward(0, 4711)),
    ],
)
def test_ports_of_a_pod(cluster: Cluster, asked: PortArgument, forward: Forward) -> None:
    """They are numbers, declared or not, or names of container ports."""
    assert to_pod(asked, pod_named(cluster, "b")) == forward
    assert to_host(PortArgument("4711"), "node:worker") == Forward(4711, 4711)


def test_unknown_ports_are_refused(cluster: Cluster) -> None:
    """The message lists the existing ports."""
    web, pod_b = service(cluster, "web"), pod_named(cluster, "b")
    for asked, message in (
        (
            PortArgument("83"),
            r"Service default/web has no port 83; it has: 80/TCP \(front\), 81/TCP "
            r"\(plain\), 53/UDP \(dns\)",
        ),
        (PortArgument("7"), "port 7 of Service default/web: UDP cannot be forwarded"),
        (
            PortArgument("82"),
            'Service default/web sends port 82 to "gone", and Pod default/b has no port of '
            "that name",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            to_service(asked, web, pod_b)
    for asked, message in (
        (PortArgument("9"), "port 9 of Pod default/b: UDP cannot be forwarded"),
        (
            PortArgument("htpp"),
            'Pod default/b has no port named "htpp"; did you mean http\\?; it has: http, dns-tcp',
        ),
    ):
        with pytest.raises(UsageError, match=message):
            to_pod(asked, pod_b)
    with pytest.raises(
        UsageError, match='node:worker has no port named "http"; it has: none with a name'
    ):
        to_host(PortArgument("http"), "node:worker")
