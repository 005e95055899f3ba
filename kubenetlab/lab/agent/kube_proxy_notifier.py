"""The agent's word to the kube-proxies: what became of each node's rules, for their logs and their metrics.

A process that has just been started is told of the rules that are in force on its node; the syncs that it missed are told first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from kubenetlab import names
from kubenetlab.api.store import Cluster
from kubenetlab.controllers.kube_proxy import LABELS, NAMESPACE, is_kube_proxy
from kubenetlab.datapath.proxy_views import ProxyView, changes, proxy_view, summary
from kubenetlab.lab.agent.runtime_client import RuntimeClient
from kubenetlab.lab.transport.frames import Message

REMEMBERED = 32
"""So many syncs of a node are kept for a kube-proxy that is not there yet."""


class KubeProxyNotifier:
    """What has been told to whom."""

    def __init__(self, runs: RuntimeClient) -> None:
        self._runs = runs
        self._cluster = Cluster()
        self._news: dict[str, deque[Message]] = {}
        """Node → what its kube-proxy has not been told yet."""
        self._known: dict[str, ProxyView] = {}
        """Node → what its rules in force were made of."""
        self._told: dict[str, tuple[str, int]] = {}
        """Node → (sandbox, attempt) of the run that knows what is in force."""

    def adopt(self, cluster: Cluster) -> None:
        """A new agent: what runs has been told by the former one."""
        self._cluster = cluster
        running = self._running()
        self._known = {node: proxy_view(cluster, node) for node, *_ in running}
        self._told = {node: (netns, attempt) for node, netns, _, attempt in running}

    def plan(self, cluster: Cluster) -> None:
        """From now on rules are made of this."""
        self._cluster = cluster

    def forget(self, namespaces: Iterable[str]) -> None:
        """The processes in these sandboxes are gone, with what they knew."""
        gone = set(namespaces)
        self._told = {node: run for node, run in self._told.items() if run[0] not in gone}

    def synced(self, netns: str, answer: Message) -> None:
        """A transaction of rules in a node's namespace has ended, well or not."""
        node = netns.removeprefix("node/")
        news = self._news.setdefault(node, deque(maxlen=REMEMBERED))
        if "error" in answer:
            news.append({"error": str(answer["error"])})
            return
        view = proxy_view(self._cluster, node)
        news.append(self._in_force(node, answer.get("ms"), changes(self._known.get(node), view)))
        self._known[node] = view

    async def deliver(self) -> None:
        """Tells those that run what they have not heard."""
        for node, netns, container, attempt in self._running():
            news = list(self._news.pop(node, ()))
            if self._told.get(node) != (netns, attempt) and not news:
                news = [self._in_force(node, None, {"service_changes": 0, "endpoint_changes": 0})]
            if news and await self._runs.tell(netns, container, node, news):
                self._told[node] = netns, attempt

    def _in_force(self, node: str, took_ms: float | None, changed: Message) -> Message:
        return {"at": time.time(), "ms": took_ms, **changed, **summary(self._cluster, node)}

    def _running(self) -> list[tuple[str, str, str, int]]:
        """(node, sandbox, container, attempt) of each kube-proxy that runs."""
        pods = [pod for pod in self._cluster.select(NAMESPACE, LABELS) if is_kube_proxy(pod)]
        found = [
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
            for node, netns, container in found
            if (netns, container) in running
        ]
