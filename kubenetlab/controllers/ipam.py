"""IPAM: an address and an interface for each pod on a node, as the CNI plugins host-local and bridge give them.

Addresses go round: the one behind the last given out is tried first, so what is freed is not used again at once.
Source: containernetworking/plugins plugins/ipam/host-local/backend/allocator/allocator.go.
"""

from collections.abc import Container, Iterator, Sequence
from ipaddress import ip_network
from typing import Final

from msgspec import structs

from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment, Ledger, NetworkFacts
from kubenetlab.api.meta import ObjectMeta
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Change, Cluster, Kind
from kubenetlab.controllers.addresses import pod_addresses_after
from kubenetlab.controllers.events import event, is_recorded

WATCHES: Final[tuple[Kind, ...]] = (NetworkFacts, Node, Pod, Attachment)


def reconcile(cluster: Cluster, now: float) -> Iterator[Change]:
    facts = network(cluster)
    if not facts.has_network:
        return
    ledger = cluster.get(Ledger, "", "ledger") or Ledger()
    last, numbers = dict(ledger.last_addresses), dict(ledger.next_veth)
    for node in cluster.all(Node):
        waiting = [pod for pod in cluster.pods_on(node.name) if needs_attachment(cluster, pod)]
        if not waiting:
            continue
        taken = {address for attachment in cluster.all(Attachment) if attachment.node == node.name for address in attachment.addresses}
        for pod in waiting:
            addresses = _free_addresses(node, last.get(node.name, ()), taken)
            if addresses is None:
                yield from _exhausted(cluster, pod, node, facts.plugin, now)
                continue
            taken.update(addresses)
            last[node.name] = addresses
            number = numbers.get(node.name, 0)
            numbers[node.name] = number + 1
            ifname = facts.host_ifname.format(number=number)
            yield Attachment(ObjectMeta(name=pod.name, namespace=pod.namespace), pod.uid, node.name, ifname, addresses)
    if last != ledger.last_addresses or numbers != ledger.next_veth:
        yield structs.replace(ledger, last_addresses=last, next_veth=numbers)


def network(cluster: Cluster) -> NetworkFacts:
    """What is known of the cluster's CNI plugin."""
    return cluster.get(NetworkFacts, "", "network") or NetworkFacts()


def _free_addresses(node: Node, last: Sequence[str], taken: Container[str]) -> tuple[str, ...] | None:
    """One free address of each of the node's ranges; None when one of them is exhausted."""
    found: list[str] = []
    for cidr, latest in zip(node.spec.pod_cidrs, (*last, *[""] * len(node.spec.pod_cidrs)), strict=False):
        free = (str(address) for address in pod_addresses_after(ip_network(cidr), latest))
        address = next((address for address in free if address not in taken), None)
        if address is None:
            return None
        found.append(address)
    return tuple(found)


def attachment_of(cluster: Cluster, pod: Pod) -> Attachment | None:
    """The pod's attachment; None before it has one, and for an older pod of the same name."""
    found = cluster.get(Attachment, pod.namespace, pod.name)
    return found if found is not None and found.pod_uid == pod.uid else None


def needs_attachment(cluster: Cluster, pod: Pod) -> bool:
    return not pod.spec.host_network and not pod.is_terminating and not pod.is_finished and attachment_of(cluster, pod) is None


def _exhausted(cluster: Cluster, pod: Pod, node: Node, plugin: str, now: float) -> Iterator[Change]:
    cidr = ip_network(node.spec.pod_cidr)
    message = (
        f'Failed to create pod sandbox: plugin type="{plugin}" failed (add): failed to allocate for range 0: '
        f"no IP addresses available in range set: {cidr[1]}-{cidr[-2]}"
    )
    if not is_recorded(cluster, pod, "FailedCreatePodSandBox", message):
        yield event(cluster, pod, "Warning", "FailedCreatePodSandBox", message, f"kubelet, {node.name}", now)
