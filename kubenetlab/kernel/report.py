"""The Kernel protocol: operations in, report out."""

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
from kubenetlab.kernel.advice import advice, describe_error, report

OnNetnsDone = Callable[[str], None]
"""Called with each namespace that was changed."""


def ignore(netns: str) -> None:
    """Do nothing: the default callback."""


class Failure(Struct, frozen=True):
    """One operation that Linux refused."""

    netns: str
    operation: Operation
    errno: int
    text: str
    """Message of the kernel, with the name of the errno."""
    because: Object | None = None
    """Object whose earlier refusal caused this one: a link for its addresses, for example."""

    def __str__(self) -> str:
        operation = self.operation
        subject = f"{self.netns}: cannot {operation.verb} {operation.object}"
        if self.because is not None:
            cause = f"{self.because.key[-1]} of {self.because.netns}"
            return f"{subject}: it needs {cause}, which was refused"
        return report(
            subject,
            "kernel",
            self.text,
            operation.origin,
            advice(self.errno, type(operation.object).__name__),
        )


def with_causes(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """Return the failures, each with the object that caused it.

    A failure is caused by an earlier one if that refused the object's link, the peer of this link,
    or the source address of a route.
    """
    failed: dict[tuple[str, Key], Object] = {}
    for failure in failures:
        obj = failure.operation.object
        if failure.operation.verb != "remove" and (peer_end := obj.peer_end) is not None:
            failed[obj.netns, obj.key] = failed[peer_end] = obj
        elif failure.operation.verb != "remove" and isinstance(obj, Address):
            failed[obj.netns, ("Source", obj.address.partition("/")[0])] = obj
    return tuple(
        failure
        if cause is None or cause is failure.operation.object
        else structs.replace(failure, because=cause)
        for failure in failures
        for cause in [_cause(failure.operation.object, failed)]
    )


def _cause(obj: Object, failed: Mapping[tuple[str, Key], Object]) -> Object | None:
    dependency = obj.depends_on
    cause = failed.get((obj.netns, obj.key)) or (
        failed.get((obj.netns, dependency)) if dependency is not None else None
    )
    return cause or (
        failed.get((obj.netns, ("Source", obj.source))) if isinstance(obj, Route) else None
    )


def failure_of(netns: str, operation: Operation, error: OSError | KeyError) -> Failure:
    """Return the failure of an operation whose namespace could not be created or entered."""
    if isinstance(error, OSError):
        return Failure(
            netns,
            operation,
            error.errno or 0,
            describe_error(error.errno or 0, error.strerror or str(error)),
        )
    return Failure(netns, operation, errno.ESRCH, f"there is no namespace {error}")


class Report(Struct, frozen=True):
    """Result of an apply: the number of successful operations, and those that failed."""

    done: int = 0
    failures: tuple[Failure, ...] = ()

    def raise_failures(self) -> None:
        if self.failures:
            raise ApplyError("\n".join(str(failure) for failure in self.failures))


class Kernel(Protocol):
    """A machine: Linux, or an in-memory fake for tests."""

    def observe(
        self, desired: Mapping[str, Contents], peers_only: Iterable[str] = ()
    ) -> dict[str, Contents]:
        """Return the existing objects of namespaces: desired ones, and those the lab created.

        desired: the desired objects of each namespace.
        peers_only: further namespaces in which only the peers of links are looked up.

        Namespaces that do not exist are left out.
        """

    def apply(self, changes: Changes, done: OnNetnsDone = ignore) -> Report:
        """Apply changes; report refused operations without stopping at them.

        done: called with each namespace, when its changes were made.
        """
