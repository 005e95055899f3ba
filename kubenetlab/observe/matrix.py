"""The ping matrix: a real packet from every place to every other, and the expected results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from msgspec import Struct

from kubenetlab.observe.drop_logs import logging_nodes
from kubenetlab.observe.expect import Destination, Expectation, ServiceTarget, expect, facts_of
from kubenetlab.observe.node_ports import NodePortProbes, node_port_probes
from kubenetlab.observe.pod_ports import HostPort, PodPort, expect_port, host_ports, pod_ports
from kubenetlab.observe.policies.paths import Protocol
from kubenetlab.observe.policies.reasons import PlaceOf, denials, no_place, reasons
from kubenetlab.observe.policies.verdicts import PolicyVerdicts
from kubenetlab.observe.policy_probes import PolicyProbes, policy_probes
from kubenetlab.observe.prober import ProbeRequest, Result, run
from kubenetlab.observe.service_ports import service_ports
from kubenetlab.observe.targets.locations import Location, places

if TYPE_CHECKING:
    from kubenetlab.observe.inspection import Inspection

EXPECTED_OUTCOMES: Mapping[Expectation, tuple[str, ...]] = {
    "answer": ("answer",),
    "refused": ("refused",),
    "nothing": ("unreachable", "silence"),
    "any": ("answer", "refused", "unreachable", "silence"),
}
"""Expectation → outcomes that meet it."""


class Cell(Struct, frozen=True):
    """Expectation and results for one source and destination."""

    source: Location
    destination: Destination
    expected: Expectation
    results: tuple[tuple[str, Result], ...]
    """(address, result of the probe to it), one per family that both ends have."""

    @property
    def is_as_promised(self) -> bool:
        return self.result.outcome in EXPECTED_OUTCOMES[self.expected]

    @property
    def result(self) -> Result:
        """First unexpected result; the primary family's if all are as expected."""
        return self._decisive[1]

    @property
    def address(self) -> str:
        """Destination address of that result."""
        return self._decisive[0]

    @property
    def _decisive(self) -> tuple[str, Result]:
        return next(
            (
                entry
                for entry in self.results
                if entry[1].outcome not in EXPECTED_OUTCOMES[self.expected]
            ),
            self.results[0],
        )


class Matrix(Struct, frozen=True):
    """All probes of one matrix with their results."""

    sources: tuple[Location, ...]
    destinations: tuple[Destination, ...]
    cells: tuple[Cell, ...]
    """Cells row by row, without the cell of a place to itself."""
    left_out: int = 0
    """Number of connections by SCTP to ports of rules about every protocol, which are not tested.

    This kernel does not have SCTP, and nothing listens on the ports.
    """
    is_sampled: bool = False
    """True if not all pods connect to the ports that policies name, since there are too many."""
    has_node_ports_of_hosts: bool = False
    """True if only hosts outside connect to node ports, since there are too many."""

    @property
    def faults(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.is_as_promised]

    @property
    def untested(self) -> list[Cell]:
        """Cells whose protocol this kernel does not have; they are faults, too."""
        return [cell for cell in self.cells if cell.result.outcome == "not testable"]

    @property
    def differences(self) -> Matrix:
        """The rows and columns with a cell that is not as promised."""
        rows = {cell.source.sandbox for cell in self.faults}
        columns = {cell.destination.title for cell in self.faults}
        return Matrix(
            tuple(row for row in self.sources if row.sandbox in rows),
            tuple(column for column in self.destinations if column.title in columns),
            tuple(
                cell
                for cell in self.cells
                if cell.source.sandbox in rows and cell.destination.title in columns
            ),
        )


def matrix_places(seen: Inspection) -> list[Location]:
    """Return the places of a matrix: everything that runs.

    Cluster components with hostNetwork are left out, since their nodes are in the matrix.
    """
    return [
        place
        for place in places(seen)
        if not (place.is_host_network and place.namespace in seen["system_namespaces"])
    ]


def cell_reasons(
    policies: PolicyVerdicts | None, cell: Cell, place_of: PlaceOf = no_place
) -> list[str]:
    """Return the policies that deny the connection of a cell, or the rules that allow it."""
    if policies is None:
        return []
    return reasons(policies, cell.source, *_connection(cell), place_of)


def cell_denials(policies: PolicyVerdicts, cell: Cell) -> list[str]:
    """Return the policies that deny the connection of a cell."""
    return denials(policies, cell.source, *_connection(cell))


def _connection(cell: Cell) -> tuple[str, int, Protocol]:
    """Return address, port and protocol of a cell."""
    if isinstance(cell.destination, ServiceTarget):
        return cell.address, cell.destination.port, cell.destination.protocol
    return cell.address, 0, "ICMP"


def probe_matrix(
    seen: Inspection,
    *,
    sources: Sequence[Location] | None = None,
    deadline_s: float = 1.0,
    policies: PolicyVerdicts | None = None,
    has_ports: bool = False,
) -> Matrix:
    """Send every probe of the matrix in every family.

    seen: document of `inspect`. sources: the rows; every place if None.
    policies: network policies that the lab enforces; None without any.
    has_ports: also connect to node ports, to the ports on which pods and hosts outside listen, and
        to those that policies name.
    """
    all_places = matrix_places(seen)
    rows = tuple(sources if sources is not None else all_places)
    candidates: tuple[Destination, ...] = (
        *all_places,
        *((*pod_ports(seen), *host_ports(seen)) if has_ports else ()),
        *service_ports(seen),
    )
    columns = tuple(
        column for column in candidates if any(_have_common_family(row, column) for row in rows)
    )
    context = facts_of(seen, policies)
    of_policies = PolicyProbes()
    if has_ports and policies is not None:
        of_policies = policy_probes(rows, seen, policies)
    node_ports = node_port_probes(rows, seen, context) if has_ports else NodePortProbes()
    pairs = [
        (row, column)
        for row in rows
        for column in (
            *columns,
            *node_ports.ports.get(row.sandbox, ()),
            *of_policies.ports.get(row.sandbox, ()),
        )
        if _have_common_family(row, column) and not _is_itself(row, column)
    ]
    others = chain(node_ports.ports.values(), of_policies.ports.values())
    columns = tuple(dict.fromkeys((*columns, *chain.from_iterable(others))))
    expectations = [
        expect_port(row, column, context)
        if isinstance(column, PodPort | HostPort)
        else expect(row, column, context)
        for row, column in pairs
    ]
    probes = [
        list(_probes(row, column, expects_answer=expectation != "nothing"))
        for (row, column), expectation in zip(pairs, expectations, strict=True)
    ]
    results = iter(
        run(
            [probe for probes_of_cell in probes for probe in probes_of_cell],
            deadline_s=deadline_s,
            nodes=logging_nodes(seen) if policies is not None else (),
        )
    )
    cells = tuple(
        Cell(
            row,
            column,
            expectation,
            tuple((probe.address, next(results)) for probe in probes_of_cell),
        )
        for (row, column), expectation, probes_of_cell in zip(
            pairs, expectations, probes, strict=True
        )
    )
    return Matrix(
        rows,
        columns,
        cells,
        of_policies.left_out,
        is_sampled=of_policies.is_sampled,
        has_node_ports_of_hosts=node_ports.are_from_outside,
    )


def _probes(
    source: Location, destination: Destination, *, expects_answer: bool
) -> Iterator[ProbeRequest]:
    if isinstance(destination, ServiceTarget):
        yield ProbeRequest(
            source, destination.protocol, destination.address, destination.port, expects_answer
        )
        return
    for address in destination.addresses:
        if _shares_family(source, address):
            yield ProbeRequest(source, "ICMP", address, expects_answer=expects_answer)


def _is_itself(source: Location, destination: Destination) -> bool:
    """Return True for a place and itself, or a port of an external host and that host."""
    if isinstance(destination, HostPort):
        return source.kind == "ext" and source.name == destination.name
    return isinstance(destination, Location) and destination.sandbox == source.sandbox


def _have_common_family(source: Location, destination: Destination) -> bool:
    """Return True if both ends have an address of the same family."""
    addresses = (
        destination.addresses if isinstance(destination, Location) else (destination.address,)
    )
    return any(_shares_family(source, address) for address in addresses)


def _shares_family(source: Location, address: str) -> bool:
    return any((":" in address) == (":" in own) for own in source.addresses)
