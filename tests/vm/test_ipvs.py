"""kube-proxy's mode ipvs on a kernel with IPVS: schedulers, pings, endpoints and other modes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for
from tests.labs.lab_view import LabView
from tests.labs.test_proxy_mode_changes import PERSISTENT_CLIENT

pytestmark = pytest.mark.vm

MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {ipFamily: dual, kubeProxyMode: ipvs}
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
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""
POD = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  containers:
  - {{name: main, image: agnhost, args: [netexec], ports: [{{containerPort: 8080}}]}}
"""
DELETE_SERVERS = """
from kubenetlab.hoststate.rules.ipvs import NAMES, replacement
from kubenetlab.kernel.rules.ipvs import open_loader
open_loader().run(replacement([], NAMES))
"""
"""Program that deletes all virtual servers of its namespace."""
CHANGE_WEIGHTS = """
from kubenetlab.hoststate.rules import ipvs_messages as messages
from kubenetlab.kernel.rules.ipvs import open_loader
ipvs = open_loader()
reals = [real for listed in ipvs._list() for real, _, _ in listed.reals]
ipvs._send_all([
    (real, messages.destination_request(ipvs._family, messages.SET_DEST, real, weight=7))
    for real in reals
])
"""
"""Program that changes the weights of all real servers of its namespace."""
WEB = {"a": "worker", "b": "worker", "c": "worker2"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(
            MANIFEST
            + "".join(POD.format(name=name, app="web", node=node) for name, node in WEB.items())
        )
        yield lab


def answers_by_server(lab: Lab, count: int) -> Counter[str]:
    """Count a client's connections by the server that answers."""
    view = LabView(lab, 4)
    return Counter(
        answer.server
        for answer in view.ask("client", *[("TCP", view.cluster_ips["web"], 80)] * count)
    )


def test_round_robin_gives_equal_shares(lab: Lab) -> None:
    """Each of three pods answers exactly ten of thirty connections."""
    assert answers_by_server(lab, 30) == dict.fromkeys(WEB, 10)


@pytest.mark.parametrize("source", ["client", "node:worker"])
def test_a_cluster_ip_answers_pings(lab: Lab, source: str) -> None:
    """The client's own node answers."""
    view = LabView(lab, 4)
    for address in lab.service("web")["cluster_ips"]:
        lab.inside(view.places[source], "ping", "-c1", "-W5", address)


def test_a_deselected_pod_keeps_its_connections(lab: Lab) -> None:
    """Existing connections continue, new ones use other pods, and the pod can be selected again."""
    line = [
        "nsenter",
        f"--net={lab.pod('client')['netns']}",
        sys.executable,
        "-c",
        PERSISTENT_CLIENT,
        lab.service("web")["cluster_ips"][0],
    ]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as client_process:
        assert client_process.stdin is not None
        assert client_process.stdout is not None
        client_process.stdin.write("once\n")
        server = client_process.stdout.readline().strip()
        lab.apply(POD.format(name=server, app="other", node=WEB[server]))
        assert answers_by_server(lab, 12) == dict.fromkeys(set(WEB) - {server}, 6)
        client_process.stdin.write("again\n")
        assert client_process.stdout.readline().strip() == server
        client_process.stdin.close()
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
    lab.apply(POD.format(name=server, app="web", node=WEB[server]))
    assert answers_by_server(lab, 30) == dict.fromkeys(WEB, 10)


def test_a_new_node_agent_adopts_the_virtual_servers(lab: Lab) -> None:
    """It finds them as desired, and applies later changes."""
    lab.kill("node-agent-0")
    lab.apply(POD.format(name="a", app="other", node=WEB["a"]))
    assert answers_by_server(lab, 12) == {"b": 6, "c": 6}
    lab.apply(POD.format(name="a", app="web", node=WEB["a"]))
    assert answers_by_server(lab, 30) == dict.fromkeys(WEB, 10)
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_source_hashing_sends_a_client_to_one_pod(lab: Lab) -> None:
    """The scheduler sh is configured in a running lab."""
    lab.run("up", "--proxy", "ipvs,scheduler=sh")
    assert list(answers_by_server(lab, 12).values()) == [12]
    lab.run("up", "--proxy", "ipvs")
    assert answers_by_server(lab, 30) == dict.fromkeys(WEB, 10)


@pytest.mark.parametrize("scheduler", ["wrr", "lc", "wlc", "sed", "nq", "mh"])
def test_schedulers_by_load_or_in_turn_use_all_pods(lab: Lab, scheduler: str) -> None:
    """The pods are equal and idle."""
    lab.run("up", "--proxy", f"ipvs,scheduler={scheduler}")
    assert set(answers_by_server(lab, 30)) == set(WEB)


@pytest.mark.parametrize("scheduler", ["dh", "lblc", "lblcr"])
def test_schedulers_by_destination_use_one_pod(lab: Lab, scheduler: str) -> None:
    """Connections are opened one after the other.

    lblc and lblcr leave a pod with more open connections than its weight, which is 1.
    """
    lab.run("up", "--proxy", f"ipvs,scheduler={scheduler}")
    assert len(sum((answers_by_server(lab, 1) for _ in range(5)), Counter())) == 1


@pytest.mark.parametrize(
    ("command", "line"),
    [
        pytest.param(
            ["ipset", "flush", "KUBE-CLUSTER-IP"],
            "+ ipset KUBE-CLUSTER-IP member",
            id="members of a set",
        ),
        pytest.param([sys.executable, "-c", DELETE_SERVERS], "+ ipvs -t", id="virtual servers"),
        pytest.param(
            [sys.executable, "-c", CHANGE_WEIGHTS], ":8080 -m -w 7)", id="weights of real servers"
        ),
    ],
)
def test_drift_of_ipvs_is_shown_and_repaired(lab: Lab, command: list[str], line: str) -> None:
    """`diff` shows it until it is repaired, without a request."""

    def is_seen() -> bool:
        lab.inside(lab.place("nodes", "worker"), *command)
        return line in lab.run("diff", status=None).out

    lab.run("up", "--proxy", "ipvs")
    # The edit is repeated, because the drift may be repaired before `diff` runs.
    wait_for(is_seen, "the drift to be shown")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair")
    assert answers_by_server(lab, 30) == dict.fromkeys(WEB, 10)


def test_another_mode_removes_everything_of_ipvs(lab: Lab) -> None:
    """No device, ipset, virtual server or chain is left."""
    lab.run("up", "--proxy", "nftables")
    node = lab.place("nodes", "worker")
    assert lab.inside(node, "ip", "-o", "link", "show", "type", "dummy") == ""
    assert lab.inside(node, "ipset", "list", "-n") == ""
    assert "KUBE-" not in lab.inside(node, "nft", "list", "ruleset")
    assert len(lab.inside(node, "cat", "/proc/net/ip_vs").splitlines()) == 3
    assert set(answers_by_server(lab, 60)) == set(WEB)
    lab.run("up", "--proxy", "ipvs")
    assert answers_by_server(lab, 30) == dict.fromkeys(WEB, 10)
