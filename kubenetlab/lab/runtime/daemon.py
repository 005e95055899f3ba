"""Process of a daemon of a node.

Init forks it into the node's namespaces. It sees the machine's files read-only, and the node's own
files in place of them; its output goes to its log. It has the capabilities of a container and those
for the network.
"""

from __future__ import annotations

import os

from kubenetlab.errors import os_error_text
from kubenetlab.kernel.features.detection import no_such_command
from kubenetlab.kernel.namespaces import mounts
from kubenetlab.kernel.processes.inheritance import (
    CONTAINER_PATH,
    close_other_descriptors,
    reset_signals,
)
from kubenetlab.kernel.processes.privileges import NETWORK, confine
from kubenetlab.lab.context import LabContext
from kubenetlab.lab.messages.daemons import StartDaemon

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses of a program that cannot be executed, as a shell reports them."""


def main(context: LabContext, request: StartDaemon) -> None:
    """Execute a daemon; never return. The process becomes the leader of a session."""
    os.setsid()
    reset_signals(of_python=True)
    program = request.argv[0]
    try:
        mounts.tool(request.hosts, request.resolv_conf, context.hidden_directories, request.tree)
        confine(NETWORK)
    except OSError as error:
        print(f"the daemon's files cannot be prepared: {os_error_text(error)}", flush=True)
        os._exit(NOT_EXECUTABLE)
    close_other_descriptors()
    os.chdir("/")
    try:
        os.execvpe(program, request.argv, {"PATH": CONTAINER_PATH, "HOME": "/root"})
    except FileNotFoundError:
        print(no_such_command(program), flush=True)
        os._exit(NOT_FOUND)
    except OSError as error:
        print(f'exec: "{program}": {os_error_text(error)}', flush=True)
        os._exit(NOT_EXECUTABLE)
