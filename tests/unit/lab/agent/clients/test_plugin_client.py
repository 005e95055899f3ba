"""Attachment of pods by CNI plugins: the calls of the agent, and their results."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from msgspec import structs

from kubenetlab.cni.calls import AttachedPod, NodePlugins
from kubenetlab.cni.capabilities import PodSandbox
from kubenetlab.datapath.attachments import AttachmentPlan, PodAttachment
from kubenetlab.hoststate.diff import Changes, NetnsChanges, Operation
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients import network_status
from kubenetlab.lab.agent.clients.plugin_client import AttachmentReport, PluginClient, sandbox_id
from kubenetlab.lab.messages.node_agent import (
    AskStatus,
    AttachPod,
    CheckPod,
    CollectGarbage,
    DetachPod,
    PluginsFailed,
    PodAttached,
)
from kubenetlab.lab.transport.protocol import Done, RequestFailed
from tests.patience import patiently

NODE, POD, OTHER = "node/a", "pod/default/web/1", "pod/default/web/2"
PLUGINS = NodePlugins({"name": "net"}, ("/opt/cni/bin",), 30)
PAUSES = {
    NODE: Pause(ProcessId(1, 1)),
    POD: Pause(ProcessId(2, 1)),
    OTHER: Pause(ProcessId(3, 1)),
}
POD_ID = sandbox_id("uid", ProcessId(2, 1), ProcessId(1, 1))
RESULT = AttachedPod(("10.1.0.5",), "veth7")
Request = AttachPod | DetachPod | CheckPod | CollectGarbage | AskStatus
Answer = PodAttached | PluginsFailed | RequestFailed | Done


def plan(*pods: str, attached: str = "") -> AttachmentPlan:
    sandbox = PodSandbox("", "", "default", "web", "uid")
    return AttachmentPlan(
        {NODE: PLUGINS}, {netns: PodAttachment(NODE, sandbox, attached) for netns in pods}
    )


def removal(*namespaces: str) -> Changes:
    return Changes(
        tuple(
            NetnsChanges(netns, (Operation("remove", Sandbox(netns, "x")),)) for netns in namespaces
        )
    )


class Fixture:
    """A client, a node agent with prepared answers, and what the client has reported."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        self.events: list[tuple[str, ...]] = []
        self.batches: list[int] = []
        """Number of results in each report."""
        self.hangs: set[str] = set()
        """Namespaces of pods for which ADD never ends."""
        self.gate = asyncio.Event()
        self.gate.set()

    async def call(self, request: Request) -> Answer:
        self.requests.append(request)
        await self.gate.wait()
        if isinstance(request, AttachPod) and request.pause in {
            PAUSES[netns].id for netns in self.hangs
        }:
            await asyncio.Event().wait()
        if self.answers:
            return self.answers.pop(0)
        return PodAttached(RESULT) if isinstance(request, AttachPod) else Done()

    def attachments_reported(self, reports: Sequence[AttachmentReport]) -> None:
        self.batches.append(len(reports))
        for report in reports:
            if isinstance(report.result, str):
                self.events.append(("failed", report.netns, report.result))
            else:
                addresses = report.result.addresses
                self.events.append(("attached", report.netns, report.sandbox_id, *addresses))

    def pod_detached(self) -> None:
        self.events.append(("detached",))

    def collection_due(self) -> None:
        self.events.append(("due",))

    def sandbox_orphaned(self, netns: str) -> None:
        self.events.append(("orphaned", netns))

    def node_left(self, netns: str) -> None:
        self.events.append(("left", netns))

    def network_status_changed(self, netns: str, error: str) -> None:
        self.events.append(("status", netns, error))

    @property
    def called(self) -> list[str]:
        return [type(request).__name__ for request in self.requests]

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


class Connections:
    """One node agent for all nodes."""

    def __init__(self, fixture: Fixture) -> None:
        self.fixture = fixture

    def client(self, node_netns: str) -> Fixture:
        return self.fixture


def run(test: Callable[[Fixture, PluginClient], Awaitable[None]]) -> None:
    async def body() -> None:
        fixture = Fixture()
        client = PluginClient(cast(Any, Connections(fixture)), fixture)
        await test(fixture, client)

    asyncio.run(body())


def test_a_new_sandbox_is_attached_once() -> None:
    """Later passes ask for nothing, also after the result is in the store."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        assert fixture.events == [("attached", POD, POD_ID, "10.1.0.5")]
        client.attach(plan(POD, attached=POD_ID), PAUSES)
        await fixture.settle()
        (request,) = fixture.requests
        assert isinstance(request, AttachPod)
        assert request.sandbox.container_id == POD_ID
        assert request.sandbox.netns == "/proc/2/ns/net"
        assert not request.is_retry

    run(test)


def test_results_are_reported_together() -> None:
    """A report causes a reconcile pass, so results wait for other calls that are under way."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD, OTHER), PAUSES)
        await fixture.settle()
        assert fixture.batches == [2]

    run(test)


def test_a_result_does_not_wait_long_for_other_calls() -> None:
    """One plugin may hang until its time limit."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        await asyncio.sleep(0)
        fixture.hangs.add(OTHER)
        client.attach(plan(POD, OTHER), PAUSES)
        async with asyncio.timeout(patiently(5)):
            while not fixture.events:
                await asyncio.sleep(0.001)
        assert fixture.events == [("attached", POD, POD_ID, "10.1.0.5")]
        client.attach(plan(POD), {NODE: PAUSES[NODE], POD: PAUSES[POD]})

    run(test)


def test_the_result_of_a_lost_sandbox_is_dropped() -> None:
    """Its successor has the same namespace name, but needs an ADD of its own."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        fixture.gate.clear()
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        client.detach_first(Changes(()), {NODE: PAUSES[NODE]})
        fixture.gate.set()
        await fixture.settle()
        assert fixture.events == []

    run(test)


def test_a_sandbox_without_a_process_waits() -> None:
    """Neither the pod nor its node may be missing."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), {NODE: PAUSES[NODE]})
        client.attach(plan(POD), {POD: PAUSES[POD]})
        await fixture.settle()
        assert fixture.requests == []

    run(test)


def test_a_new_agent_asks_again_only_for_what_is_not_stored() -> None:
    """It lets the plugins clean up before, and collects garbage of its predecessor."""
    adopted = {
        netns: Pause(pause.id, is_adopted=True) for netns, pause in PAUSES.items() if netns != OTHER
    }

    async def stored(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD, attached=POD_ID), adopted)
        await fixture.settle()
        assert fixture.called == ["CollectGarbage"]
        assert isinstance(fixture.requests[0], CollectGarbage)
        assert fixture.requests[0].valid == (POD_ID,)
        client.attach(plan(POD, attached=POD_ID), adopted)
        await fixture.settle()
        assert fixture.called == ["CollectGarbage"]

    async def unknown(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), adopted)
        await fixture.settle()
        assert sorted(fixture.called) == ["AttachPod", "CollectGarbage"]
        assert [each.is_retry for each in fixture.requests if isinstance(each, AttachPod)] == [True]

    run(stored)
    run(unknown)


def test_a_failed_call_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a growing delay, until it succeeds; each failure is reported."""
    delays: list[float] = []
    sleep = asyncio.sleep

    async def no_sleep(delay: float) -> None:
        if delay:
            delays.append(delay)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", no_sleep)

    async def test(fixture: Fixture, client: PluginClient) -> None:
        fixture.answers = [PluginsFailed("no bridge"), RequestFailed("died"), PodAttached(RESULT)]
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        await fixture.settle()
        assert [event[0] for event in fixture.events] == ["failed", "failed", "attached"]
        assert fixture.events[0] == ("failed", POD, "no bridge")
        assert fixture.events[1] == ("failed", POD, "died")
        retries = [each.is_retry for each in fixture.requests if isinstance(each, AttachPod)]
        assert retries == [False, True, True]

    run(test)
    assert delays == [0.5, 1.0]


STATUS_LIST = {"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "own"}]}


def test_no_pod_is_attached_before_the_plugins_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """STATUS is repeated while it fails; a pod that waits can be removed at once."""
    monkeypatch.setattr(network_status, "FAILING_PERIOD_S", 0)

    async def test(fixture: Fixture, client: PluginClient) -> None:
        plugins = NodePlugins(STATUS_LIST, ("/opt/cni/bin",), 30)
        desired = structs.replace(plan(POD, OTHER), nodes={NODE: plugins})
        fixture.answers = [PluginsFailed("no agent"), PluginsFailed("no agent")]
        fixture.gate.clear()
        client.attach(desired, PAUSES)
        await fixture.settle()
        assert fixture.called == ["AskStatus"]
        removed = structs.replace(plan(POD), nodes={NODE: plugins})
        client.attach(removed, PAUSES)
        assert client.detach_first(removal(OTHER), PAUSES) == removal(OTHER)
        fixture.gate.set()
        await fixture.settle()
        assert fixture.called == ["AskStatus"] * 3 + ["AttachPod"]
        statuses = [event for event in fixture.events if event[0] == "status"]
        assert statuses == [("status", NODE, "no agent"), ("status", NODE, "")]

    run(test)


def test_the_status_of_a_restarted_node_is_asked_anew() -> None:
    """A node that has gone is not asked any more."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        plugins = NodePlugins(STATUS_LIST, ("/opt/cni/bin",), 30)
        client.attach(AttachmentPlan({NODE: plugins}, {}), PAUSES)
        await fixture.settle()
        restarted = {**PAUSES, NODE: Pause(ProcessId(9, 9))}
        client.attach(AttachmentPlan({NODE: plugins}, {}), restarted)
        await fixture.settle()
        client.attach(AttachmentPlan({NODE: plugins}, {}), {})
        await fixture.settle()
        assert [each.node.pause.pid for each in fixture.requests] == [1, 9]
        assert fixture.events == [("status", NODE, ""), ("status", NODE, "")]

    run(test)


def test_attached_sandboxes_are_checked() -> None:
    """A failed CHECK is reported with the plugin's message; other sandboxes are not checked."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        fixture.answers = [PodAttached(RESULT), PluginsFailed("no bridge")]
        client.attach(plan(POD, OTHER), PAUSES)
        await fixture.settle()
        assert await client.failed_checks() == {}
        assert fixture.called == ["AttachPod", "AttachPod", "CheckPod"]
        fixture.answers = [PluginsFailed("link is gone")]
        assert await client.failed_checks() == {POD: "link is gone"}

    run(test)


def test_a_lab_without_plugins_does_nothing() -> None:
    """The plan of most CNI modes is empty."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(AttachmentPlan(), PAUSES)
        changes = removal(POD)
        assert client.detach_first(changes, PAUSES) is changes
        await fixture.settle()
        assert fixture.requests == []

    run(test)
