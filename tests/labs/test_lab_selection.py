"""Commands without a lab's name, with one, several or no labs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.clusters import deployment, pod
from tests.conftest import LAB_PREFIX, RUN_PREFIX
from tests.labs.lab import COMMAND, CommandResult, command_result
from tests.labs.private_run import private_run_directory
from tests.patience import patiently

NAMED = f"apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nname: {LAB_PREFIX}mine\n---\n"


class CommandLine:
    """Commands where no other lab is visible."""

    def __init__(self, prefix: list[str]) -> None:
        self._prefix = prefix

    def run(self, *words: str, stdin: str = "", status: int = 0) -> CommandResult:
        line = [*self._prefix, *COMMAND, *words]
        return command_result(
            subprocess.run(
                line,
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=patiently(60),
            ),
            status,
        )

    def start(self, *line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._prefix, *line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def labs(self) -> list[str]:
        """Names of labs, except those of other workers: `list` shows root the labs of all users."""
        names: list[str] = [lab["name"] for lab in self.run("list", "-o", "json").json]
        return [
            name for name in names if name.startswith(LAB_PREFIX) or not name.startswith(RUN_PREFIX)
        ]


@pytest.fixture
def command_line() -> Iterator[CommandLine]:
    with private_run_directory("/") as prefix:
        yield CommandLine(prefix)


def test_options_alone_change_the_only_lab(command_line: CommandLine) -> None:
    """They change its mode and its nodes, and nothing else; no second lab is created."""
    command_line.run("up", "-f", "-", stdin=NAMED + pod("client"))
    result = command_line.run("up", "--proxy", "iptables")
    assert (
        f"Cluster {LAB_PREFIX}mine configured: networking.kubeProxyMode nftables → iptables\n"
        in result.out
    )
    assert (
        "KUBE-SERVICES"
        in command_line.run("exec", "node:worker", "--", "iptables-nft-save", "-t", "nat").out
    )
    assert (
        f"Cluster {LAB_PREFIX}mine configured: nodes 3 → 4\n"
        in command_line.run("up", "--nodes", "4").out
    )
    assert "node/worker" in command_line.run("plan", "--proxy", "ebpf").out
    assert command_line.labs == [f"{LAB_PREFIX}mine"]
    again = command_line.run("apply", "-f", "-", stdin=NAMED).out
    assert (
        f"Cluster {LAB_PREFIX}mine configured: nodes 4 → 3, "
        "networking.kubeProxyMode iptables → nftables\n" in again
    )


def test_options_alone_keep_other_changes_of_the_quickstart(command_line: CommandLine) -> None:
    """A scaled Deployment keeps its number of replicas."""
    command_line.run("up")
    command_line.run("scale", "deployment", "web", "--replicas", "5")
    output = command_line.run("up", "--proxy", "nftables,layout=fast").out
    assert (
        "Cluster quickstart configured: networking.kubeProxyMode nftables → nftables,layout=fast\n"
        in output
    )
    assert "Deployment" not in output
    assert (
        len(
            [
                item
                for item in command_line.run("get", "pods", "-o", "json").json["items"]
                if item["metadata"]["name"].startswith("web-")
            ]
        )
        == 5
    )


def test_options_alone_are_ambiguous_with_several_labs(command_line: CommandLine) -> None:
    """With --lab, they change that lab."""
    for name in ("a", "b"):
        command_line.run(
            "up", "--lab", f"{LAB_PREFIX}{name}", "-f", "-", stdin=deployment(replicas=1)
        )
    refused = command_line.run("up", "--proxy", "iptables", status=1)
    assert (
        f"several labs are up: {LAB_PREFIX}a, {LAB_PREFIX}b; choose one with --lab NAME"
        in refused.err
    )
    assert (
        "nftables → iptables"
        in command_line.run("up", "--proxy", "iptables", "--lab", f"{LAB_PREFIX}b").out
    )
    assert command_line.labs == [f"{LAB_PREFIX}a", f"{LAB_PREFIX}b"]


def test_a_lab_without_a_cluster_document_is_called_lab(command_line: CommandLine) -> None:
    """This also holds for reports about its Cluster document."""
    command_line.run("up", "-f", "-", stdin=pod("client"))
    assert "Cluster lab configured: nodes 3 → 2\n" in command_line.run("up", "--nodes", "2").out


def test_options_alone_create_the_quickstart(command_line: CommandLine) -> None:
    """They apply to the new lab."""
    command_line.run("up", "--nodes", "2")
    assert command_line.labs == ["quickstart"]
    assert len(command_line.run("get", "nodes", "-o", "json").json["items"]) == 2


def test_down_removes_other_labs_although_one_fails(command_line: CommandLine) -> None:
    """Another process holds the lock of the first lab.

    The second lab is removed, and the reason of the failure is reported.
    """
    for name in ("a", "b"):
        command_line.run(
            "up", "--lab", f"{LAB_PREFIX}{name}", "--no-wait", "-f", "-", stdin=pod("client")
        )
    with command_line.start(
        "flock", f"/run/kubenetlab/{LAB_PREFIX}a", "-c", "echo held; exec cat"
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        result = command_line.run("down", "--all", status=1)
        assert f"lab {LAB_PREFIX}b is down" in result.out
        assert (
            f"error: another command is creating or removing lab {LAB_PREFIX}a; try again"
            in result.err
        )
        holder.communicate()
    assert (
        f"lab {LAB_PREFIX}a is not up: nothing to remove" in command_line.run("down", "--all").out
    )
