"""Agents of CNI plugins, which run on each node as pods of a DaemonSet, and what they know."""

from __future__ import annotations

from collections.abc import Mapping

from kubenetlab.api.calico.bgp import PLUGIN_NAMESPACE, BGPConfiguration, BGPPeer
from kubenetlab.api.calico.bgp_filters import BGPFilter
from kubenetlab.api.calico.ip_pools import IPPool
from kubenetlab.api.core import Node, Service
from kubenetlab.api.discovery import EndpointSlice
from kubenetlab.api.environment import Secret
from kubenetlab.api.internal import Internal
from kubenetlab.api.json_types import JsonMapping
from kubenetlab.api.meta import Labels, ObjectMeta, Record


class CniAgent(Record, frozen=True):
    """Agent of a CNI plugin: the DaemonSet that runs it, and what depends on it."""

    daemon_set: str
    """Name of the DaemonSet."""
    labels: Labels
    """Labels of its pods."""
    container: str
    """Name of the container that reports the health of the node's pod network."""
    title: str
    """Name of the program in messages, such as `calico/node`."""
    namespace: str = PLUGIN_NAMESPACE
    """Namespace of the DaemonSet."""
    attach_error: str = ""
    """Error of the CNI plugin while no agent runs on the node; empty if it does not need one."""
    knows_all_pods: bool = False
    """True if the agent writes entries about the pods of all nodes."""
    announces_services: bool = False
    """True if the agent can announce addresses of Services by BGP."""
    routes_pods: bool = False
    """True if the agent adds the node's routes to its pods."""
    enforces_policies: bool = False
    """True if the agent, or a container of its pod, writes the rules of network policies."""


class KnownNode(Record, frozen=True):
    """A node as the agent of a CNI plugin last saw it. Tuples have one entry per IP family."""

    node: Node
    """The node, with its addresses, ranges, labels and annotations."""
    ranges: tuple[tuple[str, ...], ...]
    """Ranges from which the CNI plugin assigns addresses on it."""
    tunnels: tuple[Mapping[str, str], ...]
    """Kind of tunnel → address of the node's end."""

    @property
    def name(self) -> str:
        return self.node.name


class StoppedAgent(Internal, frozen=True):
    """State of the cluster last seen by a CNI plugin's agent. Has the name of its node."""

    kind = "StoppedAgent"
    plural = "stoppedagents"
    is_namespaced = False

    metadata: ObjectMeta
    has_run: bool = True
    """False if no agent has ever run on the node, so that the node has no pod network."""
    mode: tuple[str, JsonMapping] = ("", {})
    """Name and options of the CNI mode at that time, as the Cluster document had them."""
    choices: JsonMapping = {}
    """These options with a choice for every `auto`."""
    nodes: tuple[KnownNode, ...] = ()
    """All nodes, in order, when the agent was stopped."""
    pools: tuple[IPPool, ...] = ()
    """IPPools at that time."""
    pods: tuple[str, ...] = ()
    """UIDs of the pods that it knew: those of the node, or of all nodes."""
    bgp: tuple[BGPConfiguration, ...] = ()
    """BGPConfigurations at that time."""
    bgp_peers: tuple[BGPPeer, ...] = ()
    """BGPPeers at that time."""
    secrets: tuple[Secret, ...] = ()
    """Secrets at that time from which it has passwords."""
    bgp_filters: tuple[BGPFilter, ...] = ()
    """BGPFilters at that time."""
    services: tuple[Service, ...] = ()
    """Services at that time, if the agent implements them or announces their addresses."""
    slices: tuple[EndpointSlice, ...] = ()
    """Their EndpointSlices."""
    policies: str = ""
    """Name of the PolicySnapshot of that time; empty if the agent enforced no policy."""
