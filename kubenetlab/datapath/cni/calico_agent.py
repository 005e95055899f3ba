"""calico-node: the agent of Calico on each node, and the objects that it installs.

Source: projectcalico/calico manifests/calico.yaml, node/pkg/lifecycle/startup/startup.go (v3.30).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import structs

from kubenetlab.api.calico.ip_pools import IPPool, IPPoolSpec
from kubenetlab.api.meta import ObjectMeta, Resource
from kubenetlab.api.plugins.cni_agents import CniAgent
from kubenetlab.api.store import Cluster
from kubenetlab.datapath.cni import agents

AGENT: Final = CniAgent(
    daemon_set="calico-node",
    labels={"k8s-app": "calico-node"},
    container="calico-node",
    title="calico/node",
    announces_services=True,
    routes_pods=True,
    enforces_policies=True,
)
IMAGE: Final = "docker.io/calico/node:v3.30.0"
POOL_NAMES: Final = {4: "default-ipv4-ippool", 6: "default-ipv6-ippool"}


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


def default_pools(cluster: Cluster, template: IPPoolSpec) -> Iterator[IPPool]:
    """Yield the IPPool of each IP family for which the cluster has none yet.

    template: spec of the pool for IPv4, with any range. IPv6 has no IPIP, and blocks of the default
    size.
    """
    existing = {pool.spec.network.version for pool in cluster.all(IPPool)}
    for network in cluster.config.networking.pod_networks:
        if network.version in existing:
            continue
        spec = structs.replace(template, cidr=str(network))
        if network.version == 4:
            spec = structs.replace(spec, block_size=max(spec.block_size, network.prefixlen))
        else:
            spec = structs.replace(spec, block_size=0, ipip_mode="Never")
        yield IPPool(ObjectMeta(name=POOL_NAMES[network.version]), spec)
