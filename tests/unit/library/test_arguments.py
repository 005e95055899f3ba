"""Arguments of commands from those of `Lab`'s methods."""

from __future__ import annotations

import pytest

from kubenetlab import UsageError
from kubenetlab.library.arguments import Protocol, explanation_arguments


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
