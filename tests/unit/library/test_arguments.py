"""Arguments of commands from those of `Lab`'s methods."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kubenetlab import UsageError
from kubenetlab.library.argument_checks import Protocol
from kubenetlab.library.arguments import (
    apply_arguments,
    explanation_arguments,
    ping_arguments,
)
from kubenetlab.library.process import Completed, read_error


@pytest.mark.parametrize(
    ("destination", "port", "protocol", "expected"),
    [
        ("svc:web", None, "TCP", "svc:web"),
        ("svc:web", 80, "TCP", "svc:web:80/TCP"),
        ("shop/web", 53, "UDP", "shop/web:53/UDP"),
        ("fd00::1", 80, "SCTP", "[fd00::1]:80/SCTP"),
        ("svc:web:80", 80, "TCP", "svc:web:80/TCP"),
        ("svc:web:53/UDP", 53, "UDP", "svc:web:53/UDP"),
        ("svc:web:53/UDP", None, "TCP", "svc:web:53/UDP"),
        ("svc/web:53/UDP", None, "TCP", "svc/web:53/UDP"),
    ],
)
def test_port_and_protocol_of_an_explained_connection_become_part_of_the_target(
    destination: str, port: int | None, protocol: Protocol, expected: str
) -> None:
    arguments = explanation_arguments("client", destination, port, protocol, "IPv4", "shop")
    assert arguments == ["client", expected, "--namespace", "shop", "-4"]


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("svc:web:81", "svc:default/web:81 has the port 81, but port is 80; give one of them"),
        ("svc:web:80/UDP", "has the protocol UDP, but protocol is TCP; give one of them"),
    ],
)
def test_a_port_that_contradicts_the_target_is_refused(destination: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        explanation_arguments("client", destination, 80, "TCP", None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": 70000}, "port: expected a number from 1 to 65535, found 70000"),
        ({"port": "http"}, "port: expected a number from 1 to 65535, found 'http'"),
        ({"port": 80, "protocol": "udp"}, "protocol: expected .*, found 'udp'; did you mean UDP?"),
        ({"protocol": "UDP"}, "protocol: UDP needs the argument port, such as port=53"),
        ({"family": "ipv6"}, "family: expected IPv4 or IPv6, found 'ipv6'; did you mean IPv6?"),
        ({"port": 80, "protocol": "UDP", "path": "/"}, "path /: HTTP uses TCP, but protocol is U"),
        ({"destination": "http://web/a", "path": "/b"}, "has the path /a, but path is /b"),
        ({"destination": "svc:web:81", "port": 80}, "web:81 has the port 81, but port is 80"),
        ({"destination": "svc:web IPv4", "family": "IPv6"}, "is IPv4, but family is IPv6"),
    ],
)
def test_errors_name_the_arguments_of_the_method(arguments: dict[str, Any], message: str) -> None:
    """The options of the command are not those of the caller."""
    values = dict.fromkeys(("port", "path", "family", "namespace")) | {"protocol": "TCP"}
    with pytest.raises(UsageError) as caught:
        ping_arguments("client", **{"destination": "svc:web", **values, **arguments})
    assert "--" not in str(caught.value)
    assert re.search(message, str(caught.value))


def test_a_timeout_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="timeout_s: expected a number of seconds, found -1"):
        apply_arguments(strict=False, allow_undeclared=False, wait=True, timeout_s=-1)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            "error: Invalid value for '--count': 0 is not in the range 1<=x<=10000.\nusage: …",
            "count: expected 1<=count<=10000, found 0",
        ),
        (
            "error: Invalid value for '--deadline': 0.0 is not in the range x>=0.01.\nusage: …",
            "deadline_s: expected deadline_s>=0.01, found 0.0",
        ),
        (
            "error: Invalid value for '--nodes': 'x' is not a valid int range.\nusage: …",
            "nodes: expected a number, found 'x'",
        ),
        (
            "error: No such option: -x\nusage: …",
            'No such option: -x; names and targets do not start with "-"',
        ),
        ("error: anything else", "error: anything else"),
    ],
)
def test_errors_of_options_become_errors_of_arguments(messages: str, expected: str) -> None:
    """Limits of numbers are known to the command alone."""
    with pytest.raises(UsageError) as caught:
        Completed(("ping",), 2, "", messages).require(0)
    assert str(caught.value) == expected


def test_the_error_about_a_kind_names_the_argument() -> None:
    message = '--allow-unmodelled Ingres: there is no kind "Ingres"\n  a kind …'
    error = read_error({"type": "UsageError", "message": message})
    assert str(error) == 'allow_unmodelled: there is no kind "Ingres"\n  a kind …'
