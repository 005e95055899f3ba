"""Changes of kube-proxy's mode in a running lab: packets flow, and former rules are removed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.labs.kernel_comparison import kernel_differences
from tests.labs.lab import Lab, wait_for
from tests.labs.lab_view import MISSING, PROXY_MODES, LabView, mode_in_document
from tests.labs.streaming import streaming
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
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
"""
PER_SECOND = 100 / PATIENCE
PERSISTENT_CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=5)
for line in sys.stdin:
    connection.request("GET", "/hostname")
    print(connection.getresponse().read().decode(), flush=True)
"""
"""Send a request for each input line, always on the same connection."""


def identities(lab: Lab) -> Any:
    """Return the processes and addresses that must not change."""
    inspected = lab.inspected
    return (
        [(pod["name"], pod["pid"], pod["addresses"]) for pod in inspected["pods"]],
        [
            (service["cluster_ips"], service["load_balancer_ips"], service["ports"])
            for service in inspected["services"]
        ],
    )


def rules_of(lab: Lab) -> str:
    """Return the rules that kube-proxy could have left on a node, in any mode."""
    node = lab.place("nodes", "worker")
    return "".join(
        lab.inside(node, *command)
        for command in (
            ("nft", "list", "ruleset"),
            ("tc", "filter", "show", "dev", "eth0", "ingress"),
        )
    )


@pytest.mark.parametrize("proxy", [proxy for proxy in PROXY_MODES if proxy != "nftables"])
def test_the_mode_of_a_running_lab_can_change(
    lab: Lab, labs: Callable[[], Lab], proxy: str
) -> None:
    """The mode changes forth and back during a hundred connections per second.

    None fails, and afterwards the lab equals a new one.
    """
    lab.up(MANIFEST)
    before, rules_before = identities(lab), rules_of(lab)
    with streaming(
        lab.pod("client"), lab.service("web")["cluster_ips"][0], 80, PER_SECOND
    ) as answers:
        for mode in (proxy, "nftables", proxy):
            for _ in range(20):
                assert answers.readline().startswith("web-")
            lab.run("up", "--proxy", mode)
            assert identities(lab) == before
            for version in (4, 6):
                view = LabView(lab, version)
                targets = [
                    ("TCP", view.cluster_ips["web"], 80),
                    ("TCP", view.load_balancer_ips["web"], 80),
                    ("TCP", view.address("node:worker2"), 30080),
                ]
                assert all(
                    answer.server.startswith("web-")
                    for source in ("client", "node:worker")
                    for answer in view.ask(source, *targets)
                )
                assert all(
                    answer.server.startswith("web-")
                    for answer in view.ask("ext:client", *targets[1:])
                )
            if mode == "nftables":
                wait_for(
                    lambda: names_in(rules_of(lab)) == names_in(rules_before),
                    "the removal of the former rules",
                )
    new_lab = labs()
    new_lab.up(
        MANIFEST.replace(
            "ipFamily: dual", f"ipFamily: dual, kubeProxyMode: {mode_in_document(proxy)}"
        )
    )
    assert kernel_differences(new_lab, lab) == []


def names_in(rules: str) -> set[str]:
    """Return the names of tables, chains and maps, and filters of tc."""
    return {
        line.strip()
        for line in rules.splitlines()
        if line.startswith("table ") or line.strip().startswith(("chain ", "map ", "filter "))
    }


def test_a_connection_survives_a_change_of_the_mode(lab: Lab) -> None:
    """Connection tracking remembers its translation, from nftables to iptables and back."""
    lab.up(MANIFEST)
    client, (address, _) = lab.pod("client"), lab.service("web")["cluster_ips"]
    line = ["nsenter", f"--net={client['netns']}", sys.executable, "-c", PERSISTENT_CLIENT, address]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as client_process:
        assert client_process.stdin is not None
        assert client_process.stdout is not None
        servers = []
        for proxy in ("nftables", "iptables", "nftables"):
            lab.run("up", "--proxy", proxy)
            client_process.stdin.write("again\n")
            servers.append(client_process.stdout.readline().strip())
        client_process.stdin.close()
    assert servers[0].startswith("web-")
    assert len(set(servers)) == 1


def test_the_mode_none_removes_all_service_rules(lab: Lab) -> None:
    """Pods are still reachable."""
    lab.up(MANIFEST)
    lab.run("up", "--proxy", "none")
    view = LabView(lab, 4)
    pod = lab.pods("web")[0]
    service, direct = view.ask(
        "client", ("TCP", view.cluster_ips["web"], 80), ("TCP", pod["addresses"][0], 8080)
    )
    assert (service.error != "", direct.server) == (True, pod["name"])
    assert "kube-proxy" not in rules_of(lab)
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


@pytest.mark.parametrize("proxy", MISSING)
def test_a_mode_that_is_not_available_is_rejected(lab: Lab, proxy: str) -> None:
    """The message names the missing requirement and its remedy.

    A new lab is not created, and a running lab does not change.
    """
    if proxy in PROXY_MODES:
        pytest.skip(f"this machine has all that {proxy} needs")
    errors = lab.run("up", "--proxy", proxy, status=1).err
    assert MISSING[proxy].splitlines()[0] in errors
    assert lab.leftovers == []
    lab.up(MANIFEST)
    before = rules_of(lab)
    assert MISSING[proxy].splitlines()[0] in lab.run("up", "--proxy", proxy, status=1).err
    assert (lab.inspected["kube_proxy_mode"], rules_of(lab)) == ("nftables", before)
    assert lab.problems == []
