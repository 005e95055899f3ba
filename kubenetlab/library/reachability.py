"""Results that are true or false, and that explain themselves in assertions of tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from kubenetlab.errors import LabError
from kubenetlab.library.results import PingResult
from kubenetlab.names import socket_address

_OUTCOMES: Final = {
    "answer": "answered",
    "refused": "refused",
    "unreachable": "unreachable",
    "silence": "no answer",
    "unresolved": "not resolved",
}
"""Text for each outcome of a probe."""
_SHOWN_REASONS: Final = 2
"""Maximum number of reasons in a line: pytest shortens long lines."""
_HTTP_ERROR: Final = 400
"""Lowest HTTP status of an error."""


class Reachability(Struct, frozen=True):
    """Answer to the question whether a source can reach a destination: true or false.

    `bool()` raises LabError if the lab does not enforce an object that could change the answer,
    such as a policy: neither answer would prove anything.
    """

    ping: PingResult
    """The probe, and the result that Kubernetes promises."""

    def __bool__(self) -> bool:
        if doubts := (*self.ping.unenforced, *self.ping.duplicates):
            raise LabError(
                f"the result proves nothing: {self}\n  not enforced by the lab, or ambiguous: "
                f"{', '.join(doubts)}; accept it with allow_unmodelled=[KIND]"
            )
        return self.is_reached

    @property
    def is_reached(self) -> bool:
        """True if the destination answered, whatever this proves."""
        return self.ping.is_answered

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons for the result, such as the policies that deny the connection."""
        return tuple(_reasons(self.ping))

    def __str__(self) -> str:
        return _describe(self.ping, _OUTCOMES[self.ping.outcome])

    def __repr__(self) -> str:
        return str(self)


class HttpResult(Reachability, frozen=True):
    """Result of an HTTP request: true if it was answered with a status below 400."""

    @property
    def is_reached(self) -> bool:
        """True if the answer has a status below 400, whatever this proves."""
        return self.ping.is_answered and 0 < self.status < _HTTP_ERROR

    @property
    def status(self) -> int:
        """Status of the answer; 0 without an answer."""
        return self.ping.http.status if self.ping.http is not None else 0

    @property
    def body(self) -> str:
        """Body of the answer."""
        return self.ping.http.body if self.ping.http is not None else ""

    @property
    def server(self) -> str:
        """Pod or host that answered; empty if its program does not report it."""
        return self.ping.http.server if self.ping.http is not None else ""

    def __str__(self) -> str:
        answer = f"HTTP {self.status}" if self.status else _OUTCOMES[self.ping.outcome]
        return _describe(self.ping, answer)

    def __repr__(self) -> str:
        return str(self)


def _describe(ping: PingResult, outcome: str) -> str:
    """Return the result of a probe as one line, with what was expected and the reasons."""
    address = socket_address(ping.address, ping.port) if ping.port else ping.address
    place = f" ({address})" if address and address not in ping.destination else ""
    took = f" in {ping.ms:.1f} ms" if ping.is_answered else ""
    promise = {"any": "", None: "", "answer": "an answer", "nothing": "no answer"}.get(
        ping.expected, ping.expected or ""
    )
    expected = f", Kubernetes promises {promise}" if promise else ""
    all_reasons = list(_reasons(ping))
    more = (
        f" and {len(all_reasons) - _SHOWN_REASONS} more"
        if len(all_reasons) > _SHOWN_REASONS
        else ""
    )
    reasons = "".join(f"; {reason}" for reason in all_reasons[:_SHOWN_REASONS]) + more
    return f"{ping.source} → {_destination(ping)}{place}: {outcome}{took}{expected}{reasons}"


def _destination(ping: PingResult) -> str:
    """Return the destination with its port and protocol."""
    if ping.destination.endswith(f"/{ping.protocol}"):
        return ping.destination
    port = f":{ping.port}/" if ping.port else " "
    return f"{ping.destination}{port}{ping.protocol}"


def _reasons(ping: PingResult) -> Iterator[str]:
    """Yield the reasons for the result of a probe."""
    yield from ping.policies
    if ping.outcome == "unresolved" and ping.body:
        yield ping.body
