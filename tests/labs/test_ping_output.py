"""Output of `ping`: answers, the matrix of all locations, and a hint after a failure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kubenetlab.kernel.features.detection import has_sctp
from tests.labs.conftest import new_lab
from tests.labs.lab import Lab, run, wait_for


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """Yield the quickstart."""
    for lab in new_lab():
        lab.run("up")
        yield lab


def test_ping_reports_the_answer_of_every_protocol(running: Lab) -> None:
    """Failures are reported for every protocol, too."""
    assert "answered in" in running.run("ping", "client", "node:worker2").out
    assert "answered in" in running.run("ping", "client", "svc:web", "--udp", "8081").out
    by_sctp = running.run("ping", "client", "node:worker2", "--sctp", "4711", status=1)
    assert (
        "associate: refused" in by_sctp.out
        if has_sctp()
        else "error: SCTP is not available; " in by_sctp.err
    )
    http_result = running.run("ping", "client", "svc:shop/frontend", "--http", "/").out
    assert "answered and saw" in http_result
    assert "Welcome to nginx!" in http_result
    by_name = running.run("ping", "client", "cart.shop", "--tcp", "7070").out
    assert running.service("cart", "shop")["cluster_ips"][0] in by_name
    refused = running.run("ping", "client", "web.default.svc", "--tcp", "4711", status=1).out
    assert "refused" in refused
    assert "no such host" in running.run("ping", "client", "no.such.name", status=2).err


def test_the_matrix_covers_a_hundred_pods(running: Lab) -> None:
    """Every pair exchanges a real packet; the benchmarks measure the duration."""
    running.run("scale", "deployment", "web", "--replicas", "92")
    wait_for(
        lambda: sum(pod["ready"] for pod in running.inspected["pods"]) >= 104, "a hundred pods"
    )
    report = running.run("ping", "-o", "json").json
    assert report["ok"]
    pods = {pod["name"] for pod in running.inspected["pods"] if not pod["host_network"]}
    pairs = [
        cell
        for cell in report["cells"]
        if cell["from"].partition("/")[2] in pods and cell["to"].partition("/")[2] in pods
    ]
    assert len(pairs) == len(pods) * (len(pods) - 1)
    assert {cell["found"] for cell in pairs} == {"answer"}
    assert running.inspected["neighbors"] == "permanent"
    running.run("scale", "deployment", "web", "--replicas", "3")
    wait_for(lambda: len(running.pods("web")) == 3, "three pods again")


def test_ping_ends_with_1_if_connectivity_is_not_as_promised(running: Lab) -> None:
    """A drop rule is added manually; the matrix shows its effect."""
    pod = running.pod("client")
    running.inside(
        pod,
        "nft",
        "add table ip mine; add chain ip mine in { type filter hook input priority 0 ; } ; "
        "add rule ip mine in drop",
    )
    try:
        result = running.run("ping", "node:worker", "--deadline", "0.3", status=1)
        assert (
            f"✗ node:worker → default/client ({pod['addresses'][0]}): no answer, promised: answer"
            in result.out
        )
        assert "not as Kubernetes promises" in result.out
    finally:
        running.inside(pod, "nft", "delete", "table", "ip", "mine")


def test_the_hint_after_a_failed_ping_is_about_its_destination(running: Lab) -> None:
    """The lab itself is intact, so `diff` would show nothing."""
    for words, expected in (
        (("http://web:81/",), "kubenetlab describe svc web"),
        (
            ("deploy:web", "--tcp", "4711"),
            f"kubenetlab describe pod {running.pod('web')['name'][:4]}",
        ),
        (("192.0.2.1",), "kubenetlab exec default/client -- ip route get 192.0.2.1"),
    ):
        result = run("ping", "client", *words, "--lab", running.name, status=1)
        hint = (
            result.err.splitlines()[-1].removeprefix("next: ").replace(f" --lab {running.name}", "")
        )
        assert hint.startswith(expected), result.err
