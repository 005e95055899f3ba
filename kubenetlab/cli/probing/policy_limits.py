"""Reasons why a verdict about a connection could differ in a cluster: fields not enforced here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.labs.diagnostics import AssessedDiagnostic, assess
from kubenetlab.cli.probing.doubts import doubtful_objects
from kubenetlab.cli.terminal.printing import echo
from kubenetlab.cli.terminal.theme import PLACE, WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.diagnostics import Connection, Diagnostic
    from kubenetlab.lab.client import Client
    from kubenetlab.observe.destination_lookup import StatedDestination
    from kubenetlab.observe.inspection import Inspection
    from kubenetlab.observe.policies.verdicts import Decision
    from kubenetlab.observe.targets.locations import Location

_DIFFERENCES: Final = {
    "allowed": "could be denied in a cluster",
    "denied": "could be allowed in a cluster",
    "either": "could differ in a cluster",
}
"""Decision of the lab → its possible difference in a cluster."""
_OF_CILIUM: Final = ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")


class PolicyLimits:
    """Objects and fields that the lab does not enforce, and that may concern connections."""

    def __init__(self, client: Client, inspected: Inspection, omitted: Iterable[str]) -> None:
        """Read the diagnostics of a lab.

        omitted: titles of policies that the report names as not enforced.
        """
        from kubenetlab.observe.connections import Ends

        self._items = doubtful_objects(client)
        self._ends = Ends(inspected)
        self._omitted = frozenset(omitted)

    def of(
        self, source: Location, destination: StatedDestination, decision: Decision
    ) -> list[AssessedDiagnostic]:
        """Return the diagnostics because of which a cluster could decide otherwise."""
        if not self._items:
            return []
        return [
            each
            for each in assess(self._items, [self._connection(source, destination)])
            if each.affected
            and each.is_unenforced
            and each.diagnostic.title not in self._omitted
            and _can_change(each.diagnostic, decision)
        ]

    def _connection(self, source: Location, destination: StatedDestination) -> Connection:
        from kubenetlab.observe.targets.grammar import Target

        address = destination.address
        target = Target("ip", "", address)
        return self._ends.of_row(source, target, destination.port, address, destination.protocol)


def difference(limits: Sequence[AssessedDiagnostic], decision: Decision) -> str:
    """Return the possible difference in a cluster as text; empty if there are no limits."""
    return _DIFFERENCES[decision] if limits else ""


def limits_data(limits: Iterable[AssessedDiagnostic]) -> Iterator[JsonObject]:
    """Yield the JSON form of limits."""
    for each in limits:
        yield {
            "object": each.diagnostic.title,
            "path": each.problem.path,
            "place": each.place,
            "message": each.diagnostic.message,
        }


def show_limits(limits: Iterable[AssessedDiagnostic], decision: Decision) -> None:
    """Print each limit with its object, field, and place."""
    for each in limits:
        place = f" ({paint(each.place, PLACE)})" if each.place else ""
        echo(
            f"{paint(_DIFFERENCES[decision], WARNING)}: {each.diagnostic.subject}{place}: "
            f"{each.diagnostic.message}",
            indent=4,
        )


def _can_change(diagnostic: Diagnostic, decision: Decision) -> bool:
    """Return False if a field cannot change a decision.

    Fields that concern the connections of one rule restrict rules of Cilium that allow. In a
    cluster with Calico they make a rule apply that the lab leaves out.
    """
    if decision == "either" or not diagnostic.scope.flows:
        return True
    return (diagnostic.kind in _OF_CILIUM) == (decision == "allowed")
