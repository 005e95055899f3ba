"""Pods that programs outside the lab attach to the network: the calls of a container runtime."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import MAC_ANNOTATION, Pod
from kubenetlab.api.store import Cluster
from kubenetlab.api.values.ip import is_in
from kubenetlab.cni.calls import NodePlugins
from kubenetlab.cni.capabilities import PodDns, PodSandbox, PortMapping
from kubenetlab.controllers.nodes.ipam import attachment_of
from kubenetlab.datapath import cluster_modes
from kubenetlab.datapath.modes import CNI
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.pods import dns_settings
from kubenetlab.datapath.view import NodeView, node_views, without_pods_and_peers


class PodAttachment(Struct, frozen=True):
    """Pod that plugins attach."""

    node_netns: str
    sandbox: PodSandbox
    """Facts about the pod; the identifier and the path of its namespace are still empty."""
    attached_id: str = ""
    """Identifier of the sandbox that is attached according to the store; empty without one."""


class AttachmentPlan(Struct, frozen=True):
    """Pods that plugins attach, and the plugins of each node."""

    nodes: Mapping[str, NodePlugins] = {}
    """Namespace of a node → its plugins; empty if the lab attaches the pods itself."""
    pods: Mapping[str, PodAttachment] = {}
    """Namespace of a pod → what to attach."""


def plan_attachments(cluster: Cluster, decisions: Decisions, cache: PlanCache) -> AttachmentPlan:
    """Return the calls of plugins that the cluster needs; an empty plan in most CNI modes."""
    cni = cluster_modes.decided_cni(cluster.config, decisions)
    nodes: dict[str, NodePlugins] = {}
    pods: dict[str, PodAttachment] = {}
    for node in node_views(cluster, decisions, cache):
        inputs = (cni, without_pods_and_peers(node))
        plugins = cache(("plugins", node.name), _plugins, *inputs)
        if plugins is None:
            continue
        nodes[node.netns] = plugins
        for view in node.pods:
            pod = cluster.get(Pod, view.namespace, view.name)
            if pod is None or view.is_host_network:
                continue
            attachment = attachment_of(cluster, pod)
            is_attached = attachment is not None and attachment.addresses
            pods[view.netns] = PodAttachment(
                node.netns,
                _sandbox(node, view, pod),
                attachment.sandbox_id if attachment is not None and is_attached else "",
            )
    return AttachmentPlan(nodes, pods)


def _plugins(cni: CNI, node: NodeView) -> NodePlugins | None:
    return cni.plugins(node)


def _sandbox(node: NodeView, view: PodView, pod: Pod) -> PodSandbox:
    dns = dns_settings(pod, node)
    return PodSandbox(
        container_id="",
        netns="",
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        annotations=dict(pod.metadata.annotations),
        port_mappings=tuple(
            PortMapping(number, target, protocol.lower(), host_ip)
            for host_ip, protocol, number, target in view.host_ports
        ),
        ips=tuple(_with_prefix(node, address) for address in pod.requested_addresses),
        mac=pod.metadata.annotations.get(MAC_ANNOTATION, ""),
        dns=dns if dns != PodDns() else None,
        pod_cidrs=tuple(family.pod_cidr for family in node.families),
    )


def _with_prefix(node: NodeView, address: str) -> str:
    """Return an address with the prefix length of the node's range, as `static` requires it."""
    ranges = (family.pod_cidr for family in node.families)
    cidr = next((cidr for cidr in ranges if is_in(address, cidr)), "")
    return f"{address}/{cidr.partition('/')[2]}" if cidr else address
