"""IPAM: an address and an interface for each pod on a node, as the CNI plugins host-local and bridge give them.

Addresses go round: the one behind the last given out is tried first, so what is freed is not used again at once.
Source: containernetworking/plugins plugins/ipam/host-local/backend/allocator/allocator.go.
"""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Final

from msgspec import structs

from kubenetlab.api.config import ClusterConfig
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment, Ledger
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.addresses import pod_addresses_after
from kubenetlab.controllers.events import event, is_recorded

WATCHES: Final[tuple[Kind, ...]] = (ClusterConfig, Node, Pod, Attachment)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    if cluster.config.networking.cni_mode[0] == "none":
        return
    ledger = cluster.get(Ledger, "", "ledger") or Ledger()
    last, numbers = dict(ledger.last_addresses), dict(ledger.next_veth)
    for node in cluster.all(Node):
        waiting = [pod for pod in cluster.pods_on(node.name) if needs_attachment(cluster, pod)]
        if not waiting:
            continue
        network = ip_network(node.spec.pod_cidr)
        taken = {address for attachment in cluster.all(Attachment) if attachment.node == node.name for address in attachment.addresses}
        for pod in waiting:
            address = next(
                (str(free) for free in pod_addresses_after(network, *last.get(node.name, ("",))) if str(free) not in taken), None
            )
            if address is None:
                yield from _exhausted(cluster, pod, node, now)
                continue
            taken.add(address)
            last[node.name] = (address,)
            number = numbers.get(node.name, 0)
            numbers[node.name] = number + 1
            yield Attachment(ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid, node.name, f"veth{number}", (address,))
    if last != ledger.last_addresses or numbers != ledger.next_veth:
        yield structs.replace(ledger, last_addresses=last, next_veth=numbers)


def attachment_of(cluster: Cluster, pod: Pod) -> Attachment | None:
    """The pod's attachment; None before it has one, and for an older pod of the same name."""
    found = cluster.get(Attachment, pod.namespace, pod.name)
    return found if found is not None and found.pod_uid == pod.uid else None


def needs_attachment(cluster: Cluster, pod: Pod) -> bool:
    return not pod.spec.host_network and not pod.is_terminating and not pod.is_finished and attachment_of(cluster, pod) is None


def _exhausted(cluster: Cluster, pod: Pod, node: Node, now: float) -> Iterator[Change]:
    network = ip_network(node.spec.pod_cidr)
    message = (
        f'Failed to create pod sandbox: plugin type="bridge" failed (add): failed to allocate for range 0: '
        f"no IP addresses available in range set: {network[1]}-{network[-2]}"
    )
    if not is_recorded(cluster, pod, "FailedCreatePodSandBox", message):
        yield event(cluster, pod, "Warning", "FailedCreatePodSandBox", message, f"kubelet, {node.name}", now)
