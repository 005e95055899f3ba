"""Shells ask what can follow, and get words: by typer's protocol, and in a bash of this machine."""

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
"""Whatever labs this machine has, what is in them is no matter here."""


@cache
def asking() -> Server:
    """Return a server of commands that shells ask: what completes is chosen when the commands are imported."""
    return Server({**os.environ, "_KUBENETLAB_COMPLETE": "complete_bash"})


def asked(line: str, shell: str = "bash") -> list[str]:
    """What a shell is answered when the cursor stands at the end of the line."""
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
    done = asking().run([], None, 30, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return [word for word in done.stdout.splitlines() if word]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kubenetlab rol", ["rollout"]),
        ("kubenetlab rollout ", ["restart", "status"]),
        ("kubenetlab get --outp", ["--output"]),
        ("kubenetlab get -o ", ["table", "wide", "json", "yaml", "name", "jsonpath="]),
        ("kubenetlab get po", ["pods"]),
        ("kubenetlab get pods,serv", ["pods,services"]),
        ("kubenetlab scale ", ["deployments", "replicasets", "replicationcontrollers", "statefulsets"]),
        ("kubenetlab rollout restart d", ["deployments", "daemonsets"]),
        ("kubenetlab schema endpoint", ["endpointslice", "endpoints"]),
        ("kubenetlab schema ", [kind.kind.lower() for kind in WRITABLE]),
        ("kubenetlab up --cni ", list(known("cni"))),
        ("kubenetlab up --proxy ", list(known("proxy"))),
        ("kubenetlab explain brid", ["bridge"]),
        ("kubenetlab explain po", ["pod", "pod."]),
        ("kubenetlab explain pod.s", ["pod.spec", "pod.status"]),
        ("kubenetlab explain pod.sp", ["pod.spec", "pod.spec."]),
        ("kubenetlab explain pod.spec.containers.liv", ["pod.spec.containers.livenessProbe", "pod.spec.containers.livenessProbe."]),
        ("kubenetlab explain pod.spec.host", [f"pod.spec.host{rest}" for rest in ("Network", "name", "Aliases", "IPC", "PID", "Users", "nameOverride")]),
        ("kubenetlab explain pod.nothing.x", []),
        ("kubenetlab completion ", ["bash", "zsh", "fish"]),
        ("kubenetlab up -f ", []),
        ("kubenetlab exec x -- ", []),
    ],
)  # fmt: skip
def test_what_can_follow_is_told(line: str, words: list[str]) -> None:
    """Commands, options, kinds, modes, fields; nothing where files may follow: the shell knows those itself."""
    assert asked(line) == words


def test_all_commands_can_follow() -> None:
    """At the beginning."""
    assert sorted(asked("kubenetlab ")) == sorted(PROMISED)


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
def test_no_lab_no_word(line: str) -> None:
    """What only a lab can tell is left out in silence when there is none."""
    assert asked(line.format("--lab nosuch")) == []


def test_zsh_and_fish_are_answered_in_their_ways() -> None:
    """zsh gets an expression, fish a line with a tab between a word and what it means."""
    assert asked("kubenetlab rol", "zsh")[0].startswith(
        '_arguments \'*: :(("rollout":"Replace a workload\'s'.replace("'s", "''s")
    )
    assert asked("kubenetlab rol", "fish")[0].partition("\t")[0] == "rollout"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_asks_by_the_protocol(shell: str) -> None:
    """Each shell gets its own; another is wrong use."""
    said = run("completion", shell)
    assert f"_KUBENETLAB_COMPLETE=complete_{shell}" in said.stdout
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
    """The script, read by bash as people read it, with what bash knows of the line when somebody presses the key."""
    assert bash(line) == words


def bash(line: str) -> list[str]:
    """What bash would put in the place of its own last word."""
    script = """
        source <(kubenetlab completion bash)
        COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
        _kubenetlab_completion kubenetlab
        [[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-uc", script, "bash", line],
        env={**os.environ, **NO_LAB, "PATH": BIN},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
