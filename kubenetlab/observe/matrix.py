"""The ping matrix: everybody to everybody, each cell a real packet, beside what Kubernetes promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from kubenetlab.observe.expect import (
    Destination,
    Expectation,
    ServiceTarget,
    expect,
    service_ports,
    world,
)
from kubenetlab.observe.locations import Location, places
from kubenetlab.observe.prober import ProbeRequest, Result, run

FITS: Mapping[Expectation, tuple[str, ...]] = {
    "answer": ("answer",),
    "refused": ("refused",),
    "nothing": ("unreachable", "silence"),
    "any": ("answer", "refused", "unreachable", "silence"),
}


class Cell(Struct, frozen=True):
    """What was promised from one place to another, and what came of it."""

    source: Location
    destination: Destination
    expected: Expectation
    results: tuple[tuple[str, Result], ...]
    """(address, what came of a probe to it), one per family that both have."""

    @property
    def is_as_promised(self) -> bool:
        return self.result.outcome in FITS[self.expected]

    @property
    def result(self) -> Result:
        """The first that is not as promised; the primary family's when all are."""
        return self._telling[1]

    @property
    def address(self) -> str:
        """Where that was sent to."""
        return self._telling[0]

    @property
    def _telling(self) -> tuple[str, Result]:
        return next(
            (entry for entry in self.results if entry[1].outcome not in FITS[self.expected]),
            self.results[0],
        )


class Matrix(Struct, frozen=True):
    """All probes of one matrix, with what came of them."""

    sources: tuple[Location, ...]
    destinations: tuple[Destination, ...]
    cells: tuple[Cell, ...]
    """Row by row; a place is not asked about itself."""

    @property
    def faults(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.is_as_promised]


def everyone(seen: Mapping[str, Any]) -> list[Location]:
    """Who is in a matrix: everything that runs, but for the cluster's components in their nodes' networks, whose nodes are there already."""
    return [
        place
        for place in places(seen)
        if not (place.is_host_network and place.namespace == "kube-system")
    ]


def probe_matrix(
    seen: Mapping[str, Any], *, sources: Sequence[Location] | None = None, deadline_s: float = 1.0
) -> Matrix:
    """Sends every probe of the matrix, in every family; `seen` is what `inspect` shows."""
    all_places = everyone(seen)
    rows = tuple(sources if sources is not None else all_places)
    everything: tuple[Destination, ...] = (*all_places, *service_ports(seen))
    columns = tuple(column for column in everything if any(_meet(row, column) for row in rows))
    known = world(seen)
    pairs = [
        (row, column)
        for row in rows
        for column in columns
        if _meet(row, column)
        and not (isinstance(column, Location) and column.sandbox == row.sandbox)
    ]
    promised = [expect(row, column, known) for row, column in pairs]
    probes = [
        list(_probes(row, column, is_hopeful=promise != "nothing"))
        for (row, column), promise in zip(pairs, promised, strict=True)
    ]
    results = iter(run([probe for some in probes for probe in some], deadline_s=deadline_s))
    cells = tuple(
        Cell(row, column, promise, tuple((probe.address, next(results)) for probe in some))
        for (row, column), promise, some in zip(pairs, promised, probes, strict=True)
    )
    return Matrix(rows, columns, cells)


def _probes(
    source: Location, destination: Destination, *, is_hopeful: bool
) -> Iterator[ProbeRequest]:
    if isinstance(destination, ServiceTarget):
        yield ProbeRequest(
            source, destination.protocol, destination.address, destination.port, is_hopeful
        )
        return
    for address in destination.addresses:
        if _shares_family(source, address):
            yield ProbeRequest(source, "ICMP", address, is_hopeful=is_hopeful)


def _meet(source: Location, destination: Destination) -> bool:
    """True when both have an address of one family."""
    addresses = (
        destination.addresses if isinstance(destination, Location) else (destination.address,)
    )
    return any(_shares_family(source, address) for address in addresses)


def _shares_family(source: Location, address: str) -> bool:
    return any((":" in address) == (":" in own) for own in source.addresses)
