"""Links of the fabric that are too small for IPv6 in the tunnels of a mode."""

from __future__ import annotations

import pytest
import yaml

from kubenetlab.errors import ManifestError
from kubenetlab.lab.apiserver.document_admission import admit_documents
from tests.clusters import store


def cluster(cni: str, mtu: int, family: str) -> str:
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "nodes: [{role: control-plane}, {role: worker}]\n"
        f"networking: {{cni: {cni}, ipFamily: {family}}}\n"
        f"fabric:\n  links: [{{node: worker, mtu: {mtu}}}]\n"
    )


@pytest.mark.parametrize(
    ("cni", "family", "needed"),
    [
        ("bridge", "dual", 1280),
        ("flannel", "dual", 1350),
        ("flannel", "ipv6", 1350),
        ("{type: flannel, backend: wireguard}", "ipv6", 1360),
        ("{type: calico, backend: vxlan}", "ipv6", 1350),
        ("{type: calico, backend: vxlan}", "dual", 1350),
        ("weave", "dual", 1330),
        ("weave", "ipv6", 1350),
        ("{type: cilium, routingMode: native}", "dual", 1280),
    ],
)
def test_the_smallest_link_with_which_pods_have_ipv6(cni: str, family: str, needed: int) -> None:
    """A smaller one is refused with the MTU that is needed; with IPv4 alone it is accepted."""
    assert store(cluster(cni, needed, family)).config.fabric.links
    if needed > 1280:
        with pytest.raises(ManifestError) as caught:
            store(cluster(cni, needed - 10, family))
        (problem,) = caught.value.problems
        assert (problem.path, problem.object) == ("fabric.links", "Cluster")
        assert f"the link of worker carries {needed - 10} bytes" in problem.message
        assert f"set mtu to {needed} or more" in problem.hints[0]
        assert store(cluster(cni, needed - 10, "ipv4")).config.fabric.links


@pytest.mark.parametrize("family", ["ipv4", "dual"])
def test_a_running_lab_refuses_such_links(family: str) -> None:
    """Nothing changes then; a lab without IPv6 accepts them."""
    running = store(cluster("flannel", 1500, family))
    document = yaml.safe_load(cluster("flannel", 1300, family))
    result = admit_documents(running, 0.0, [document])
    assert result.is_refused is (family == "dual")
    assert (result.cluster is running) is result.is_refused
    paths = [(index, finding.path) for index, finding in result.findings]
    assert paths == ([(0, ("fabric", "links"))] if family == "dual" else [])


def test_the_mtu_of_weave_is_enough_for_ipv6() -> None:
    with pytest.raises(ManifestError, match="expected at least 1280, which IPv6 needs; found 1000"):
        store(cluster("{type: weave, mtu: 1000}", 1500, "dual"))
