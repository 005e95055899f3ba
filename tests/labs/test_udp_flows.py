"""UDP clients with a fixed port: connection tracking forgets exactly the stale entries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.lab_view import PROXY_MODES

MODES = ("nftables", "nftables,layout=fast", "iptables")
EXTERNAL_IP = "192.0.2.77"
PERSISTENT_CLIENT = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(0.3)
for line in sys.stdin:
    try:
        client.sendto(b"hostname", (sys.argv[1], int(sys.argv[2])))
        print(client.recv(1500).decode().strip(), flush=True)
    except OSError as error:
        print("", flush=True)
"""
"""Send a request for each input line, always from the same port."""
PODS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: agnhost, args: [netexec]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}
---
"""
SERVICE = f"""\
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  externalIPs: [{EXTERNAL_IP}]
  selector: {{app: web}}
  ports: [{{port: 81, targetPort: 8081, nodePort: 30081, protocol: UDP}}]
"""


@contextmanager
def client_of(place: Any, address: str, port: int) -> Iterator[Callable[[], str]]:
    """Yield a function that sends a request and returns the server's name.

    It returns nothing without an answer.
    """
    line = [
        "nsenter",
        f"--net={place['netns']}",
        sys.executable,
        "-c",
        PERSISTENT_CLIENT,
        address,
        str(port),
    ]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:

        def ask() -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("ask\n")
            return process.stdout.readline().strip()

        yield ask
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("proxy", MODES)
@pytest.mark.parametrize("address_kind", ["cluster IP", "node port"])
def test_a_client_gets_another_endpoint_when_its_endpoint_ends(
    lab: Lab, proxy: str, address_kind: str
) -> None:
    """It keeps its pod while other pods are deleted.

    When its own pod is deleted, the next datagram reaches another one.
    """
    lab.up(PODS + SERVICE, "--proxy", proxy)
    address = (
        lab.place("nodes", "worker2")["addresses"][0]
        if address_kind == "node port"
        else lab.service("web")["cluster_ips"][0]
    )
    with client_of(lab.pod("client"), address, 30081 if address_kind == "node port" else 81) as ask:
        first = ask()
        assert first.startswith("web-")
        other_pod = next(pod["name"] for pod in lab.pods("web") if pod["name"] != first)
        lab.run("delete", "pod", other_pod)
        assert {ask() for _ in range(3)} == {first}
        lab.run("delete", "pod", first)
        second = wait_for(ask, "an answer of another pod")
        assert second.startswith("web-")
        assert second != first


@pytest.mark.parametrize("proxy", MODES)
@pytest.mark.parametrize("address_kind", ["external IP", "node port"])
def test_a_client_reaches_a_service_created_after_its_first_datagram(
    lab: Lab, proxy: str, address_kind: str
) -> None:
    """Its first datagrams leave by the default route, or reach a node without the port.

    Once the Service exists, they reach it. The same holds after the Service was deleted for a
    while.
    """
    lab.up(PODS, "--proxy", proxy)
    target = (
        (EXTERNAL_IP, 81)
        if address_kind == "external IP"
        else (lab.place("nodes", "worker2")["addresses"][0], 30081)
    )
    with (
        client_of(lab.pod("client"), *target) as pod_client,
        client_of(lab.place("external", "client"), *target) as external_client,
    ):
        for _ in range(2):
            assert (pod_client(), external_client()) == ("", "")
            lab.apply(SERVICE)
            assert wait_for(pod_client, "an answer").startswith("web-")
            assert wait_for(external_client, "an answer outside").startswith("web-")
            lab.run("delete", "svc", "web")


@pytest.mark.parametrize("proxy", PROXY_MODES)
@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_a_client_reaches_the_first_endpoint_of_a_service(
    lab: Lab, proxy: str, policy: str
) -> None:
    """Its first datagram was rejected or dropped.

    The first endpoint answers on the same port, for every kind of address.
    """
    request_before_endpoints_exist(lab, proxy, policy)


def request_before_endpoints_exist(lab: Lab, proxy: str, policy: str) -> None:
    """Send datagrams to every address of the Service before and after it has endpoints."""
    without_pods, with_pods = PODS.replace("replicas: 3", "replicas: 0"), PODS
    lab.up(
        without_pods
        + SERVICE.replace("type: NodePort", f"type: NodePort\n  externalTrafficPolicy: {policy}"),
        "--proxy",
        proxy,
    )
    targets = (
        (lab.service("web")["cluster_ips"][0], 81),
        (EXTERNAL_IP, 81),
        (lab.place("nodes", "worker2")["addresses"][0], 30081),
    )
    with ExitStack() as stack:
        clients = [stack.enter_context(client_of(lab.pod("client"), *target)) for target in targets]
        clients += [
            stack.enter_context(client_of(lab.place("external", "client"), *target))
            for target in targets[1:]
        ]
        assert [ask() for ask in clients] == [""] * len(clients)
        lab.apply(with_pods)
        for ask in clients:
            assert wait_for(ask, "an answer").startswith("web-")
