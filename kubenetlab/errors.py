"""What can go wrong, as users meet it.

KubenetlabError
├── ManifestError      a manifest cannot be used: yours to mend                     exit status 2
├── UsageError         the command line cannot be followed                          exit status 2
├── LabError           no such lab, it is up already, it did not become ready       exit status 1
├── RequirementError   the machine lacks something; the message names what          exit status 1
├── StoreError         the lab's store cannot be read, or could not be again      exit status 1
├── ApplyError         Linux said no: to what, where, wanted by whom                exit status 1
└── BugError           ours; it asks for the manifest                               exit status 1

A message names the object, what was wanted, what was found and what to do.
All problems of one stage come in one report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct


class KubenetlabError(Exception):
    """The base of all errors a user can meet; `str()` is the whole report."""

    exit_status = 1


class Problem(Struct, frozen=True):
    """One thing wrong with one place of one manifest."""

    message: str
    path: str = ""
    """Field path in Kubernetes' notation, such as `spec.ports[0].port`."""
    object: str = ""
    """`Kind namespace/name`, as far as it is known."""
    file: str = ""
    line: int = 0
    hints: tuple[str, ...] = ()
    """Further lines: what is there, what to do."""
    is_warning: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        subject = ": ".join(part for part in (self.object, self.path) if part)
        head = "  ".join(
            part
            for part in (place, f"{subject}: {self.message}" if subject else self.message)
            if part
        )
        indent = " " * (len(place) + 2 if place else 2)
        return printable("\n".join([head, *(indent + hint for hint in self.hints)]))


class ManifestError(KubenetlabError):
    """Every problem found in the manifests of one command."""

    exit_status = 2

    def __init__(self, problems: Iterable[Problem], sound: Sequence[Any] = ()) -> None:
        """`sound` are the entries in which nothing wrong was found: further checks may look at them, for the same report."""
        found = list(dict.fromkeys(problems))
        files = list(dict.fromkeys(problem.file for problem in found))
        self.problems = tuple(
            sorted(found, key=lambda problem: (files.index(problem.file), problem.line))
        )
        self.sound = tuple(sound)
        super().__init__(
            "\n".join(
                str(problem) + (" (a warning)" if problem.is_warning else "")
                for problem in self.problems
            )
        )


class UsageError(KubenetlabError):
    """The command line names something that does not exist or does not fit."""

    exit_status = 2


class LabError(KubenetlabError):
    """There is no such lab, it is up already, or it did not become ready."""


class RequirementError(KubenetlabError):
    """The machine lacks a program, a permission or a kernel feature."""


class StoreError(KubenetlabError):
    """The lab's store cannot be read, or would hold something that cannot be read again."""


class ApplyError(KubenetlabError):
    """The kernel refused one or more operations of an apply; each line says which, where and for whom."""


class BugError(KubenetlabError):
    """Something that cannot happen did."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n  this is a bug in kubenetlab: please report it with the manifest and the output of --debug"


def refusal(error: OSError) -> str:
    """What Linux refused and why, in one line: the file, or as far as it is known the call."""
    what = f"{error.filename}: " if error.filename else ""
    return f"{what}{error.strerror or error}"


def reason(error: Exception) -> str:
    """Return in one line why something failed: the whole message of an error that is meant for users, else its type as well."""
    if isinstance(error, OSError):
        return refusal(error)
    return str(error) if isinstance(error, KubenetlabError) else f"{type(error).__name__}: {error}"


def printable(text: str) -> str:
    """A text without what would steer a terminal: control characters of manifests are shown, not sent."""
    return "".join(
        char if char in "\n\t" or char.isprintable() else f"\\x{ord(char):02x}" for char in text
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` most likely means, or None when nothing is near."""
    import difflib

    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` or nothing, to be put behind a message."""
    guess = nearest(word, known)
    return f"; did you mean {guess}?" if guess else ""
