"""Scheduling of pods that request addresses, in clusters whose plugins are programs."""

from __future__ import annotations

import json

import pytest
import yaml

from kubenetlab import controllers
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.states import ControllerStates
from kubenetlab.lab.apiserver.document_admission import admit_documents
from tests.clusters import NOW, pod, pod_named, store


def cluster_of(ipam: str, plugin: str) -> str:
    """Return a cluster whose plugin has these further fields."""
    conflist = (
        "{cniVersion: 1.0.0, name: net, plugins: "
        f"[{{type: ptp, ipam: {{type: host-local, {ipam}}}{plugin}}}]}}"
    )
    return (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\n"
        "nodes: [{role: control-plane}, {role: worker}, {role: worker}]\n"
        f"networking: {{cni: {{type: conflist, conflist: {conflist}}}}}\n---\n"
    )


def asking(address: str) -> str:
    return pod("a", meta=f", annotations: {{kubenetlab.dev/addresses: {json.dumps(address)}}}")


def node_of(cluster: Cluster) -> str:
    return pod_named(cluster, "a").spec.node_name


OWN = 'subnet: "{{.PodCIDR}}"'
IPS = ", capabilities: {ips: true}"


@pytest.mark.parametrize(
    ("ipam", "plugin", "address", "expected"),
    [
        pytest.param(OWN, IPS, "10.244.2.7", "worker2", id="range of the node"),
        pytest.param(OWN, IPS, "10.99.0.7", "", id="no node's range"),
        pytest.param(OWN, "", "10.99.0.7", "worker", id="plugins do not get the request"),
        pytest.param("subnet: 10.99.0.0/24", IPS, "10.99.0.7", "worker", id="one range for all"),
    ],
)
def test_the_range_matters_if_the_plugins_assign_from_it(
    ipam: str, plugin: str, address: str, expected: str
) -> None:
    assert node_of(store(cluster_of(ipam, plugin) + asking(address))) == expected


def test_a_pod_is_scheduled_after_a_change_of_the_list() -> None:
    """A pod that waits for a range gets a node when the plugins have another one.

    The controllers go on from the states that they have had.
    """
    text = cluster_of(OWN, IPS)
    cluster, states = controllers.run(store(text + asking("10.99.0.7")), ControllerStates(), NOW)
    assert node_of(cluster) == ""
    document = yaml.safe_load(text.partition("---")[0])
    plugins = document["networking"]["cni"]["conflist"]["plugins"]
    plugins[0]["ipam"]["subnet"] = "10.99.0.0/24"
    admission = admit_documents(cluster, NOW, [document])
    assert not admission.findings
    cluster, _ = controllers.run(admission.cluster, states, NOW)
    assert node_of(cluster) != ""
