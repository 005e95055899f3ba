"""Which processes a lab has, and everything they need, imported once before any of them is forked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kubenetlab.lab import command, coredns, node_agent, rundir, worker
from kubenetlab.lab.agent import Agent
from kubenetlab.lab.boot import Boot, Role
from kubenetlab.lab.server import Server


def permanent(boot: Boot) -> Sequence[tuple[str, Role]]:
    """(name, what to run) of the processes that are always there."""
    return [
        ("agent", _agent),
        ("node-agent", node_agent.main),
        *((f"worker-{number}", lambda boot, number=number: worker.main(boot, number)) for number in range(boot.workers)),
    ]


def _agent(boot: Boot) -> None:
    """The agent, and the API before it. Never returns while the lab lives."""

    async def live() -> None:
        await Agent(boot).run(lambda agent: Server(agent, boot.listeners[rundir.API_SOCKET]).run())

    asyncio.run(live())


def in_pod(role: str, arguments: dict[str, Any]) -> Role:
    """What to run for a program that is a process of its own. Raises KeyError for one that is not."""
    mains = {"coredns": coredns.main, "command": command.main}
    return partial(_with_arguments, mains[role], arguments)


def _with_arguments(main: Callable[[Boot, dict[str, Any]], None], arguments: dict[str, Any], boot: Boot) -> None:
    main(boot, arguments)
