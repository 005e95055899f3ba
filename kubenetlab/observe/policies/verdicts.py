"""Verdicts of the policies about the connections of probes, for many pairs at once.

A verdict is computed once for each pair of classes of pods (classes.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from kubenetlab.api.policies.network_policy import Direction
from kubenetlab.observe.policies.classes import Classes, Role
from kubenetlab.observe.policies.evaluator import Evaluator
from kubenetlab.observe.policies.model import DirectionVerdict, Party, Verdict
from kubenetlab.observe.policies.objects import PolicyObjects
from kubenetlab.observe.policies.paths import EndpointPaths, Hop, Path, Paths, Protocol
from kubenetlab.observe.targets.locations import Location

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

Decision = Literal["allowed", "denied", "either"]
"""Result for a connection; `either` if it depends on the path or on the endpoint."""
Endpoint = tuple[str, int]
"""(address, port)"""


class PathVerdict(Struct, frozen=True):
    """Verdict about a connection on one path."""

    path: Path
    egress: DirectionVerdict
    ingress: DirectionVerdict
    exemption: str = ""
    """Reason why no policy applies; empty if policies apply."""

    @property
    def is_allowed(self) -> bool:
        return self.egress.is_allowed and self.ingress.is_allowed


class _Destination(Struct, frozen=True):
    """Destination of probes, with the values that tell which sources share decisions."""

    key: Hashable
    """Key that destinations with the same decisions share; None if each source is on its own."""
    pods: frozenset[str]
    """Pods there, for which other rules apply: a pod reaches itself."""
    is_same_for_all_nodes: bool


class PolicyVerdicts:
    """Verdicts of the policies of a lab."""

    def __init__(self, objects: PolicyObjects, seen: Inspection) -> None:
        self.objects = objects
        self.paths: Final = Paths(seen, objects.local_ranges)
        self._evaluator = Evaluator(objects.cluster)
        self._classes = Classes(objects.cluster, objects.policies)
        self._verdicts: dict[Hashable, Verdict] = {}
        self._decisions: dict[Hashable, Mapping[Endpoint, Decision]] = {}
        self._sources: dict[tuple[str, bool], tuple[Party, tuple[int, int] | None]] = {}
        """(sandbox, True for IPv6) → the source, and its classes if policies can isolate it."""
        self._destinations: dict[tuple[str, int, str], _Destination] = {}

    def decisions(
        self, source: Location, address: str, port: int, protocol: Protocol
    ) -> Mapping[Endpoint, Decision]:
        """Return the decision for each endpoint behind an address, or for the address itself.

        port: 0 for ICMP.
        """
        key = self.key(source, address, port, protocol)
        if key not in self._decisions:
            self._decisions[key] = {
                (entry.address, entry.port): self._decision(entry)
                for entry in self.paths.to(source, address, port, protocol)
            }
        return self._decisions[key]

    def decision(self, source: Location, address: str, port: int, protocol: Protocol) -> Decision:
        """Return the decision for a connection; `allowed` for a Service without endpoints."""
        return combined(self.decisions(source, address, port, protocol).values())

    def may_leave(self, source: Location, address: str, port: int, protocol: Protocol) -> bool:
        """Return True if the source may send packets to an address before any translation."""
        paths = self.paths.directly(source, address, port, protocol).paths
        return all(self.verdict(path).egress.is_allowed for path in paths)

    def verdicts(
        self, source: Location, address: str, port: int, protocol: Protocol
    ) -> Iterator[tuple[EndpointPaths, list[PathVerdict]]]:
        """Yield the verdicts about a connection, for each endpoint and path."""
        for entry in self.paths.to(source, address, port, protocol):
            yield entry, [self.verdict(path) for path in entry.paths]

    def verdict(self, path: Path) -> PathVerdict:
        """Return the verdict about a connection on a path."""
        leaving, arriving = self._at(path.leaving, "Egress"), self._at(path.arriving, "Ingress")
        return PathVerdict(
            path,
            leaving.egress,
            arriving.ingress,
            arriving.exemption if leaving.exemption else "",
        )

    def _decision(self, entry: EndpointPaths) -> Decision:
        return combined(
            "allowed" if self.verdict(path).is_allowed else "denied" for path in entry.paths
        )

    def _at(self, hop: Hop, direction: Direction) -> Verdict:
        """Return a verdict that holds for one direction of a hop."""
        source, destination = hop.source, hop.destination
        key = (
            direction,
            self._class(source, direction, "subject" if direction == "Egress" else "peer"),
            self._class(destination, direction, "peer" if direction == "Egress" else "subject"),
            hop.traffic,
            bool(source.pod) and source.pod == destination.pod,
            bool(source.node) and source.node == destination.node,
        )
        if key not in self._verdicts:
            self._verdicts[key] = self._evaluator.verdict(source, destination, hop.traffic)
        return self._verdicts[key]

    def _class(self, party: Party, direction: Direction, role: Role) -> int:
        return self._classes.of(party, direction, role, is_subject=self.paths.is_subject(party))

    def _classes_as(self, party: Party, *, is_source: bool) -> tuple[int, int]:
        """Return the classes of a source, or of a destination, in both directions."""
        roles: tuple[Role, Role] = ("subject", "peer") if is_source else ("peer", "subject")
        return self._class(party, "Egress", roles[0]), self._class(party, "Ingress", roles[1])

    def key(self, source: Location, address: str, port: int, protocol: Protocol) -> Hashable:
        """Return a key that connections with the same decisions share."""
        exact = (source.sandbox, address, port, protocol)
        party, classes = self._source(source, address)
        if classes is None:
            return exact
        destination = self._destinations.get((address, port, protocol))
        if destination is None:
            destination = self._destination(address, port, protocol)
            self._destinations[address, port, protocol] = destination
        if destination.key is None or party.pod in destination.pods:
            return exact
        return classes, destination.key, "" if destination.is_same_for_all_nodes else party.node

    def source_key(self, source: Location, address: str) -> Hashable:
        """Return a key that sources share if policies decide alike about their connections.

        Connections may still differ by the nodes on their way. address: one of the family.
        """
        return self._source(source, address)[1]

    def _source(self, source: Location, address: str) -> tuple[Party, tuple[int, int] | None]:
        own = self._sources.get((source.sandbox, ":" in address))
        if own is None:
            party = self.paths.party(source, address)
            is_subject = self.paths.is_subject(party)
            own = party, self._classes_as(party, is_source=True) if is_subject else None
            self._sources[source.sandbox, ":" in address] = own
        return own

    def _destination(self, address: str, port: int, protocol: Protocol) -> _Destination:
        frontend = self.paths.frontend(address, port, protocol)
        if frontend is None:
            party = self.paths.party_at(address)
            key = None
            if self.paths.is_subject(party):
                key = (self._classes_as(party, is_source=False), port, protocol)
            return _Destination(key, frozenset((party.pod,)), is_same_for_all_nodes=True)
        parties = [self.paths.party_at(each) for each, _ in frontend.endpoints]
        return _Destination(
            (address, port, protocol),
            frozenset(party.pod for party in parties),
            frontend.kind == "cluster" and all(map(self.paths.is_subject, parties)),
        )


def combined(decisions: Iterable[Decision]) -> Decision:
    """Return the decision if all are the same, else `either`; `allowed` for none."""
    distinct = set(decisions)
    if not distinct:
        return "allowed"
    return distinct.pop() if len(distinct) == 1 else "either"
