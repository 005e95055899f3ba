"""Grammar: the forms that address pods, Services, nodes, hosts and DNS names."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab.errors import UsageError
from kubenetlab.observe.targets.grammar import WORKLOADS, Target, parse


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("svc:web:80", Target("svc", "default", "web", 80)),
        ("svc:shop/web:53/udp", Target("svc", "shop", "web", 53, "UDP")),
        ("svc/web:80", Target("svc", "default", "web", 80)),
        ("service/web", Target("svc", "default", "web")),
        ("web", Target("word", "", "web")),
        ("web:80", Target("word", "", "web", 80)),
        ("web.default:80", Target("name", "", "web.default", 80)),
        ("dns:web", Target("name", "", "web")),
        ("10.96.0.10:53", Target("ip", "", "10.96.0.10", 53)),
        ("10.96.0.10", Target("ip", "", "10.96.0.10")),
        ("ip:10.96.0.10:53/UDP", Target("ip", "", "10.96.0.10", 53, "UDP")),
        ("[fd00::1]:80", Target("ip", "", "fd00::1", 80)),
        ("fd00::1:80", Target("ip", "", "fd00::1:80")),
        ("http://web/hostname", Target("name", "", "web", 80, "TCP", "http", "/hostname")),
        ("http://web:8080", Target("name", "", "web", 8080, "TCP", "http", "/")),
        ("http://[fd00::1]/a?b=c#d", Target("ip", "", "fd00::1", 80, "TCP", "http", "/a?b=c")),
        ("pod/web-0", Target("pod", "default", "web-0")),
        ("pod:shop/web-0:8080", Target("pod", "shop", "web-0", 8080)),
        ("node/worker:30080", Target("node", "", "worker", 30080)),
        ("node:5", Target("node", "", "5")),
        ("each:sts/db", Target("each", "default", "StatefulSet/db")),
        ("each:Namespace/shop", Target("each", "", "Namespace/shop")),
        ("each:ns/shop:80", Target("each", "", "Namespace/shop", 80)),
        ("nodeport:*/cart:80", Target("nodeport", "default", "*/cart", 80)),
        ("svc:default/web:80/TCP IPv6", Target("svc", "default", "web", 80, "TCP", family="IPv6")),
    ],
)
def test_a_target_may_have_a_port_a_protocol_and_a_path(text: str, target: Target) -> None:
    """The forms of kubectl, curl and ip are accepted beside prefixes."""
    assert parse(text) == target


NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


PORTS = st.none() | st.integers(1, 65535)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Draw any target that a command may print."""
    kind: Any = draw(
        st.sampled_from(
            ["pod", "svc", "lb", "node", "ext", "ip", "name", "each", "nodeport", *WORKLOADS]
        )
    )
    namespace = "" if kind in ("node", "ext", "ip", "name") else draw(NAMES)
    name = draw(st.ip_addresses()).compressed if kind == "ip" else draw(NAMES)
    name = f"{name}.{draw(NAMES)}" if kind == "name" and draw(st.booleans()) else name
    if kind in ("each", "nodeport"):
        first = draw(st.sampled_from(list(WORKLOADS.values())) if kind == "each" else NAMES)
        name = f"{first}/{name}"
    port = draw(PORTS)
    protocol: Any = draw(st.sampled_from([None, "TCP", "UDP", "SCTP"])) if port else None
    if kind in ("ip", "name") and port and draw(st.booleans()):
        return Target(
            kind,
            namespace,
            name,
            port,
            "TCP",
            "http",
            "/" + draw(st.from_regex("[a-z/?=]{0,9}", fullmatch=True)),
        )
    return Target(
        kind, namespace, name, port, protocol, family=draw(st.sampled_from([None, "IPv4", "IPv6"]))
    )


@given(targets())
def test_a_printed_target_is_parsed_to_an_equal_target(target: Target) -> None:
    """Titles in reports can be copied to the next command."""
    assert parse(str(target)) == target


@given(st.text(max_size=30) | st.from_regex(r"[a-z:/.\[\]0-9]{0,20}", fullmatch=True))
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    """No other exception reaches a user."""
    with suppress(UsageError):
        assert parse(text).name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("svc:web:0", "svc:web:0: expected a port from 1 to 65535, found 0"),
        ("web:70000", "expected a port from 1 to 65535, found 70000"),
        ("shop/web:http", 'expected a port from 1 to 65535 after the last colon, found "http"'),
        ("web:http", 'last colon, found "http"; or a target of the form [ns/]pod, deploy:'),
        ("nod:b", "nod:b: expected [ns/]pod, deploy:"),
        ("svc:web:http", 'expected a port from 1 to 65535 after the last colon, found "http"'),
        ("nod:worker", "did you mean node?"),
        ("ftp://web/", 'the scheme "ftp" is not supported; expected http://NAME[:PORT]/PATH'),
        ("http:///x", "expected http://NAME[:PORT]/PATH"),
        ("http://a:b@web/", "user and password are not supported"),
        ("each:Deploymnt/web", "Deploymnt is not a kind of workload; did you mean Deployment?"),
        ("svc:", '"" is not a name'),
        ("a b", '"a b" is not a name'),
    ],
)
def test_a_text_that_is_no_target(text: str, message: str) -> None:
    """The message quotes the text and shows the expected form."""
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(text)
