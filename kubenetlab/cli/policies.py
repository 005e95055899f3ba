"""Network policies of a lab, for commands that compare results with their verdicts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from kubenetlab.cli.terminal.printing import echo
from kubenetlab.cli.terminal.theme import MUTED, paint
from kubenetlab.lab.paths import LAB_API

if TYPE_CHECKING:
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.matrix import Matrix
    from kubenetlab.observe.policies.objects import PolicyObjects
    from kubenetlab.observe.policies.reasons import PlaceOf
    from kubenetlab.observe.policies.verdicts import PolicyVerdicts

_MAX_REASONS: Final = 10
"""Maximum number of policies that are printed below a matrix."""


def enforced_policies(client: Client, inspected: Inspection) -> PolicyVerdicts | None:
    """Return the verdicts of the policies that the lab enforces; None if there are none."""
    if policy_engine(inspected) == "none":
        return None
    from kubenetlab.observe.policies.verdicts import PolicyVerdicts

    objects = policy_objects(client).only_enforced()
    return PolicyVerdicts(objects, inspected) if objects.policies else None


def policy_objects(client: Client, *, always: bool = False) -> PolicyObjects:
    """Return the policies of a lab, with the pods and namespaces that they select.

    always: return pods and namespaces without policies, too.
    """
    from kubenetlab.observe.policies.objects import read_policy_objects

    query = {"objects": "always"} if always else {}
    return read_policy_objects(client.get(f"{LAB_API}/policies", **query))


class PolicyPlaces:
    """Places of policies and their rules; callable as `observe.policies.reasons.PlaceOf`."""

    def __init__(self, objects: PolicyObjects) -> None:
        from kubenetlab.cli.input.places import Places

        self._sources = objects.sources
        self._places = Places()
        self._texts: dict[tuple[str, str, tuple[str | int, ...]], str] = {}

    def __call__(self, kind: str, policy: str, path: tuple[str | int, ...] = ()) -> str:
        """Return file:line of a field of a policy; empty if the file is not known."""
        key = (kind, policy, path)
        if key not in self._texts:
            self._texts[key] = self._find(*key)
        return self._texts[key]

    def _find(self, kind: str, policy: str, path: tuple[str | int, ...]) -> str:
        source = self._sources.get((kind, policy))
        if source is None:
            return ""
        namespace, _, name = policy.rpartition("/")
        file, line = self._places.of(source.file, source.line, (kind, namespace, name), path)
        return f"{file}:{line}"


def policy_places(policies: PolicyVerdicts | None) -> PlaceOf:
    """Return the function that returns places of policies; without policies it is never called."""
    if policies is None:
        from kubenetlab.observe.policies.reasons import no_place

        return no_place
    return PolicyPlaces(policies.objects)


def policy_engine(inspected: Inspection) -> str:
    """Return the name of the lab's policy engine; `none` for labs of versions without any."""
    return inspected.get("policy_engine", "none")


def nodes_with_former_policies(inspected: Inspection) -> list[str]:
    """Return the names of nodes where the agent that enforces policies is stopped."""
    stopped = [node["name"] for node in inspected["nodes"] if node["agent"] == "stopped"]
    if not stopped:
        return []
    from kubenetlab.datapath.modes import load

    agent = load("cni", inspected["cni"], {}).facts.agent
    return stopped if agent is not None and agent.enforces_policies else []


def print_denials(matrix: Matrix, policies: PolicyVerdicts | None) -> None:
    """Print the number of pairs that policies deny, and the reasons with the most pairs."""
    if policies is None:
        return
    from kubenetlab.observe.matrix import cell_denials

    denied = [cell for cell in matrix.cells if cell.expected == "nothing"]
    pairs = Counter(reason for cell in denied for reason in cell_denials(policies, cell))
    if not pairs:
        return
    for reason, number in pairs.most_common(_MAX_REASONS):
        echo(f"{paint('·', MUTED)} {reason}: {number} {'pair' if number == 1 else 'pairs'}")
    if len(pairs) > _MAX_REASONS:
        echo(f"  … and {len(pairs) - _MAX_REASONS} more")
