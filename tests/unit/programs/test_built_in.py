"""Built-in programs: their selection, ports and answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenetlab import programs
from kubenetlab.api.meta import parse_selector
from kubenetlab.api.values.durations import duration_s
from kubenetlab.hoststate.programs import ListenPort
from kubenetlab.lab.transport.exchange import Exchange
from kubenetlab.programs.support.arguments import arguments, options
from tests.clusters import deployment, problems_of
from tests.unit.programs.fake import FakeProgram, container


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
        listeners = programs.setup(container(**fields), known).listeners
        assert " ".join(map(str, listeners)) == expected


@pytest.mark.parametrize("image", ["x", "busybox", "nginx"])
def test_an_empty_listen_annotation_opens_no_port(image: str) -> None:
    """An empty annotation says so."""
    assert (
        programs.setup(container(image=image, ports=DECLARED), programs.Ports(stated=())).listeners
        == ()
    )


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
    problems = problems_of(pod)
    assert [(problem.file, problem.line, problem.is_warning) for problem in problems] == [
        ("test.yaml", 5, True)
    ] * len(messages)
    shown = [f"{problem.path} {problem.message.removeprefix('the ')}" for problem in problems]
    assert all(line.startswith(message) for line, message in zip(shown, messages, strict=True)), (
        shown
    )
    template = deployment().replace("args: [netexec", "args: [netexec, --nonsense")
    assert [problem.path for problem in problems_of(template)] == [
        "spec.template.spec.containers[0].args[1]"
    ]


def test_the_default_server_reports_itself_and_its_client() -> None:
    """Any path is answered with 200; the paths of netexec work too."""
    response = FakeProgram().get("default", "/_healthz")
    assert (response.status, response.body) == (
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


@pytest.mark.parametrize("image", ["x", "busybox", "nginx", "httpd"])
def test_each_server_answers_datagrams_to_the_ports_that_are_declared(image: str) -> None:
    """For example 443/UDP of HTTP/3, which nginx does not answer by default."""
    ports = [{"containerPort": 443}, {"containerPort": 443, "protocol": "UDP"}]
    chosen = programs.setup(container(image=image, ports=ports))
    assert ListenPort("UDP", 443) in chosen.listeners
    assert FakeProgram(**chosen.options).send(chosen.program, b"hostname") == b"web-0"


@pytest.mark.parametrize(
    ("host", "status", "result"),
    [("web", 0, ""), ("10.0.0.8", 1, "REFUSED"), ("nowhere", 1, "DNS")],
)
def test_connect_exits_with_its_result(host: str, status: int, result: str) -> None:
    """0, or 1 with TIMEOUT, REFUSED, DNS or OTHER in the log."""
    program = FakeProgram(host=host, port=80, protocol="tcp", timeout_s=1.0)
    assert asyncio.run(programs.load("connect").main(program.context)) == status
    assert all(line.startswith(result) for line in program.lines)
    assert bool(program.lines) == bool(status)


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
def test_arbitrary_arguments_do_not_crash(args: list[str]) -> None:
    """Users may write anything after a program's name."""
    options(args)
    programs.setup(container(args=["netexec", *args]))
    programs.setup(container(args=["connect", *args]))
    arguments(container(args=args))


def test_requests_are_encoded() -> None:
    """Paths are quoted, the last of two equal headers counts, invalid headers are rejected."""
    sent = Exchange("GET", "/a b?q=ä", {"Host": "one", "host": "two"}).request_bytes
    assert sent.startswith(b"GET /a%20b?q=%C3%A4 HTTP/1.1\r\nhost: two\r\n")
    for headers in ({"a b": "c"}, {"a": "b\nc"}):
        with pytest.raises(ValueError, match="invalid HTTP header"):
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
    parsed = parse_selector(selector)
    assert [name for name, labels_ in labels.items() if parsed.matches(labels_)] == matching
