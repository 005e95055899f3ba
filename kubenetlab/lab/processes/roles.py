"""Which processes a lab has, and everything they need, imported once before any of them is forked."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kubenetlab.errors import StoreError
from kubenetlab.kernel.syscalls import have_room_for_descriptors
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.agent import Agent
from kubenetlab.lab.apiserver.server import ApiServer, refuse_clients
from kubenetlab.lab.context import LabContext, Role
from kubenetlab.lab.nodeagent import node_agent
from kubenetlab.lab.runtime import command, coredns, worker

TURN_S = 0.0005
"""How long the agent's two threads keep each other waiting: the one that builds needs Python for a moment between two system calls."""


GARBAGE = 50_000, 20, 20
"""The store and the plan are values that share most of what they hold: to look for cycles in them as often as Python does finds none."""

DESCRIPTORS = 16_384
"""So many can be open before the agent waits for its table of them to grow."""


def permanent(boot: LabContext) -> Sequence[tuple[str, Role]]:
    """(name, what to run) of the processes that are always there."""
    return [
        ("agent", _agent),
        *(
            (f"node-agent-{number}", lambda boot, number=number: node_agent.main(boot, number))
            for number in range(boot.node_agents)
        ),
        *(
            (f"worker-{number}", lambda boot, number=number: worker.main(boot, number))
            for number in range(boot.workers)
        ),
    ]


def _agent(boot: LabContext) -> None:
    """The agent, and the API before it. Never returns while the lab lives."""

    have_room_for_descriptors(DESCRIPTORS)
    sys.setswitchinterval(TURN_S)
    gc.set_threshold(*GARBAGE)

    async def live() -> None:
        try:
            await Agent(boot).run(lambda agent, name: ApiServer(agent, boot.listeners[name]).run())
        except StoreError as error:
            if boot.progress is not None:  # `up` waits for its word
                raise
            await refuse_clients(boot.listeners[rundir.API_SOCKET], boot.lab, error)

    asyncio.run(live())


def in_pod(role: str, arguments: dict[str, Any]) -> Role:
    """What to run for a program that is a process of its own. Raises KeyError for one that is not."""
    mains = {"coredns": coredns.main, "command": command.main}
    return partial(_with_arguments, mains[role], arguments)


def _with_arguments(
    main: Callable[[LabContext, dict[str, Any]], None], arguments: dict[str, Any], boot: LabContext
) -> None:
    main(boot, arguments)
