"""Probes of the rows of a truth table, and their verdicts."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from kubenetlab.diagnostics import Connection
from kubenetlab.observe.checks.truth_table import Row, TruthTable
from kubenetlab.observe.targets.grammar import with_port
from kubenetlab.observe.targets.locations import Location

State = Literal["holds", "fails", "untested"]
"""State of a check; `untested` if this kernel does not have its protocol. Only `holds` is fine."""


ANY_OUTCOME: Final = "holds whatever the outcome"
"""Note of a verdict about a connection without a certain outcome."""
NOT_DENIED: Final = "no network policy denies this connection"
"""Note of a verdict about a row that expects no connection, in a lab with policies."""


class RowVerdict(Struct, frozen=True):
    """Result of one probe of one row."""

    table: str
    source: str
    target: str
    expected: str
    found: str
    state: State
    place: str
    """file:line of the row."""
    ms: float = 0.0
    name: str = ""
    """Source and target under names that stay the same when pods are replaced.

    Example: `deploy/web[0] → svc/cart:7070/TCP`.
    """
    connection: Connection | None = None
    """Both ends as objects of the cluster; None if the row names an object that does not exist."""
    policies: tuple[str, ...] = ()
    """Network policies that deny the connection, or rules that allow it, with file and line."""
    note: str = ""
    """Reason why a result that holds proves little; else empty."""

    @property
    def is_expected_to_fail(self) -> bool:
        """True if the row expects no connection: a misconfigured target may be intended."""
        return self.expected.partition(",")[0] in ("deny", "reject", "drop", "does not resolve")


class RowProbe(Struct, frozen=True):
    """Probe of one row from one source to one address."""

    row: Row
    place: str
    name: str
    connection: Connection
    source: Location
    title: str
    address: str
    port: int = 0
    """Destination port; 0 for a ping."""
    path: str = ""
    """Path of a GET; empty for a connection, a datagram or a ping."""

    @property
    def reads_reply(self) -> bool:
        """True if the verdict depends on the content of a reply."""
        return bool(self.row.source or self.path)


def state_of(holds: bool, outcome: str = "") -> State:
    """Return the state of a verdict. `outcome` is that of its probe, if it has one."""
    if outcome == "not testable":
        return "untested"
    return "holds" if holds else "fails"


def with_family(target: str, row: Row) -> str:
    """Return the title of a destination with the family, if the row gives one."""
    return f"{target} {row.family}" if row.family else target


def verdict_of(
    table: TruthTable, probe: RowProbe, found: str, state: State, ms: float = 0.0
) -> RowVerdict:
    """Return the verdict of a probe. `found` is the result, and `ms` the time that it took."""
    row = probe.row
    is_plain = row.port is not None and not probe.path
    target = with_port(probe.title, row.port, row.protocol) if is_plain else probe.title
    return RowVerdict(
        table.name,
        probe.source.title,
        with_family(target, row),
        row.expected + (f", from {row.source}" if row.source else ""),
        found,
        state,
        probe.place,
        round(ms, 3),
        probe.name,
        probe.connection,
    )
