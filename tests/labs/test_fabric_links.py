"""Settings of the links between nodes and the fabric: MTU, rate, and what this kernel lacks."""

from __future__ import annotations

import json

import pytest

from kubenetlab.kernel.features.overlay_probes import OVERLAY_PROBES
from kubenetlab.kernel.features.probing import run_probes
from tests.labs.lab import Lab


def manifest(links: str, cni: str = "bridge", topology: str = "switched") -> str:
    pods = "".join(
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n"
        f"spec: {{nodeName: {node}, containers: [{{name: main, image: agnhost, "
        "args: [netexec]}]}\n"
        for name, node in (("a", "worker"), ("b", "worker2"))
    )
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        f"fabric: {{topology: {topology}, links: [{links}]}}\nnetworking: {{cni: {cni}}}\n{pods}"
    )


def mtu(lab: Lab, target: str, link: str) -> int:
    (shown,) = json.loads(lab.run("exec", target, "--", "ip", "-j", "link", "show", link).out)
    return int(shown["mtu"])


@pytest.mark.parametrize(
    ("cni", "topology", "expected"),
    [
        ("bridge", "switched", 9000),
        ("flannel", "switched", 8950),
        ("{type: flannel, backend: host-gw}", "switched", 9000),
        ("flannel", "routed", 8950),
    ],
)
def test_jumbo_packets_pass_between_pods(lab: Lab, cni: str, topology: str, expected: int) -> None:
    """They have the MTU of the links without the overhead of tunnels, and nothing is fragmented."""
    lab.up(manifest("{mtu: 9000}", cni, topology))
    assert lab.problems == []
    assert (mtu(lab, "node:worker", "eth0"), mtu(lab, "a", "eth0")) == (9000, expected)
    b = lab.pod("b")["addresses"][0]
    size = str(expected - 28)
    lab.inside(lab.pod("a"), "ping", "-c1", "-W5", "-M", "do", "-s", size, b)
    too_long = str(expected - 27)
    lab.inside(lab.pod("a"), "ping", "-c1", "-W5", "-M", "do", "-s", too_long, b, status=1)


def test_a_rate_is_kept_in_both_directions_and_can_change(lab: Lab) -> None:
    lab.up(manifest("{node: worker, rate: 10mbit}"))
    shown = lab.run("exec", "node:worker", "--", "tc", "qdisc", "show", "dev", "eth0").out
    assert "qdisc tbf 6b6e: root" in shown
    assert "rate 10Mbit" in shown
    assert "noqueue" in lab.run("exec", "node:worker2", "--", "tc", "qdisc", "show").out
    assert lab.run("check", "-o", "json").json["ok"]
    lab.run("apply", "-f", "-", stdin=manifest("{rate: 20mbit}, {node: worker, mtu: 1400}"))
    for node in ("worker", "worker2"):
        shown = lab.run("exec", f"node:{node}", "--", "tc", "qdisc", "show", "dev", "eth0").out
        assert "rate 20Mbit" in shown
    assert mtu(lab, "node:worker", "eth0") == 1400
    assert lab.run("diff").status == 0
    lab.run("apply", "-f", "-", stdin=manifest(""))
    assert "tbf" not in lab.run("exec", "node:worker", "--", "tc", "qdisc", "show").out
    assert lab.run("diff").status == 0


def test_a_delay_without_netem_is_refused(lab: Lab) -> None:
    """The reason names the feature of the kernel, and nothing was made."""
    (outcome,) = run_probes([probe for probe in OVERLAY_PROBES if probe.name == "netem"])
    if not outcome.fault:
        pytest.skip("this kernel has netem")
    refused = lab.run("up", "-f", "-", stdin=manifest("{delay: 10ms}"), status=1)
    assert "fabric.links with delay or loss needs netem" in refused.err
    assert "CONFIG_NET_SCH_NETEM" in refused.err
    lab.up(manifest(""))
    refused = lab.apply(manifest("{loss: 1%}"), status=1)
    assert "needs netem" in refused.err
