"""PodView: the part of a pod that agents on its node know."""

from __future__ import annotations

from msgspec import Struct

from kubenetlab import names
from kubenetlab.api.core import Node
from kubenetlab.api.lab import Attachment
from kubenetlab.api.pods import Pod


class PodView(Struct, frozen=True):
    """The part of a pod that its wiring depends on; constant while the pod runs."""

    namespace: str
    name: str
    uid: str
    hostname: str
    is_host_network: bool
    addresses: tuple[str, ...]
    """One address per family of its node; a hostNetwork pod has its node's.

    Programs that attach pods (`cni: conflist`) may assign fewer; empty until they have done it.
    """
    ifname: str
    """Node's end of its link; empty for a hostNetwork pod."""
    host_ports: tuple[tuple[str, str, int, int], ...] = ()
    """Host ports as (hostIP or empty, protocol, port of the node, port of the pod).

    Empty for a hostNetwork pod.
    """
    is_duplicate: bool = False
    """True if another pod had its addresses first."""
    superseded_by: str = ""
    """Pod that got the same addresses later, as `namespace/name`; empty without one."""

    @property
    def mac(self) -> str:
        """MAC of its link. It follows from the address, unless another pod has it, too."""
        if self.is_duplicate:
            return names.mac_of_uid(self.uid)
        return names.mac_of(self.addresses[0])

    @property
    def port_mac(self) -> str:
        """MAC of the node's end of its link, where it is the port of a bridge."""
        if self.is_duplicate:
            return names.port_mac_of_uid(self.uid)
        return names.port_mac_of(self.addresses[0])

    @property
    def netns(self) -> str:
        return names.pod_netns(self.namespace, self.name, self.uid)

    @property
    def is_attached(self) -> bool:
        """True if the sandbox has its network, so that programs can start in it."""
        return bool(self.addresses)

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"


def pod_view(pod: Pod, node: Node, attachment: Attachment | None) -> PodView | None:
    """Return the view of a pod; None while it cannot have a sandbox."""
    if pod.spec.host_network:
        view = PodView(
            pod.namespace, pod.name, pod.uid, names.hostname(node.name), True, node.addresses, ""
        )
    elif attachment is not None and not attachment.is_stale:
        hostname = names.hostname(pod.hostname)
        view = PodView(
            pod.namespace,
            pod.name,
            pod.uid,
            hostname,
            False,
            attachment.addresses,
            attachment.host_ifname,
            _host_ports(pod),
            bool(attachment.duplicate_of),
            attachment.superseded_by,
        )
    else:
        return None
    return None if pod.is_finished else view


def _host_ports(pod: Pod) -> tuple[tuple[str, str, int, int], ...]:
    return tuple(
        (port.host_ip, port.protocol, port.host_port, port.container_port)
        for container in pod.spec.long_running_containers
        for port in container.ports
        if port.host_port
    )


def has_addresses(pod: Pod, attachment: Attachment) -> bool:
    """Return True if the addresses of an attachment belong to a pod.

    They belong to the pod that got them last, until its sandbox is to be replaced.
    """
    return (
        attachment.pod_uid == pod.uid
        and not pod.is_finished
        and not attachment.superseded_by
        and not attachment.is_stale
    )
