"""Hints that name the lab, and colours that can be turned off."""

from __future__ import annotations

import pytest

from kubenetlab.cli.terminal.hints import with_lab_option


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("kubenetlab ping", "kubenetlab ping --lab b"),
        ("kubenetlab get pods -n shop -w", "kubenetlab get pods -n shop -w --lab b"),
        ("kubenetlab exec web-0 -- ip addr", "kubenetlab exec web-0 --lab b -- ip addr"),
        (
            "kubenetlab exec POD -- ip addr, or kubenetlab ping POD svc:NAME --http /hostname",
            "kubenetlab exec POD --lab b -- ip addr, "
            "or kubenetlab ping POD svc:NAME --http /hostname --lab b",
        ),
        (
            "install a network: kubenetlab up --cni bridge --lab a",
            "install a network: kubenetlab up --cni bridge --lab a",
        ),
        ("kubenetlab up (repairs it at once)", "kubenetlab up --lab b (repairs it at once)"),
        ("kubenetlab list", "kubenetlab list"),
        ("kubenetlab explain pod.spec", "kubenetlab explain pod.spec"),
        (
            "curl http://127.0.0.1:8080/ (Ctrl-C ends this)",
            "curl http://127.0.0.1:8080/ (Ctrl-C ends this)",
        ),
    ],
)
def test_a_hint_names_the_lab(hint: str, expected: str) -> None:
    """Each command gets --lab before `--`, unless it has the option or needs no lab."""
    assert with_lab_option(hint, "b") == expected
    assert with_lab_option(hint) == hint
