"""The ping matrix: everybody to everybody, each cell a real packet, beside what Kubernetes promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from kubenetlab.observe.expect import Destination, Expectation, ServicePort, expect, service_ports, world
from kubenetlab.observe.prober import Probe, Result, run
from kubenetlab.observe.targets import Place, places

FITS: Mapping[Expectation, tuple[str, ...]] = {
    "answer": ("answer",),
    "refused": ("refused",),
    "nothing": ("unreachable", "silence"),
    "any": ("answer", "refused", "unreachable", "silence"),
}


class Cell(Struct, frozen=True):
    """One probe, what was promised and what came of it."""

    source: Place
    destination: Destination
    expected: Expectation
    result: Result

    @property
    def is_as_promised(self) -> bool:
        return self.result.outcome in FITS[self.expected]


class Matrix(Struct, frozen=True):
    """All probes of one matrix, with what came of them."""

    sources: tuple[Place, ...]
    destinations: tuple[Destination, ...]
    cells: tuple[Cell, ...]
    """Row by row; a place is not asked about itself."""

    @property
    def faults(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.is_as_promised]


def probe_matrix(seen: Mapping[str, Any], *, sources: Sequence[Place] | None = None, deadline_s: float = 1.0) -> Matrix:
    """Sends every probe of the matrix; `seen` is what `inspect` shows."""
    everyone = places(seen)
    rows = tuple(sources if sources is not None else everyone)
    columns: tuple[Destination, ...] = (*everyone, *service_ports(seen))
    known = world(seen)
    pairs = [(row, column) for row in rows for column in columns if not (isinstance(column, Place) and column.sandbox == row.sandbox)]
    promised = [expect(row, column, known) for row, column in pairs]
    results = run(
        [_probe(row, column, is_hopeful=promise != "nothing") for (row, column), promise in zip(pairs, promised, strict=True)],
        deadline_s=deadline_s,
    )
    cells = tuple(Cell(row, column, promise, result) for (row, column), promise, result in zip(pairs, promised, results, strict=True))
    return Matrix(rows, columns, cells)


def _probe(source: Place, destination: Destination, *, is_hopeful: bool) -> Probe:
    if isinstance(destination, ServicePort):
        protocol: Literal["TCP", "UDP"] = "UDP" if destination.protocol == "UDP" else "TCP"
        return Probe(source, protocol, destination.address, destination.port, is_hopeful)
    return Probe(source, "ICMP", destination.address, is_hopeful=is_hopeful)
