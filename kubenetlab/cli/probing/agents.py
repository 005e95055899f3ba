"""Nodes on which no agent of the CNI plugin runs: results of probes there may be out of date."""

from __future__ import annotations

from kubenetlab.cli.terminal.printing import note
from kubenetlab.cli.terminal.theme import BAD, paint
from kubenetlab.observe.inspection import Inspection


def agents_run(inspected: Inspection) -> bool:
    """Print the nodes without a running agent to standard error; return True if there are none.

    inspected: reply of the lab's API to `inspect`.
    """
    stopped = [node["name"] for node in inspected["nodes"] if node["agent"] == "stopped"]
    if stopped:
        note(
            f"{paint('no agent:', BAD)} the CNI plugin {inspected['cni']} has no running agent on "
            f"{', '.join(stopped)}, which misses every change of the cluster and of options"
        )
    return not stopped
