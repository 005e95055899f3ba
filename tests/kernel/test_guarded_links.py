"""Links of guarded pods are created down, and are set up after the rules are in force."""

from __future__ import annotations

import json

import pytest

from kubenetlab.datapath import plan
from kubenetlab.datapath.decisions import decide
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.state import HostState
from kubenetlab.kernel.linux import LinuxKernel
from tests.clusters import FAMILIES, pod, store
from tests.kernel.states import Make, difference, ip, netlink

MODES = (
    "bridge",
    "{type: bridge, layout: onlink, neighbors: permanent}",
    "{type: bridge, layout: routed, neighbors: permanent}",
    "ptp",
    "{type: calico, backend: vxlan, neighbors: permanent}",
    "weave",
    "{type: flannel, backend: host-gw}",
    "kube-router",
)


def links(linux: LinuxKernel, netns: str) -> dict[str, bool]:
    """Return True for each link that is up, by name, without lo."""
    shown = json.loads(ip(linux, netns, "-j", "link"))
    return {link["ifname"]: "UP" in link["flags"] for link in shown if link["ifname"] != "lo"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", MODES)
def test_a_guarded_pod_has_no_way_out_before_the_rules(
    kernel: Make, mode: str, family: str
) -> None:
    """Other pods of the same changes are connected at once; in the end nothing differs."""
    linux = kernel()
    config = FAMILIES[family].replace("ipFamily:", f"cni: {mode}, ipFamily:") or (
        f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {{cni: {mode}}}\n---\n"
    )
    cluster = store(config + pod("guarded") + pod("other"))
    desired = netlink(plan(cluster, decide(cluster, has_br_netfilter=False)))
    guarded = {netns for netns in desired.namespaces if "guarded" in netns}
    (name,) = guarded
    (other,) = (netns for netns in desired.namespaces if "other" in netns)
    changes = diff(HostState(), desired)
    early, late = changes.split_around_rules(guarded)
    assert len(early) + len(late) > len(changes)
    linux.apply(early).raise_failures()
    assert links(linux, name) == {"eth0": False}
    assert links(linux, other) == {"eth0": True}
    for version in ("-4", "-6"):
        assert "default" not in ip(linux, name, version, "route")
    linux.apply(late).raise_failures()
    assert links(linux, name) == {"eth0": True}
    assert difference(linux, desired) == ""
