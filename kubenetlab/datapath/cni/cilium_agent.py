"""cilium-agent: the agent of Cilium on each node.

Source: cilium/cilium install/kubernetes/cilium/templates (v1.17).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.cni import agents
from kubenetlab.datapath.modes import proxy_mode

AGENT: Final = CniAgent(
    daemon_set="cilium",
    labels={"k8s-app": "cilium"},
    container="cilium-agent",
    title="cilium-agent",
    knows_all_pods=True,
    enforces_policies=True,
    attach_error="unable to connect to Cilium agent: failed to create cilium agent client after "
    '30.000000 seconds timeout: Get "http://localhost/v1/config": '
    "dial unix /var/run/cilium/cilium.sock: connect: no such file or directory. "
    "Is the agent running?",
)
IMAGE: Final = "quay.io/cilium/cilium:v1.17.4"


def manifests(cluster: Cluster, options: Mapping[str, str]) -> Iterator[Resource]:
    """Yield the ConfigMap and the DaemonSet.

    options: keys of the ConfigMap that follow from the options of the CNI mode.
    """
    networking = cluster.config.networking
    has_kube_proxy = proxy_mode(networking)[0] != "none"
    data = {
        **options,
        "kube-proxy-replacement": str(not has_kube_proxy).lower(),
        "enable-ipv4-masquerade": "true",
    }
    for network in networking.pod_networks:
        data[f"enable-ipv{network.version}"] = "true"
    yield agents.config_map(AGENT, "cilium-config", data)
    labels = {"app.kubernetes.io/name": "cilium-agent", "app.kubernetes.io/part-of": "cilium"}
    check = ("cilium-dbg", "status", "--brief")
    args = ("--config-dir=/tmp/cilium/config-map",)
    yield agents.daemon_set(AGENT, IMAGE, check, args=args, labels=labels)
