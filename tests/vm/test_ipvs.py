"""kube-proxy's mode ipvs on a kernel that has it: schedulers, pings, leaves taken, and the change
from and to other modes.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for
from tests.labs.test_switching import KEPT
from tests.labs.world import World

pytestmark = pytest.mark.vm

MANIFEST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {ipFamily: dual, kubeProxyMode: ipvs}
---
{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {nodeName: worker, containers: [{name: main, image: agnhost, args: [netexec]}]}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
POD = """\
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, args: [netexec], ports: [{{containerPort: 8080}}]}}]}}
"""
NO_SERVERS = """
from kubenetlab.hoststate.rules.ipvs import NAMES, replacement
from kubenetlab.kernel.rules.ipvs import open_loader
open_loader().run(replacement([], NAMES))
"""
"""Program that deletes all virtual servers of its namespace."""
OTHER_WEIGHTS = """
from kubenetlab.hoststate.rules import ipvs_messages as messages
from kubenetlab.kernel.rules.ipvs import open_loader
ipvs = open_loader()
reals = [real for listed in ipvs._list() for real, _, _ in listed.reals]
ipvs._send_all([
    (real, messages.destination_request(ipvs._family, messages.SET_DEST, real, weight=7))
    for real in reals
])
"""
"""Program that gives every real server of its namespace another weight."""
WEB = {"a": "worker", "b": "worker", "c": "worker2"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    for lab in new_lab():
        lab.up(
            MANIFEST
            + "".join(POD.format(name=name, app="web", node=node) for name, node in WEB.items())
        )
        yield lab


def answers(lab: Lab, count: int) -> Counter[str]:
    """Who answers so many connections of one client."""
    world = World(lab, 4)
    return Counter(
        answer.who for answer in world.ask("client", *[("TCP", world.services["web"], 80)] * count)
    )


def test_in_turn_everybody_has_the_same_share(lab: Lab) -> None:
    """rr draws no lots: of thirty connections ten."""
    assert answers(lab, 30) == dict.fromkeys(WEB, 10)


@pytest.mark.parametrize("source", ["client", "node:worker"])
def test_a_cluster_ip_answers_pings(lab: Lab, source: str) -> None:
    """The node that the client is on does."""
    world = World(lab, 4)
    for address in lab.service("web")["cluster_ips"]:
        lab.inside(world.places[source], "ping", "-c1", "-W5", address)


def test_who_leaves_keeps_its_connections(lab: Lab) -> None:
    """A pod that its Service does not select any more: what it has goes on, what is new goes to
    others; and it may come back.
    """
    line = [
        "nsenter",
        f"--net={lab.pod('client')['netns']}",
        sys.executable,
        "-c",
        KEPT,
        lab.service("web")["cluster_ips"][0],
    ]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as kept:
        assert kept.stdin is not None
        assert kept.stdout is not None
        kept.stdin.write("once\n")
        who = kept.stdout.readline().strip()
        lab.apply(POD.format(name=who, app="other", node=WEB[who]))
        assert answers(lab, 12) == dict.fromkeys(set(WEB) - {who}, 6)
        kept.stdin.write("again\n")
        assert kept.stdout.readline().strip() == who
        kept.stdin.close()
    assert lab.run("diff").out.strip() == "the kernel is as it should be"
    lab.apply(POD.format(name=who, app="web", node=WEB[who]))
    assert answers(lab, 30) == dict.fromkeys(WEB, 10)


def test_a_new_node_agent_goes_on(lab: Lab) -> None:
    """It finds the virtual servers as they should be, and changes what changes."""
    lab.kill("node-agent-0")
    lab.apply(POD.format(name="a", app="other", node=WEB["a"]))
    assert answers(lab, 12) == {"b": 6, "c": 6}
    lab.apply(POD.format(name="a", app="web", node=WEB["a"]))
    assert answers(lab, 30) == dict.fromkeys(WEB, 10)
    assert lab.run("diff").out.strip() == "the kernel is as it should be"


def test_by_the_clients_address_it_stays_with_one(lab: Lab) -> None:
    """sh, given to a running lab."""
    lab.run("up", "--proxy", "ipvs,scheduler=sh")
    assert list(answers(lab, 12).values()) == [12]
    lab.run("up", "--proxy", "ipvs")
    assert answers(lab, 30) == dict.fromkeys(WEB, 10)


@pytest.mark.parametrize("scheduler", ["wrr", "lc", "wlc", "sed", "nq", "mh"])
def test_schedulers_by_load_or_in_turn_reach_all(lab: Lab, scheduler: str) -> None:
    """The pods are alike and nobody is busy."""
    lab.run("up", "--proxy", f"ipvs,scheduler={scheduler}")
    assert set(answers(lab, 30)) == set(WEB)


@pytest.mark.parametrize("scheduler", ["dh", "lblc", "lblcr"])
def test_schedulers_by_destination_stay_with_one_pod(lab: Lab, scheduler: str) -> None:
    """One after the other: lblc and lblcr leave a pod that has more connections open than its
    weight, which is 1.
    """
    lab.run("up", "--proxy", f"ipvs,scheduler={scheduler}")
    assert len(sum((answers(lab, 1) for _ in range(5)), Counter())) == 1


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param(
            ["ipset", "flush", "KUBE-CLUSTER-IP"],
            "+ ipset KUBE-CLUSTER-IP member",
            id="members of a set",
        ),
        pytest.param([sys.executable, "-c", NO_SERVERS], "+ ipvs -t", id="virtual servers"),
        pytest.param(
            [sys.executable, "-c", OTHER_WEIGHTS], ":8080 -m -w 7)", id="weights of real servers"
        ),
    ],
)
def test_what_others_change_is_told_and_made_anew(lab: Lab, command: list[str], shown: str) -> None:
    """`diff` names what is gone as long as it is; nobody has to ask for the repair."""

    def is_seen() -> bool:
        lab.inside(lab.place("nodes", "worker"), *command)
        return shown in lab.run("diff", status=None).out

    lab.run("up", "--proxy", "ipvs")
    wait_for(is_seen, "the drift to be shown")  # it may have been repaired before anybody looks
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair")
    assert answers(lab, 30) == dict.fromkeys(WEB, 10)


def test_nothing_is_left_of_it(lab: Lab) -> None:
    """No device, no set, no virtual server, no chain."""
    lab.run("up", "--proxy", "nftables")
    node = lab.place("nodes", "worker")
    assert lab.inside(node, "ip", "-o", "link", "show", "type", "dummy") == ""
    assert lab.inside(node, "ipset", "list", "-n") == ""
    assert "KUBE-" not in lab.inside(node, "nft", "list", "ruleset")
    assert len(lab.inside(node, "cat", "/proc/net/ip_vs").splitlines()) == 3
    assert set(answers(lab, 60)) == set(WEB)
    lab.run("up", "--proxy", "ipvs")
    assert answers(lab, 30) == dict.fromkeys(WEB, 10)
