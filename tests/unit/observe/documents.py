"""A document of `inspect` for tests, and places in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubenetlab.observe.targets.locations import places


def pod(
    name: str,
    address: str,
    namespace: str = "default",
    workload: str | None = None,
    *,
    host_network: bool = False,
) -> Any:
    """Return the entry of a pod."""
    return {
        "namespace": namespace,
        "name": name,
        "workload": workload,
        "node": "worker",
        "pid": 20,
        "sandbox": f"pod/{namespace}/{name}",
        "netns": f"/{namespace}/{name}",
        "addresses": [address],
        "ready": True,
        "host_network": host_network,
        "containers": [{"ports": [8080]}],
    }


def service(
    name: str,
    cluster_ips: Sequence[str],
    port: int = 80,
    namespace: str = "default",
    endpoint: str = "10.244.1.2",
) -> Any:
    """Return the entry of a Service."""
    return {
        "namespace": namespace,
        "name": name,
        "type": "ClusterIP",
        "proxied": True,
        "internal_traffic_policy": "Cluster",
        "cluster_ips": list(cluster_ips),
        "load_balancer_ips": [],
        "virtual_ips": [],
        "source_ranges": [],
        "ports": [{"name": "", "port": port, "protocol": "TCP", "node_port": None}],
        "endpoints": [{"address": endpoint, "port": 8080, "port_name": "", "ready": True}],
    }


SEEN: Any = {
    "nodes": [
        {
            "name": "worker",
            "pid": 10,
            "sandbox": "node/worker",
            "netns": "/n10",
            "addresses": ["172.18.0.3"],
        }
    ],
    "router": {"name": "router", "announced": []},
    "external": [
        {
            "name": "client",
            "pid": 30,
            "sandbox": "ext/client",
            "netns": "/n30",
            "addresses": ["198.51.100.10"],
            "ports": [],
        }
    ],
    "pods": [
        pod("web-6bd7cd67c6-hcxd6", "10.244.1.2", workload="Deployment/web"),
        pod("db-0", "10.244.1.3", "shop", "StatefulSet/db"),
        pod("both", "10.244.1.4"),
        pod("agent", "172.18.0.3", "kube-system", "DaemonSet/agent", host_network=True),
        pod("one", "10.244.1.5", workload="Deployment/twins"),
        pod("two", "10.244.1.6", workload="StatefulSet/twins"),
        pod("cart", "10.244.1.7", "svc"),
        pod("mail", "10.244.1.8", "job"),
    ],
    "kube_proxy_mode": "nftables",
    "services": [
        service("web", ["10.96.7.7"]),
        service("both", ["10.96.7.8"], endpoint="10.244.1.4"),
        service("db", [], 5432, "shop", "10.244.1.3"),
        service("dns", ["10.96.0.10"], 53, "kube-system"),
        service("cart", ["10.96.7.9"]),
    ],
}


HOST, POD = (next(place for place in places(SEEN) if place.kind == kind) for kind in ("ext", "pod"))
