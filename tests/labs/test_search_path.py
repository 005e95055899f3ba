"""Programs in /usr/sbin and /sbin are found with any PATH."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.clusters import deployment, pod, service
from tests.conftest import LAB_PREFIX
from tests.labs.lab import CommandResult, Lab, command_result
from tests.patience import patiently
from tests.warm import server

LAB = f"{LAB_PREFIX}path"
NEEDED = ("nft", "iptables-nft-restore", "ipset")
"""Programs that Debian installs only in /usr/sbin."""


@pytest.fixture
def knl() -> Iterator[Knl]:
    """Yield the command line for a lab of its own; remove the lab afterwards."""
    try:
        yield Knl()
    finally:
        Lab(LAB).down()


class Knl:
    """Commands with a given PATH."""

    def __call__(
        self, *words: str, path: str | None, stdin: str | None = None, status: int = 0
    ) -> CommandResult:
        environment = {name: value for name, value in os.environ.items() if name != "PATH"} | {
            "KUBENETLAB_LAB": LAB
        }
        environment |= {"PATH": path} if path is not None else {}
        return command_result(
            server().run(words, stdin, patiently(90), environment=environment), status
        )


@pytest.mark.parametrize(
    "path",
    ["/usr/bin:/bin", "/nonexistent", "", None],
    ids=["Debian's for users", "elsewhere", "empty", "unset"],
)
def test_doctor_finds_system_programs(knl: Knl, path: str | None) -> None:
    """It does not report installed packages as missing."""
    findings = knl("doctor", "-o", "json", "--again", path=path).json
    ip = next(
        finding
        for finding in findings
        if (finding["group"], finding["name"]) == ("This machine", "ip")
    )
    assert ip["state"] == "ok"
    for finding in findings:
        if finding["name"] in ("iptables", "ipset", "proxy iptables", "tc programs"):
            assert "apt-get install" not in finding["detail"] + finding["remedy"], finding
    assert (
        next(finding for finding in findings if finding["name"] == "proxy iptables")["state"]
        == "ok"
    )


def test_labs_and_programs_in_them_find_system_programs(knl: Knl) -> None:
    """The agent runs iptables; programs and shells inside find nft."""
    path = "/usr/bin:/bin"
    assert not any(
        os.path.exists(f"{directory}/{program}")
        for program in NEEDED
        for directory in path.split(":")
    )
    manifest = pod("client") + deployment(replicas=1) + service()
    knl("up", "-f", "-", "--proxy", "iptables", path=path, stdin=manifest)
    assert (
        "KUBE-SERVICES" in knl("exec", "node:worker", "--", "nft", "list", "ruleset", path=path).out
    )
    assert (
        "KUBE-SERVICES"
        in knl("exec", "node:worker", "--", "sh", "-c", "iptables-save", path=path).out
    )
    assert knl("ping", "client", "svc:web", path=path).status == 0
