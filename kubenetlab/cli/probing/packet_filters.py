"""Options --node and --pod of commands that show packets: `flows` and `policy log`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubenetlab.cli.terminal.printing import note
from kubenetlab.cli.terminal.theme import BAD, paint

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import InspectedNode, Inspection


def selected_nodes(inspected: Inspection, name: str | None) -> list[InspectedNode]:
    """Return the node of --node, or all nodes. Raises UsageError for an unknown name."""
    from kubenetlab.errors import UsageError, did_you_mean

    own = name.removeprefix("node:") if name is not None else None
    nodes = [node for node in inspected["nodes"] if own in (None, node["name"])]
    if not nodes and own is not None:
        names = [node["name"] for node in inspected["nodes"]]
        guess = did_you_mean(own, names)
        raise UsageError(f'--node: there is no node "{own}"{guess}; known: {", ".join(names)}')
    return nodes


def running_nodes(nodes: Sequence[InspectedNode]) -> list[InspectedNode]:
    """Return the nodes that run, and print the names of the others."""
    for node in nodes:
        if node["netns"] is None:
            note(f"{paint('not read:', BAD)} node {node['name']} does not run")
    return [node for node in nodes if node["netns"] is not None]


def selected_pods(
    inspected: Inspection, name: str | None, namespace: str | None
) -> frozenset[str] | None:
    """Return the pods of --pod as `namespace/name`: one, or those of a workload; None for all.

    Raises UsageError for an unknown name, and for anything that is no pod.
    """
    if name is None:
        return None
    from kubenetlab.cli.describe.kernel_objects import selected_pods as pods_of
    from kubenetlab.errors import UsageError
    from kubenetlab.observe.targets.resolution import read, resolve

    target = read(name, inspected, namespace)
    _, pods = pods_of(target, inspected, resolve(target, inspected))
    if not pods:
        raise UsageError(f"--pod: expected a pod ([ns/]name) or deploy:[ns/]name, found {name}")
    return frozenset(f"{pod['namespace']}/{pod['name']}" for pod in pods)
