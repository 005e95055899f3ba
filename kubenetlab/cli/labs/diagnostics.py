"""Diagnostics of a lab's objects: their place in a file, and which results they could change.

The lab's API returns diagnostics (kubenetlab/diagnostics) as plain data. Their types are imported
inside functions, so that commands without diagnostics start without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from kubenetlab.api.json_types import JsonMapping, JsonObject
from kubenetlab.cli.input.places import Places
from kubenetlab.cli.terminal.printing import note
from kubenetlab.cli.terminal.reports import print_advice, print_warning
from kubenetlab.cli.terminal.theme import BAD, WARNING, paint
from kubenetlab.errors import ManifestError, Problem

if TYPE_CHECKING:
    from kubenetlab.api.manifests.load import ManifestObject
    from kubenetlab.diagnostics import Connection, Diagnostic
    from kubenetlab.observe.inspection import Inspection

MAX_NAMES = 3
"""Maximum number of objects or connections that a message names."""

AllowUnmodelled = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-unmodelled",
        metavar="KIND",
        help=(
            "Accept that objects of this kind are not enforced, such as NetworkPolicy or Ingress. "
            "May be repeated."
        ),
    ),
]
AllowUndeclared = Annotated[
    bool,
    typer.Option(
        "--allow-undeclared",
        help="Accept Services whose numeric target port no container serves.",
    ),
]


def decode(items: Iterable[JsonMapping]) -> list[Diagnostic]:
    """Convert diagnostics of the lab's API to objects."""
    import msgspec

    from kubenetlab.diagnostics import Diagnostic

    return [
        msgspec.convert({key: value for key, value in item.items() if key != "source"}, Diagnostic)
        for item in items
    ]


def is_accepted(diagnostic: Diagnostic, kinds: Sequence[str] | None, *, undeclared: bool) -> bool:
    """Return True if the command line accepts a diagnostic, or if it is only advice.

    kinds: words of --allow-unmodelled, each the name of a kind whose objects need no enforcement.
    undeclared: True with --allow-undeclared.
    """
    from kubenetlab.cli.input.allowed_kinds import is_allowed_kind
    from kubenetlab.diagnostics import ADVICE, NOT_ENFORCED, PORT_NOT_SERVED

    if diagnostic.code in ADVICE:
        return True
    if diagnostic.code == NOT_ENFORCED:
        return any(is_allowed_kind(diagnostic.kind, word) for word in kinds or ())
    return undeclared and diagnostic.code == PORT_NOT_SERVED


def to_problems(
    items: Iterable[JsonMapping], entries: Sequence[ManifestObject] = ()
) -> list[Problem]:
    """Convert diagnostics to problems with file and line.

    entries: the manifests of this command; for other objects, the file recorded by the lab is read.
    """
    from kubenetlab.api.kinds import qualified_kind
    from kubenetlab.api.text.decode import Finding, format_path

    entries_by_key = {
        (
            qualified_kind(entry.value),
            entry.value["metadata"].get("namespace", ""),
            entry.value["metadata"]["name"],
        ): entry
        for entry in entries
        if isinstance(entry.value.get("metadata"), Mapping) and "name" in entry.value["metadata"]
    }
    entries_by_key |= {
        (entry.object.kind, entry.object.namespace, entry.object.name): entry
        for entry in entries
        if entry.object is not None
    }
    places = Places()
    result = []
    for item, diagnostic in zip(items, decode(items), strict=True):
        entry = entries_by_key.get((diagnostic.kind, diagnostic.namespace, diagnostic.name))
        if entry is not None:
            result.append(
                entry.problem(
                    Finding(diagnostic.path, diagnostic.message, hints=diagnostic.hints),
                    is_warning=True,
                )
            )
        else:
            source = item["source"]
            key = (diagnostic.kind, diagnostic.namespace, diagnostic.name)
            file, line = (
                places.of(source["file"], source["line"], key, diagnostic.path)
                if source is not None
                else ("", 0)
            )
            result.append(
                Problem(
                    diagnostic.message,
                    format_path(diagnostic.path),
                    diagnostic.title,
                    file,
                    line,
                    diagnostic.hints,
                    is_warning=True,
                )
            )
    return result


def print_diagnostics(
    items: Sequence[JsonMapping],
    entries: Sequence[ManifestObject] = (),
    *,
    allow_undeclared: bool = False,
) -> bool:
    """Print the warnings of `up` and `apply`; return False if the lab cannot work as it is.

    One line names all objects that are not enforced. Each misconfiguration, and each field that is
    not enforced, has a line of its own. So has advice about an object of the manifests.
    """
    if not items:
        return True
    from kubenetlab.diagnostics import ADVICE, NOT_ENFORCED, PORT_NOT_SERVED, UNREACHABLE_PODS

    unenforced = [each for each in decode(items) if each.code == NOT_ENFORCED and not each.path]
    _note_unenforced(unenforced)
    shown = [
        item
        for item in items
        if (item["code"] != NOT_ENFORCED or item["path"])
        and not (allow_undeclared and item["code"] == PORT_NOT_SERVED)
        and item["code"] not in ADVICE
    ]
    for problem in to_problems(shown, entries):
        print_warning(problem)
    own = {(entry.object.kind, *entry.object.key) for entry in entries if entry.object is not None}
    advice = [item for item in items if item["code"] in ADVICE]
    for item, problem in zip(advice, to_problems(advice, entries), strict=True):
        if (item["kind"], item["namespace"], item["name"]) in own:
            print_advice(problem)
    return all(item["code"] not in UNREACHABLE_PODS for item in items)


def _note_unenforced(diagnostics: Sequence[Diagnostic]) -> None:
    """Print one line with all objects that are not enforced, and one for each reason."""
    if not diagnostics:
        return
    names: dict[str, list[str]] = {}
    reasons: dict[str, dict[str, None]] = {}
    for diagnostic in diagnostics:
        kind = diagnostic.kind
        name = "/".join(filter(None, (diagnostic.namespace, diagnostic.name)))
        names.setdefault(kind, []).append(name)
        for hint in diagnostic.hints:
            reasons.setdefault(hint, {})[kind] = None
    objects = "; ".join(f"{kind} {abbreviate(each)}" for kind, each in names.items())
    subject = "it changes" if len(diagnostics) == 1 else "they change"
    is_effective = any(diagnostic.is_effective for diagnostic in diagnostics)
    effect = f": in a cluster {subject} which connections succeed" if is_effective else ""
    note(f"{paint('not enforced:', BAD)} {objects}{effect}")
    for hint, kinds in reasons.items():
        note(f"  {hint}" if len(kinds) == len(names) else f"  {', '.join(kinds)}: {hint}")


def raise_misconfigurations(
    items: Sequence[JsonMapping], entries: Sequence[ManifestObject]
) -> None:
    """Raise ManifestError if there are misconfigurations that the command treats as errors."""
    from msgspec import structs

    if items:
        raise ManifestError(
            structs.replace(problem, is_warning=False) for problem in to_problems(items, entries)
        )


class AssessedDiagnostic(Struct, frozen=True):
    """A diagnostic and its effect on the results of a command."""

    diagnostic: Diagnostic
    problem: Problem
    is_accepted: bool
    affected: tuple[int, ...]
    """Indices of the results that it could change."""

    @property
    def is_unenforced(self) -> bool:
        """True for an object that the lab keeps without enforcing it."""
        from kubenetlab.diagnostics import NOT_ENFORCED

        return self.diagnostic.code == NOT_ENFORCED

    @property
    def is_advice(self) -> bool:
        """True if a cluster works with the object, which has no effect."""
        from kubenetlab.diagnostics import ADVICE

        return self.diagnostic.code in ADVICE

    @property
    def name(self) -> str:
        """Stable name for reports, such as `Service default/web: port-not-served (spec.ports)`."""
        from kubenetlab.api.text.decode import format_path

        path = format_path(self.diagnostic.path)
        return f"{self.diagnostic.title}: {self.diagnostic.code}{f' ({path})' if path else ''}"

    @property
    def message(self) -> str:
        """Path of the field and description of the problem, in one line."""
        return (
            f"{self.problem.path}: {self.diagnostic.message}"
            if self.problem.path
            else self.diagnostic.message
        )

    @property
    def place(self) -> str:
        """Place of the object as file:line; the file alone or nothing if the rest is unknown."""
        return (
            f"{self.problem.file}:{self.problem.line}" if self.problem.line else self.problem.file
        )

    def as_data(self, names: Sequence[str]) -> JsonObject:
        """Return the JSON form; `names` are the names of all results, by index."""
        diagnostic = self.diagnostic
        subject = {
            "code": diagnostic.code,
            "kind": diagnostic.kind,
            "namespace": diagnostic.namespace,
            "name": diagnostic.name,
            "path": self.problem.path,
        }
        file_and_line = {"file": self.problem.file, "line": self.problem.line}
        affects = [names[index] for index in self.affected]
        return {
            **subject,
            "message": diagnostic.message,
            "hints": list(diagnostic.hints),
            **file_and_line,
            "accepted": self.is_accepted,
            "affects": affects,
        }


def assess(
    items: Sequence[JsonMapping],
    connections: Sequence[Connection | None],
    *,
    kinds: Sequence[str] | None = None,
    undeclared: bool = False,
    expected_to_fail: AbstractSet[int] = frozenset(),
) -> list[AssessedDiagnostic]:
    """Return every diagnostic with the results that it could change.

    items: diagnostics from the lab's API.
    connections: the connection of each result, or None for a result without one.
    kinds, undeclared: see `is_accepted`.
    expected_to_fail: indices of the results that expect no connection. A misconfiguration of
        their target is accepted.
    """
    from kubenetlab.diagnostics import NOT_ENFORCED

    assessed = []
    for diagnostic, problem in zip(decode(items), to_problems(items), strict=True):
        affected = tuple(
            index
            for index, connection in enumerate(connections)
            if connection is not None and diagnostic.scope.covers(connection)
        )
        targeted = (
            index
            for index in affected
            if (connection := connections[index]) is not None
            and diagnostic.scope.covers_target(connection)
        )
        is_expected = diagnostic.code != NOT_ENFORCED and not expected_to_fail.isdisjoint(targeted)
        assessed.append(
            AssessedDiagnostic(
                diagnostic,
                problem,
                is_expected or is_accepted(diagnostic, kinds, undeclared=undeclared),
                affected,
            )
        )
    return assessed


def note_absent_pods(inspected: Inspection) -> None:
    """Print the pods that are missing from the matrix because they do not run.

    Such a pod has no sandbox, or a sandbox that its CNI plugin has not attached to the network.

    inspected: reply of the lab's API to `inspect`.
    """
    names = [
        f"{pod['namespace']}/{pod['name']}"
        for pod in inspected["pods"]
        if pod["phase"] == "Pending" and not (pod["pid"] and pod["addresses"])
    ]
    if names:
        subject = "1 pod does" if len(names) == 1 else f"{len(names)} pods do"
        note(f"{paint('not checked:', WARNING)} {subject} not run: {abbreviate(names)}")


def describe_effect(assessed: AssessedDiagnostic, names: Sequence[str]) -> str:
    """Return one line with the diagnostic and the number of results that it could change."""
    affected = [names[index] for index in assessed.affected]
    effect = (
        f"could change {len(affected)} of {len(names)} results: {abbreviate(affected)}"
        if affected
        else "applies to none of these connections"
    )
    if not assessed.is_unenforced:
        return f"{assessed.message}; it {effect}"
    return f"{assessed.diagnostic.subject} is not enforced by this lab; it {effect}"


def reasons_of(assessed: Iterable[AssessedDiagnostic]) -> list[str]:
    """Return why unenforced, unaccepted objects are not enforced, each reason once."""
    reasons = (
        hint
        for item in assessed
        if item.is_unenforced and not item.is_accepted
        for hint in item.diagnostic.hints
    )
    return list(dict.fromkeys(reasons))


def how_to_enforce(assessed: Iterable[AssessedDiagnostic], command: str) -> str:
    """Return commands that enforce the first unenforced, unaccepted object, or accept its kind.

    command: the command that accepts kinds, such as `kubenetlab check`.
    """
    first = next(item for item in assessed if item.is_unenforced and not item.is_accepted)
    accept = f"{command} --allow-unmodelled {first.diagnostic.kind.partition('.')[0]}"
    remedy = first.diagnostic.remedy
    return f"kubenetlab up {remedy}, or {accept}" if remedy else accept


def count_problems(assessed: Sequence[AssessedDiagnostic]) -> list[str]:
    """Return the numbers of misconfigurations and of objects not enforced, as summary texts."""
    unaccepted = [diagnostic for diagnostic in assessed if not diagnostic.is_accepted]
    unenforced = sum(diagnostic.is_unenforced for diagnostic in unaccepted)
    misconfigured = len(unaccepted) - unenforced
    parts = (
        [f"{misconfigured} misconfiguration{'s' if misconfigured > 1 else ''}"]
        if misconfigured
        else []
    )
    return parts + (
        [f"{unenforced} object{'s' if unenforced > 1 else ''} not enforced"] if unenforced else []
    )


def count_accepted(assessed: Sequence[AssessedDiagnostic]) -> list[str]:
    """Return the number of objects that --allow-unmodelled has accepted, with their kinds."""
    accepted = [item for item in assessed if item.is_unenforced and item.is_accepted]
    if not accepted:
        return []
    kinds = ", ".join(dict.fromkeys(item.diagnostic.kind.partition(".")[0] for item in accepted))
    objects = len({item.diagnostic.title for item in accepted})
    noun = "object" if objects == 1 else "objects"
    return [f"{objects} {noun} not enforced, as accepted ({kinds})"]


def abbreviate(titles: Sequence[str]) -> str:
    """Return the first MAX_NAMES titles and the number of the others."""
    return ", ".join(titles[:MAX_NAMES]) + (
        f" and {len(titles) - MAX_NAMES} more" if len(titles) > MAX_NAMES else ""
    )
