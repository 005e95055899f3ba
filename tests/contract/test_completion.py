"""Completion: candidates by typer's protocol, and in the bash of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from kubenetlab.api.kinds import WRITABLE
from kubenetlab.datapath.modes import known
from tests.contract.test_commands import PROMISED, run
from tests.warm import Server

BIN = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


NO_LAB = {"KUBENETLAB_LAB": "there-is-none"}
"""Environment that selects a lab that does not exist, whatever labs this machine has."""


@cache
def completion_server() -> Server:
    """Return a server that imported the commands for completion."""
    return Server({**os.environ, "_KUBENETLAB_COMPLETE": "complete_bash"})


def complete(line: str, shell: str = "bash") -> list[str]:
    """Return the lines that a shell receives when the cursor is at the end of `line`."""
    words = line.split(" ")
    environment = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {
        **os.environ,
        **NO_LAB,
        **environment,
        "_KUBENETLAB_COMPLETE": f"complete_{shell}",
    }
    completed = completion_server().run([], None, 30, environment=environment)
    assert (completed.returncode, completed.stderr) == (0, "")
    return [word for word in completed.stdout.splitlines() if word]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kubenetlab rol", ["rollout"]),
        ("kubenetlab rollout ", ["restart", "status"]),
        ("kubenetlab get --outp", ["--output"]),
        ("kubenetlab get -o ", ["table", "wide", "json", "yaml", "name", "jsonpath="]),
        ("kubenetlab get po", ["pods"]),
        ("kubenetlab get pods,serv", ["pods,services"]),
        (
            "kubenetlab scale ",
            ["deployments", "replicasets", "replicationcontrollers", "statefulsets"],
        ),
        ("kubenetlab rollout restart d", ["deployments", "daemonsets"]),
        ("kubenetlab schema endpoint", ["endpointslice", "endpoints"]),
        ("kubenetlab schema ", [kind.kind.lower() for kind in WRITABLE]),
        ("kubenetlab up --cni ", list(known("cni"))),
        ("kubenetlab up --proxy ", list(known("proxy"))),
        ("kubenetlab explain brid", ["bridge"]),
        ("kubenetlab explain po", ["pod", "pod."]),
        ("kubenetlab explain pod.s", ["pod.spec", "pod.status"]),
        ("kubenetlab explain pod.sp", ["pod.spec", "pod.spec."]),
        (
            "kubenetlab explain pod.spec.containers.liv",
            ["pod.spec.containers.livenessProbe", "pod.spec.containers.livenessProbe."],
        ),
        (
            "kubenetlab explain pod.spec.host",
            [
                f"pod.spec.host{suffix}"
                for suffix in ("Network", "name", "Aliases", "IPC", "PID", "Users", "nameOverride")
            ],
        ),
        ("kubenetlab explain pod.nothing.x", []),
        ("kubenetlab explain policy n", ["nftables", "none"]),
        ("kubenetlab explain pod n", []),
        ("kubenetlab completion ", ["bash", "zsh", "fish"]),
        ("kubenetlab up -f ", []),
        ("kubenetlab exec x -- ", []),
    ],
)
def test_candidates_without_a_lab(line: str, words: list[str]) -> None:
    """Commands, options, kinds, modes and fields are completed; files are left to the shell."""
    assert complete(line) == words


def test_every_command_is_a_candidate() -> None:
    """The first argument is completed with all commands."""
    assert sorted(complete("kubenetlab ")) == sorted(PROMISED)


@pytest.mark.parametrize(
    "line",
    [
        "kubenetlab get pods {} ",
        "kubenetlab exec {} ",
        "kubenetlab logs {} ",
        "kubenetlab ping {} a ",
        "kubenetlab get {} -n ",
    ],
)
def test_without_a_lab_its_objects_are_no_candidates(line: str) -> None:
    """Completion prints no error."""
    assert complete(line.format("--lab nosuch")) == []


def test_zsh_and_fish_get_their_own_formats() -> None:
    """The format of zsh is a quoted expression, that of fish a candidate, a tab, a description."""
    assert complete("kubenetlab rol", "zsh")[0].startswith(
        '_arguments \'*: :(("rollout":"Replace a workload\'s'.replace("'s", "''s")
    )
    assert complete("kubenetlab rol", "fish")[0].partition("\t")[0] == "rollout"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_sets_the_variable(shell: str) -> None:
    """An unknown shell is a usage error."""
    script = run("completion", shell)
    assert f"_KUBENETLAB_COMPLETE=complete_{shell}" in script.stdout
    assert run("completion", "csh").returncode == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kubenetlab mod", ["modes"]),
        ("kubenetlab get  svc,po", ["svc,pods"]),
        ("kubenetlab get --output=j", ["json", "jsonpath="]),
        ("kubenetlab explain pod.metadata.na", ["pod.metadata.name", "pod.metadata.namespace"]),
        ("kubenetlab up -f ", []),
        ("kubenetlab get pods 'a", []),
    ],
)
def test_bash_completes(line: str, words: list[str]) -> None:
    """The script works in bash, called with the variables that bash sets for a completion."""
    assert bash(line) == words


def bash(line: str) -> list[str]:
    """Return the candidates with which bash would replace its last word."""
    script = """
        source <(kubenetlab completion bash)
        COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
        _kubenetlab_completion kubenetlab
        [[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "${COMPREPLY[@]}"
    """
    completed = subprocess.run(
        ["bash", "--norc", "-uc", script, "bash", line],
        env={**os.environ, **NO_LAB, "PATH": BIN},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    return completed.stdout.splitlines()
