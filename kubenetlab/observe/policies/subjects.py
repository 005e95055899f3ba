"""Pods to which network policies apply: those with a network of their own."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from kubenetlab.api.meta import Labels
from kubenetlab.api.pods import Pod
from kubenetlab.api.policies.network_policy import IPBlock
from kubenetlab.api.store import Cluster
from kubenetlab.api.values import ip


class Subjects:
    """Pods with a network of their own, by `namespace/name`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pods = {
            pod.full_name: pod
            for pod in cluster.all(Pod)
            if not pod.spec.host_network and not pod.is_finished
        }

    def __contains__(self, name: str) -> bool:
        return name in self._pods

    def get(self, name: str) -> Pod | None:
        """Return a pod; None for a name that is none, such as that of a node."""
        return self._pods.get(name)

    def namespace_labels(self, pod: Pod) -> Labels:
        """Return the labels of a pod's namespace."""
        return self._cluster.labels_of_namespaces.get(pod.namespace, {})

    def ports_named(self, pod: str, name: str, protocol: str) -> Iterator[int]:
        """Yield the ports of a pod with a name; none for other hosts, which have no names."""
        if pod in self._pods:
            for container in self._pods[pod].spec.long_running_containers:
                for port in container.ports:
                    if (port.name, port.protocol) == (name, protocol):
                        yield port.container_port


def is_in(address: str, cidr: str) -> bool:
    """Return True if an address is in a range, which may have bits after its prefix."""
    range_ = ip.range_of(cidr)
    return range_ is not None and ip_address(address) in range_


def is_in_block(address: str, block: IPBlock) -> bool:
    """Return True if an address is in the range of a block, and in none of its exceptions."""
    return is_in(address, block.cidr) and not any(is_in(address, part) for part in block.except_)
