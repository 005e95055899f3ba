"""Contexts: identity and /etc files of a namespace, for programs, `exec` and `inspect`."""

from __future__ import annotations

from msgspec import Struct

from kubenetlab import names
from kubenetlab.api.lab import Decisions
from kubenetlab.api.pods import Pod
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.kubelet.environment import MissingError, environment
from kubenetlab.datapath import pods
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.pod_view import PodView
from kubenetlab.datapath.pods import PodFiles
from kubenetlab.datapath.view import NodeView, node_views
from kubenetlab.programs.support.http import PodIdentity


class Context(Struct, frozen=True):
    """A namespace in which programs run: a pod, a node, an external host, or the router."""

    netns: str
    namespace: str
    """Empty for all but pods."""
    name: str
    addresses: tuple[str, ...]
    """At most one per family, the primary family first."""
    node: str
    files: PodFiles

    @property
    def versions(self) -> list[int]:
        """IP versions of the addresses, the primary one first."""
        return [6 if ":" in address else 4 for address in self.addresses]

    @property
    def identity(self) -> PodIdentity:
        """The pod, node or host, as programs get it."""
        address = self.addresses[0] if self.addresses else ""
        return PodIdentity(self.namespace, self.name, self.files.hostname, address, self.node)


class Contexts:
    """Contexts of one store, computed on demand."""

    def __init__(self, cluster: Cluster, decisions: Decisions, cache: PlanCache) -> None:
        self.cluster = cluster
        self._nodes = {node.netns: node for node in node_views(cluster, decisions, cache)}
        self._pods: dict[str, tuple[NodeView, PodView]] = {
            pod.netns: (node, pod) for node in self._nodes.values() for pod in node.pods
        }
        self._hosts = {names.external_netns(host.name): host for host in cluster.config.external}

    @property
    def nodes(self) -> list[NodeView]:
        return list(self._nodes.values())

    def pod_of(self, netns: str) -> tuple[NodeView, PodView, Pod] | None:
        node_and_view = self._pods.get(netns)
        pod = (
            self.cluster.get(Pod, node_and_view[1].namespace, node_and_view[1].name)
            if node_and_view
            else None
        )
        return (*node_and_view, pod) if node_and_view and pod else None

    def environment(self, netns: str, container: str = "") -> dict[str, str]:
        """Return the environment variables that a container got when it started.

        container: without a name, the first container of the pod. Empty for other namespaces, and
        for a container that cannot start.
        """
        context = self.pod_of(netns)
        if context is None:
            return {}
        _, _, pod = context
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
        """Return the context of a namespace; None for switches and unknown namespaces."""
        if (context := self.pod_of(netns)) is not None:
            node, view, pod = context
            return Context(
                netns,
                view.namespace,
                view.name,
                view.addresses,
                node.name,
                pods.files(node, view, pod),
            )
        if (own := self._nodes.get(netns)) is not None:
            return Context(netns, "", own.name, own.addresses, own.name, pods.node_files(own))
        if (host := self._hosts.get(netns)) is not None:
            addresses = host.addresses(self.cluster.config.networking.versions)
            return Context(
                netns, "", host.name, addresses, "", pods.host_files(host.name, addresses)
            )
        if netns in names.ROUTERS:
            name = netns.rpartition("/")[2]
            return Context(netns, "", name, (), "", pods.host_files(name, ()))
        return None
