"""Daemons of a namespace and the routes that they have added, as `inspect` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kubenetlab.hoststate.state import Contents
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.routes import routes_to
from kubenetlab.lab.agent.clients.daemon_client import daemons_of

if TYPE_CHECKING:
    from kubenetlab.lab.agent.agent import Agent

_OF_DAEMON: Final = " of daemon "


async def running_daemons(
    agent: Agent, netns: str, desired: Contents, sandbox: ProcessId
) -> Sequence[str]:
    """Return a line for each running daemon and for each of its routes."""
    if not daemons_of(desired):
        return ()
    await agent.daemons.refresh()
    lines: list[str] = []
    async with agent.kernel_lock:
        for daemon in agent.daemons.observed(netns, desired, sandbox, are_running=True):
            lines.append(str(daemon))
            try:
                routes = routes_to(
                    agent.sandboxes, netns, daemon.provides, agent.kernel.indexes(netns)
                )
            except (KeyError, FileNotFoundError, ProcessLookupError):
                break  # the sandbox is gone
            lines += [f"{route}{_OF_DAEMON}{daemon.name}" for route in routes]
    return lines


def without_routes(foreign: Sequence[str], listed: Sequence[str]) -> list[str]:
    """Return descriptions of objects that other programs have made, without routes of daemons.

    listed: lines of `running_daemons`.
    """
    routes = {line.partition(_OF_DAEMON)[0] for line in listed if _OF_DAEMON in line}
    return [line for line in foreign if line not in routes]
