"""Built-in programs: their selection, ports and answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kubenetlab import programs
from kubenetlab.api.containers import Container
from kubenetlab.api.durations import duration_s
from kubenetlab.api.meta import parse_selector
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.lab.transport.exchange import Exchange
from kubenetlab.programs.arguments import arguments, options
from kubenetlab.programs.http import PodIdentity, Request, Response
from kubenetlab.programs.resolver import parse
from tests.clusters import NOW, deployment, problems_of

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.47"


def container(**fields: Any) -> Container:
    return msgspec.convert({"name": "c", "image": AGNHOST, **fields}, Container)


class FakeNetwork:
    """A network with one server at 10.0.0.9, called `web`; other connections are refused."""

    async def resolve(self, name: str) -> str:
        if name in ("web", "10.0.0.9", "10.0.0.8"):
            return "10.0.0.9" if name == "web" else name
        raise OSError(f"lookup {name}: no such host")

    async def get(self, address: str, port: int, target: str, timeout_s: float) -> Response:
        if address != "10.0.0.9":
            raise OSError(111, f"dial tcp {address}:{port}: connect: connection refused")
        return Response(200, f"GET {target}".encode())

    async def exchange(
        self, address: str, port: int, data: bytes, timeout_s: float, protocol: str = "UDP"
    ) -> bytes:
        return b"re: " + data

    async def connect(self, address: str, port: int, timeout_s: float) -> None:
        if address != "10.0.0.9":
            raise OSError(111, "refused")


class FakeProgram:
    """A program with a fake context that records its log and its end."""

    def __init__(self, **options_: Any) -> None:
        self.lines: list[str] = []
        self.exits: list[tuple[int, float]] = []
        self.me = PodIdentity(
            "default",
            "web-0",
            "web-0",
            "10.244.1.2",
            "worker",
            "c",
            options_,
            FakeNetwork(),
            self.lines.append,
            self._exit,
            lambda: "12:00",
            lambda: NOW,
        )

    def _exit(self, status: int, after_s: float) -> None:
        self.exits.append((status, after_s))

    def get(self, program: str, target: str, port: int = 8080) -> Response:
        headers = {"host": "web", "user-agent": "curl/8", "x-team": "blue"}
        request = Request("GET", target, ("10.244.2.7", 40000), headers, port=port)
        answered: Response = asyncio.run(programs.load(program).http(request, self.me))
        return answered

    def send(self, program: str, data: bytes) -> bytes | None:
        answered: bytes | None = programs.load(program).datagram(
            data, ("10.244.2.7", 40000), self.me
        )
        return answered


@pytest.mark.parametrize(
    ("fields", "program", "ports"),
    [
        ({"args": ["netexec"]}, "netexec", "8080/tcp 8081/udp"),
        ({"args": ["netexec", "--http-port=80", "--udp-port", "-1"]}, "netexec", "80/tcp"),
        (
            {"command": ["/agnhost", "netexec", "--http-port", "90"], "args": []},
            "netexec",
            "90/tcp 8081/udp",
        ),
        ({"args": ["netexec", "--http-port=http"]}, "misused", ""),
        ({"args": ["netexec", "--http-port=-1"]}, "misused", ""),
        ({"args": ["netexec", "--delay-shutdown=soon"]}, "misused", ""),
        (
            {"args": ["netexec", "--udp-listen-addresses=10.0.0.1,127.0.0.1", "--sctp-port=5"]},
            "netexec",
            "8080/tcp 10.0.0.1:8081/udp 127.0.0.1:8081/udp 5/sctp",
        ),
        ({"args": ["netexec", "--udp-listen-addresses=here"]}, "misused", ""),
        (
            {"args": ["serve-hostname", "--port=9000", "--udp"]},
            "serve_hostname",
            "9000/tcp 9000/udp",
        ),
        ({"args": ["serve-hostname", "--http=false", "--tcp"]}, "serve_hostname", "9376/tcp"),
        (
            {
                "args": ["porter"],
                "env": [
                    {"name": "SERVE_PORT_80", "value": "eighty"},
                    {"name": "SERVE_PORT_99999", "value": "x"},
                ],
            },
            "porter",
            "80/tcp",
        ),
        ({"args": ["connect", "--timeout=3s", "web:80"]}, "connect", ""),
        ({"args": ["connect", "web"]}, "misused", ""),
        ({}, "idle", ""),
        ({"args": ["pause"]}, "idle", ""),
        (
            {"image": "hashicorp/http-echo:1.0", "args": ["-text=hi", "-listen=:8000"]},
            "http_echo",
            "8000/tcp",
        ),
        ({"image": "hashicorp/http-echo", "args": ["-text", "hi"]}, "http_echo", "5678/tcp"),
        ({"image": "nginx:1.27@sha256:abc"}, "web", "80/tcp"),
        (
            {"image": "localhost:5000/library/httpd:2", "ports": [{"containerPort": 8080}]},
            "web",
            "80/tcp 8080/tcp",
        ),
        (
            {
                "image": "nginx",
                "ports": [{"containerPort": 8080}],
                "volumeMounts": [{"mountPath": "/etc/nginx/conf.d"}],
            },
            "web",
            "8080/tcp",
        ),
        (
            {
                "image": "nginx",
                "ports": [{"containerPort": 8080}],
                "volumeMounts": [{"mountPath": "/usr/share/nginx/html"}],
            },
            "web",
            "80/tcp 8080/tcp",
        ),
        ({"image": "nginx", "args": ["-c", "/my.conf"]}, "web", "80/tcp"),
        ({"image": "busybox"}, "idle", ""),
        ({"image": "busybox", "ports": [{"containerPort": 8000}]}, "default", "8000/tcp"),
        (
            {
                "image": "example.com/shop/cart:v3",
                "ports": [{"containerPort": 7070}, {"containerPort": 53, "protocol": "UDP"}],
            },
            "default",
            "7070/tcp 53/udp",
        ),
        (
            {"image": "registry.k8s.io/coredns/coredns:v1.12.0"},
            "coredns",
            "53/udp 53/tcp 8080/tcp 8181/tcp 9153/tcp",
        ),
    ],
)
def test_image_and_arguments_select_the_program(
    fields: dict[str, Any], program: str, ports: str
) -> None:
    """It listens on the ports of its arguments, variables or manifest."""
    chosen = programs.setup(container(**fields))
    assert (chosen.program, " ".join(str(listener) for listener in chosen.listeners)) == (
        program,
        ports,
    )
    assert hasattr(programs.load(chosen.program), "__doc__")


PORT = ListenPort("TCP", 7000)
DECLARED = [{"containerPort": 8080}]
MOUNTED = [{"mountPath": "/etc/nginx/nginx.conf"}]


@pytest.mark.parametrize(
    ("fields", "assumed", "stated"),
    [
        ({"image": "x"}, "7000/tcp", "7000/tcp"),
        ({"image": "x", "ports": DECLARED}, "8080/tcp", "7000/tcp"),
        ({"image": "busybox"}, "", "7000/tcp"),
        ({"image": "nginx"}, "80/tcp", "7000/tcp"),
        ({"image": "nginx", "volumeMounts": MOUNTED}, "7000/tcp", "7000/tcp"),
        ({"image": "nginx", "volumeMounts": MOUNTED, "ports": DECLARED}, "8080/tcp", "7000/tcp"),
        ({"image": "agnhost", "args": ["netexec"]}, "8080/tcp 8081/udp", "8080/tcp 8081/udp"),
    ],
)
def test_the_ports_of_a_server(fields: dict[str, Any], assumed: str, stated: str) -> None:
    """Services' target ports count if the container declares none; the annotation overrides all."""
    for known, expected in (
        (programs.Ports(assumed=(PORT,)), assumed),
        (programs.Ports(stated=(PORT,)), stated),
    ):
        found = programs.setup(container(**fields), known).listeners
        assert " ".join(map(str, found)) == expected


@pytest.mark.parametrize("image", ["x", "busybox", "nginx"])
def test_an_empty_listen_annotation_opens_no_port(image: str) -> None:
    """An empty annotation says so."""
    assert (
        programs.setup(container(image=image, ports=DECLARED), programs.Ports(stated=())).listeners
        == ()
    )


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
    found = FakeProgram().get("netexec", target)
    assert (found.status, found.body.decode()) == (status, body)


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
    ("words", "target", "status", "body"),
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
    words: list[str], target: str, status: int, body: str
) -> None:
    """An override answers every path; without a datagram server netexec is never ready."""
    found = FakeProgram(**programs.setup(container(args=["netexec", *words])).options).get(
        "netexec", target
    )
    assert (found.status, found.body.decode()) == (status, body)


def test_a_form_overrides_the_query() -> None:
    """As in Go's FormValue."""
    form = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    request = Request("POST", "/echo?msg=query&code=201", ("10.244.2.7", 40000), form, b"msg=body")
    answered: Response = asyncio.run(programs.load("netexec").http(request, FakeProgram().me))
    assert (answered.status, answered.body) == (201, b"body")


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
    found = FakeProgram().get("netexec", f"/redirect?location={quote(location)}")
    assert found.headers == {"Location": expected}


def test_a_server_is_healthy_but_not_ready_after_sigterm() -> None:
    """For the rest of --delay-shutdown."""
    someone = FakeProgram()
    someone.me = structs.replace(someone.me, is_stopping=True)
    assert (
        someone.get("netexec", "/readyz").status,
        someone.get("netexec", "/healthz").status,
    ) == (503, 200)


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ("image: agnhost, args: [netexec, --http-port=80, '-1']", []),
        (
            "image: agnhost, args: [netexec, --http-port, '80', --v=2]",
            ["spec.containers[0].args[3] option --v of agnhost netexec"],
        ),
        (
            "image: agnhost, command: [/agnhost, serve-hostname, --close]",
            ["spec.containers[0].command[2] option --close of agnhost serve-hostname"],
        ),
        (
            "image: agnhost, args: [porter, --json-response]",
            ["spec.containers[0].args[1] option --json-response of agnhost porter"],
        ),
        (
            "image: agnhost, args: [dns-suffix, --x]",
            ["spec.containers[0].args[0] agnhost dns-suffix is not modelled"],
        ),
        (
            "image: hashicorp/http-echo, args: [-text=hi, -status-code=404]",
            ["spec.containers[0].args[1] option --status-code of http-echo"],
        ),
        ("image: hashicorp/http-echo, command: [sh, -c, x]", []),
        ("image: nginx, args: [-g, daemon off;]", []),
    ],
)
def test_unmodelled_options_cause_a_warning(fields: str, messages: list[str]) -> None:
    """With file and line, also in templates and for init containers."""
    pod = (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec:\n"
        f"  containers: [{{name: main, {fields}}}]\n"
    )
    found = problems_of(pod)
    assert [(problem.file, problem.line, problem.is_warning) for problem in found] == [
        ("test.yaml", 5, True)
    ] * len(messages)
    shown = [f"{problem.path} {problem.message.removeprefix('the ')}" for problem in found]
    assert all(line.startswith(message) for line, message in zip(shown, messages, strict=True)), (
        shown
    )
    template = deployment().replace("args: [netexec", "args: [netexec, --nonsense")
    assert [problem.path for problem in problems_of(template)] == [
        "spec.template.spec.containers[0].args[1]"
    ]


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
    someone = FakeProgram()
    someone.get("netexec", target)
    assert someone.exits == exits


def test_the_default_server_reports_itself_and_its_client() -> None:
    """Any path is answered with 200; the paths of netexec work too."""
    found = FakeProgram().get("default", "/_healthz")
    assert (found.status, found.body) == (
        200,
        b"default/web-0 (10.244.1.2 on worker) sees 10.244.2.7:40000\n",
    )
    assert FakeProgram().get("default", "/hostname").body == b"web-0"
    assert FakeProgram().send("default", b"hostname") == b"web-0"
    assert FakeProgram().send("default", b"what") == b"unknown command: what"


def test_other_programs_answer() -> None:
    """These are http-echo, porter, serve-hostname and nginx."""
    assert FakeProgram(text="hi").get("http_echo", "/any").body == b"hi\n"
    assert (
        FakeProgram(bodies={"80": "eighty", "81": "x"}).get("porter", "/", port=80).body
        == b"eighty"
    )
    assert FakeProgram().get("serve_hostname", "/x").body == b"web-0"
    assert b"Welcome to nginx!" in FakeProgram(server="nginx").get("web", "/").body
    assert FakeProgram(server="nginx").get("web", "/missing").status == 404


@pytest.mark.parametrize(
    ("host", "status", "said"), [("web", 0, ""), ("10.0.0.8", 1, "REFUSED"), ("nowhere", 1, "DNS")]
)
def test_connect_exits_with_its_result(host: str, status: int, said: str) -> None:
    """0, or 1 with TIMEOUT, REFUSED, DNS or OTHER in the log."""
    someone = FakeProgram(host=host, port=80, protocol="tcp", timeout_s=1.0)
    assert asyncio.run(programs.load("connect").main(someone.me)) == status
    assert all(line.startswith(said) for line in someone.lines)
    assert bool(someone.lines) == bool(status)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", 0.0),
        ("0", 0.0),
        ("5s", 5.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        ("5", None),
        ("s", None),
        ("1..2s", None),
    ],
)
def test_go_durations_are_parsed(written: str, value: float | None) -> None:
    """Invalid text gives None."""
    assert duration_s(written) == value


@given(st.lists(st.text(max_size=10), max_size=6))
def test_arbitrary_arguments_do_not_crash(words: list[str]) -> None:
    """Users may write anything after a program's name."""
    options(words)
    programs.setup(container(args=["netexec", *words]))
    programs.setup(container(args=["connect", *words]))
    arguments(container(args=words))


# --- names ---

HOSTS = "# a comment\n127.0.0.1\tlocalhost\n10.244.1.2\tweb-0.web.default.svc.cluster.local web-0\n"
RESOLV = (
    "search default.svc.cluster.local svc.cluster.local cluster.local\n"
    "nameserver 10.96.0.10\noptions ndots:5 timeout:1\n"
)


def test_the_resolver_tries_names_in_libcs_order() -> None:
    """With fewer dots than ndots the search list is first; a final dot disables it."""
    resolver = parse(HOSTS, RESOLV)
    assert (resolver.nameservers, resolver.ndots, resolver.timeout_s, resolver.attempts) == (
        ("10.96.0.10",),
        5,
        1.0,
        2,
    )
    assert list(resolver.candidates("web")) == [
        "web.default.svc.cluster.local.",
        "web.svc.cluster.local.",
        "web.cluster.local.",
        "web.",
    ]
    assert next(iter(resolver.candidates("a.b.c.d.e.f"))) == "a.b.c.d.e.f."
    assert list(resolver.candidates("web.")) == ["web."]
    assert (
        resolver.from_hosts("web-0"),
        resolver.from_hosts("localhost"),
        resolver.from_hosts("x"),
    ) == ("10.244.1.2", "127.0.0.1", None)


def test_dial_answers_valid_json() -> None:
    """Programs parse it."""
    assert json.loads(FakeProgram().get("netexec", "/dial?host=web&port=80&request=a").body) == {
        "responses": ["GET /a"]
    }


def test_requests_are_encoded() -> None:
    """Paths are quoted, the last of two equal headers counts, invalid headers are rejected."""
    sent = Exchange("GET", "/a b?q=ä", {"Host": "one", "host": "two"}).request_bytes
    assert sent.startswith(b"GET /a%20b?q=%C3%A4 HTTP/1.1\r\nhost: two\r\n")
    for headers in ({"a b": "c"}, {"a": "b\nc"}):
        with pytest.raises(ValueError, match="HTTP has no header"):
            Exchange("GET", "/", headers)


@pytest.mark.parametrize(
    ("selector", "matching"),
    [
        ("app=web", ["web"]),
        ("app!=web", ["db", "bare"]),
        ("app in (web, db)", ["web", "db"]),
        ("app notin (web)", ["db", "bare"]),
        ("!app", ["bare"]),
        ("app,tier=x", ["db"]),
        ("", ["web", "db", "bare"]),
    ],
)
def test_selectors_in_kubectl_notation(selector: str, matching: list[str]) -> None:
    """A table of kubectl's notation."""
    labels = {"web": {"app": "web"}, "db": {"app": "db", "tier": "x"}, "bare": {}}
    found = parse_selector(selector)
    assert [name for name, one in labels.items() if found.matches(one)] == matching
