"""Notifications of syncs to the kube-proxy pods."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from kubenetlab import names
from kubenetlab.api.core import Node
from kubenetlab.api.store import Cluster, deletion
from kubenetlab.controllers.cluster.kube_proxy import LABELS, NAMESPACE
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.lab.agent.kube_proxy_notifier import MAX_PENDING, KubeProxyNotifier
from kubenetlab.lab.messages.node_agent import RulesLoaded, RulesRefused
from kubenetlab.lab.transport.protocol import RequestFailed
from kubenetlab.programs.kube_proxy_events import SyncEvent, SyncFailed, SyncSucceeded
from tests.clusters import deployment, running, service, store

NODE = "worker"
NETNS = f"node/{NODE}"


class FakeRuntime:
    """A runtime client in which one kube-proxy runs, as far as `is_running`, and gets messages."""

    def __init__(self, cluster: Cluster) -> None:
        (pod,) = (pod for pod in cluster.select(NAMESPACE, LABELS) if pod.spec.node_name == NODE)
        self.key = names.pod_netns(pod.namespace, pod.name, pod.uid), pod.spec.containers[0].name
        self.running: dict[tuple[str, str], int] = {}
        self.is_reachable = True
        self.received: list[SyncEvent] = []

    async def notify(self, netns: str, container: str, node: str, events: list[SyncEvent]) -> bool:
        assert (netns, container, node) == (*self.key, NODE)
        if self.is_reachable:
            self.received += events
        return self.is_reachable


def create() -> tuple[KubeProxyNotifier, FakeRuntime]:
    """Return a notifier for a lab with one Service, and the runtime that it notifies."""
    cluster = running(store(deployment("web", 2) + service()))
    runtime = FakeRuntime(cluster)
    notifier = KubeProxyNotifier(cast(Any, runtime), PlanCache())
    notifier.set_cluster(cluster)
    return notifier, runtime


def test_a_program_that_starts_gets_the_syncs_that_it_missed() -> None:
    """They come in order; a failed one is an error."""
    notifier, runtime = create()
    notifier.queue_sync(NETNS, RulesLoaded(7, 3.0))
    notifier.queue_sync(NETNS, RulesRefused("no such chain", "nftables"))
    asyncio.run(notifier.deliver())
    assert runtime.received == []
    runtime.running[runtime.key] = 0
    asyncio.run(notifier.deliver())
    first, second = runtime.received
    assert isinstance(first, SyncSucceeded)
    assert (first.duration_ms, second) == (3.0, SyncFailed("no such chain"))
    assert first.service_changes > 0
    asyncio.run(notifier.deliver())
    assert len(runtime.received) == 2


def test_a_program_that_missed_nothing_gets_the_rules_in_force() -> None:
    """Each new run is notified once; a run that a former agent has notified is not."""
    notifier, runtime = create()
    runtime.running[runtime.key] = 0
    asyncio.run(notifier.deliver())
    asyncio.run(notifier.deliver())
    (sync,) = runtime.received
    assert isinstance(sync, SyncSucceeded)
    assert (sync.duration_ms, sync.service_changes, sync.endpoint_changes) == (None, 0, 0)
    runtime.running[runtime.key] = 1
    notifier.adopt(notifier._cluster)
    asyncio.run(notifier.deliver())
    assert len(runtime.received) == 1
    notifier.forget([runtime.key[0]])
    asyncio.run(notifier.deliver())
    assert len(runtime.received) == 2


def test_a_sync_that_could_not_be_delivered_is_delivered_later() -> None:
    """The app worker of the program may die while the notification is on its way."""
    notifier, runtime = create()
    runtime.running[runtime.key] = 0
    runtime.is_reachable = False
    notifier.queue_sync(NETNS, RequestFailed("first"))
    asyncio.run(notifier.deliver())
    notifier.queue_sync(NETNS, RequestFailed("second"))
    runtime.is_reachable = True
    asyncio.run(notifier.deliver())
    assert runtime.received == [SyncFailed("first"), SyncFailed("second")]


def test_the_latest_syncs_are_kept() -> None:
    """A kube-proxy that does not run for long gets no more than MAX_PENDING of them."""
    notifier, runtime = create()
    for number in range(MAX_PENDING + 5):
        notifier.queue_sync(NETNS, RequestFailed(str(number)))
    runtime.running[runtime.key] = 0
    asyncio.run(notifier.deliver())
    assert runtime.received == [SyncFailed(str(number)) for number in range(5, MAX_PENDING + 5)]


def test_a_removed_node_leaves_nothing_behind() -> None:
    """Its view, pending syncs and run are dropped; a late sync of its rules is ignored."""
    notifier, runtime = create()
    runtime.running[runtime.key] = 0
    notifier.queue_sync(NETNS, RulesLoaded(7, 3.0))
    asyncio.run(notifier.deliver())
    notifier.queue_sync(NETNS, RulesRefused("no such chain", "nftables"))
    notifier.queue_sync("node/worker2", RulesLoaded(7, 3.0))
    node = notifier._cluster.get(Node, "", NODE)
    assert node is not None
    notifier.set_cluster(notifier._cluster.with_changes([deletion(node)]))
    assert (set(notifier._views), set(notifier._pending)) == ({"worker2"}, {"worker2"})
    assert notifier._notified == {}
    notifier.queue_sync(NETNS, RulesLoaded(7, 3.0))
    assert NODE not in {*notifier._views, *notifier._pending}
