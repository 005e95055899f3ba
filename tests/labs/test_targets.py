"""Every form of a target, in all commands with targets, with real packets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import deployment, pod, service
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab

MANIFEST = pod("client") + pod("both") + deployment("web", 2) + service("web") + service("both")


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """Yield a lab with a Deployment behind a Service of its name, and with equal names.

    A pod and a Service are called `both`.
    """
    for lab in new_lab():
        lab.up(MANIFEST)
        yield lab


@pytest.mark.parametrize(
    ("target", "port", "protocol"),
    [
        ("svc:web:80", 80, "TCP"),
        ("svc/web:80/tcp", 80, "TCP"),
        ("web", 80, "TCP"),
        ("web:80", 80, "TCP"),
        ("web.default:80", 80, "TCP"),
        ("web.default.svc.cluster.local", 80, "TCP"),
        ("http://web/hostname", 80, "TCP"),
        ("10.96.0.10:53", 53, "TCP"),
        ("10.96.0.10:53/udp", 53, "UDP"),
        ("deployment/web:8080", 8080, "TCP"),
        ("pod/both", 0, "ICMP"),
        ("node/worker", 0, "ICMP"),
        ("198.51.100.10", 0, "ICMP"),
    ],
)
def test_ping_accepts_every_form_of_a_target(
    running: Lab, target: str, port: int, protocol: str
) -> None:
    """The answer comes from the port and by the protocol that the target names."""
    found: Any = running.run("ping", "client", target, "-o", "json").json
    assert (found["found"], found["port"], found["protocol"], found["ok"]) == (
        "answer",
        port,
        protocol,
        True,
    )


def test_the_title_of_a_result_is_a_target(running: Lab) -> None:
    """It leads to the same destination."""
    for target in ("svc:web:80", "web", "web.default:80", "pod/both"):
        titles = [running.run("ping", "client", target, "-o", "json").json["to"]]
        titles.append(running.run("ping", "client", titles[0], "-o", "json").json["to"])
        assert titles[0] == titles[1]


def test_ambiguous_and_unknown_names_are_usage_errors(running: Lab) -> None:
    """The message has the exact forms, or similar names."""
    ambiguous = running.run("ping", "client", "both:80", status=2)
    assert (
        ambiguous.err
        == "error: both is ambiguous; use one of: default/both:80, svc:default/both:80\n"
    )
    assert "both: default/both (not svc:default/both)" in running.run("ping", "client", "both").err
    assert (
        "did you mean svc:default/web or deploy:default/web?"
        in running.run("ping", "client", "wbe", status=2).err
    )
    assert (
        "did you mean default/client or ext:client?"
        in running.run("ping", "clinet", "web", status=2).err
    )
    assert "use svc:default/web" in running.run("ping", "node:worker", "web", status=2).err
    pods = ", ".join(f"default/{pod['name']}" for pod in running.pods("web"))
    assert f"its pods are: {pods}" in running.run("ping", "svc:web", "client", status=2).err


def test_an_unresolved_name_of_an_existing_service_is_a_failure(running: Lab) -> None:
    """The Service exists, so the lab fails, with exit status 1."""
    running.apply(pod("deaf", ", dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1]}"))
    assert "default/deaf" in running.run("ping", "deaf", "svc:web").out
    assert "not resolved" in running.run("ping", "deaf", "web", status=1).out
    report = running.run("ping", "deaf", "web.default", "-o", "json", status=1).json
    assert (report["found"], report["ok"]) == ("unresolved", False)


def test_exec_logs_and_inspect_accept_the_same_forms(running: Lab) -> None:
    """Forms are a workload, kubectl's KIND/NAME and an address."""
    (first_pod, _) = running.pods("web")
    for target in ("web", "deploy/web", f"pod/{first_pod['name']}", first_pod["addresses"][0]):
        assert running.run("exec", target, "--", "hostname").out.strip() == first_pod["name"]
        assert first_pod["name"] in running.run("inspect", target, "-o", "json").json["name"]
        assert running.run("logs", target).status == 0


def test_tables_accept_the_same_forms(running: Lab, tmp_path: Path) -> None:
    """Targets contain ports and paths; reports of failures have the same wording."""
    table = tmp_path / "expect.yaml"
    table.write_text(
        """\
- {from: client, to: "svc:web:80", allowed: true}
- {from: pod/client, to: web, port: 80, allowed: true}
- {from: web, to: "web.default:80", allowed: true}
- {from: client, to: "10.96.0.10:53", allowed: true}
- {from: client, to: "10.96.0.10:53/udp", allowed: true}
- {from: client, to: "http://web/hostname", allowed: true}
- {from: client, to: "http://web/clientip", expect: allow, source: CLIENT}
- {from: client, to: "http://web:81/", allowed: false}
- {from: client, to: "http://web/echo?msg=x&code=404", allowed: true}
- {from: client, to: "http://web/echo?msg=x&code=404", allowed: false}
- {from: client, to: "http://web:81/", allowed: true}
- {from: client, to: "both:80", allowed: true}
- {from: client, to: wbe, port: 80, allowed: false}
""".replace("CLIENT", running.pod("client")["addresses"][0])
    )
    checks = running.run("check", "-f", str(table), "-o", "json", status=1).json["checks"]
    assert [check["state"] for check in checks] == ["holds"] * 8 + ["fails"] * 5
    assert [check["found"] for check in checks[8:]] == [
        "answer, HTTP 404",
        "answer, HTTP 404",
        "refused",
        "both is ambiguous; use one of: default/both:80, svc:default/both:80",
        "lookup wbe: no such host",
    ]
