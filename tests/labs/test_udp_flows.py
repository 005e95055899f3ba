"""UDP clients that keep their port: connection tracking forgets what leads nowhere any more, and
nothing else.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.world import PROXIES

MODES = ("nftables", "nftables,layout=fast", "iptables")
OUTSIDE = "192.0.2.77"
CLIENT = """
import socket, sys
kept = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
kept.settimeout(0.3)
for line in sys.stdin:
    try:
        kept.sendto(b"hostname", (sys.argv[1], int(sys.argv[2])))
        print(kept.recv(1500).decode().strip(), flush=True)
    except OSError as error:
        print("", flush=True)
"""
"""Asks once for each line that it reads, always from the same port."""
PODS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: agnhost, args: [netexec]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}}
---
"""
SERVICE = f"""\
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, externalIPs: [{OUTSIDE}], selector: {{app: web}}, ports: [{{port: 81, targetPort: 8081, nodePort: 30081, protocol: UDP}}]}}
"""


@contextmanager
def client_of(place: Any, address: str, port: int) -> Iterator[Callable[[], str]]:
    """Asks, and says who answered; nothing when nobody did."""
    line = ["nsenter", f"--net={place['netns']}", sys.executable, "-c", CLIENT, address, str(port)]
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
@pytest.mark.parametrize("way", ["cluster IP", "node port"])
def test_a_client_is_led_on_when_its_endpoint_goes(lab: Lab, proxy: str, way: str) -> None:
    """As long as its pod is there it stays with it, whatever becomes of others; then the next
    datagram reaches another one.
    """
    lab.up(PODS + SERVICE, "--proxy", proxy)
    place = (
        lab.place("nodes", "worker2")["addresses"][0]
        if way == "node port"
        else lab.service("web")["cluster_ips"][0]
    )
    with client_of(lab.pod("client"), place, 30081 if way == "node port" else 81) as ask:
        first = ask()
        assert first.startswith("web-")
        other = next(pod["name"] for pod in lab.pods("web") if pod["name"] != first)
        lab.run("delete", "pod", other)
        assert {ask() for _ in range(3)} == {first}
        lab.run("delete", "pod", first)
        second = wait_for(ask, "an answer by somebody else")
        assert second.startswith("web-")
        assert second != first


@pytest.mark.parametrize("proxy", MODES)
@pytest.mark.parametrize("way", ["external IP", "node port"])
def test_a_client_that_asked_before_there_was_a_service(lab: Lab, proxy: str, way: str) -> None:
    """Its datagrams went out by the default route, or to a node that did not know the port; from
    the moment when the Service is there they reach it. And once more when it was gone for a while.
    """
    lab.up(PODS, "--proxy", proxy)
    to = (
        (OUTSIDE, 81)
        if way == "external IP"
        else (lab.place("nodes", "worker2")["addresses"][0], 30081)
    )
    with (
        client_of(lab.pod("client"), *to) as inside,
        client_of(lab.place("external", "client"), *to) as outside,
    ):
        for _ in range(2):
            assert (inside(), outside()) == ("", "")
            lab.apply(SERVICE)
            assert wait_for(inside, "an answer").startswith("web-")
            assert wait_for(outside, "an answer outside").startswith("web-")
            lab.run("delete", "svc", "web")


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_a_client_that_asked_a_service_without_endpoints(lab: Lab, proxy: str, policy: str) -> None:
    """It was refused, or not heard; the first endpoint answers it on the same port, by whichever
    way it asked.
    """
    asks_before_there_is_anybody(lab, proxy, policy)


def asks_before_there_is_anybody(lab: Lab, proxy: str, policy: str) -> None:
    """What that test does."""
    nobody, somebody = PODS.replace("replicas: 3", "replicas: 0"), PODS
    lab.up(
        nobody
        + SERVICE.replace("type: NodePort", f"type: NodePort, externalTrafficPolicy: {policy}"),
        "--proxy",
        proxy,
    )
    ways = (
        (lab.service("web")["cluster_ips"][0], 81),
        (OUTSIDE, 81),
        (lab.place("nodes", "worker2")["addresses"][0], 30081),
    )
    with ExitStack() as stack:
        clients = [stack.enter_context(client_of(lab.pod("client"), *way)) for way in ways]
        clients += [
            stack.enter_context(client_of(lab.place("external", "client"), *way))
            for way in ways[1:]
        ]
        assert [ask() for ask in clients] == [""] * len(clients)
        lab.apply(somebody)
        for ask in clients:
            assert wait_for(ask, "an answer").startswith("web-")
