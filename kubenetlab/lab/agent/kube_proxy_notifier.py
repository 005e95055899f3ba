"""Notifications to kube-proxy pods: the result of each sync of their node's rules.

The program in the pod logs them and serves them as metrics. A program that has just started gets
the syncs that it missed, or the state of the rules in force if there are none.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from kubenetlab import names
from kubenetlab.api.core import Node
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.cluster.kube_proxy import LABELS, NAMESPACE, is_kube_proxy
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.proxy_views import (
    ProxyView,
    changes,
    proxy_stats,
    proxy_views,
    rule_counts,
)
from kubenetlab.lab.agent.clients.node_agent_client import LoadReply
from kubenetlab.lab.agent.clients.runtime_client import RuntimeClient
from kubenetlab.lab.messages.node_agent import RulesLoaded
from kubenetlab.programs.kube_proxy_events import SyncEvent, SyncFailed, SyncSucceeded

MAX_PENDING = 32
"""Maximum number of syncs of a node that are kept for a kube-proxy that does not run yet."""


class KubeProxyNotifier:
    """Pending notifications of each node's kube-proxy."""

    def __init__(self, runs: RuntimeClient, cache: PlanCache) -> None:
        """Create a notifier that reads the views of kube-proxies from the cache of the plan."""
        self._runs = runs
        self._cache = cache
        self._cluster = Cluster()
        self._pending: dict[str, deque[SyncEvent]] = {}
        """Node → syncs that its kube-proxy has not been told of."""
        self._views: dict[str, ProxyView] = {}
        """Node → Services and endpoints from which its rules in force were made."""
        self._notified: dict[str, tuple[str, int]] = {}
        """Node → (sandbox, attempt) of the run that knows the rules in force."""

    def adopt(self, cluster: Cluster) -> None:
        """Assume that a former agent has notified all programs that run."""
        self._cluster = cluster
        running = self._running()
        self._views = {node: self._view(node) for node, *_ in running}
        self._notified = {node: (netns, attempt) for node, netns, _, attempt in running}

    def set_cluster(self, cluster: Cluster) -> None:
        """Set the store from which the next rules are made; drop the state of removed nodes."""
        nodes, known = cluster.by_key(Node), self._cluster.by_key(Node)
        self._cluster = cluster
        if nodes is known:
            return
        for node in (*self._views, *self._pending, *self._notified):
            if ("", node) not in nodes:
                for state in (self._views, self._pending, self._notified):
                    state.pop(node, None)

    def forget(self, namespaces: Iterable[str]) -> None:
        """Drop the runs in these sandboxes: they have ended."""
        ended = set(namespaces)
        self._notified = {node: run for node, run in self._notified.items() if run[0] not in ended}

    def queue_sync(self, netns: str, reply: LoadReply) -> None:
        """Queue the result of a transaction of rules in a node's namespace."""
        node = netns.removeprefix("node/")
        if self._cluster.node(node) is None:
            return  # the last transaction of a removed node
        pending = self._pending.setdefault(node, deque(maxlen=MAX_PENDING))
        if not isinstance(reply, RulesLoaded):
            pending.append(SyncFailed(reply.error))
            return
        view = self._view(node)
        pending.append(self._sync(node, reply.duration_ms, *changes(self._views.get(node), view)))
        self._views[node] = view

    async def deliver(self) -> None:
        """Send pending notifications to the programs that run; keep those that do not arrive."""
        for node, netns, container, attempt in self._running():
            events: list[SyncEvent] = list(self._pending.pop(node, ()))
            pending = events
            if self._notified.get(node) != (netns, attempt) and not pending:
                events = [self._sync(node, None)]
            if not events:
                continue
            if await self._runs.notify(netns, container, node, events):
                self._notified[node] = netns, attempt
            elif pending:
                newer = self._pending.get(node, ())
                self._pending[node] = deque((*pending, *newer), maxlen=MAX_PENDING)

    def _sync(
        self,
        node: str,
        duration_ms: float | None,
        service_changes: int = 0,
        endpoint_changes: int = 0,
    ) -> SyncSucceeded:
        """Return the notification of a successful sync."""
        counts = rule_counts(proxy_stats(self._view(node), self._cache), node)
        return SyncSucceeded(time.time(), duration_ms, counts, service_changes, endpoint_changes)

    def _view(self, node: str) -> ProxyView:
        """Return the view of a node's kube-proxy from which the next rules are made."""
        return proxy_views(self._cluster, self._cache).of(node)

    def _running(self) -> list[tuple[str, str, str, int]]:
        """Return (node, sandbox, container, attempt) of each kube-proxy that runs."""
        pods = [pod for pod in self._cluster.select(NAMESPACE, LABELS) if is_kube_proxy(pod)]
        containers = [
            (
                pod.spec.node_name,
                names.pod_netns(pod.namespace, pod.name, pod.uid),
                pod.spec.containers[0].name,
            )
            for pod in pods
        ]
        running = self._runs.running
        return [
            (node, netns, container, running[netns, container])
            for node, netns, container in containers
            if (netns, container) in running
        ]
