"""Errors that are reported to users.

KubenetlabError
├── ManifestError      a manifest is invalid                                        exit status 2
├── UsageError         the command line is invalid                                  exit status 2
├── LabError           the lab does not exist, is up already or is not ready        exit status 1
├── RequirementError   the machine lacks a program, permission or kernel feature    exit status 1
├── StoreError         the lab's store cannot be read, or cannot hold an object     exit status 1
├── ApplyError         the kernel rejected operations                               exit status 1
└── BugError           an error in kubenetlab itself                                exit status 1

A message names the object, the expected and the found value, and what to do. One report contains
all problems of one stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct


class KubenetlabError(Exception):
    """Base class of all errors reported to users; `str()` is the whole report."""

    exit_status = 1
    """Exit status of a command that ends with the error."""


class Problem(Struct, frozen=True):
    """One problem at one place of a manifest."""

    message: str
    path: str = ""
    """Field path in Kubernetes' notation, such as `spec.ports[0].port`."""
    object: str = ""
    """`Kind namespace/name`, or the known part of it."""
    file: str = ""
    line: int = 0
    """Line number in the file, from 1; 0: unknown."""
    hints: tuple[str, ...] = ()
    """Further lines of the report: existing values, what to do."""
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
        return escape_control_characters("\n".join([head, *(indent + hint for hint in self.hints)]))


class ManifestError(KubenetlabError):
    """All problems found in the manifests of one command."""

    exit_status = 2

    def __init__(self, problems: Iterable[Problem], valid: Sequence[Any] = ()) -> None:
        """Create the report: one entry for each distinct problem, by file and line.

        valid: entries without problems, of the type that the failed function returns; callers may
            run further checks on them for the same report.
        """
        distinct = list(dict.fromkeys(problems))
        files = list(dict.fromkeys(problem.file for problem in distinct))
        self.problems = tuple(
            sorted(distinct, key=lambda problem: (files.index(problem.file), problem.line))
        )
        self.valid = tuple(valid)
        super().__init__(
            "\n".join(
                str(problem) + (" (a warning)" if problem.is_warning else "")
                for problem in self.problems
            )
        )


class UsageError(KubenetlabError):
    """The command line names an object that does not exist, or options that do not fit."""

    exit_status = 2


class LabError(KubenetlabError):
    """The lab does not exist, is up already or did not become ready."""


class RequirementError(KubenetlabError):
    """The machine lacks a program, a permission or a kernel feature."""


class StoreError(KubenetlabError):
    """The lab's store cannot be read, or cannot hold an object so that it can be read again."""


class ApplyError(KubenetlabError):
    """The kernel rejected operations; each line names one, its namespace and its origin."""


class BugError(KubenetlabError):
    """An assumption of kubenetlab's own code does not hold."""

    def __str__(self) -> str:
        return (
            f"{super().__str__()}\n"
            "  this is a bug in kubenetlab: please report it with the manifest "
            "and the output of --debug"
        )


def os_error_text(error: OSError) -> str:
    """Return an OSError in one line: the file or call, if known, and the kernel's message."""
    subject = f"{error.filename}: " if error.filename else ""
    return f"{subject}{error.strerror or error}"


def error_text(error: Exception) -> str:
    """Return the cause of a failure in one line.

    Errors other than OSError and KubenetlabError are not meant for users: their type is included.
    """
    if isinstance(error, OSError):
        return os_error_text(error)
    return str(error) if isinstance(error, KubenetlabError) else f"{type(error).__name__}: {error}"


def escape_control_characters(text: str) -> str:
    """Return `text` with control characters escaped: manifests must not control a terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char in "\n\t" or char.isprintable() else f"\\x{ord(char):02x}" for char in text
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most similar to `word`, or None if none is similar."""
    import difflib

    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` to append to a message, or an empty string."""
    guess = nearest(word, known)
    return f"; did you mean {guess}?" if guess else ""
