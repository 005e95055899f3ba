"""calico-node: the agent of Calico on each node.

Source: projectcalico/calico manifests/calico.yaml (v3.30).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kubenetlab.api.meta import Resource
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.datapath.cni import agents

AGENT: Final = CniAgent(
    daemon_set="calico-node",
    namespace="kube-system",
    labels={"k8s-app": "calico-node"},
    container="calico-node",
    title="calico/node",
    announces_services=True,
    routes_pods=True,
)
IMAGE: Final = "docker.io/calico/node:v3.30.0"


def manifests(backend: str) -> Iterator[Resource]:
    """Yield the ConfigMap and the DaemonSet.

    backend: value of `calico_backend`: bird | vxlan.
    """
    plugin = {
        "type": "calico",
        "datastore_type": "kubernetes",
        "mtu": 0,
        "ipam": {"type": "calico-ipam"},
        "policy": {"type": "k8s"},
    }
    data = {
        "typha_service_name": "none",
        "calico_backend": backend,
        "veth_mtu": "0",
        "cni_network_config": agents.cni_list("k8s-pod-network", plugin),
    }
    yield agents.config_map(AGENT, "calico-config", data)
    check = ["/bin/calico-node", "-felix-ready"]
    if backend == "bird":
        check.append("-bird-ready")
    env = {
        "DATASTORE_TYPE": "kubernetes",
        "CALICO_NETWORKING_BACKEND": backend,
        "CLUSTER_TYPE": "k8s,bgp" if backend == "bird" else "k8s",
        "IP": "autodetect",
        "FELIX_HEALTHENABLED": "true",
    }
    yield agents.daemon_set(AGENT, IMAGE, check, env=env)
