"""Probes that the agent sends to node agents, and their first results."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

from msgspec import structs

from kubenetlab.api.lab import ProbeReport
from kubenetlab.datapath.probes import ProbeSpec
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients.probe_client import ProbeClient
from kubenetlab.lab.messages.node_agent import ProbeResult, ReplaceProbes
from kubenetlab.lab.transport.protocol import Done, RequestFailed
from tests.patience import patiently

NODE, OTHER_NODE = "node/a", "node/b"
NODES = {NODE: ProcessId(1, 1), OTHER_NODE: ProcessId(2, 1)}
POD, OTHER_POD = "pod/default/web/1", "pod/default/web/2"


def spec(netns: str, *, node: str = NODE, delay_s: float = 0.0) -> ProbeSpec:
    """Return the readiness probe of a pod."""
    return ProbeSpec(
        netns, "main", 0, "readiness", node, "10.0.0.1", "tcp", port=80, delay_s=delay_s
    )


def result(netns: str) -> ProbeResult:
    """Return a result of that probe."""
    return ProbeResult(netns, "main", ProbeReport(0, "readiness", True))


class FakeNodeAgent:
    """A connection to a node agent that records requests and answers them with `reply`."""

    def __init__(self) -> None:
        self.requests: list[tuple[list[str], list[str]]] = []
        """(sandboxes, sandbox of each probe) of each request."""
        self.reply: Done | RequestFailed = Done()
        self.client: ProbeClient | None = None
        """Client to reset before the answer, as if the node agent was replaced."""

    async def call(self, request: ReplaceProbes) -> Done | RequestFailed:
        self.requests.append((sorted(request.sandboxes), [probe.netns for probe in request.probes]))
        if self.client is not None:
            self.client.reset()
        return self.reply


class FakeConnections:
    """One node agent for each of two nodes."""

    def __init__(self) -> None:
        self.by_node = {NODE: FakeNodeAgent(), OTHER_NODE: FakeNodeAgent()}

    def __iter__(self) -> Any:
        return iter(self.by_node.values())

    def client(self, node_netns: str) -> FakeNodeAgent:
        return self.by_node[node_netns]


def create() -> tuple[ProbeClient, FakeConnections, list[ProbeResult]]:
    """Return a client, its connections, and the list of results that it passes on."""
    connections, results = FakeConnections(), list[ProbeResult]()
    return ProbeClient(cast(Any, connections), results.extend), connections, results


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario within a time limit."""
    asyncio.run(asyncio.wait_for(scenario, patiently(10)))


def test_only_changed_probes_are_sent() -> None:
    """Probes that a node agent has accepted are not sent again, and removed ones are taken back."""

    async def scenario() -> None:
        client, connections, _ = create()
        first = connections.by_node[NODE]
        assert await client.replace({POD: (spec(POD),)}, NODES)
        assert await client.replace({POD: (spec(POD),)}, NODES)
        assert await client.replace({POD: (spec(POD),), OTHER_POD: (spec(OTHER_POD),)}, NODES)
        assert await client.replace({OTHER_POD: (spec(OTHER_POD),)}, NODES)
        assert first.requests == [([POD], [POD]), ([OTHER_POD], [OTHER_POD]), ([POD], [])]
        assert connections.by_node[OTHER_NODE].requests == []

    run(scenario())


def test_a_probe_that_moves_to_another_node_is_taken_from_the_former_one() -> None:
    """Both node agents get a request, one of them without the probe."""

    async def scenario() -> None:
        client, connections, _ = create()
        await client.replace({POD: (spec(POD),)}, NODES)
        await client.replace({POD: (spec(POD, node=OTHER_NODE),)}, NODES)
        assert connections.by_node[NODE].requests[1:] == [([POD], [])]
        assert connections.by_node[OTHER_NODE].requests == [([POD], [POD])]

    run(scenario())


def test_a_probe_that_is_taken_back_is_sent_again() -> None:
    """The other probes of its sandbox continue."""

    async def scenario() -> None:
        client, connections, _ = create()
        both = (spec(POD), structs.replace(spec(POD), kind="liveness"))
        assert await client.replace({POD: both}, NODES)
        await client.take_back({spec(POD).key, spec(OTHER_POD).key}, NODES)
        assert await client.replace({POD: both}, NODES)
        requests = connections.by_node[NODE].requests
        assert requests == [([POD], [POD, POD]), ([POD], [POD]), ([POD], [POD, POD])]

    run(scenario())


def test_refused_probes_are_sent_again() -> None:
    """They count as accepted only when the node agent has answered without an error."""

    async def scenario() -> None:
        client, connections, _ = create()
        node_agent = connections.by_node[NODE]
        node_agent.reply = RequestFailed("the node agent 0 died")
        assert not await client.replace({POD: (spec(POD),)}, NODES)
        node_agent.reply = Done()
        assert await client.replace({POD: (spec(POD),)}, NODES)
        assert node_agent.requests == [([POD], [POD])] * 2

    run(scenario())


def test_a_node_agent_that_was_replaced_during_the_request_gets_it_again() -> None:
    """Its predecessor may have given the answer."""

    async def scenario() -> None:
        client, connections, _ = create()
        node_agent = connections.by_node[NODE]
        node_agent.client = client
        assert not await client.update({POD: (spec(POD),)}, NODES)
        node_agent.client = None
        assert await client.replace({POD: (spec(POD),)}, NODES)
        assert node_agent.requests == [([POD], [POD])] * 2

    run(scenario())


def test_first_results_are_waited_for() -> None:
    """The wait ends with the result of the last new probe, and results are passed on."""

    async def scenario() -> None:
        client, _, results = create()
        probes = {netns: (spec(netns),) for netns in (POD, OTHER_POD)}
        await client.replace(probes, NODES)
        waiting = asyncio.create_task(client.wait_for_first_results(patiently(60)))
        client.record_results([result(POD)])
        await asyncio.sleep(0)
        assert not waiting.done()
        client.record_results([result(OTHER_POD)])
        await waiting
        assert results == [result(POD), result(OTHER_POD)]
        await client.wait_for_first_results(patiently(60))

    run(scenario())


def test_delayed_and_known_probes_are_not_waited_for() -> None:
    """Neither a probe with a delay nor one whose result is known holds up the agent."""

    async def scenario() -> None:
        client, _, _ = create()
        await client.replace({POD: (spec(POD, delay_s=5.0),)}, NODES)
        await client.wait_for_first_results(patiently(60))
        await client.replace({POD: (spec(POD),)}, NODES)
        client.record_results([result(POD)])
        delayed = structs.replace(spec(OTHER_POD, delay_s=5.0), port=81)
        await client.replace({POD: (spec(POD),), OTHER_POD: (delayed,)}, NODES)
        await client.wait_for_first_results(patiently(60))

    run(scenario())


def test_the_wait_for_first_results_ends_after_its_time() -> None:
    """A probe that does not answer holds up only one pass."""

    async def scenario() -> None:
        client, _, _ = create()
        await client.replace({POD: (spec(POD),)}, NODES)
        await client.wait_for_first_results(0.0)
        await client.wait_for_first_results(patiently(60))

    run(scenario())
