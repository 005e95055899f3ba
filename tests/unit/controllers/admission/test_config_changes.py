"""Text about changes of the Cluster document."""

from __future__ import annotations

from kubenetlab.api.config import ClusterConfig, Networking
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.controllers.admission.config_changes import (
    describe_changes,
    describe_config_changes,
)


def test_the_content_of_a_file_is_not_shown() -> None:
    """A CNI configuration list has many lines; short values are as on the command line."""
    old = ClusterConfig(networking=Networking(cni="none"))
    options = {"type": "conflist", "conflist": '{\n"name": "net"}', "routes": "none"}
    new = ClusterConfig(networking=Networking(cni=options))
    assert list(describe_changes(old, new)) == [
        "networking.cni none → conflist,conflist=…,routes=none"
    ]


def test_lists_of_a_mode_are_shown_as_on_the_command_line() -> None:
    """Another list of the same length is a change, too. Lists of mappings are counted."""
    old, new = (
        ClusterConfig(networking=Networking(cni={"type": "conflist", "binDirs": directories}))
        for directories in (["/a"], ["/b"])
    )
    assert list(describe_changes(old, new)) == [
        "networking.cni conflist,binDirs=[/a] → conflist,binDirs=[/b]"
    ]
    peers = ClusterConfig(networking=Networking(cni={"type": "calico", "peers": [{}, {}]}))
    assert list(describe_changes(old, peers)) == [
        "networking.cni conflist,binDirs=[/a] → calico,peers=2"
    ]


def test_an_omitted_kube_proxy_mode_is_named() -> None:
    """It is what the CNI mode implies, and unknown once that changes, too."""
    omitted = ClusterConfig()
    given = ClusterConfig(networking=Networking(kube_proxy_mode="ipvs"))
    another = ClusterConfig(networking=Networking(cni="flannel"))
    facts = NetworkFacts(implied_proxy_mode="none")
    changes = describe_config_changes
    assert list(changes(omitted, given, facts)) == ["networking.kubeProxyMode none → ipvs"]
    assert list(changes(given, omitted, None)) == ["networking.kubeProxyMode ipvs → nftables"]
    same = ClusterConfig(networking=Networking(kube_proxy_mode="nftables"))
    assert list(changes(omitted, same, None)) == []
    assert list(changes(given, another, None)) == [
        "networking.cni bridge → flannel",
        "networking.kubeProxyMode ipvs → default",
    ]
