"""Explanation of the verdict about one connection: endpoints, paths, and both directions."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from kubenetlab.observe.policies.model import DirectionVerdict, Party, Traffic
from kubenetlab.observe.policies.paths import Protocol
from kubenetlab.observe.policies.verdicts import Decision, PathVerdict, PolicyVerdicts, combined
from kubenetlab.observe.targets.locations import Location


class PathExplanation(Struct, frozen=True):
    """Verdict about a connection, for the sources as which the destination may see it."""

    sources: tuple[Party, ...]
    """Sources for which the verdict is the same, as the destination's policies see them."""
    source: Party
    """Source as its own policies see it."""
    target: Party
    """Destination as the source's policies see it: usually the endpoint."""
    destination: Party
    leaving: Traffic
    """Packets as the source's policies see them."""
    arriving: Traffic
    """Packets as the destination's policies see them: after the translation of Services."""
    egress: DirectionVerdict
    ingress: DirectionVerdict
    exemption: str

    @property
    def is_allowed(self) -> bool:
        return self.egress.is_allowed and self.ingress.is_allowed


class EndpointExplanation(Struct, frozen=True):
    """Verdicts about the connections to one endpoint."""

    address: str
    port: int
    party: Party
    paths: tuple[PathExplanation, ...]

    @property
    def decision(self) -> Decision:
        return combined("allowed" if path.is_allowed else "denied" for path in self.paths)


def explain(
    policies: PolicyVerdicts, source: Location, address: str, port: int, protocol: Protocol
) -> list[EndpointExplanation]:
    """Return the verdicts about a connection, for each endpoint behind the address.

    For a Service without ready endpoints these are the verdicts about its own address.
    """
    entries = policies.paths.to(source, address, port, protocol) or (
        policies.paths.directly(source, address, port, protocol),
    )
    return [
        EndpointExplanation(
            entry.address,
            entry.port,
            policies.paths.party_at(entry.address),
            _grouped([policies.verdict(path) for path in entry.paths]),
        )
        for entry in entries
    ]


def _grouped(verdicts: Sequence[PathVerdict]) -> tuple[PathExplanation, ...]:
    """Return paths with the same verdict as one."""
    groups: dict[tuple[object, ...], list[PathVerdict]] = {}
    for verdict in verdicts:
        key = (verdict.egress, verdict.ingress, verdict.exemption, verdict.path.leaving)
        groups.setdefault(key, []).append(verdict)
    return tuple(
        PathExplanation(
            tuple(verdict.path.arriving.source for verdict in group),
            group[0].path.leaving.source,
            group[0].path.leaving.destination,
            group[0].path.arriving.destination,
            group[0].path.leaving.traffic,
            group[0].path.arriving.traffic,
            group[0].egress,
            group[0].ingress,
            group[0].exemption,
        )
        for group in groups.values()
    )
