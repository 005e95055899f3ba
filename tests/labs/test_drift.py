"""Drift: changes of the kernel state by other processes are found, shown and repaired."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for
from tests.labs.web_lab import MANIFEST, web_answers

DRIFT = [
    ("ip route del 10.244.2.0/24", "+ route 10.244.2.0/24"),
    ("ip route replace 10.244.2.0/24 via 172.18.0.1", "route 10.244.2.0/24"),
    ("ip address del 172.18.0.3/16 dev eth0", "+ address 172.18.0.3/16"),
    ("ip link set cbr0 down", "bridge cbr0"),
    ("ip link set eth0 mtu 1400", "mtu 1500"),
    ("ip link del veth0", "veth0"),
    ("ip neighbor flush dev cbr0 nud permanent", "+ neighbor"),
    ("nft flush ruleset", "+ nft table ip kube-proxy"),
    ("nft flush chain ip kube-proxy services", "nft chain ip kube-proxy services"),
    ("nft delete table ip ip-masq-agent", "+ nft table ip ip-masq-agent"),
    ("sysctl -qw net.ipv4.ip_forward=0", "sysctl net.ipv4.ip_forward = 1"),
]


PERMANENT = (
    "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
    "networking: {cni: {type: bridge, neighbors: permanent}}\n---\n"
)


@pytest.fixture(scope="module")
def event_driven() -> Iterator[Lab]:
    """Yield a lab that finds drift only through netlink events, without scans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBENETLAB_NO_SCANS", "1")
        for lab in new_lab():
            lab.up(PERMANENT + MANIFEST)
            yield lab


@pytest.mark.parametrize(("command", "line"), DRIFT)
def test_drift_is_shown_repaired_and_logged(event_driven: Lab, command: str, line: str) -> None:
    """`diff` shows drift until it is repaired, without a request.

    The log names it, and connectivity returns.
    """
    lab, log = event_driven, event_driven.directory / "log"
    before = len(log.read_text())

    def is_seen() -> bool:
        lab.run("exec", "node:worker", "--", *command.split(), status=None)
        return line in lab.run("diff", status=None).out

    # The edit is repeated, because the drift may be repaired before `diff` runs.
    wait_for(is_seen, "the drift to be shown")
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair")
    wait_for(lambda: lab.run("ping", "-o", "json", status=None).json["ok"], "the whole matrix")
    assert "node/worker: another process" in log.read_text()[before:]


def test_drift_can_be_kept(lab: Lab) -> None:
    """With `drift: keep`, changes stay until the next `up`, and each is reported once.

    The changes are a deleted route, a flushed ruleset and a removed address of a pod.
    """
    lab.up(MANIFEST)
    lab.run("up", "--drift", "keep")
    broken = (
        ("node:worker", "ip route del 10.244.2.0/24"),
        ("node:worker2", "nft flush ruleset"),
        ("client", "ip address flush dev eth0"),
    )
    for where, command in broken:
        lab.run("exec", where, "--", *command.split())

    def reported() -> int:
        return (lab.directory / "log").read_text().count("(drift: keep)")

    wait_for(lambda: reported() == len(broken), "a report of each change")
    output = lab.run("diff", status=1).out
    assert all(part in output for part in ("10.244.2.0/24", "ip kube-proxy", "eth0"))
    # The change needs the rules, and so loads them again; it does not need the route.
    lab.run("scale", "deployment", "web", "--replicas", "1")
    lab.run("ping", "node:worker", "node:worker2")
    assert "10.244.2.0/24" in lab.run("diff", status=1).out
    assert reported() == len(broken)
    lab.run("up", "--drift", "repair")
    assert lab.run("diff").status == 0
    assert lab.run("ping", "-o", "json").json["ok"]


def test_additional_objects_of_others_are_left_alone(event_driven: Lab) -> None:
    """Additional routes, addresses and links are not removed."""
    worker = event_driven.place("nodes", "worker")
    event_driven.inside(worker, "ip", "route", "add", "192.0.2.0/24", "via", "172.18.0.1")
    event_driven.inside(worker, "ip", "address", "add", "192.0.2.200/32", "dev", "lo")
    event_driven.inside(
        worker, "ip", "link", "add", "mine", "type", "veth", "peer", "name", "yours"
    )
    # This drift makes the agent read the namespace.
    event_driven.run("exec", "node:worker", "--", "ip", "route", "del", "10.244.2.0/24")
    wait_for(lambda: "10.244.2.0/24" in event_driven.inside(worker, "ip", "route"), "the repair")
    assert "192.0.2.0/24" in event_driven.inside(worker, "ip", "route")
    assert "192.0.2.200" in event_driven.inside(worker, "ip", "address")
    assert "yours" in event_driven.inside(worker, "ip", "link")
    assert event_driven.run("diff").status == 0


def test_drift_in_a_pod_is_repaired(event_driven: Lab) -> None:
    """The agent receives events of pods' namespaces like those of nodes."""
    pod = event_driven.pod("client")
    other_address = event_driven.pods("web")[0]["addresses"][0]
    for command in (
        f"ip neighbor del {other_address} dev eth0",
        "ip route del default",
        "ip link set eth0 down",
        "ip address flush dev eth0",
    ):
        event_driven.inside(pod, *command.split())
        wait_for(lambda: web_answers(event_driven), f"an answer after {command}")
        wait_for(
            lambda: event_driven.run("diff", status=None).status == 0, f"the repair of {command}"
        )
