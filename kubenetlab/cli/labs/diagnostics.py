"""Diagnostics on the screen: where each object stands, which of them a command accepts, and what they make doubtful.

The diagnostics come from the lab's API as plain data (kubenetlab/diagnostics); commands that need none do not load their types.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from kubenetlab.cli.terminal.printing import BAD, WARNING, note, paint
from kubenetlab.errors import ManifestError, Problem

if TYPE_CHECKING:
    from kubenetlab.api.load import ManifestObject
    from kubenetlab.cli.input.manifests import Manifests
    from kubenetlab.diagnostics import Connection, Diagnostic
    from kubenetlab.lab.client import Client

MAX_NAMES = 3
"""Number of objects or connections that a line names."""

AllowUnmodelled = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-unmodelled",
        metavar="KIND",
        help="Accept that objects of a kind are not enforced, such as NetworkPolicy or Ingress; may be given several times.",
    ),
]
AllowUndeclared = Annotated[
    bool,
    typer.Option(
        "--allow-undeclared", help="Accept Services whose numeric target port no container serves."
    ),
]


def decode(items: Iterable[Mapping[str, Any]]) -> list[Diagnostic]:
    """Return diagnostics as objects."""
    import msgspec

    from kubenetlab.diagnostics import Diagnostic

    return [
        msgspec.convert({key: value for key, value in item.items() if key != "source"}, Diagnostic)
        for item in items
    ]


def is_accepted(diagnostic: Diagnostic, kinds: Sequence[str] | None, *, undeclared: bool) -> bool:
    """Return True for what the command line accepts: `kinds` that are not enforced, and target ports that nothing serves."""
    from kubenetlab.cli.input.selection import is_kind_name
    from kubenetlab.diagnostics import NOT_ENFORCED, PORT_NOT_SERVED

    if diagnostic.code == NOT_ENFORCED:
        return any(is_kind_name(diagnostic.kind.partition(".")[0], word) for word in kinds or ())
    return undeclared and diagnostic.code == PORT_NOT_SERVED


def to_problems(
    items: Iterable[Mapping[str, Any]], entries: Sequence[ManifestObject] = ()
) -> list[Problem]:
    """Return diagnostics as lines of a report. `entries` are the objects of this command, whose fields have lines."""
    from kubenetlab.api.decode import Finding, format_path
    from kubenetlab.api.kinds import qualified_kind

    given = {
        (
            qualified_kind(entry.value),
            entry.value["metadata"].get("namespace", ""),
            entry.value["metadata"]["name"],
        ): entry
        for entry in entries
        if isinstance(entry.value.get("metadata"), Mapping) and "name" in entry.value["metadata"]
    }
    given |= {
        (entry.object.kind, entry.object.namespace, entry.object.name): entry
        for entry in entries
        if entry.object is not None
    }
    found = []
    for item, one in zip(items, decode(items), strict=True):
        entry = given.get((one.kind, one.namespace, one.name))
        if entry is not None:
            found.append(
                entry.problem(Finding(one.path, one.message, hints=one.hints), is_warning=True)
            )
        else:
            file, line = _place(item["source"], one)
            found.append(
                Problem(
                    one.message,
                    format_path(one.path),
                    one.title,
                    file,
                    line,
                    one.hints,
                    is_warning=True,
                )
            )
    return found


def _place(source: Mapping[str, Any] | None, diagnostic: Diagnostic) -> tuple[str, int]:
    """Return file and line of the field that a diagnostic is about; of its object where the file has gone or cannot be read any more."""
    from kubenetlab.api.documents import read_documents
    from kubenetlab.api.load import load_documents

    if source is None:
        return "", 0
    file, line = source["file"], source["line"]
    shown = os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file
    if not os.path.isfile(file):
        return shown, line
    try:
        with open(file, "rb") as stream:
            documents, _ = read_documents(file, stream.read())
        entries = load_documents(documents).entries
    except ManifestError as error:
        entries = error.sound
    except OSError:
        return shown, line
    same = [entry for entry in entries if _is_of(entry, diagnostic)]
    entry = next((entry for entry in same if entry.source.line == line), same[0] if same else None)
    return shown, line if entry is None else entry.document.line_of(entry.path + diagnostic.path)


def _is_of(entry: ManifestObject, diagnostic: Diagnostic) -> bool:
    """Return True for the manifest of a diagnostic's object, wherever in its file it stands by now."""
    from kubenetlab.api.kinds import qualified_kind

    if entry.object is not None:
        return (entry.object.kind, entry.object.namespace, entry.object.name) == (
            diagnostic.kind,
            diagnostic.namespace,
            diagnostic.name,
        )
    meta = entry.value["metadata"]
    return (qualified_kind(entry.value), meta.get("namespace", ""), meta["name"]) == (
        diagnostic.kind,
        diagnostic.namespace,
        diagnostic.name,
    )


def print_diagnostics(
    items: Sequence[Mapping[str, Any]],
    entries: Sequence[ManifestObject] = (),
    *,
    allow_undeclared: bool = False,
) -> None:
    """Print what `up` and `apply` warn of: a line for all that is not enforced, and each misconfiguration with its place."""
    if not items:
        return
    from kubenetlab.diagnostics import NOT_ENFORCED, PORT_NOT_SERVED

    unenforced: dict[str, list[str]] = {}
    for item in items:
        if item["code"] == NOT_ENFORCED:
            unenforced.setdefault(item["kind"], []).append(
                "/".join(filter(None, (item["namespace"], item["name"])))
            )
    if unenforced:
        subject = (
            "it changes"
            if len(unenforced) == 1 and all(len(names) == 1 for names in unenforced.values())
            else "they change"
        )
        objects = "; ".join(f"{kind} {abbreviate(names)}" for kind, names in unenforced.items())
        note(
            f"{paint('not enforced:', BAD)} {objects}: in a cluster {subject} which connections succeed"
        )
    accepted = (NOT_ENFORCED, PORT_NOT_SERVED) if allow_undeclared else (NOT_ENFORCED,)
    for problem in to_problems([item for item in items if item["code"] not in accepted], entries):
        note(f"{paint('warning:', WARNING)} {problem}")


def raise_misconfigurations(
    items: Sequence[Mapping[str, Any]], entries: Sequence[ManifestObject]
) -> None:
    """Raise ManifestError for misconfigurations that are to be errors (`refused_codes`)."""
    from msgspec import structs

    if items:
        raise ManifestError(
            structs.replace(problem, is_warning=False) for problem in to_problems(items, entries)
        )


def raise_findings(answer: dict[str, Any], given: Manifests) -> None:
    """Raises ManifestError for what the lab found in our documents: it knows the field, we know file and line."""
    from kubenetlab.api.decode import Finding

    entries = given.all_entries
    findings = [
        (
            item["document"],
            Finding(tuple(item["path"]), item["message"], hints=tuple(item["hints"])),
        )
        for item in answer["findings"]
    ]
    if findings:
        raise ManifestError(entries[index].problem(finding) for index, finding in findings)


class AssessedDiagnostic(Struct, frozen=True):
    """One diagnostic, with what it means for the results of a command."""

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
    def name(self) -> str:
        """The same name in every report: `Service default/web: port-not-served`, with the field where an object has several."""
        from kubenetlab.api.decode import format_path

        path = format_path(self.diagnostic.path)
        return f"{self.diagnostic.title}: {self.diagnostic.code}{f' ({path})' if path else ''}"

    @property
    def message(self) -> str:
        """What is wrong, in one line."""
        return (
            f"{self.problem.path}: {self.diagnostic.message}"
            if self.problem.path
            else self.diagnostic.message
        )

    @property
    def place(self) -> str:
        """file:line, as far as it is known."""
        return (
            f"{self.problem.file}:{self.problem.line}" if self.problem.line else self.problem.file
        )

    def as_data(self, names: Sequence[str]) -> dict[str, Any]:
        """Return it for JSON; `names` are those of all results."""
        one = self.diagnostic
        about = {
            "code": one.code,
            "kind": one.kind,
            "namespace": one.namespace,
            "name": one.name,
            "path": self.problem.path,
        }
        where = {"file": self.problem.file, "line": self.problem.line}
        affects = [names[index] for index in self.affected]
        return {
            **about,
            "message": one.message,
            "hints": list(one.hints),
            **where,
            "accepted": self.is_accepted,
            "affects": affects,
        }


def unenforced_objects(client: Client) -> list[Mapping[str, Any]]:
    """Return the diagnostics of objects that the lab does not enforce."""
    from kubenetlab.diagnostics import NOT_ENFORCED

    return [item for item in client.diagnostics() if item["code"] == NOT_ENFORCED]


def assess(
    items: Sequence[Mapping[str, Any]],
    connections: Sequence[Connection | None],
    *,
    kinds: Sequence[str] | None = None,
    undeclared: bool = False,
    expected_to_fail: AbstractSet[int] = frozenset(),
) -> list[AssessedDiagnostic]:
    """Return every diagnostic with the results that it could change.

    items: the diagnostics, as the lab's API shows them.
    connections: of each result; None where it has none.
    kinds, undeclared: what the command line accepts.
    expected_to_fail: indices of results in which no connection is what was wanted; they accept the misconfiguration of their target.
    """
    from kubenetlab.diagnostics import NOT_ENFORCED

    found = []
    for one, problem in zip(decode(items), to_problems(items), strict=True):
        affected = tuple(
            index
            for index, ends in enumerate(connections)
            if ends is not None and one.scope.covers(ends)
        )
        targeted = (
            index
            for index in affected
            if (ends := connections[index]) is not None and one.scope.covers_target(ends)
        )
        is_wanted = one.code != NOT_ENFORCED and not expected_to_fail.isdisjoint(targeted)
        found.append(
            AssessedDiagnostic(
                one, problem, is_wanted or is_accepted(one, kinds, undeclared=undeclared), affected
            )
        )
    return found


def note_absent_pods(seen: Mapping[str, Any]) -> None:
    """Print which pods take no part in the matrix because they do not run; `seen` is what `inspect` shows."""
    names = [
        f"{pod['namespace']}/{pod['name']}"
        for pod in seen["pods"]
        if not pod["pid"] and pod["phase"] == "Pending"
    ]
    if names:
        subject = "1 pod does" if len(names) == 1 else f"{len(names)} pods do"
        note(f"{paint('not checked:', WARNING)} {subject} not run: {abbreviate(names)}")


def describe_unenforced(judged: AssessedDiagnostic, names: Sequence[str]) -> str:
    """Return one line: the object, and how many of the connections it could change."""
    affected = [names[index] for index in judged.affected]
    what = (
        f"could change {len(affected)} of {len(names)} results: {abbreviate(affected)}"
        if affected
        else "is about none of these connections"
    )
    return f"{judged.diagnostic.title} is not enforced by this lab; it {what}"


def count_problems(found: Sequence[AssessedDiagnostic]) -> list[str]:
    """Return parts of a summary: how many misconfigurations there are, and how many objects that are not enforced."""
    open_ones = [judged for judged in found if not judged.is_accepted]
    unenforced = sum(judged.is_unenforced for judged in open_ones)
    misconfigured = len(open_ones) - unenforced
    parts = (
        [f"{misconfigured} misconfiguration{'s' if misconfigured > 1 else ''}"]
        if misconfigured
        else []
    )
    return parts + (
        [f"{unenforced} object{'s' if unenforced > 1 else ''} not enforced"] if unenforced else []
    )


def abbreviate(titles: Sequence[str]) -> str:
    """Return the first titles, and how many there are beside them."""
    return ", ".join(titles[:MAX_NAMES]) + (
        f" and {len(titles) - MAX_NAMES} more" if len(titles) > MAX_NAMES else ""
    )
