"""Roles of a lab's processes. Init imports this module, so that all of them share its imports."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

from kubenetlab.errors import StoreError
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.kernel.syscalls import enlarge_fd_table
from kubenetlab.lab import rundir
from kubenetlab.lab.agent.agent import Agent
from kubenetlab.lab.apiserver.server import ApiServer, refuse_clients
from kubenetlab.lab.context import LabContext, Role
from kubenetlab.lab.messages.daemons import StartDaemon
from kubenetlab.lab.messages.init import Command, CoreDns
from kubenetlab.lab.nodeagent import node_agent
from kubenetlab.lab.runtime import command, coredns, daemon, worker
from kubenetlab.lab.runtime.container_limits import AppliedLimits
from kubenetlab.programs.command import CommandOptions

SWITCH_INTERVAL_S: Final = 0.0005
"""Interval after which a thread of the agent has to release the interpreter lock, in seconds.

The thread that changes the kernel needs the lock for a moment between two system calls.
"""
GC_THRESHOLDS: Final = (50_000, 20, 20)
"""Thresholds of Python's garbage collector in the agent.

The store and the plan are large and have no cycles: default thresholds cost time and find nothing.
"""
DESCRIPTORS: Final = 16_384
"""Number of descriptors for which the agent has room from the start.

Growing the table later, with two threads, takes about 5 ms each time.
"""


def permanent_roles(context: LabContext) -> Sequence[tuple[str, Role]]:
    """Return the permanent processes of a lab, as (name, role)."""
    return [
        ("agent", _agent),
        *(
            (
                f"node-agent-{number}",
                lambda context, number=number: node_agent.main(context, number),
            )
            for number in range(context.node_agent_count)
        ),
        *(
            (f"worker-{number}", lambda context, number=number: worker.main(context, number))
            for number in range(context.worker_count)
        ),
    ]


def _agent(context: LabContext) -> None:
    """Run the agent and the API server until the process is killed.

    If the store of a former agent cannot be read, answer every request with the reason instead.
    """
    enlarge_fd_table(DESCRIPTORS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)

    async def run() -> None:
        try:
            await Agent(context).run(
                lambda agent, name: ApiServer(agent, context.listeners[name]).run()
            )
        except StoreError as error:
            if context.progress is not None:  # `up` is waiting for the error
                raise
            await refuse_clients(context.listeners[rundir.API_SOCKET], context.lab, error)

    asyncio.run(run())


def container_role(program: Command | CoreDns, limits: AppliedLimits | None) -> Role:
    """Return the role of a container's own process.

    limits: of a container with a real command.
    """
    if isinstance(program, CoreDns):
        return coredns.main
    assert limits is not None
    return partial(command.main, command=program, limits=limits)


def daemon_role(request: StartDaemon) -> Role:
    """Return the role that executes a daemon of a node."""
    return partial(daemon.main, request=request)


def command_role(options: CommandOptions, limits: AppliedLimits | None, beside: ProcessId) -> Role:
    """Return the role of the command of a probe or hook; see `command.main_beside`."""
    return partial(command.main_beside, options=options, limits=limits, beside=beside)
