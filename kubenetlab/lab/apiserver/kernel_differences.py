"""Differences between the desired state and the kernel, as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cni.capabilities import POD_INTERFACE
from kubenetlab.datapath import faults, plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.hoststate.daemons import Daemon
from kubenetlab.hoststate.diff import Changes, diff
from kubenetlab.hoststate.object import KERNEL_APPLIERS, Key, Object
from kubenetlab.hoststate.rules.listing import Difference
from kubenetlab.hoststate.state import Contents, HostState, contents_of
from kubenetlab.lab.agent.builder import rules_of

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent


async def kernel_differences(agent: Agent) -> list[JsonObject]:
    """Compare the kernel with the desired state of the lab without faults and stopped agents.

    The kernel is read anew, and CNI plugins check the pods that they have attached. Return one
    entry for each namespace that differs.
    """
    async with agent.kernel_lock:
        healthy = _healthy(agent)
        desired = HostState(
            {netns: _compared_objects(contents) for netns, contents in healthy.namespaces.items()},
            healthy.origins,
        )
        if any(isinstance(obj, Daemon) for obj in desired.objects()):
            await agent.daemons.refresh()
        observed = HostState(
            {
                netns: contents_of(
                    (
                        *contents.values(),
                        *agent.daemons.observed(
                            netns, desired[netns], agent.sandboxes.id(netns), are_running=True
                        ),
                    )
                )
                for netns, contents in agent.kernel.observe(healthy.namespaces).items()
            }
        )
        differences = {
            entry.netns: [operation.difference() for operation in entry.details()]
            for entry in diff(observed, desired).namespaces
        }
        for netns in desired.namespaces:
            for daemon, missing in agent.provided_routes.missing(netns, healthy).items():
                differences.setdefault(netns, []).extend(
                    _missing_route(daemon, destination) for destination in missing
                )
        rules = {
            netns: rules_of(contents.values()) for netns, contents in healthy.namespaces.items()
        }
        nodes = {netns: pause.id for netns, pause in agent.sandboxes.pauses.items()}
        for netns, of_rules in (await agent.rules.differences(rules, nodes)).items():
            differences.setdefault(netns, []).extend(of_rules)
    # After the lock is released: plugins may take as long as their time limit.
    for netns, message in (await agent.plugins.failed_checks()).items():
        differences.setdefault(netns, []).append(_failed_check(message))
    return [render_differences(netns, entries) for netns, entries in differences.items() if entries]


async def rule_differences(agent: Agent, netns: str) -> list[JsonObject]:
    """Compare the rules of one namespace only, with those of the lab without faults."""
    process = agent.sandboxes.id(netns)
    if process is None:
        return []
    async with agent.kernel_lock:
        rules = rules_of(_healthy(agent)[netns].values())
        found = await agent.rules.differences({netns: rules}, {netns: process})
    return [render_differences(netns, entries) for entries in found.values() if entries]


def _healthy(agent: Agent) -> HostState:
    """Return the desired state without faults and stopped agents."""
    if any(agent.cluster.by_key(kind) for kind in faults.HEALED):
        return plan(faults.healed(agent.cluster), agent.decisions, PlanCache())
    return agent.desired_state.state_for(agent.cluster)


def render_differences(netns: str, differences: Sequence[Difference]) -> JsonObject:
    """Return the differences of one namespace: as lines of text, and with their fields."""
    return {
        "netns": netns,
        "operations": [difference.line for difference in differences],
        "differences": differences,
    }


def render_changes(changes: Changes) -> list[JsonObject]:
    """Return planned changes: one entry for each namespace, one line for each operation."""
    return [
        {"netns": entry.netns, "operations": [str(operation) for operation in entry.details()]}
        for entry in changes.namespaces
    ]


def _compared_objects(contents: Contents) -> dict[Key, Object]:
    return {
        key: obj
        for key, obj in contents.items()
        if obj.applier in KERNEL_APPLIERS or isinstance(obj, Daemon)
    }


def _failed_check(message: str) -> Difference:
    text = f"attachment {POD_INTERFACE} by CNI plugins"
    return Difference(f"~ {text}    (CHECK: {message})", "change", text, text, message)


def _missing_route(daemon: str, destination: str) -> Difference:
    text = f"route {destination} of daemon {daemon}"
    return Difference(f"+ {text}", "add", text, text, None)
