"""A running lab is given another mode of kube-proxy: packets flow on, nothing is renumbered, and
nothing is left of the former one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.labs.lab import Lab, wait_for
from tests.labs.likeness import difference
from tests.labs.streaming import streaming
from tests.labs.world import LACKING, PROXIES, World, in_document
from tests.patience import PATIENCE

MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {ipFamily: dual}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
"""
PER_SECOND = 100 / PATIENCE
KEPT = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=5)
for line in sys.stdin:
    connection.request("GET", "/hostname")
    print(connection.getresponse().read().decode(), flush=True)
"""
"""Asks once for each line that it reads, always by the same connection."""


def numbers(lab: Lab) -> Any:
    """What must not change: who has which address."""
    seen = lab.seen
    return (
        [(pod["name"], pod["pid"], pod["addresses"]) for pod in seen["pods"]],
        [
            (service["cluster_ips"], service["load_balancer_ips"], service["ports"])
            for service in seen["services"]
        ],
    )


def rules_of(lab: Lab) -> str:
    """Everything that kube-proxy could have left on a node, in any mode."""
    node = lab.place("nodes", "worker")
    return "".join(
        lab.inside(node, *command)
        for command in (
            ("nft", "list", "ruleset"),
            ("tc", "filter", "show", "dev", "eth0", "ingress"),
        )
    )


@pytest.mark.parametrize("proxy", [proxy for proxy in PROXIES if proxy != "nftables"])
def test_a_running_lab_is_given_another_mode(lab: Lab, labs: Callable[[], Lab], proxy: str) -> None:
    """There and back, with a hundred connections a second, none of which fails; afterwards it is as
    one that was made so.
    """
    lab.up(MANIFEST)
    before, untouched = numbers(lab), rules_of(lab)
    with streaming(
        lab.pod("client"), lab.service("web")["cluster_ips"][0], 80, PER_SECOND
    ) as answers:
        for wanted in (proxy, "nftables", proxy):
            for _ in range(20):
                assert answers.readline().startswith("web-")
            lab.run("up", "--proxy", wanted)
            assert numbers(lab) == before
            for version in (4, 6):
                found = World(lab, version)
                asked = [
                    ("TCP", found.services["web"], 80),
                    ("TCP", found.outside["web"], 80),
                    ("TCP", found.address("node:worker2"), 30080),
                ]
                assert all(
                    answer.who.startswith("web-")
                    for source in ("client", "node:worker")
                    for answer in found.ask(source, *asked)
                )
                assert all(
                    answer.who.startswith("web-") for answer in found.ask("ext:client", *asked[1:])
                )
            if wanted == "nftables":
                wait_for(
                    lambda: names_in(rules_of(lab)) == names_in(untouched),
                    "the end of what the former mode has begun",
                )
    other = labs()
    other.up(
        MANIFEST.replace("ipFamily: dual", f"ipFamily: dual, kubeProxyMode: {in_document(proxy)}")
    )
    assert difference(other, lab) == []


def names_in(rules: str) -> set[str]:
    """Tables, chains and maps, and what tc shows."""
    return {
        line.strip()
        for line in rules.splitlines()
        if line.startswith("table ") or line.strip().startswith(("chain ", "map ", "filter "))
    }


def test_a_connection_lasts_while_the_mode_changes(lab: Lab) -> None:
    """One that was made by the rules of nftables goes on by those of iptables, and back: connection
    tracking knows its way.
    """
    lab.up(MANIFEST)
    client, (address, _) = lab.pod("client"), lab.service("web")["cluster_ips"]
    line = ["nsenter", f"--net={client['netns']}", sys.executable, "-c", KEPT, address]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as kept:
        assert kept.stdin is not None
        assert kept.stdout is not None
        found = []
        for proxy in ("nftables", "iptables", "nftables"):
            lab.run("up", "--proxy", proxy)
            kept.stdin.write("again\n")
            found.append(kept.stdout.readline().strip())
        kept.stdin.close()
    assert found[0].startswith("web-")
    assert len(set(found)) == 1


def test_without_a_kube_proxy_no_service_works(lab: Lab) -> None:
    """`none` takes the rules away; pods are reached as before."""
    lab.up(MANIFEST)
    lab.run("up", "--proxy", "none")
    world = World(lab, 4)
    pod = lab.pods("web")[0]
    service, direct = world.ask(
        "client", ("TCP", world.services["web"], 80), ("TCP", pod["addresses"][0], 8080)
    )
    assert (service.error != "", direct.who) == (True, pod["name"])
    assert "kube-proxy" not in rules_of(lab)
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


@pytest.mark.parametrize("proxy", LACKING)
def test_a_mode_that_this_machine_lacks_is_refused(lab: Lab, proxy: str) -> None:
    """Before anything is changed, with what is missing and how to get it: a new lab is not made, a
    running one stays as it is.
    """
    if proxy in PROXIES:
        pytest.skip(f"this machine has all that {proxy} needs")
    said = lab.run("up", "--proxy", proxy, status=1).err
    assert LACKING[proxy].splitlines()[0] in said
    assert lab.remains == []
    lab.up(MANIFEST)
    before = rules_of(lab)
    assert LACKING[proxy].splitlines()[0] in lab.run("up", "--proxy", proxy, status=1).err
    assert (lab.seen["kube_proxy_mode"], rules_of(lab)) == ("nftables", before)
    assert lab.faults == []
