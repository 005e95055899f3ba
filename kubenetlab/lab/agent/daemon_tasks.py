"""Tasks for the daemons of one namespace that follow from changes of daemons and their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from kubenetlab.datapath.pods import PodFiles
from kubenetlab.hoststate.daemons import Daemon
from kubenetlab.hoststate.diff import Operation
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.state import Contents
from kubenetlab.kernel.processes.identity import ProcessId
from kubenetlab.lab.agent.clients.daemon_client import DaemonClient, daemons_of


class DaemonTask(NamedTuple):
    """One thing to do about a daemon."""

    action: Literal["start", "reload", "stop"]
    """start: also in place of a running one."""
    daemon: Daemon


def daemon_tasks(operations: Sequence[Operation], desired: Contents) -> Iterator[DaemonTask]:
    """Yield what the operations in a namespace mean for its daemons.

    A daemon is reloaded if one of its files was written, even with the content that it should have:
    another program may have changed the file before, and told the daemon.

    desired: all objects of the namespace.
    """
    changed: set[str] = set()
    for operation in operations:
        obj, before = operation.object, operation.before
        if not isinstance(obj, Daemon):
            continue
        changed.add(obj.name)
        if operation.verb == "remove":
            yield DaemonTask("stop", obj)
        elif isinstance(before, Daemon) and before.argv == obj.argv:
            yield DaemonTask("reload", obj)
        else:
            yield DaemonTask("start", obj)
    written = {
        operation.object.path for operation in operations if isinstance(operation.object, File)
    }
    for daemon in daemons_of(desired):
        if daemon.name not in changed and not written.isdisjoint(daemon.files):
            yield DaemonTask("reload", daemon)


async def perform(
    task: DaemonTask, client: DaemonClient, sandbox: ProcessId, files: PodFiles
) -> str | None:
    """Do one thing; return an error or None.

    files: what programs of the sandbox see in /etc.
    """
    if task.action == "stop":
        await client.stop(task.daemon)
        return None
    if task.action == "reload":
        return await client.reload(task.daemon)
    return await client.start(task.daemon, sandbox, files)
