"""agnhost netexec: its answers to requests and datagrams."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest
from msgspec import structs

from kubenetlab import programs
from kubenetlab.programs.support.http import Request, Response
from tests.unit.programs.fake import FakeProgram, container


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/hostname", 200, "web-0"),
        ("/hostName", 200, "web-0"),
        ("/clientip", 200, "10.244.2.7:40000"),
        ("/echo?msg=hi%20there", 200, "hi there"),
        ("/echo?msg=x&code=418", 418, "x"),
        ("/healthz", 200, ""),
        ("/", 200, "NOW: 12:00"),
        ("/nothing", 200, "NOW: 12:00"),
        ("/readyz", 200, "ok"),
        ("/header?key=X-Team", 200, "blue"),
        ("/header?key=missing", 200, ""),
        ("/header", 200, '{"User-Agent":["curl/8"],"X-Team":["blue"]}'),
        (
            "/redirect?location=/echo%3Fmsg=foobar&code=307",
            307,
            '<a href="/echo?msg=foobar">Temporary Redirect</a>.\n\n',
        ),
        ("/redirect?location=http://web/", 302, '<a href="http://web/">Found</a>.\n\n'),
        ("/redirect?code=now", 200, "argument 'code' must be an integer or empty, got \"now\"\n"),
        (
            "/exit?timeout=soon",
            200,
            "argument 'timeout' must be a valid golang duration or empty, got \"soon\"\n",
        ),
        (
            "/shell?cmd=ls",
            501,
            "/shell is not modelled: built-in programs run no commands and keep no files\n",
        ),
        ("/dial?host=web&port=80&request=hostname", 200, '{"responses":["GET /hostname"]}'),
        ("/dial?host=web&port=80&request=a&tries=2", 200, '{"responses":["GET /a","GET /a"]}'),
        ("/dial?host=web&port=80&request=a&protocol=udp", 200, '{"responses":["re: a"]}'),
        (
            "/dial?host=10.0.0.8&port=80&request=a",
            200,
            '{"errors":["dial tcp 10.0.0.8:80: connect: connection refused"]}',
        ),
        (
            "/dial?host=nowhere&port=80&request=a",
            400,
            "host and/or port param are invalid. lookup nowhere: no such host\n",
        ),
        (
            "/dial?host=web&port=0&request=a",
            400,
            "host and/or port param are invalid. address 0: invalid port\n",
        ),
        ("/dial?host=web&port=80", 400, "request parameter not specified. <nil>\n"),
        (
            "/dial?host=web&port=80&request=a&tries=many",
            400,
            'tries parameter is invalid. strconv.Atoi: parsing "many": invalid syntax\n',
        ),
        ("/dial?host=web&port=80&request=a&protocol=sctp", 200, '{"responses":["re: a"]}'),
        ("/dial?host=web&port=80&request=a&protocol=ipx", 400, "unsupported protocol. ipx\n"),
    ],
)
def test_netexec_answers_as_agnhost_does(target: str, status: int, body: str) -> None:
    """Paths, statuses and texts; an unknown path is answered as `/`, /shell with 501."""
    response = FakeProgram().get("netexec", target)
    assert (response.status, response.body.decode()) == (status, body)


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"hostname", b"web-0"),
        (b"clientip\n", b"10.244.2.7:40000"),
        (b"echo a B", b"a b"),
        (b"ECHO x", b"x"),
        (b"", None),
        (b"what", None),
    ],
)
def test_netexec_answers_datagrams(data: bytes, reply: bytes | None) -> None:
    """It knows the three commands of agnhost, in any case; other datagrams get no answer."""
    assert FakeProgram().send("netexec", data) == reply


@pytest.mark.parametrize(
    ("arguments", "target", "status", "body"),
    [
        (["--http-override=/hostname"], "/anything", 200, "web-0"),
        (["--http-override", "/echo?msg=hi&code=418"], "/hostname", 418, "hi"),
        (["--http-override=/clientip"], "/", 200, ""),
        (["--http-override=/header"], "/", 200, "{}"),
        (["--udp-port=-1"], "/healthz", 412, ""),
        (["--udp-port=-1"], "/readyz", 412, ""),
        (["--udp-port=-1", "--sctp-port=9"], "/healthz", 200, ""),
    ],
)
def test_options_of_netexec_change_its_answers(
    arguments: list[str], target: str, status: int, body: str
) -> None:
    """An override answers every path; without a datagram server netexec is never ready."""
    response = FakeProgram(**programs.setup(container(args=["netexec", *arguments])).options).get(
        "netexec", target
    )
    assert (response.status, response.body.decode()) == (status, body)


def test_a_form_overrides_the_query() -> None:
    """As in Go's FormValue."""
    form = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    request = Request("POST", "/echo?msg=query&code=201", ("10.244.2.7", 40000), form, b"msg=body")
    response: Response = asyncio.run(programs.load("netexec").http(request, FakeProgram().context))
    assert (response.status, response.body) == (201, b"body")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("", "/"),
        ("a/../b/", "/b/"),
        ("/x/./y?z=1/../2", "/x/y?z=1/../2"),
        ("//other/x", "//other/x"),
        ("/ü", "/%C3%BC"),
    ],
)
def test_a_relative_redirect_is_resolved_against_the_path(location: str, expected: str) -> None:
    """It is cleaned as by Go's http.Redirect; an absolute URL is kept."""
    response = FakeProgram().get("netexec", f"/redirect?location={quote(location)}")
    assert response.headers == {"Location": expected}


def test_a_server_is_healthy_but_not_ready_after_sigterm() -> None:
    """For the rest of --delay-shutdown."""
    program = FakeProgram()
    program.context = structs.replace(program.context, is_stopping=True)
    assert (
        program.get("netexec", "/readyz").status,
        program.get("netexec", "/healthz").status,
    ) == (503, 200)


@pytest.mark.parametrize(
    ("target", "exits"),
    [
        ("/exit", [(0, 0.0)]),
        ("/exit?code=3&wait=1m30s", [(3, 90.0)]),
        ("/exit?code=300", []),
        ("/exit?wait=soon", []),
        ("/shutdown", [(0, 0.0)]),
    ],
)
def test_netexec_exits_on_request(target: str, exits: list[tuple[int, float]]) -> None:
    """With a status from 0 to 127, after a Go duration."""
    program = FakeProgram()
    program.get("netexec", target)
    assert program.exits == exits


def test_dial_answers_valid_json() -> None:
    """Programs parse it."""
    assert json.loads(FakeProgram().get("netexec", "/dial?host=web&port=80&request=a").body) == {
        "responses": ["GET /a"]
    }
