"""Truth tables: expected results of probes, read from a YAML file.

    name: shop
    manifests: [shop.yaml]
    probes:
    - {from: default/client, to: "svc:default/web", port: 80, allowed: true}
    - {from: ext:client, to: default/web, port: 8080, expect: deny}
    - {from: default/client, to: "svc:default/web", port: 80, expect: allow, source: 10.244.1.2}
    - {from: default/client, to: "svc:default/gone", resolves: false}

A plain list of probes is also accepted. `version: 1` states the version of the format, which is
the only one. A field with a default may be added to it; every other change needs a new version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

from msgspec import field, structs

from kubenetlab import __version__
from kubenetlab.api.containers import Port
from kubenetlab.api.meta import Record
from kubenetlab.api.text.decode import decode, format_path, found
from kubenetlab.api.text.documents import Document, read_documents
from kubenetlab.api.values.ip import is_address
from kubenetlab.errors import ManifestError, Problem, UsageError
from kubenetlab.observe.probe_sockets import Outcome
from kubenetlab.observe.request import RequestOptions, make_request
from kubenetlab.observe.targets.grammar import Target, parse

VERSIONS: Final = (1,)
"""Versions of the format that can be read; that of tables without a version first."""

Expected = Literal["allow", "deny", "reject", "drop"]
"""Result that a row expects; `deny` is either `reject` or `drop`."""

EXPECTED_OUTCOMES: Final[Mapping[Expected, tuple[Outcome, ...]]] = {
    "allow": ("answer",),
    "deny": ("refused", "unreachable", "silence"),
    "reject": ("refused", "unreachable"),
    "drop": ("silence",),
}
"""Outcomes of a probe that meet each expectation."""

_WITH_PORTS: Final = ("svc", "lb", "nodeport", "name", "word")
"""Kinds of targets that may be a Service, whose first port is used when a row has no port."""

_WITH_NAMES: Final = ("svc", "lb", "name", "word", "pod")
"""Kinds of targets that have, or may have, a name in DNS.

`shop/web` is read as a pod and may be a Service.
"""


class Row(Record, frozen=True):
    """One row of a truth table.

    Without a port the probe is a ping; to a Service it uses the first port.
    """

    from_: str = field(name="from")
    to: str
    port: Port | None = None
    protocol_: Literal["TCP", "UDP", "SCTP", "ICMP"] | None = field(name="protocol", default=None)
    allowed: bool | None = None
    expect: Expected | None = None
    resolves: bool | None = None
    """False: the name of the Service must not resolve. The port does not matter then."""
    source: str = ""
    """Client address that the server must see."""
    family: Literal["IPv4", "IPv6"] | None = None
    """Address family of the probe; the primary family of the source when not given."""

    @property
    def expected(self) -> Expected:
        return self.expect or ("deny" if self.allowed is False else "allow")

    @property
    def protocol(self) -> Literal["TCP", "UDP", "SCTP", "ICMP"]:
        """Protocol of a row with a port: TCP unless it is given."""
        return self.protocol_ or "TCP"


class TruthTable(Record, frozen=True):
    """Truth table of one file."""

    version: int = VERSIONS[0]
    """Version of the format."""
    name: str = ""
    manifests: tuple[str, ...] = ()
    probes: tuple[Row, ...] = ()
    source: str = ""
    notes: str = ""
    pods: dict[str, int] = {}


def load(file: str) -> tuple[TruthTable, list[str]]:
    """Return the truth table and `file:line` of each row; `-` reads standard input.

    Raises ManifestError with every problem found in the file.
    """
    try:
        with open(0 if file == "-" else file, "rb", closefd=file != "-") as stream:
            documents, problems = read_documents("<stdin>" if file == "-" else file, stream.read())
    except OSError as error:
        raise ManifestError([Problem(f"cannot be read: {error.strerror}", file=file)]) from None
    if problems:
        raise ManifestError(problems)
    for document in documents:
        _refuse_manifest(document, file)
    if len(documents) != 1:
        raise ManifestError([Problem(f"expected one document, found {len(documents)}", file=file)])
    (document,) = documents
    is_list = isinstance(document.value, list)
    if isinstance(document.value, dict):
        _require_version(document, document.value.get("version", VERSIONS[0]))
    decoded = decode({"probes": document.value} if is_list else document.value, TruthTable)
    if decoded.value is None or decoded.findings:
        raise ManifestError(
            _problem(document, finding.path[1:] if is_list else finding.path, finding.message)
            for finding in decoded.findings
        )
    problems_of_rows = list(_faults(document, decoded.value, () if is_list else ("probes",)))
    if problems_of_rows:
        raise ManifestError(problems_of_rows)
    lines = [
        document.line_of((*(() if is_list else ("probes",)), index))
        for index in range(len(decoded.value.probes))
    ]
    return decoded.value, [f"{document.file}:{line}" for line in lines]


def _refuse_manifest(document: Document, file: str) -> None:
    """Raise ManifestError for an object of Kubernetes."""
    value = document.value
    if isinstance(value, dict) and "kind" in value and "probes" not in value:
        hints = (
            "a table lists probes, such as {from: client, to: svc:web, expect: allow}: docs/ci.md",
            f"to make a lab of this file: kubenetlab up -f {file}",
        )
        message, line = "this is a manifest, not a table of checks", document.line_of(("kind",))
        raise ManifestError([Problem(message, file=file, line=line, hints=hints)])


def _require_version(document: Document, version: object) -> None:
    """Raise ManifestError for a version that cannot be read.

    It is the only problem of the report: in another version, other fields may be valid.
    """
    if type(version) is not int or version not in VERSIONS:
        expected = " or ".join(map(str, VERSIONS))
        problem = _problem(document, ("version",), f"expected {expected}, found {found(version)}")
        hint = f"the versions of tables that kubenetlab {__version__} reads: {expected}"
        raise ManifestError([structs.replace(problem, hints=(hint,))])


def _problem(document: Document, path: tuple[str | int, ...], message: str) -> Problem:
    return Problem(message, format_path(path), "", document.file, document.line_of(path))


def _faults(
    document: Document, table: TruthTable, path: tuple[str | int, ...]
) -> Iterator[Problem]:
    """Yield the problems of the rows that their types do not exclude."""
    if not table.probes:
        yield _problem(document, path, "holds no probe: nothing would be checked")
    for index, row in enumerate(table.probes):
        row_path = (*path, index)
        if sum(value is not None for value in (row.allowed, row.expect, row.resolves)) != 1:
            yield _problem(document, row_path, "expected one of allowed, expect and resolves")
        target = None
        for name, text in (("from", row.from_), ("to", row.to)):
            try:
                target = parse(text)
                row = with_target(row, target) if name == "to" else row
            except UsageError as error:
                target = None
                yield _problem(document, (*row_path, name), str(error))
        yield from (
            _problem(document, (*row_path, *path), message)
            for path, message in _contradictions(row, target)
        )


def _contradictions(row: Row, target: Target | None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (field, message) for fields of a row that contradict each other.

    target: the parsed destination; None when it cannot be parsed.
    """
    has_port = row.port is not None or (target is not None and target.kind in _WITH_PORTS)
    if row.source and row.resolves is not None:
        yield ("source",), "a row with resolves sends nothing to a server that could see a source"
    elif row.source and row.expected != "allow":
        yield (
            ("source",),
            f"a server sees a source only where the row expects allow, not {row.expected}",
        )
    elif row.source and (not has_port or row.protocol == "ICMP"):
        yield ("source",), "a port is required, too: the answer to a ping does not name the source"
    if row.source and not is_address(row.source):
        yield ("source",), f'expected an IP address, found "{row.source}"'
    if row.resolves is not None:
        if target is not None and target.kind not in _WITH_NAMES:
            yield (
                ("to",),
                f"resolves is about a name: expected a Service or a DNS name, found {target}",
            )
    elif row.protocol == "ICMP" and row.port is not None:
        yield ("protocol",), f"a ping has no port, but port is {row.port}; give one of them"
    elif row.protocol_ not in (None, "ICMP") and not has_port:
        yield ("protocol",), f"{row.protocol_} needs a port"


def with_target(row: Row, target: Target) -> Row:
    """Return the row with the port, protocol and family of its target.

    Raises UsageError when the row gives a different one.
    """
    if row.family and target.family and row.family != target.family:
        raise UsageError(
            f"{target} has the family {target.family}, but family is {row.family}; give one of them"
        )
    row = structs.replace(row, family=row.family or target.family)
    if target.port is None:
        return row
    request = make_request(target, RequestOptions(row.protocol_, row.port))
    return structs.replace(row, port=request.port, protocol_=request.protocol)
