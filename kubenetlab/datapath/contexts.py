"""Who is in a namespace, and what its processes find in /etc: for programs, for `exec` and for `inspect`."""

from __future__ import annotations

from msgspec import Struct

from kubenetlab import names
from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.environment import MissingError, environment
from kubenetlab.datapath import pods
from kubenetlab.datapath.pods import PodFiles
from kubenetlab.datapath.view import NodeView, PodView, node_views


class Context(Struct, frozen=True):
    """One namespace with people in it: a pod, a node, or an external host."""

    netns: str
    namespace: str
    """Empty for nodes and external hosts."""
    name: str
    addresses: tuple[str, ...]
    """At most one per family, the primary family first."""
    node: str
    files: PodFiles

    @property
    def versions(self) -> list[int]:
        """The IP versions it has, the primary one first."""
        return [6 if ":" in address else 4 for address in self.addresses]

    @property
    def identity(self) -> dict[str, str]:
        """The fields of `programs.http.Me` that say who it is."""
        return {
            "namespace": self.namespace,
            "pod": self.name,
            "hostname": self.files.hostname,
            "address": self.addresses[0],
            "node": self.node,
        }


class Contexts:
    """The contexts of one store, computed when asked for."""

    def __init__(self, cluster: Cluster, decisions: Decisions) -> None:
        self.cluster = cluster
        self._nodes = {node.netns: node for node in node_views(cluster, decisions)}
        self._pods: dict[str, tuple[NodeView, PodView]] = {
            pod.netns: (node, pod) for node in self._nodes.values() for pod in node.pods
        }
        self._hosts = {names.external_netns(host.name): host for host in cluster.config.external}

    @property
    def nodes(self) -> list[NodeView]:
        return list(self._nodes.values())

    def node_of(self, netns: str) -> NodeView | None:
        """The node on which a pod's sandbox is, or the node itself."""
        return self._nodes.get(netns) or (self._pods[netns][0] if netns in self._pods else None)

    def pod_of(self, netns: str) -> tuple[NodeView, PodView, Pod] | None:
        found = self._pods.get(netns)
        pod = self.cluster.get(Pod, found[1].namespace, found[1].name) if found else None
        return (*found, pod) if found and pod else None

    def environment(self, netns: str, container: str = "") -> dict[str, str]:
        """What a container (without a name the pod's first) was told when it started; nothing for other places, and for one that cannot start."""
        found = self.pod_of(netns)
        if found is None:
            return {}
        _, _, pod = found
        chosen = pod.container(container) if container else pod.spec.containers[0]
        status = pod.container_status(chosen.name) if chosen is not None else None
        if chosen is None or status is None:
            return {}
        since = status.state.running.started_at if status.state.running is not None else None
        try:
            return environment(self.cluster, pod, chosen, until=since)
        except MissingError:
            return {}

    def get(self, netns: str) -> Context | None:
        """None for a namespace in which nobody is at home: switches, routers, and what is gone."""
        if (found := self.pod_of(netns)) is not None:
            node, view, pod = found
            return Context(
                netns,
                view.namespace,
                view.name,
                view.addresses,
                node.name,
                pods.files(node, view, pod),
            )
        if (here := self._nodes.get(netns)) is not None:
            return Context(netns, "", here.name, here.addresses, here.name, pods.node_files(here))
        if (host := self._hosts.get(netns)) is not None:
            addresses = host.addresses(self.cluster.config.networking.versions)
            return Context(
                netns, "", host.name, addresses, "", pods.host_files(host.name, addresses)
            )
        return None
