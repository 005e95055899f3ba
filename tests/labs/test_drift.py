"""Drift: what others change in the kernel is found, shown and repaired."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, wait_for
from tests.labs.test_life import MANIFEST, web_answers

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


PERMANENT = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: {type: bridge, neighbors: permanent}}\n---\n"


@pytest.fixture(scope="module")
def attentive() -> Iterator[Lab]:
    """A lab that is read when the kernel tells of a change, and never otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBENETLAB_NO_PASSES", "1")
        for lab in new_lab():
            lab.up(PERMANENT + MANIFEST)
            yield lab


@pytest.mark.parametrize(("command", "shown"), DRIFT)
def test_drift_is_shown_repaired_and_written_down(attentive: Lab, command: str, shown: str) -> None:
    """`diff` sees it as long as it is there, nobody has to ask for the repair, the log names it,
    and packets flow again.
    """
    lab, log = attentive, attentive.directory / "log"
    before = len(log.read_text())

    def is_seen() -> bool:
        lab.run("exec", "node:worker", "--", *command.split(), status=None)
        return shown in lab.run("diff", status=None).out

    wait_for(
        is_seen, "the drift to be shown"
    )  # on a machine that is busy it is repaired before anybody looks
    wait_for(lambda: lab.run("diff", status=None).status == 0, "the repair")
    wait_for(lambda: lab.run("ping", "-o", "json", status=None).json["ok"], "every packet")
    assert "node/worker: another process" in log.read_text()[before:]


def test_drift_is_kept_where_that_is_asked_for(lab: Lab) -> None:
    """With `drift: keep` a deleted route, a flushed ruleset and a pod's address stay gone, are told
    once, and come with the next `up`.
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

    def told() -> int:
        return (lab.directory / "log").read_text().count("(drift: keep)")

    wait_for(lambda: told() == len(broken), "each to be told")
    shown = lab.run("diff", status=1).out
    assert all(what in shown for what in ("10.244.2.0/24", "ip kube-proxy", "eth0"))
    lab.run(
        "scale", "deployment", "web", "--replicas", "1"
    )  # what needs the rules makes them anew; nothing needs the route
    lab.run("ping", "node:worker", "node:worker2")
    assert "10.244.2.0/24" in lab.run("diff", status=1).out
    assert told() == len(broken)
    lab.run("up", "--drift", "repair")
    assert lab.run("diff").status == 0
    assert lab.run("ping", "-o", "json").json["ok"]


def test_what_somebody_adds_is_left_alone(attentive: Lab) -> None:
    """A route, an address, a table beside ours are theirs."""
    worker = attentive.place("nodes", "worker")
    attentive.inside(worker, "ip", "route", "add", "192.0.2.0/24", "via", "172.18.0.1")
    attentive.inside(worker, "ip", "address", "add", "192.0.2.200/32", "dev", "lo")
    attentive.inside(worker, "ip", "link", "add", "mine", "type", "veth", "peer", "name", "yours")
    attentive.run(
        "exec", "node:worker", "--", "ip", "route", "del", "10.244.2.0/24"
    )  # so that it is read
    wait_for(lambda: "10.244.2.0/24" in attentive.inside(worker, "ip", "route"), "the repair")
    assert "192.0.2.0/24" in attentive.inside(worker, "ip", "route")
    assert "192.0.2.200" in attentive.inside(worker, "ip", "address")
    assert "yours" in attentive.inside(worker, "ip", "link")
    assert attentive.run("diff").status == 0


def test_drift_in_a_pod_is_repaired(attentive: Lab) -> None:
    """Pods' namespaces are listened to like nodes'."""
    pod = attentive.pod("client")
    other = attentive.pods("web")[0]["addresses"][0]
    for command in (
        f"ip neighbor del {other} dev eth0",
        "ip route del default",
        "ip link set eth0 down",
        "ip address flush dev eth0",
    ):
        attentive.inside(pod, *command.split())
        wait_for(lambda: web_answers(attentive), f"an answer after {command}")
        wait_for(lambda: attentive.run("diff", status=None).status == 0, f"the repair of {command}")
