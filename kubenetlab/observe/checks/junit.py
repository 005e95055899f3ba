"""JUnit XML report of a check for CI servers: each expectation and each diagnostic is a test case.

Names of test cases do not change when the pods of a workload are replaced, so that a server
recognises a test from run to run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from msgspec import Struct

from kubenetlab.errors import escape_control_characters
from kubenetlab.observe.checks.verdicts import RowVerdict


class Note(Struct, frozen=True):
    """One diagnostic as a test case."""

    name: str
    """Name of the test case, such as `NetworkPolicy default/deny: not-enforced`."""
    message: str
    place: str
    """file:line of the object; empty if unknown."""
    is_accepted: bool
    """True: the test case passes."""


def write(
    file: str,
    verdicts: Sequence[RowVerdict],
    notes: Sequence[Note],
    remarks: Mapping[int, Sequence[str]],
    took_s: float,
) -> None:
    """Write the report to `file`.

    remarks: index of a verdict → lines that are shown with it. took_s: duration in seconds.
    """
    failures = sum(verdict.state == "fails" for verdict in verdicts) + sum(
        not note.is_accepted for note in notes
    )
    suite = ElementTree.Element(
        "testsuite",
        name="kubenetlab",
        tests=str(len(verdicts) + len(notes)),
        failures=str(failures),
        errors=str(sum(verdict.state == "untested" for verdict in verdicts)),
        time=f"{took_s:.3f}",
    )
    name_counts: Counter[tuple[str, str]] = Counter()
    for index, verdict in enumerate(verdicts):
        case = _case(
            suite,
            verdict.table or "check",
            verdict.name,
            verdict.place,
            verdict.ms / 1000,
            name_counts,
        )
        lines = remarks.get(index, ())
        if verdict.state != "holds":
            failure = ElementTree.SubElement(
                case,
                "failure" if verdict.state == "fails" else "error",
                message=_text(f"expected {verdict.expected}, found {verdict.found}"),
            )
            failure.text = _text(verdict.place, f"{verdict.source} → {verdict.target}", *lines)
        elif lines:
            ElementTree.SubElement(case, "system-out").text = _text(*lines)
    for note in notes:
        case = _case(suite, "diagnostics", note.name, note.place, 0, name_counts)
        if note.is_accepted:
            ElementTree.SubElement(case, "system-out").text = _text(f"accepted: {note.message}")
        else:
            failure = ElementTree.SubElement(case, "failure", message=_text(note.message))
            failure.text = _text(note.place, note.message)
    ElementTree.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)


def _case(
    suite: ElementTree.Element,
    classname: str,
    name: str,
    place: str,
    took_s: float,
    name_counts: Counter[tuple[str, str]],
) -> ElementTree.Element:
    """Add a test case. Later cases of the same name get a number."""
    name_counts[classname, name] += 1
    number = name_counts[classname, name]
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_text(classname),
        name=_text(f"{name} ({number})" if number > 1 else name),
        time=f"{took_s:.3f}",
    )
    file, _, line = place.rpartition(":")
    if file:
        case.set("file", file)
        case.set("line", line)
    return case


def _text(*lines: str) -> str:
    """Return lines that are not empty. XML has no control characters, which replies may contain."""
    return "\n".join(escape_control_characters(line) for line in lines if line)
