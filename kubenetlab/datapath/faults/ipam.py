"""ipam: give a pod the addresses that another pod has already.

The pod `with` loses its sandbox, and in its new one the IPAM assigns it the addresses of `pod`, as
an IPAM does whose allocation state is lost or restored from an old backup, or as two nodes with the
same pod range do. Both pods are Running and Ready, and both are endpoints of their Services. Which
of them gets a packet depends on the CNI mode, and on the node that sends it:

on one node
    bridge, flannel, kube-router, weave
        Both pods answer ARP requests for the address. The MAC of the last reply wins until the
        entry is stale; with permanent neighbours it is that of the pod `with`.
    calico, ptp, cilium
        The route of the last CNI ADD (cilium: its endpoint) replaces the one before. Every packet
        goes to the pod `with`.
on two nodes
    bridge, flannel, kube-router
        The route to the pod range leads to the node that owns it. No packet reaches the pod
        `with`, not even an answer.
    ptp, calico with tunnels
        Each of both nodes reaches its own pod. All others reach the owner of the range or block.
    calico with BGP
        The node of the pod `with` announces the single address, which is more specific than the
        block. The node of `pod` reaches its own pod; all others reach the pod `with`.
    cilium
        Each of both nodes reaches its own pod. All others reach the pod `with`, which is the last
        one in their ipcache.
    weave
        As on one node: all nodes are in one layer-2 network.

In the mode conflist the plugins assign addresses, so that this fault is refused there.

How to diagnose:
    kubenetlab ping                                        "duplicate address", and exit status 1
    kubenetlab get pods -A -o wide                         the same IP twice
    kubenetlab exec node:NODE -- ip neigh                  the MAC of the pod that answered last
    kubenetlab exec node:NODE -- ip route get ADDRESS      the pod that gets the packets
    kubenetlab diff                                        the addresses that a healthy IPAM assigns
"""

from __future__ import annotations

from kubenetlab.api.faults import FaultSpec, SharedAddresses
from kubenetlab.api.lab import NetworkFacts
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.nodes.ipam import attachment_of
from kubenetlab.datapath.faults import BreakOptions
from kubenetlab.errors import did_you_mean


class Break(BreakOptions, frozen=True):
    """Options `pod` and `with`. Each is NAME, or NAMESPACE/NAME.

    pod: pod that has the addresses.
    with: pod that gets them, too; it loses its sandbox.
    """

    pod: str
    with_: str

    def why_impossible(self, cluster: Cluster) -> str:
        facts = cluster.get(NetworkFacts, "", "network") or NetworkFacts()
        if facts.ipam == "external":
            return (
                f"in the CNI mode {facts.plugin} the plugins assign addresses, and not the lab; "
                "with host-local, delete the file of the address in /var/lib/cni/networks on a node"
                " and create a pod there"
            )
        shared = self._shared
        if shared.owner == shared.pod:
            return f"pod and with are the same pod {shared.pod}; expected two pods"
        for option, name in (("pod", shared.owner), ("with", shared.pod)):
            if problem := _problem(cluster, name):
                return f"{option}: {problem}"
        return ""

    def spec(self) -> FaultSpec:
        shared = self._shared
        return FaultSpec(
            fault="ipam",
            options={"pod": self.pod, "with": self.with_},
            summary=f"pod {shared.pod} has the addresses of pod {shared.owner}",
            shares=(shared,),
        )

    @property
    def _shared(self) -> SharedAddresses:
        return SharedAddresses(_full_name(self.pod), _full_name(self.with_))


def _full_name(name: str) -> str:
    return name if "/" in name else f"default/{name}"


def _problem(cluster: Cluster, name: str) -> str:
    """Return why a pod cannot share its addresses; empty if it can."""
    pod = cluster.get(Pod, *name.split("/", 1))
    if pod is None:
        names = [other.full_name for other in cluster.all(Pod)]
        return f'there is no pod "{name}"{did_you_mean(name, names)}'
    if pod.spec.host_network:
        return f"pod {name} is in the network of its node, and has no address of its own"
    attachment = attachment_of(cluster, pod)
    if attachment is None or not attachment.addresses or attachment.is_stale:
        return f"pod {name} has no address yet"
    if other := attachment.duplicate_of or attachment.superseded_by:
        return f"pod {name} shares its address with pod {other} already"
    return ""
