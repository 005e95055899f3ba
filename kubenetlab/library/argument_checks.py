"""Checks of the arguments of `Lab`'s methods: errors name arguments, not options of commands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from kubenetlab.errors import UsageError, did_you_mean
from kubenetlab.observe.request import RequestOptions, make_request
from kubenetlab.observe.targets.grammar import MAX_PORT, parse

Protocol = Literal["TCP", "UDP", "SCTP"]
Family = Literal["IPv4", "IPv6"]

_ARGUMENT_OF: Final[Mapping[str, str]] = {
    "--count": "count",
    "--deadline": "deadline_s",
    "--nodes": "nodes",
    "--replicas": "replicas",
}
"""Option of a command → the argument of the method that sets it."""
_OUT_OF_RANGE: Final = re.compile(
    r"error: Invalid value for '(?P<option>[^']+)': "
    r"(?P<value>.+) is not (in the range (?P<range>.+)|a valid .+)\."
)
"""Line that commands print for an invalid number."""
_UNKNOWN_KIND: Final = re.compile(r"--allow-unmodelled \S+: (?P<reason>.+)")
"""First line of the error about a word that names no kind."""
_NO_OPTION: Final = re.compile(r"error: No such option: (?P<word>\S+).*")
"""Line that commands print for an argument that starts with `-`."""


def check_connection(
    destination: str,
    port: int | None,
    protocol: Protocol,
    path: str | None,
    family: Family | None,
    namespace: str | None,
) -> None:
    """Check the arguments that describe a connection.

    Raises UsageError for an invalid value, and for two values that contradict each other.
    """
    _check_word("protocol", protocol, get_args(Protocol))
    if family is not None:
        _check_word("family", family, get_args(Family))
    if port is not None and not (isinstance(port, int) and 1 <= port <= MAX_PORT):
        raise UsageError(f"port: expected a number from 1 to {MAX_PORT}, found {port!r}")
    target = parse(destination, namespace)
    is_stated = port is not None or protocol != "TCP"
    make_request(
        target,
        RequestOptions(protocol if is_stated else None, port, path, path_option="path"),
    )
    if protocol != "TCP" and port is None and target.protocol is None:
        example = target.port or 53
        raise UsageError(
            f"protocol: {protocol} needs the argument port, such as port={example}, protocol="
            f'"{protocol}"'
        )
    if family is not None and target.family not in (None, family):
        raise UsageError(
            f"{destination} is {target.family}, but family is {family}; give one of them"
        )


def _check_word(argument: str, value: str, known: Sequence[str]) -> None:
    """Raise UsageError for a value that is not known."""
    if value not in known:
        raise UsageError(
            f"{argument}: expected {', '.join(known[:-1])} or {known[-1]}, found {value!r}"
            f"{did_you_mean(str(value).upper(), known)}"
        )


def argument_error(messages: str) -> str:
    """Return the message of a command about its options as one about the method's arguments."""
    lines = messages.splitlines()
    if not lines:
        return messages
    match = _OUT_OF_RANGE.fullmatch(lines[0])
    if match is not None and match["option"] in _ARGUMENT_OF:
        argument = _ARGUMENT_OF[match["option"]]
        expected = (match["range"] or "a number").replace("x", argument)
        return f"{argument}: expected {expected}, found {match['value']}"
    if match := _UNKNOWN_KIND.fullmatch(lines[0]):
        return "\n".join((f"allow_unmodelled: {match['reason']}", *lines[1:]))
    if match := _NO_OPTION.fullmatch(lines[0]):
        return f'No such option: {match["word"]}; names and targets do not start with "-"'
    return messages
