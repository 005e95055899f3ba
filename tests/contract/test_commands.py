"""Every command is documented, and wrong use ends with a message, not with a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text
from typer import Typer
from typer.main import get_command

from kubenetlab.cli.app import COMMANDS, app, load
from kubenetlab.datapath import faults
from kubenetlab.datapath.modes import known
from tests.warm import server

ROOT = Path(__file__).parents[2]
PROMISED = [
    "up",
    "apply",
    "delete",
    "down",
    "list",
    "get",
    "describe",
    "logs",
    "scale",
    "rollout",
    "ping",
    "check",
    "explain-policy",
    "policy",
    "exec",
    "shell",
    "port-forward",
    "break",
    "heal",
    "inspect",
    "flows",
    "plan",
    "diff",
    "doctor",
    "compare",
    "modes",
    "explain",
    "schema",
    "completion",
]


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout."""
    return server().run(words, stdin, 30, ROOT, {**os.environ, "COLUMNS": "120"})


def test_the_installed_command_behaves_as_the_test_server() -> None:
    """A process of its own prints the same as the server that the other tests use."""
    command_line = [sys.executable, "-m", "kubenetlab", "modes"]
    installed = subprocess.run(
        command_line, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False
    )
    server_result = run("modes")
    assert (installed.returncode, installed.stdout, installed.stderr) == (
        0,
        server_result.stdout,
        server_result.stderr,
    )


def test_the_commands_are_those_documented() -> None:
    """No command is missing, and there is no other."""
    assert sorted(COMMANDS) == sorted(PROMISED)


@pytest.mark.parametrize("command", PROMISED)
def test_a_command_has_help_and_an_example(command: str) -> None:
    """The docstring has a summary line, and an example that calls the command."""
    loaded = load(command)
    docs = (
        [entry.callback.__doc__ or "" for entry in loaded.registered_commands]
        if isinstance(loaded, Typer)
        else [loaded.__doc__ or ""]
    )
    for doc in docs:
        assert doc.splitlines()[0].strip(), command
        assert f"kubenetlab {command}" in doc, f"{command} has no example"
    if command in ("up", "ping", "exec"):
        help_page = run(command, "--help")
        assert help_page.returncode == 0
        assert "Usage:" in help_page.stdout


def test_help_contains_no_accidental_markup() -> None:
    """Words in brackets are not parsed as markup of rich."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    words = [parameter.help or "" for command in commands.values() for parameter in command.params]
    words += [line for command in commands.values() for line in (command.help or "").splitlines()]
    assert [
        text for text in words if Text.from_markup(text).plain != text.replace("\\[", "[")
    ] == []


def test_a_plan_is_data_for_other_programs() -> None:
    """The JSON form has the operations of each namespace, one per line."""
    changes = json.loads(run("plan", "-o", "json").stdout)
    assert changes[0]["netns"] == "fabric/switch"
    assert changes[0]["operations"][0] == "+ sandbox, hostname switch"


def test_a_plan_is_a_script() -> None:
    """Standard output is a valid shell script; other commands have no such format."""
    result = run("plan", "-o", "sh", "-f", "manifests/05-service-and-endpoints")
    assert result.stdout.startswith("#!/bin/sh\n# The lab service-and-endpoints as shell commands")
    assert (
        subprocess.run(
            ["sh", "-n"], input=result.stdout, text=True, capture_output=True, check=False
        ).stderr
        == ""
    )
    assert run("list", "-o", "sh").returncode == 2


def test_help_names_all_commands() -> None:
    """`kubenetlab --help` lists every command."""
    help_page = run("--help")
    assert help_page.returncode == 0
    assert all(f" {command} " in help_page.stdout for command in PROMISED)


@pytest.mark.parametrize(
    ("words", "stdin", "status", "message"),
    [
        (
            ("upp",),
            "",
            2,
            "there is no command upp; did you mean up?; for a list of commands: kubenetlab --help",
        ),
        (("dwon",), "", 2, "there is no command dwon; for a list of commands: kubenetlab --help"),
        (
            ("cordon", "worker"),
            "",
            2,
            "there is no command cordon; use: kubenetlab get node worker -o yaml > FILE; "
            "set spec.unschedulable",
        ),
        (
            ("set", "image", "deploy/web", "web=nginx:2"),
            "",
            2,
            "there is no command set; use: kubenetlab get deploy/web -o yaml > FILE",
        ),
        (
            ("curl", "http://web/"),
            "",
            2,
            "there is no command curl; use: kubenetlab ping POD http://NAME/",
        ),
        (
            ("nslookup", "web"),
            "",
            2,
            "there is no command nslookup; use: kubenetlab exec POD -- getent hosts NAME",
        ),
        (
            ("scale", "web", "--replicas", "2"),
            "",
            2,
            "for example: scale deployment web, or deployment/web",
        ),
        (
            ("scale", "deployment", "--replicas", "2"),
            "",
            2,
            "for example: scale deployment NAME, or deployment/NAME",
        ),
        (
            ("scale", "svc:shop/web", "2"),
            "",
            2,
            "scale: expected a workload, such as deploy:default/web, found svc:shop/web",
        ),
        (
            ("scale", "shop/web", "2"),
            "",
            2,
            'there is no kind "shop"; a workload of a namespace is written deploy:shop/web',
        ),
        (("get",), "", 2, "Missing argument"),
        (("up", "-f", "/nonexistent.yaml"), "", 2, "cannot be read: No such file or directory"),
        (
            ("up", "-f", "-"),
            "a: b: c",
            2,
            "<stdin>:1  mapping values are not allowed in this context",
        ),
        (("up", "-f", "-"), "", 2, "error: <stdin>  contains no document"),
        (("up", "--cni", "flanel"), "", 2, '"flanel" is not known'),
        (("up", "--cni", "bridge,layout"), "", 2, "expected OPTION=VALUE"),
        (
            ("up", "--cni", "bridge,layout=round"),
            "",
            2,
            'expected one of auto, onlink, routed, found "round"',
        ),
        (("up", "--lab", "No_Good"), "", 2, "expected a DNS label"),
        (("up", "--timeout", "soon"), "", 2, "expected a duration such as 60s or 2m"),
        (("get", "pods", "--lab", "nosuch"), "", 1, "no lab nosuch is up"),
        (("exec", "x", "--lab", "nosuch", "--", "true"), "", 1, "no lab nosuch is up"),
        (("apply",), "", 2, "nothing to apply"),
        (
            ("explain", "brigde"),
            "",
            2,
            'there is no mode, fault or kind "brigde"; did you mean bridge? modes: bridge, ',
        ),
        (("explain", "policy"), "", 2, "such as kubenetlab explain policy ebpf modes: ebpf, "),
        (
            ("explain", "policy", "nftable"),
            "",
            2,
            'there is no policy mode "nftable"; did you mean nftables? modes: ebpf, ',
        ),
        (
            ("explain", "polici", "nftables"),
            "",
            2,
            'there is no family "polici" of modes; did you mean policy? families: cni, proxy',
        ),
        (("explain", "pood.spec"), "", 2, 'there is no kind "pood"; did you mean pod?'),
        (
            ("explain", "pod.spec.containres"),
            "",
            2,
            'Pod.spec has no field "containres"; did you mean containers?',
        ),
        (
            ("schema", "servce"),
            "",
            2,
            'there is no kind "servce"; did you mean service? kinds: cluster, namespace',
        ),
        (
            ("schema", "event"),
            "",
            2,
            "manifests cannot contain events: the lab creates them itself",
        ),
        (
            ("plan", "-f", "-"),
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
            "spec: {clusterIP: 192.0.2.1, ports: [{port: 1}]}",
            2,
            "<stdin>:4  Service default/a: spec.clusterIP: the provided IP",
        ),
    ],
)
def test_wrong_use_is_explained(
    words: tuple[str, ...], stdin: str, status: int, message: str
) -> None:
    """The exit status is 2 for invalid input and 1 for a missing lab; there is no traceback."""
    result = run(*words, stdin=stdin)
    output = " ".join((result.stdout + result.stderr).replace("│", " ").split())
    assert result.returncode == status, output
    assert " ".join(message.split()) in output
    assert "Traceback" not in output


def test_all_problems_come_in_one_report() -> None:
    """Syntax errors, and problems of single objects and of all objects, come in file order."""
    manifest = """\
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {clusterIP: 192.0.2.7, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: Wrong}
spec: {ports: [{port: 70000}]}
---
a: [
"""
    result = run("plan", "-f", "-", stdin=manifest)
    assert result.returncode == 2
    assert [
        line.partition(" ")[0]
        for line in result.stderr.splitlines()[1:]
        if line.startswith("<stdin>")
    ] == [
        "<stdin>:4",
        "<stdin>:8",
        "<stdin>:9",
        "<stdin>:12",
    ]


def test_a_second_cluster_document_is_one_problem() -> None:
    """The error does not list the fields in which the two documents differ."""
    documents = (
        "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {ipFamily: FAMILY}\n---\n"
    )
    result = run(
        "plan",
        "-f",
        "-",
        stdin=documents.replace("FAMILY", "ipv4") + documents.replace("FAMILY", "dual"),
    )
    assert result.returncode == 2
    assert (
        result.stderr == "error: <stdin>:5  Cluster: a second Cluster; the first is at <stdin>:1\n"
    )


def test_down_without_a_lab_succeeds() -> None:
    """Removing a lab that does not exist is no error."""
    result = run("down", "--lab", "nosuch")
    assert (result.returncode, result.stdout) == (0, "lab nosuch is not up: nothing to remove\n")


def test_options_of_modes_are_in_the_wide_list() -> None:
    """The default list shows only descriptions, so that it fits on a screen."""
    short, wide = run("modes").stdout, run("modes", "-o", "wide").stdout
    assert all(
        f"  {mode['name']} " in short for mode in json.loads(run("modes", "-o", "json").stdout)
    )
    assert "scheduler=rr" not in short
    assert "scheduler=rr" in wide


def test_every_mode_is_listed_and_explained() -> None:
    """The explanation has the manual, the options and the command-line option."""
    listed = json.loads(run("modes", "-o", "json").stdout)
    assert {(mode["family"], mode["name"]) for mode in listed} >= {
        ("cni", "bridge"),
        ("cni", "none"),
        ("proxy", "nftables"),
    }
    for mode in listed:
        explanation = run("explain", mode["name"]).stdout
        assert mode["manual"].splitlines()[0] in explanation
        assert f"--{mode['family']} {mode['name']}" in explanation
        assert mode in json.loads(run("explain", mode["name"], "-o", "json").stdout)


def test_explain_without_argument_lists_all_subjects() -> None:
    """Each listed name has an explanation."""
    listed = json.loads(run("explain", "-o", "json").stdout)
    assert {"bridge", "nftables", "ebpf"} <= set(listed["modes"])
    assert {"cluster", "pod", "service"} <= set(listed["kinds"])
    assert listed["faults"] == list(faults.known())
    text = run("explain").stdout
    assert all(name in text for names in listed.values() for name in names)
    for name in (listed["modes"][0], listed["faults"][0], listed["kinds"][-1]):
        assert run("explain", name).returncode == 0


def test_a_field_is_explained() -> None:
    """The output resembles `kubectl explain`; a hint names the next command."""
    result = run("explain", "po.spec.containers[0].readinessProbe")
    assert result.stdout.splitlines()[:7] == [
        "KIND:     Pod",
        "VERSION:  v1",
        "FIELD:    spec.containers.readinessProbe <Probe>",
        "",
        "Probe that decides whether the container is ready. "
        "Without one it is ready once it listens.",
        "Periodic check of a container by the kubelet of its node.",
        "",
    ]
    assert (
        "  periodSeconds                   <integer>           0 or more; default 10"
        in result.stdout.splitlines()
    )
    assert result.stderr == "next: kubenetlab explain pod.spec.containers.readinessProbe.httpGet\n"
    port = json.loads(
        run("explain", "Pod.spec.containers.ports.containerPort", "-o", "json").stdout
    )
    assert (port["type"], port["bounds"]) == ("integer", ["required", "1 to 65535"])


def test_a_schema_covers_all_documents_or_one_kind() -> None:
    """A kind may be given by a short name; the schema contains modes and their options."""
    all_documents = json.loads(run("schema").stdout)
    assert all_documents["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all_documents["$defs"]["Networking"]["properties"]["cni"]["anyOf"][0]["enum"] == list(
        known("cni")
    )
    service = json.loads(run("schema", "svc").stdout)
    assert service["properties"]["kind"]["const"] == "Service"
    assert service["properties"] == all_documents["$defs"]["Service"]["properties"]
