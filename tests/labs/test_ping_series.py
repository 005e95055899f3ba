"""ping --count: real connections, counted by server, source address and kind of failure."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from tests.clusters import deployment, pod, service
from tests.labs.conftest import new_lab
from tests.labs.lab import COMMAND, Lab
from tests.patience import patiently

STICKY = service("sticky", 80, "http", sessionAffinity="ClientIP").replace(
    "selector: {app: sticky}", "selector: {app: web}"
)
LOCAL = service("local", 80, "http", internalTrafficPolicy="Local").replace(
    "selector: {app: local}", "selector: {app: web}"
)
BOTH = """\
apiVersion: v1
kind: Service
metadata: {name: datagrams}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: u, port: 81, protocol: UDP, targetPort: 8081}
  - {name: t, port: 80, targetPort: http}
---
"""
MANIFEST = (
    pod("client") + deployment("web", 3) + service("web") + service("empty") + STICKY + LOCAL + BOTH
)


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """Yield a lab with three pods on two nodes behind several Services."""
    for lab in new_lab():
        lab.up(MANIFEST, "--policy", "none")
        yield lab


def counts(report: dict[str, object]) -> dict[str, int]:
    servers = report["servers"]
    assert isinstance(servers, list)
    return {server["name"]: server["count"] for server in servers}


@pytest.mark.parametrize(
    "target",
    [
        "svc:web",
        "web",
        "http://web/hostname",
        "svc:datagrams:81/udp",
        "nodeport:worker/datagrams:80",
    ],
)
def test_connections_are_distributed_over_the_endpoints(running: Lab, target: str) -> None:
    """Each of three endpoints gets between a sixth and a half of 300 connections.

    This fails by chance once in 10⁹ runs.
    """
    report = running.run("ping", "client", target, "--count", "300", "-o", "json").json
    assert (report["answered"], report["failed"], report["ok"], report["unnamed"]) == (
        300,
        {},
        True,
        0,
    )
    assert set(counts(report)) == {f"default/{pod['name']}" for pod in running.pods("web")}
    assert sum(counts(report).values()) == 300
    assert all(50 < count < 150 for count in counts(report).values())
    assert report["explanation"] == ""
    assert 0 < report["ms"]["min"] <= report["ms"]["median"] <= report["ms"]["max"]


def test_ping_counts_the_source_addresses_that_servers_see(running: Lab) -> None:
    """It is the client's own, or the node's if a pod reaches itself (hairpin)."""
    client = running.pod("client")
    report = running.run("ping", "client", "svc:web", "--count", "30", "-o", "json").json
    assert report["sources"] == [
        {"address": client["addresses"][0], "owner": "default/client", "count": 30}
    ]
    server = running.pod("web")
    report = running.run("ping", server["name"], "svc:web", "--count", "90", "-o", "json").json
    counts_by_owner = {source["owner"]: source["count"] for source in report["sources"]}
    assert counts_by_owner == {
        f"default/{server['name']}": 90 - counts(report)[f"default/{server['name']}"],
        f"node:{server['node']}": counts(report)[f"default/{server['name']}"],
    }


def test_ping_explains_an_uneven_distribution(running: Lab) -> None:
    """Reasons are sessionAffinity and internalTrafficPolicy."""
    sticky = running.run("ping", "client", "svc:sticky", "--count", "40")
    assert (
        "one endpoint got every connection: sessionAffinity is ClientIP, with a timeout of 10800 s"
        in sticky.out
    )
    local = running.run("ping", "client", "svc:local", "--count", "40", "-o", "json").json
    node = running.pod("client")["node"]
    assert {server["node"] for server in local["servers"] if server["count"]} == {node}
    assert (
        local["explanation"] == f"only endpoints on {node}, the client's node, got connections: "
        "internalTrafficPolicy is Local"
    )


def test_failures_are_counted_and_change_the_exit_status(running: Lab) -> None:
    """These are refusals, timeouts and HTTP errors, also promised refusals."""
    refused = running.run("ping", "client", "svc:empty", "--count", "7", status=1)
    assert "0 of 7 answered" in refused.out
    assert (
        "failed: 7 refused, as promised: the Service has no ready endpoint: "
        "no pod has the labels app=empty" in refused.out
    )
    silent = running.run(
        "ping",
        "ext:client",
        "client:8080",
        "--count",
        "4",
        "--deadline",
        "0.2",
        "-o",
        "json",
        status=1,
    ).json
    assert (
        silent["ok"],
        sum(silent["failed"].values()),
        set(silent["failed"]) <= {"silence", "unreachable"},
    ) == (False, 4, True)
    errors = running.run(
        "ping", "client", "http://web/echo?msg=x&code=404", "--count", "20", "-o", "json", status=1
    ).json
    assert (errors["failed"], errors["answered"], sum(counts(errors).values())) == (
        {"HTTP 404": 20},
        0,
        20,
    )


def test_servers_without_names_have_unknown_counts(running: Lab) -> None:
    """CoreDNS does not return its name. ICMP pings are counted, too."""
    pings = running.run("ping", "client", "node:worker2", "--count", "50", "-o", "json").json
    assert (pings["protocol"], pings["answered"], pings["servers"]) == ("ICMP", 50, [])
    dns = running.run("ping", "client", "10.96.0.10:53/udp", "--count", "20", "-o", "json").json
    assert (dns["answered"], dns["unnamed"]) == (20, 20)
    assert {server["count"] for server in dns["servers"]} == {None}


def test_a_series_has_the_same_cells_on_terminals_and_in_pipes(running: Lab) -> None:
    """NO_COLOR takes the colours away, not the layout: numbers are aligned to the right."""
    words = ("ping", "--lab", running.name, "client", "svc:web", "--count", "30")
    piped = running.run("ping", *words[3:]).out
    heading = ["SERVER", "NODE", "ANSWERS", "SHARE"]
    assert heading in [line.split() for line in piped.splitlines()]
    assert "ANSWERS   SHARE" in piped
    terminal, process_end = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm"}
    with subprocess.Popen(
        [*COMMAND, *words], stdout=process_end, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(process_end)
        drawn = b""
        try:
            while data := os.read(terminal, 4096):
                drawn += data
        except OSError:  # EIO: the process has closed its end
            pass
        assert process.wait(patiently(30)) == 0
    os.close(terminal)
    text = drawn.decode()
    assert heading in [line.split() for line in text.splitlines()]
    assert "ANSWERS    SHARE" in text
    assert "\x1b[" not in text
    for server in running.pods("web"):
        assert f"default/{server['name']}" in text


def test_a_series_needs_a_source_and_a_destination(running: Lab) -> None:
    """Otherwise the exit status is 2."""
    for words in (("client",), ("client", "svc:web", "--matrix"), ()):
        assert (
            "--count needs a source and a destination"
            in running.run("ping", *words, "--count", "2", status=2).err
        )


def test_a_series_fails_if_a_policy_is_not_enforced(running: Lab) -> None:
    """The policy could drop the connections, so the exit status is 1.

    It is 0 if its kind is accepted.
    """
    running.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\n"
        "spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}\n",
        status=None,
    )
    words = ("ping", "client", "svc:web", "--count", "5")
    assert (
        "not enforced by this lab, could change this result: NetworkPolicy deny"
        in running.run(*words, status=1).out
    )
    report = running.run(*words, "-o", "json", status=1).json
    assert (report["ok"], report["answered"], report["unenforced"]) == (
        False,
        5,
        ["NetworkPolicy deny"],
    )
    assert running.run(*words, "--allow-unmodelled", "NetworkPolicy").status == 0
    running.run("delete", "networkpolicy", "deny")
