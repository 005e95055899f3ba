"""Agent of a CNI plugin on one node: its log.

The lab itself writes the state of the node's kernel, and checks the agent's health. The program
logs what the agent has written: peers, routes and sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kubenetlab.api.containers import Container
from kubenetlab.hoststate.programs import ProgramOptions
from kubenetlab.programs import Ports, Setup
from kubenetlab.programs.support.http import ProgramContext

STATE: Final = "state"
"""Option: objects that the agent has written, title by key."""
HEALTH: Final = "health"
"""Option: None before the first check, "" if the agent is healthy, else the problem."""
HEALTHY: Final = "healthy"
"""Option: message of the log when the agent becomes healthy."""


class AgentState:
    """Options that one run of the agent has logged."""

    def __init__(self) -> None:
        self.options: ProgramOptions = {}


def initial_state() -> AgentState:
    return AgentState()


def configure(container: Container, ports: Ports) -> Setup:
    return Setup("cni_agent")


def runs_until_stopped(container: Container) -> bool:
    """Return True: an agent runs until its pod is deleted."""
    return True


def on_options(context: ProgramContext) -> None:
    """Log what the agent adds and removes, and the changes of its health."""
    state = context.memory
    assert isinstance(state, AgentState)
    before, state.options = state.options, context.options
    if not before and STATE in context.options:
        context.log(f"Starting on node {context.node}")
    old: Mapping[str, str] = before.get(STATE, {})
    new: Mapping[str, str] = context.options.get(STATE, {})
    for key in old:
        if key not in new:
            context.log(f"Removed {old[key]}")
    for key, title in new.items():
        if old.get(key) != title:
            context.log(f"{'Changed' if key in old else 'Added'} {title}")
    health = context.options.get(HEALTH)
    if health is not None and health != before.get(HEALTH):
        context.log(health or context.options.get(HEALTHY, "Ready"))
