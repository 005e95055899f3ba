"""DNS, queried from inside pods through the Service of CoreDNS.

The client shares no code with the server.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.clusters import deployment, pod
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for

MANIFEST = (
    """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
external:
- {name: client, address: 198.51.100.10}
- {name: api.example.com, address: 198.51.100.20, ports: [443]}
---
"""
    + pod("client")
    + deployment(replicas=3)
    + """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-pods}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: named, labels: {app: named}}
spec:
  hostname: first
  subdomain: group
  containers: [{name: main, image: agnhost, args: [netexec]}]
---
apiVersion: v1
kind: Service
metadata: {name: group}
spec: {clusterIP: None, selector: {app: named}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: api.example.com}
"""
)

RESOLVER = """
import json, socket, sys
def lookup(name):
    try:
        return sorted({entry[4][0] for entry in socket.getaddrinfo(name, 80, socket.AF_INET)})
    except socket.gaierror as error:
        return "none" if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else str(error)
print(json.dumps([lookup(name) for name in sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


def look_up(lab: Lab, pod: str, *names: str) -> Any:
    """Return the result of libc's resolver in a pod for each name: sorted addresses, or `none`."""
    return json.loads(lab.run("exec", pod, "--", "python3", "-S", "-E", "-c", RESOLVER, *names).out)


def test_services_have_names_of_every_length(running: Lab) -> None:
    """The search path covers the own namespace; other namespaces need their name.

    A final dot disables the search path.
    """
    default_ips, shop_ips = (
        running.service("web")["cluster_ips"],
        running.service("web", "shop")["cluster_ips"],
    )
    names = [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "web.default.svc.cluster.local.",
    ]
    assert look_up(running, "client", *names) == [default_ips] * len(names)
    assert look_up(running, "client", "web.shop", "web.shop.svc.cluster.local") == [shop_ips] * 2
    assert look_up(running, "client", "web.", "nothing", "web.nowhere") == ["none"] * 3


def test_a_headless_service_resolves_to_its_pods(running: Lab) -> None:
    """All ready pods are returned; a pod with hostname and subdomain has a name of its own."""
    assert look_up(running, "client", "web-pods") == [
        sorted(pod["addresses"][0] for pod in running.pods("web"))
    ]
    named = running.pod("named")["addresses"]
    assert (
        look_up(running, "client", "group", "first.group", "first.group.default.svc.cluster.local")
        == [named] * 3
    )


def test_pods_have_names_made_of_their_addresses(running: Lab) -> None:
    """10-244-1-2.default.pod.cluster.local exists if the namespace does."""
    (address,) = running.pod("client")["addresses"]
    dashed = address.replace(".", "-")
    assert look_up(
        running,
        "named",
        f"{dashed}.default.pod.cluster.local",
        f"{dashed}.nowhere.pod.cluster.local",
    ) == [[address], "none"]


def test_external_names_are_resolved(running: Lab) -> None:
    """External hosts have their names; ExternalName Services are aliases."""
    assert look_up(running, "client", "api.example.com", "elsewhere") == [["198.51.100.20"]] * 2
    assert look_up(running, "client", "www.example.com") == ["none"]


def test_queries_reach_both_dns_pods_with_the_clients_address(running: Lab) -> None:
    """The logs of the DNS pods contain the address of the client pod."""
    (address,) = running.pod("client")["addresses"]
    look_up(running, "client", *[f"missing-{number}" for number in range(20)])
    logs = [
        running.run("logs", f"kube-system/{pod['name']}").out
        for pod in running.pods("coredns", "kube-system")
    ]
    assert all(f"[INFO] {address}:" in log for log in logs)


def test_dns_answers_over_tcp(running: Lab) -> None:
    """Large answers need TCP, where the length precedes a message."""
    import dnslib

    question = bytes(dnslib.DNSRecord.question("web.default.svc.cluster.local").pack())
    code = (
        "import socket, sys; s = socket.create_connection(('10.96.0.10', 53)); "
        "q = bytes.fromhex(sys.argv[1]); s.sendall(len(q).to_bytes(2, 'big') + q); "
        "f = s.makefile('rb'); print(f.read(int.from_bytes(f.read(2), 'big')).hex())"
    )
    answer = dnslib.DNSRecord.parse(
        bytes.fromhex(
            running.inside(
                running.pod("client"), "python3", "-S", "-c", code, question.hex()
            ).strip()
        )
    )
    assert [str(record.rdata) for record in answer.rr] == running.service("web")["cluster_ips"]


UDP_CLIENT = """
import socket, sys
connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connection.settimeout(2)
connection.sendto(bytes.fromhex(sys.argv[1]), ("10.96.0.10", 53))
print(connection.recv(65535).hex())
"""
KUBE_DNS = "kube-dns.kube-system.svc.cluster.local."


def reply_to(lab: Lab, name: str, type_: str) -> Any:
    """Return the parsed reply of the cluster's DNS to a UDP query of a pod."""
    import dnslib

    question = bytes(dnslib.DNSRecord.question(name, type_).pack())
    return dnslib.DNSRecord.parse(
        bytes.fromhex(
            lab.inside(lab.pod("client"), "python3", "-S", "-c", UDP_CLIENT, question.hex()).strip()
        )
    )


def test_the_apex_of_the_zone_has_soa_and_ns_records(running: Lab) -> None:
    """The name server is the Service of the DNS pods, and ns.dns has its address."""
    (soa,) = reply_to(running, "cluster.local", "SOA").rr
    *names, serial, _, _, _, minimum = str(soa.rdata).split()
    assert (names, minimum) == (["ns.dns.cluster.local.", "hostmaster.cluster.local."], "30")
    created = datetime.fromisoformat(
        running.get("pod", "client")["metadata"]["creationTimestamp"]
    ).timestamp()
    assert created - 1 <= int(serial) <= time.time()  # the time of the last change
    reply = reply_to(running, "cluster.local", "NS")
    assert [str(record.rdata) for record in reply.rr] == [KUBE_DNS]
    assert [(str(record.rname), str(record.rdata)) for record in reply.ar] == [
        (KUBE_DNS, "10.96.0.10")
    ]
    assert look_up(running, "client", "ns.dns.cluster.local") == [["10.96.0.10"]]


def test_an_srv_query_for_a_service_returns_all_ports(running: Lab) -> None:
    """A headless Service returns a record per port and pod.

    The ports of the Service group have no name.
    """
    reply = reply_to(running, KUBE_DNS, "SRV")
    assert sorted(str(record.rdata) for record in reply.rr) == [
        f"0 33 53 {KUBE_DNS}",
        f"0 33 9153 {KUBE_DNS}",
    ]
    assert [(str(record.rname), str(record.rdata)) for record in reply.ar] == [
        (KUBE_DNS, "10.96.0.10")
    ]
    (first,) = reply_to(running, "group.default.svc.cluster.local", "SRV").rr
    assert str(first.rdata) == "0 100 8080 first.group.default.svc.cluster.local."
    pods = reply_to(running, "web-pods.default.svc.cluster.local", "SRV")
    hosts = sorted(
        f"{pod['addresses'][0].replace('.', '-')}.web-pods.default.svc.cluster.local."
        for pod in running.pods("web")
    )
    assert sorted(str(record.rdata) for record in pods.rr) == [
        f"0 33 8080 {host}" for host in hosts
    ]


def test_dns_follows_changes_of_objects(running: Lab) -> None:
    """New Services are added and deleted ones removed; a headless Service follows its pods."""
    running.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: fresh}, "
        "spec: {selector: {app: web}, ports: [{port: 80}]}}"
    )
    wait_for(
        lambda: look_up(running, "client", "fresh") == [running.service("fresh")["cluster_ips"]],
        "the new name",
    )
    running.run("delete", "service", "fresh")
    wait_for(lambda: look_up(running, "client", "fresh") == ["none"], "the name to be removed")
    running.run("scale", "deployment", "web", "--replicas", "1")
    wait_for(
        lambda: [len(addresses) for addresses in look_up(running, "client", "web-pods")] == [1],
        "the headless Service to follow",
    )


MANY_QUERIES = """
import socket, sys
question, count = bytes.fromhex(sys.argv[2]), int(sys.argv[3])
connection = socket.create_connection((sys.argv[1], 53), timeout=20)
answers = connection.makefile("rb")
for _ in range(count // 100):
    connection.sendall((len(question).to_bytes(2, "big") + question) * 100)
    for _ in range(100):
        size = int.from_bytes(answers.read(2), "big")
        assert size and len(answers.read(size)) == size, "the server closed the connection"
print("answered")
"""


def test_dns_answers_after_megabytes_of_log_output(running: Lab) -> None:
    """Each query is a line of the log.

    The log goes to init through a pipe, which cannot be truncated.
    """
    import dnslib

    name = ".".join(["x" * 60] * 3 + ["default.svc.cluster.local"])
    question, count = bytes(dnslib.DNSRecord.question(name).pack()), 8000
    server = running.pods("coredns", "kube-system")[0]["addresses"][0]
    output = running.inside(
        running.pod("client"),
        "python3",
        "-S",
        "-c",
        MANY_QUERIES,
        server,
        question.hex(),
        str(count),
    )
    assert count * len(name) > 1024 * 1024
    assert output.strip() == "answered"


def test_a_killed_dns_server_is_restarted(running: Lab) -> None:
    """Its container restarts in the same pod; the other pod answers meanwhile."""
    pod = running.pods("coredns", "kube-system")[0]
    title = f"kubenetlab {running.name} coredns"

    victim = next(
        pid
        for pid in running.pids(title)
        if pod["netns"] and os.readlink(f"/proc/{pid}/ns/net") == os.readlink(pod["netns"])
    )
    os.kill(victim, signal.SIGKILL)

    def has_restarted() -> bool:
        status = running.get("pod", pod["name"], "-n", "kube-system")["status"]
        return bool(
            status["containerStatuses"][0]["restartCount"] == 1
            and status["containerStatuses"][0]["ready"]
        )

    wait_for(has_restarted, "the restart")
    assert look_up(running, "client", *["web"] * 10) == [running.service("web")["cluster_ips"]] * 10


CHAIN = [f"{'x' * 58}-{number:03}" for number in range(6)]
"""Services that are aliases of one another.

With five aliases in a namespace with a long name, no address fits into 512 bytes.
"""
LONG_NAMESPACE = "y" * 63
LARGE = (
    "{apiVersion: kubenetlab.dev/v1alpha1, kind: Cluster, networking: {ipFamily: dual}}\n---\n"
    + pod("client")
    + "".join(deployment(f"crowd{count}", replicas=count) for count in (30, 100))
    + "".join(
        f"{{apiVersion: v1, kind: Service, metadata: {{name: crowd{count}}}, "
        "spec: {clusterIP: None, ipFamilyPolicy: RequireDualStack, "
        f"selector: {{app: crowd{count}}}, ports: [{{port: 8080}}]}}}}\n---\n"
        for count in (30, 100)
    )
    + "".join(
        "{apiVersion: v1, kind: Service, "
        f"metadata: {{name: {name}, namespace: {LONG_NAMESPACE}}}, spec: {{type: ExternalName, "
        f"externalName: {following}.{LONG_NAMESPACE}.svc.cluster.local}}}}\n---\n"
        for name, following in pairwise(CHAIN)
    )
    + "{apiVersion: v1, kind: Service, "
    f"metadata: {{name: {CHAIN[-1]}, namespace: {LONG_NAMESPACE}}}, "
    "spec: {selector: {app: crowd30}, ports: [{port: 80, targetPort: 8080}]}}\n"
)


@pytest.fixture(scope="module")
def crowded() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(LARGE)
        yield lab


@pytest.mark.parametrize("count", [30, 100])
@pytest.mark.parametrize(
    ("database", "is_of_family"), [("ahosts", ".:"), ("ahostsv4", "."), ("ahostsv6", ":")]
)
def test_glibc_finds_every_pod_of_a_large_headless_service(
    crowded: Lab, count: int, database: str, is_of_family: str
) -> None:
    """The answer is too large for a datagram.

    getent repeats the query by TCP and prints the addresses of all pods.
    """
    resolved = {
        line.split()[0]
        for line in crowded.run(
            "exec", "client", "--", "getent", database, f"crowd{count}"
        ).out.splitlines()
    }
    addresses = {address for pod in crowded.pods(f"crowd{count}") for address in pod["addresses"]}
    assert resolved == {
        address for address in addresses if any(mark in address for mark in is_of_family)
    }


def test_a_truncated_answer_keeps_its_question(crowded: Lab) -> None:
    """It has the TC flag and as many addresses as fit; glibc compares the question."""
    reply = reply_to(crowded, "crowd100.default.svc.cluster.local", "A")
    assert (reply.header.tc, len(reply.questions), str(reply.q.qname)) == (
        1,
        1,
        "crowd100.default.svc.cluster.local.",
    )
    assert len(reply.rr) == (512 - 12 - (len("crowd100.default.svc.cluster.local.") + 1 + 4)) // 16


def test_the_resolver_of_ping_repeats_truncated_queries_by_tcp(crowded: Lab) -> None:
    """Behind aliases, not even one address fits into the datagram.

    `ping` finds the Service like getent.
    """
    name = f"{CHAIN[0]}.{LONG_NAMESPACE}"
    (address,) = crowded.service(CHAIN[-1], LONG_NAMESPACE)["cluster_ips"]
    reply = reply_to(crowded, f"{name}.svc.cluster.local", "A")
    assert (reply.header.tc, {record.rtype for record in reply.rr}) == (1, {5})  # CNAME
    assert look_up(crowded, "client", name) == [[address]]
    # The Service has no pods.
    assert f"({address}:80)" in crowded.run("ping", "client", name, "--tcp", "80", status=1).out
