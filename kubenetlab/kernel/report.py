"""What a kernel is asked, and what it answers: the seam between what should be and the machine."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct, structs

from kubenetlab.errors import ApplyError
from kubenetlab.hoststate.address import Address
from kubenetlab.hoststate.diff import Changes, Operation
from kubenetlab.hoststate.object import Key, Object
from kubenetlab.hoststate.route import Route
from kubenetlab.hoststate.state import Contents
from kubenetlab.kernel.advice import advice, report, said

Done = Callable[[str], None]
"""Is told each namespace that was worked on."""


def nobody_asks(netns: str) -> None:
    """For those who do not want to be told."""


class Failure(Struct, frozen=True):
    """One operation that Linux refused."""

    netns: str
    operation: Operation
    errno: int
    text: str
    """The kernel's words, with the name of the errno."""
    because: Object | None = None
    """What was refused before, and is the true reason: an address cannot be where its link is not."""

    def __str__(self) -> str:
        operation = self.operation
        subject = f"{self.netns}: cannot {operation.verb} {operation.object}"
        if self.because is not None:
            return f"{subject}: it needs {self.because.key[-1]} of {self.because.netns}, which was refused"
        return report(
            subject,
            "kernel",
            self.text,
            operation.origin,
            advice(self.errno, type(operation.object).__name__),
        )


def with_causes(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """The same failures; those that only follow from the refusal of a link, at this end or the far one, or of an address, name that."""
    lost: dict[tuple[str, Key], Object] = {}
    for failure in failures:
        obj = failure.operation.object
        if failure.operation.verb != "remove" and (peer_end := obj.peer_end) is not None:
            lost[obj.netns, obj.key] = lost[peer_end] = obj
        elif failure.operation.verb != "remove" and isinstance(obj, Address):
            lost[obj.netns, ("Source", obj.address.partition("/")[0])] = obj
    return tuple(
        failure
        if cause is None or cause is failure.operation.object
        else structs.replace(failure, because=cause)
        for failure in failures
        for cause in [_cause(failure.operation.object, lost)]
    )


def _cause(obj: Object, lost: Mapping[tuple[str, Key], Object]) -> Object | None:
    below = obj.depends_on
    found = lost.get((obj.netns, obj.key)) or (
        lost.get((obj.netns, below)) if below is not None else None
    )
    return found or (
        lost.get((obj.netns, ("Source", obj.source))) if isinstance(obj, Route) else None
    )


def failure_of(netns: str, operation: Operation, error: OSError | KeyError) -> Failure:
    """An operation that could not even be asked for."""
    if isinstance(error, OSError):
        return Failure(
            netns, operation, error.errno or 0, said(error.errno or 0, error.strerror or str(error))
        )
    return Failure(netns, operation, errno.ESRCH, f"there is no namespace {error}")


class Report(Struct, frozen=True):
    """What came of an apply: how many operations were done, and those that were refused."""

    done: int = 0
    failures: tuple[Failure, ...] = ()

    def raise_failures(self) -> None:
        if self.failures:
            raise ApplyError("\n".join(str(failure) for failure in self.failures))


class Kernel(Protocol):
    """A machine: Linux, or one made of a dict for tests."""

    def observe(
        self, wanted: Mapping[str, Contents], far: Iterable[str] = ()
    ) -> dict[str, Contents]:
        """What there is of some namespaces: what is wanted there, and what we have made; those that do not exist are left out.

        `far` names those at the other ends of their links: pairs are seen only where both ends are looked at.
        """

    def apply(self, changes: Changes, done: Done = nobody_asks) -> Report:
        """Makes changes. What is refused is told and does not stop the others."""
