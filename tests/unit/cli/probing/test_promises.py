"""The promise behind the result of a probe."""

from __future__ import annotations

import pytest

from kubenetlab.cli.probing.ping_once import describe_promise
from kubenetlab.observe.destinations import ResolvedDestination

POD = ResolvedDestination("default/b", "10.244.2.2")
PORT = ResolvedDestination("default/b", "10.244.2.2", 8080, "TCP")
SERVICE = ResolvedDestination("svc:web:80", "10.96.0.5", 80, "TCP", service=("default", "web"))
DENIAL = "NetworkPolicy default/deny isolates default/b for ingress"


@pytest.mark.parametrize(
    ("destination", "expected", "is_fine", "text"),
    [
        (POD, "answer", True, ""),
        (POD, "answer", False, ", promised: answer"),
        (PORT, None, True, ""),
        (
            PORT,
            None,
            False,
            " (Kubernetes does not promise that a program listens on port 8080; "
            "to test the address alone, ping it without the port)",
        ),
        (SERVICE, "any", True, " (Kubernetes promises nothing)"),
    ],
)
def test_a_lost_connection_to_a_port_does_not_deny_the_promise_for_the_pod(
    destination: ResolvedDestination, expected: str | None, is_fine: bool, text: str
) -> None:
    """The pod network is promised, which programs listen in pods is not."""
    assert describe_promise(destination, expected, "", is_fine=is_fine) == text


@pytest.mark.parametrize(
    ("expected", "is_fine", "text"),
    [
        ("nothing", True, f", as promised: {DENIAL}"),
        ("nothing", False, f", promised: nothing: {DENIAL}"),
        (None, False, f" (Kubernetes promises nothing: {DENIAL})"),
        ("answer", True, ""),
    ],
)
def test_a_denied_connection_names_the_policy(
    expected: str | None, is_fine: bool, text: str
) -> None:
    reasons = [DENIAL]
    assert describe_promise(PORT, expected, "", reasons, is_fine=is_fine) == text
