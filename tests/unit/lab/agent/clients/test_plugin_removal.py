"""Detachment of pods by CNI plugins: removed and lost sandboxes, and garbage."""

from __future__ import annotations

import pytest

from kubenetlab.datapath.attachments import AttachmentPlan
from kubenetlab.hoststate.diff import Changes
from kubenetlab.kernel.namespaces.sandboxes import Pause
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients import plugin_client
from kubenetlab.lab.agent.clients.plugin_client import PluginClient
from kubenetlab.lab.messages.node_agent import (
    CollectGarbage,
    PluginsFailed,
)
from tests.unit.lab.agent.clients.test_plugin_client import (
    NODE,
    OTHER,
    PAUSES,
    POD,
    POD_ID,
    Fixture,
    plan,
    removal,
    run,
)


def test_a_sandbox_is_removed_after_its_plugins() -> None:
    """The removal waits for DEL; other changes do not."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        changes = removal(POD, OTHER)
        assert client.detach_first(changes, PAUSES) == removal(OTHER)
        assert client.detach_first(changes, PAUSES) == removal(OTHER)
        await fixture.settle()
        assert fixture.called == ["AttachPod", "DetachPod"]
        assert fixture.events[-1] == ("detached",)
        assert client.detach_first(changes, PAUSES) is changes

    run(test)


def test_a_sandbox_is_not_removed_while_its_plugins_work() -> None:
    """ADD ends first, then DEL undoes it."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        fixture.gate.clear()
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        client.attach(plan(), PAUSES)
        assert client.detach_first(removal(POD), PAUSES) == Changes(())
        fixture.gate.set()
        await fixture.settle()
        assert client.detach_first(removal(POD), PAUSES) == Changes(())
        await fixture.settle()
        assert fixture.called == ["AttachPod", "DetachPod"]
        assert client.detach_first(removal(POD), PAUSES) == removal(POD)

    run(test)


def test_a_failed_pod_is_removed_at_once() -> None:
    """A failed ADD has been undone."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        fixture.answers = [PluginsFailed("no bridge")]
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        client.attach(plan(), PAUSES)
        assert client.detach_first(removal(POD), PAUSES) == removal(POD)
        assert fixture.called == ["AttachPod"]

    run(test)


def test_a_restarted_node_has_lost_its_pods() -> None:
    """Their sandboxes end; also if ADD has ended after the restart."""
    restarted = {**PAUSES, NODE: Pause(ProcessId(9, 9))}

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        client.attach(plan(POD, attached=POD_ID), PAUSES)
        assert ("orphaned", POD) not in fixture.events
        client.attach(plan(POD, attached=POD_ID), restarted)
        assert fixture.events[-1] == ("orphaned", POD)
        await fixture.settle()
        assert fixture.called == ["AttachPod"]

    run(test)


def test_pods_go_with_their_node() -> None:
    """Nothing of the plugins outlives the node's namespace."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        changes = removal(POD, NODE)
        assert client.detach_first(changes, PAUSES) is changes
        assert fixture.called == ["AttachPod"]

    run(test)


def test_a_failed_del_leaves_garbage() -> None:
    """The sandbox is removed nevertheless, and the garbage is collected."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        fixture.answers = [PluginsFailed("busy")]
        client.detach_first(removal(POD), PAUSES)
        await fixture.settle()
        assert client.detach_first(removal(POD), PAUSES) == removal(POD)
        client.attach(plan(), {NODE: PAUSES[NODE]})
        await fixture.settle()
        assert fixture.called == ["AttachPod", "DetachPod", "CollectGarbage"]
        (collection,) = (each for each in fixture.requests if isinstance(each, CollectGarbage))
        assert collection.valid == ()

    run(test)


def test_a_failed_collection_is_repeated_in_a_lab_without_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else would begin a pass of the agent."""
    monkeypatch.setattr(plugin_client, "MAX_RETRY_S", 0.0)

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        fixture.answers = [PluginsFailed("busy"), PluginsFailed("still busy")]
        client.detach_first(removal(POD), PAUSES)
        await fixture.settle()
        client.attach(plan(), {NODE: PAUSES[NODE]})
        await fixture.settle()
        assert fixture.events[-1] == ("due",)
        client.attach(plan(), {NODE: PAUSES[NODE]})
        await fixture.settle()
        assert fixture.called[1:] == ["DetachPod", "CollectGarbage", "CollectGarbage"]

    run(test)


def test_a_lost_sandbox_is_garbage_and_its_successor_waits_for_the_collection() -> None:
    """Otherwise the collection might take the new attachment for garbage."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        client.detach_first(Changes(()), {NODE: PAUSES[NODE]})
        fixture.gate.clear()
        client.attach(plan(), {NODE: PAUSES[NODE]})
        await fixture.settle()
        assert fixture.called == ["AttachPod", "CollectGarbage"]
        client.attach(plan(POD), {**PAUSES, POD: Pause(ProcessId(9, 9))})
        await fixture.settle()
        assert fixture.called == ["AttachPod", "CollectGarbage"]
        fixture.gate.set()
        await fixture.settle()
        assert fixture.called == ["AttachPod", "CollectGarbage", "AttachPod"]

    run(test)


def test_a_node_restarts_when_its_plugins_are_replaced() -> None:
    """After the last of its pods has been detached, with the plugins that have attached it."""

    async def test(fixture: Fixture, client: PluginClient) -> None:
        client.attach(plan(POD), PAUSES)
        await fixture.settle()
        client.attach(AttachmentPlan(), PAUSES)
        assert ("left", NODE) not in fixture.events
        client.detach_first(removal(POD), PAUSES)
        client.attach(AttachmentPlan(), PAUSES)
        assert ("left", NODE) not in fixture.events
        await fixture.settle()
        client.attach(AttachmentPlan(), PAUSES)
        client.attach(AttachmentPlan(), PAUSES)
        assert fixture.events.count(("left", NODE)) == 1
        assert fixture.called == ["AttachPod", "DetachPod"]

    run(test)
