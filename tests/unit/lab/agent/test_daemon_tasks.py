"""A changed daemon is started, reloaded or stopped; a changed file reloads its daemon."""

from __future__ import annotations

import pytest
from msgspec import structs

from kubenetlab.hoststate.daemons import Daemon
from kubenetlab.hoststate.diff import diff
from kubenetlab.hoststate.files import File
from kubenetlab.hoststate.object import Object
from kubenetlab.hoststate.sandbox import Sandbox
from kubenetlab.hoststate.state import HostState, contents_of
from kubenetlab.lab.agent.daemon_tasks import daemon_tasks

NODE = "node/a"
CONFIG = File(NODE, "/etc/x/x.conf", "a\n")
CHANGED = structs.replace(CONFIG, content="b\n")
OTHER = File(NODE, "/run/y/y.env", "y\n")
DAEMON = Daemon.reading([CONFIG], "x", ["x", "-f"])
RELOADED = Daemon.reading([CHANGED], "x", ["x", "-f"])
RESTARTED = Daemon.reading([CONFIG], "x", ["x", "-g"])
ALL = (CONFIG, OTHER, DAEMON)


@pytest.mark.parametrize(
    ("observed", "desired", "tasks"),
    [
        pytest.param((), ALL, [("start", DAEMON)], id="new"),
        pytest.param(ALL, ALL, [], id="unchanged"),
        pytest.param(ALL, (CHANGED, OTHER, RELOADED), [("reload", RELOADED)], id="new content"),
        pytest.param(ALL, (CONFIG, OTHER, RESTARTED), [("start", RESTARTED)], id="new arguments"),
        pytest.param(ALL, (CONFIG, OTHER), [("stop", DAEMON)], id="not desired any more"),
        pytest.param((CONFIG, OTHER), ALL, [("start", DAEMON)], id="lost"),
        pytest.param((CHANGED, OTHER, DAEMON), ALL, [("reload", DAEMON)], id="file edited"),
        pytest.param((OTHER, DAEMON), ALL, [("reload", DAEMON)], id="file deleted"),
        pytest.param((CONFIG, DAEMON), ALL, [], id="another file deleted"),
    ],
)
def test_a_daemon_is_reloaded_rather_than_restarted(
    observed: tuple[Object, ...], desired: tuple[Object, ...], tasks: list[tuple[str, Daemon]]
) -> None:
    """Only other arguments need a restart."""
    sandbox = Sandbox(NODE, "a")
    before, after = (
        HostState({NODE: contents_of([sandbox, *objects])}) for objects in (observed, desired)
    )
    operations = list(diff(before, after).operations())
    assert [tuple(task) for task in daemon_tasks(operations, after[NODE])] == tasks
