"""Output of `check`: the rows that do not hold, reports for programs and CI servers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from kubenetlab.api.json_types import JsonObject
from kubenetlab.cli.labs.diagnostics import (
    MAX_NAMES,
    abbreviate,
    count_accepted,
    count_problems,
    describe_effect,
    how_to_enforce,
    reasons_of,
)
from kubenetlab.cli.terminal.printing import echo, print_table
from kubenetlab.cli.terminal.reports import print_advice
from kubenetlab.cli.terminal.theme import BAD, GOOD, PLACE, WARNING, paint

if TYPE_CHECKING:
    from kubenetlab.cli.labs.diagnostics import AssessedDiagnostic
    from kubenetlab.observe.checks.verdicts import RowVerdict
    from kubenetlab.observe.matrix import Matrix


class Result(NamedTuple):
    """Result of a check."""

    lab: str
    verdicts: Sequence[RowVerdict]
    assessed: Sequence[AssessedDiagnostic]
    took_s: float

    @property
    def failed(self) -> list[RowVerdict]:
        """Verdicts that do not hold, also those that this kernel cannot test."""
        return [verdict for verdict in self.verdicts if verdict.state != "holds"]

    @property
    def is_fine(self) -> bool:
        """True if everything holds and no diagnostic makes the result meaningless."""
        return not self.failed and all(item.is_accepted for item in self.assessed)


def refuse_unwritable(option: str, file: str) -> None:
    """Raise UsageError if the report cannot be written; called before any packet is sent."""
    from kubenetlab.errors import UsageError

    directory = os.path.dirname(file) or "."
    if not os.path.isdir(directory):
        raise UsageError(f"{option} {file}: directory {directory} does not exist")
    if os.path.isdir(file) or not os.access(file if os.path.exists(file) else directory, os.W_OK):
        raise UsageError(f"{option} {file}: cannot write this file")


def next_command(result: Result) -> str:
    """Return the command that shows the reason of the first failure."""
    if result.failed and all(verdict.state == "untested" for verdict in result.failed):
        return "kubenetlab doctor"
    if result.failed:
        return _again(result.failed[0])
    return "kubenetlab ping" if result.is_fine else _how_to_accept(result.assessed)


def _how_to_accept(assessed: Sequence[AssessedDiagnostic]) -> str:
    """Return commands for the first diagnostic that is not accepted: show, enforce or accept it."""
    first = next(diagnostic for diagnostic in assessed if not diagnostic.is_accepted)
    if first.is_unenforced:
        return how_to_enforce([first], "kubenetlab check")
    open_diagnostic = first.diagnostic
    return f"kubenetlab describe {open_diagnostic.kind.lower()} {open_diagnostic.name}" + (
        f" -n {open_diagnostic.namespace}" if open_diagnostic.namespace != "default" else ""
    )


def _again(verdict: RowVerdict) -> str:
    """Return the `ping` command that repeats the probe of a failed expectation."""
    destination, family = verdict.target, ""
    for version in ("4", "6"):
        if destination.endswith(f" IPv{version}"):
            destination, family = destination.removesuffix(f" IPv{version}"), f" -{version}"
    target, _, protocol = destination.rpartition("/")
    if protocol not in ("TCP", "UDP", "SCTP"):
        return f"kubenetlab ping {verdict.source} {quote(destination)}{family}"
    target, _, port = target.rpartition(":")
    return f"kubenetlab ping {verdict.source} {target} --{protocol.lower()} {port}{family}"


def _unenforced_by_verdict(assessed: Sequence[AssessedDiagnostic]) -> dict[int, list[str]]:
    """Return the titles of unenforced, unaccepted objects, by verdict that they could change."""
    titles: dict[int, list[str]] = {}
    for item in assessed:
        if item.is_unenforced and not item.is_accepted:
            for index in item.affected:
                titles.setdefault(index, []).append(item.diagnostic.subject)
    return titles


def _remark(titles: Sequence[str]) -> str:
    return f"not enforced by this lab, could change this result: {abbreviate(titles)}"


def show_differences(matrix: Matrix) -> None:
    """Print the rows and columns of the matrix that have a difference, and the legend."""
    from kubenetlab.cli.probing.matrix_lines import (
        legend_lines,
        matrix_lines,
        print_other_destinations,
    )
    from kubenetlab.cli.terminal import display

    differences = matrix.differences
    width = display.standard_output().width
    for line in matrix_lines(differences, width):
        echo(line)
    print_other_destinations(differences)
    for line in legend_lines(width, has_untested=bool(matrix.untested)):
        echo(line)
    echo()


def as_page(result: Result) -> str:
    """Return the result as one HTML page."""
    from kubenetlab.observe.checks.html_report import PageNote, render_page

    notes = [
        PageNote(
            "advice" if item.is_advice else "accepted" if item.is_accepted else "error",
            item.diagnostic.title,
            item.message,
            item.place,
        )
        for item in result.assessed
    ]
    remarks = _remarks(result)
    return render_page(result.lab, result.verdicts, notes, remarks, result.took_s)


def _remarks(result: Result) -> dict[int, list[str]]:
    """Return the lines that reports show with a verdict, by index.

    Failed checks have the network policies that decided, those that hold a note if they prove
    little. All have objects that are not enforced.
    """
    from kubenetlab.observe.probe_sockets import NO_SCTP

    unenforced = _unenforced_by_verdict(result.assessed)
    remarks = {}
    for index, verdict in enumerate(result.verdicts):
        lines = list(verdict.policies) if verdict.state == "fails" else []
        lines += [verdict.note] if verdict.note else []
        lines += [NO_SCTP] if verdict.state == "untested" else []
        lines += [_remark(unenforced[index])] if index in unenforced else []
        if lines:
            remarks[index] = lines
    return remarks


def as_data(result: Result) -> JsonObject:
    """Return the result for `-o json`."""
    from msgspec import to_builtins

    unenforced = _unenforced_by_verdict(result.assessed)
    checks = []
    for index, verdict in enumerate(result.verdicts):
        fields = to_builtins(verdict)
        del fields["connection"]
        checks.append({**fields, "unenforced": unenforced.get(index, [])})
    names = [verdict.name for verdict in result.verdicts]
    return {
        "ok": result.is_fine,
        "checks": checks,
        "diagnostics": [diagnostic.as_data(names) for diagnostic in result.assessed],
    }


def show(result: Result, *, is_wide: bool = False) -> None:
    """Print what does not hold, diagnostics, advice, and a summary.

    is_wide: also print each result that holds and proves little.
    """
    _, verdicts, assessed, took_s = result
    _print_failed(result)
    _print_noted(verdicts, is_wide=is_wide)
    names = [f"{verdict.source} → {verdict.target}" for verdict in verdicts]
    for item in assessed:
        if not item.is_accepted:
            text = describe_effect(item, names) if item.is_unenforced else item.problem
            echo(f"{paint('✗', BAD)} {text}")
    for reason in reasons_of(assessed):
        echo(f"    {reason}")
    for item in assessed:
        if item.is_advice:
            print_advice(item.problem, is_result=True)
    holding = sum(verdict.state == "holds" for verdict in verdicts)
    failing = sum(verdict.state == "fails" for verdict in verdicts)
    parts = [paint(f"{holding} hold", GOOD)]
    untested = sum(verdict.state == "untested" for verdict in verdicts)
    undecided = sum(verdict.expected == "any" and verdict.state == "holds" for verdict in verdicts)
    parts += [paint(f"{undecided} of them whatever the outcome", WARNING)] if undecided else []
    parts += [paint(f"{failing} fail", BAD)] if failing else []
    parts += [paint(f"{untested} not testable", WARNING)] if untested else []
    parts += [paint(part, BAD) for part in count_problems(assessed)]
    parts += [paint(part, WARNING) for part in count_accepted(assessed)]
    noun = "check" if len(verdicts) == 1 else "checks"
    echo(f"{len(verdicts)} {noun} in {took_s:.2f} s: {', '.join(parts)}")


def _print_failed(result: Result) -> None:
    """Print the expectations that do not hold."""
    remarks = _remarks(result)
    rows = [
        (
            f"{paint('✗', BAD)} {verdict.source}",
            verdict.target,
            verdict.expected,
            paint(verdict.found, BAD),
            paint(verdict.place, PLACE),
            "\n".join(paint(line, WARNING) for line in remarks.get(index, ())),
        )
        for index, verdict in enumerate(result.verdicts)
        if verdict.state != "holds"
    ]
    if rows:
        print_table(
            ("SOURCE", "TARGET", "EXPECTED", "FOUND", "PLACE", "REMARK"), rows, plain=_sentence
        )


def _print_noted(verdicts: Sequence[RowVerdict], *, is_wide: bool) -> None:
    """Print the expectations that hold and prove little: with is_wide all, else a summary."""
    from kubenetlab.observe.checks.verdicts import NOT_DENIED

    if is_wide:
        rows = [
            (
                f"{paint('·', WARNING)} {verdict.source}",
                verdict.target,
                verdict.expected,
                verdict.found,
                paint(verdict.place, PLACE),
                paint(verdict.note, WARNING),
            )
            for verdict in verdicts
            if verdict.note
        ]
        if rows:
            head = ("SOURCE", "TARGET", "EXPECTED", "FOUND", "PLACE", "NOTE")
            print_table(head, rows, plain=_sentence)
        return
    names = [
        f"{verdict.source} → {verdict.target} ({verdict.found})"
        for verdict in verdicts
        if verdict.note == NOT_DENIED
    ]
    if names:
        noun = "row holds" if len(names) == 1 else "rows hold"
        hidden = "; -o wide names all" if len(names) > MAX_NAMES else ""
        echo(
            f"{paint('note:', WARNING)} {len(names)} {noun}, but no network policy denies the "
            f"connection: {abbreviate(names)}{hidden}"
        )


def _sentence(row: Sequence[str]) -> str:
    """Return a row of failed expectations as a line, and one below it for each remark."""
    source, target, expected, found, place, remark = row
    mark, _, source = source.partition(" ")
    line = f"{f'{place}  ' if place else ''}{source} → {target}: expected {expected}, found {found}"
    return "\n    ".join((f"{mark} {line}", *remark.splitlines()))


def write_junit(file: str, result: Result) -> None:
    """Write the result as a report for CI servers. Raises LabError."""
    from kubenetlab.errors import LabError
    from kubenetlab.observe.checks.junit import Note, write

    notes = [
        Note(diagnostic.name, diagnostic.message, diagnostic.place, diagnostic.is_accepted)
        for diagnostic in result.assessed
        if not diagnostic.is_advice
    ]
    try:
        write(file, result.verdicts, notes, _remarks(result), result.took_s)
    except OSError as error:
        raise LabError(f"--junit {file}: cannot write this file: {error.strerror}") from None
