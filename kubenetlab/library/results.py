"""Results of the methods of `Lab`: the JSON output of commands as typed values.

The fields are those of `kubenetlab schema output/NAME`. Fields of a later kubenetlab are ignored.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct, field

from kubenetlab.errors import LabError

SCHEMA_VERSION: Final = 1
"""Version of the outputs' schemas that this module reads."""
_UNDECIDED: Final = "a {} is neither true nor false: ask for .ok (as promised) or {}"
_SHOWN: Final = 3
"""Maximum number of failures, and of diagnostics, that an assertion names."""


class HttpAnswer(Struct, frozen=True):
    """Answer to an HTTP request."""

    status: int
    """HTTP status, such as 200."""
    server: str
    """Pod or host that answered; empty if its program does not report it."""
    body: str
    """Body of the answer."""


class PingResult(Struct, frozen=True, kw_only=True):
    """Result of one probe, and the result that Kubernetes promises."""

    ok: bool
    """True if the result is as promised, and no object that the lab does not enforce could change
    it. Without a promise, any answer is a success."""
    source: str = field(name="from")
    """Pod, node or host that sent the packet."""
    destination: str = field(name="to")
    """Pod, Service, node, host or name that was probed."""
    address: str
    """Destination address of the packet; empty if a name was not resolved."""
    port: int
    """Destination port; 0 for a ping."""
    protocol: Literal["ICMP", "TCP", "UDP", "SCTP"]
    """Protocol of the probe."""
    outcome: Literal["answer", "refused", "unreachable", "silence", "unresolved"] = field(
        name="found"
    )
    """Observed result."""
    expected: Literal["answer", "refused", "nothing", "any"] | None
    """Result that Kubernetes promises; None if it promises nothing."""
    ms: float
    """Time until the answer, in milliseconds."""
    body: str
    """Answer to an HTTP request as text, or the reason why a name was not resolved."""
    http: HttpAnswer | None = None
    """Answer to an HTTP request; None for other probes, and without an answer."""
    unenforced: tuple[str, ...] = ()
    """Objects that the lab does not enforce and that could change the result."""
    duplicates: tuple[str, ...] = ()
    """Addresses of two pods that could change the result."""
    policies: tuple[str, ...] = ()
    """Network policies that deny the connection, or rules that allow it."""

    def __bool__(self) -> bool:
        """Raise TypeError: `assert lab.ping(…)` could mean both of two properties."""
        raise TypeError(_UNDECIDED.format("PingResult", ".is_answered"))

    @property
    def is_answered(self) -> bool:
        """True if the destination answered."""
        return self.outcome == "answer"


class ServerShare(Struct, frozen=True):
    """Share of one server in the answers to a series of requests."""

    name: str
    """Pod or host that answered."""
    node: str | None
    """Node of the pod."""
    count: int | None
    """Number of answers; None if the share is unknown."""
    errors: int
    """Number of HTTP answers with an error status."""
    ready: bool | None
    """True if the server is a ready endpoint of the Service."""


class ClientAddress(Struct, frozen=True):
    """Client address that servers saw."""

    address: str
    """The address."""
    owner: str
    """Pod, node or host that has the address."""
    count: int
    """Number of answers that report the address."""


class LatencySummary(Struct, frozen=True):
    """Times until the answers to a series of requests, in milliseconds."""

    min: float
    """Shortest time."""
    median: float
    """Median of the times."""
    max: float
    """Longest time."""


class PingSeries(Struct, frozen=True, kw_only=True):
    """Result of several requests, with their distribution over servers."""

    ok: bool
    """True if all requests ended as promised."""
    source: str = field(name="from")
    """Pod, node or host that sent the requests."""
    destination: str = field(name="to")
    """Destination of the requests."""
    address: str
    """Destination address of the requests."""
    port: int
    """Destination port."""
    protocol: str
    """Protocol of the requests."""
    expected: str | None
    """Result that Kubernetes promises; None if it promises nothing."""
    count: int
    """Number of requests."""
    answered: int
    """Number of answers."""
    failed: dict[str, int]
    """Number of requests that failed, by kind of failure."""
    servers: tuple[ServerShare, ...]
    """Servers that answered, and ready endpoints that did not."""
    unnamed: int | None = None
    """Number of answers that do not name their server; None if unknown."""
    latency_ms: LatencySummary | None = field(name="ms", default=None)
    """Times until the answers; None without an answer."""
    client_addresses: tuple[ClientAddress, ...] = field(name="sources")
    """Client addresses that servers saw."""
    explanation: str
    """Reason for an uneven distribution; empty if it is even."""
    unenforced: tuple[str, ...] = ()
    """Objects that the lab does not enforce and that could change the result."""
    duplicates: tuple[str, ...] = ()
    """Addresses of two pods that could change the result."""
    policies: tuple[str, ...] = ()
    """Network policies that deny the connection, or rules that allow it."""

    def __bool__(self) -> bool:
        """Raise TypeError: `assert lab.ping_series(…)` could mean both of two properties."""
        raise TypeError(_UNDECIDED.format("PingSeries", ".answered"))


class ReportedDiagnostic(Struct, frozen=True):
    """Misconfiguration, or object that the lab does not enforce (docs/ci.md)."""

    code: str
    """Kind of diagnostic, such as `port-not-served`."""
    kind: str
    """Kind of the object."""
    namespace: str
    """Namespace of the object; empty for none."""
    name: str
    """Name of the object."""
    path: str
    """Field that the diagnostic is about; empty for the whole object."""
    message: str
    """Description."""
    hints: tuple[str, ...]
    """Further lines: existing values, what to do."""
    file: str
    """Manifest of the object; empty if unknown."""
    line: int
    """Line of the field in that file; 0 if unknown."""
    accepted: bool
    """True if an argument or an expectation accepts it."""
    affects: tuple[str, ...]
    """Results that it could change."""


class MatrixCell(Struct, frozen=True):
    """Result of one pair of a matrix."""

    source: str = field(name="from")
    """Pod, node or host that sent the packet."""
    destination: str = field(name="to")
    """Destination of the packet."""
    address: str
    """Address of the destination."""
    expected: str
    """Result that Kubernetes promises."""
    outcome: str = field(name="found")
    """Observed result."""
    ms: float
    """Time until the answer, in milliseconds."""
    ok: bool
    """True if the result is as promised."""
    policies: tuple[str, ...] = ()
    """Network policies that deny the connection, or rules that allow it."""


class PingMatrix(Struct, frozen=True, kw_only=True):
    """Results of all pairs of pods, nodes, Services and external hosts."""

    ok: bool
    """True if every result is as promised, and no diagnostic makes a result meaningless."""
    cells: tuple[MatrixCell, ...]
    """All pairs."""
    diagnostics: tuple[ReportedDiagnostic, ...]
    """Objects that the lab does not enforce."""

    def __bool__(self) -> bool:
        """Return `ok`, so that `assert` fails if a result is not as promised."""
        return self.ok

    @property
    def failures(self) -> tuple[MatrixCell, ...]:
        """Pairs whose result is not as promised."""
        return tuple(cell for cell in self.cells if not cell.ok)


class RowResult(Struct, frozen=True):
    """Result of one row of a table of expectations."""

    table: str
    """Name of the table."""
    name: str
    """Stable name, the same after pods are replaced."""
    source: str
    """Pod, node or host that sent the packet."""
    target: str
    """Destination of the packet."""
    expected: str
    """Expectation of the row."""
    outcome: str = field(name="found")
    """Observed result."""
    state: Literal["holds", "fails", "untested"]
    """Whether the expectation holds; `untested` if this kernel does not have the protocol."""
    place: str
    """file:line of the row."""
    ms: float
    """Time until the answer, in milliseconds."""
    unenforced: tuple[str, ...]
    """Objects that the lab does not enforce and that could change the result."""
    policies: tuple[str, ...] = ()
    """Network policies that deny the connection, or rules that allow it."""
    note: str = ""
    """Reason why a result that holds proves little; else empty."""


class CheckResult(Struct, frozen=True, kw_only=True):
    """Results of tables of expectations."""

    ok: bool
    """True if every row holds, and no diagnostic makes a result meaningless."""
    rows: tuple[RowResult, ...] = field(name="checks")
    """All rows, in order."""
    diagnostics: tuple[ReportedDiagnostic, ...]
    """Misconfigurations, and objects that the lab does not enforce."""

    def __bool__(self) -> bool:
        """Return `ok`, so that `assert lab.check()` fails if an expectation does not hold."""
        return self.ok

    def __repr__(self) -> str:
        """Return what makes the result true or false, for assertions of tests."""
        doubts = [each for each in self.diagnostics if not each.accepted]
        parts = [
            f"{len(self.failures)} of {len(self.rows)} checks fail",
            *(
                f"{row.place or row.table}: {row.source} → {row.target}: expected {row.expected}, "
                f"found {row.outcome}{_because(row.policies)}"
                for row in self.failures[:_SHOWN]
            ),
            *(
                f"{' '.join(part for part in (each.kind, each.name, each.path) if part)}: "
                f"{each.message}"
                for each in doubts[:_SHOWN]
            ),
        ]
        hidden = sum(max(0, len(each) - _SHOWN) for each in (self.failures, doubts))
        return "; ".join((*parts, f"and {hidden} more") if hidden else parts)

    @property
    def failures(self) -> tuple[RowResult, ...]:
        """Rows that do not hold, also those that this kernel cannot test."""
        return tuple(row for row in self.rows if row.state != "holds")


def _because(policies: tuple[str, ...]) -> str:
    return f" ({', '.join(policies)})" if policies else ""


Result = TypeVar("Result", PingResult, PingSeries, PingMatrix, CheckResult)
"""Results that are `ok` or not."""
Output = TypeVar("Output", bound=Struct)


class _Header(Struct, frozen=True):
    """Part of every output."""

    schema_version: int = 0


def decode_result(output: str, type_: type[Output]) -> Output:
    """Return the typed result of the JSON that a command has printed.

    Raises LabError if it has another version of the schema.
    """
    version = msgspec.json.decode(output, type=_Header).schema_version
    if version != SCHEMA_VERSION:
        raise LabError(
            f"output of kubenetlab: expected schema_version {SCHEMA_VERSION}, found {version}"
        )
    return msgspec.json.decode(output, type=type_)
