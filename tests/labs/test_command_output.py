"""Output of commands: tables like kubectl's, data for programs, and errors with suggestions."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.labs.conftest import new_lab
from tests.labs.lab import COMMAND, Lab, run, wait_for


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    """Yield the quickstart."""
    for lab in new_lab():
        lab.run("up")
        yield lab


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line) for line in text.splitlines()]


def test_the_quickstart_has_three_nodes_and_a_shop(running: Lab) -> None:
    """It has at least 12 pods and 4 Services, including DNS, and all pods are ready."""
    inspected = running.inspected
    assert len(inspected["nodes"]) == 3
    assert len(inspected["pods"]) >= 12
    assert len(inspected["services"]) >= 4
    assert all(pod["ready"] for pod in inspected["pods"])
    assert {pod["node"] for pod in inspected["pods"]} == {
        node["name"] for node in inspected["nodes"]
    }


@pytest.mark.parametrize(
    ("words", "header"),
    [
        (("pods",), ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]),
        (("po", "-A"), ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]),
        (
            ("pods", "-o", "wide"),
            ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "READINESS GATES"],
        ),
        (("services",), ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]),
        (
            ("svc", "-o", "wide"),
            ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"],
        ),
        (("nodes",), ["NAME", "STATUS", "ROLES", "AGE"]),
        (("deploy",), ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]),
        (("rs",), ["NAME", "DESIRED", "CURRENT", "READY", "AGE"]),
        (("endpointslices",), ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]),
        (("ns",), ["NAME", "STATUS", "AGE"]),
        (("events",), ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]),
    ],
    ids=" ".join,
)
def test_get_prints_kubectls_columns(
    running: Lab, words: tuple[str, ...], header: list[str]
) -> None:
    """This holds for every name of a kind; a hint follows on standard error."""
    result = running.run("get", *words)
    table = rows(result.out)
    assert table[0] == header
    assert len(table) > 1
    assert result.err.startswith("next: kubenetlab ")


def test_get_prints_data_for_programs(running: Lab) -> None:
    """JSON and YAML agree.

    One object is printed by its name, several as a List, and nothing else is on standard output.
    """
    pod = running.run("get", "pod", "client", "-o", "json").json
    assert (pod["kind"], pod["metadata"]["name"], pod["status"]["phase"]) == (
        "Pod",
        "client",
        "Running",
    )
    assert yaml.safe_load(running.run("get", "pod/client", "-o", "yaml").out) == pod
    pods = running.get("pods", "-n", "shop", "-l", "app=cart")
    assert pods["kind"] == "List"
    assert {item["metadata"]["labels"]["app"] for item in pods["items"]} == {"cart"}
    objects = running.get("deploy,svc", "-n", "shop")
    assert {item["kind"] for item in objects["items"]} == {"Deployment", "Service"}


def test_get_follows_changes(running: Lab) -> None:
    """It prints the existing objects, and then a line for each change."""
    process = subprocess.Popen(
        [*COMMAND, "get", "pods", "-n", "shop", "-w", "--lab", running.name],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(7)]
        assert lines[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
        assert {line.index("Running") for line in lines[1:]} == {lines[0].index("STATUS")}
        running.run("scale", "deployment", "cart", "-n", "shop", "--replicas", "3")
        known = {line.split()[0] for line in lines}
        watched = [process.stdout.readline().split()]
        while watched[-1][0] in known or watched[-1][1] != "1/1":
            watched.append(process.stdout.readline().split())
    finally:
        process.kill()
        process.communicate()
    running.run("scale", "deployment", "cart", "-n", "shop", "--replicas", "2")
    wait_for(lambda: len(running.pods("cart", "shop")) == 2, "two pods again")


def test_arguments_may_name_objects_of_several_kinds(running: Lab) -> None:
    """As in kubectl, each kind has a table, and its rows have the kind."""
    tables = running.run("get", "pod/client", "svc/web").out
    assert [line.partition(" ")[0] for line in tables.splitlines()] == [
        "NAME",
        "pod/client",
        "",
        "NAME",
        "service/web",
    ]
    assert "\ndeployment.apps/web " in running.run("get", "all").out
    documents = running.run("get", "pod/client", "svc/web", "-o", "json").json["items"]
    assert [(document["kind"], document["metadata"]["name"]) for document in documents] == [
        ("Pod", "client"),
        ("Service", "web"),
    ]
    result = running.run("describe", "pod/client", "svc/web")
    assert [line.split()[1] for line in result.out.splitlines() if line.startswith("Name:")] == [
        "client",
        "web",
    ]
    # The hint contains --lab if other labs are up.
    assert result.err.startswith("next: kubenetlab inspect client")
    assert "expected a kind and a name" in running.run("get", "pod/client", "web", status=2).err


def test_errors_of_scale_delete_and_exec_suggest_alternatives(running: Lab) -> None:
    """They name existing objects, kinds or an example."""
    assert (
        'deployments "wob" not found'
        in running.run("scale", "deployment", "wob", "--replicas", "1", status=1).err
    )
    assert (
        "did you mean deployment"
        in running.run("scale", "deploymant", "web", "--replicas", "1", status=2).err
    )
    assert (
        "expected a kind and a name, for example: delete svc NAME, or svc/NAME"
        in running.run("delete", "pod/client", "svc", status=2).err
    )
    assert (
        "there is no pod default/wbe; did you mean deploy:default/web"
        in running.run("exec", "wbe", "--", "true", status=2).err
    )


def test_data_of_every_command_is_valid_json_and_yaml(running: Lab) -> None:
    """The commands are those with -o json and -o yaml."""
    for words in (
        ("get", "pods"),
        ("inspect",),
        ("inspect", "client"),
        ("ping", "client"),
        ("ping", "client", "svc:web"),
        ("diff",),
    ):
        json.loads(running.run(*words, "-o", "json").out)
        yaml.safe_load(running.run(*words, "-o", "yaml").out)


def test_messages_about_missing_objects_name_existing_ones(running: Lab) -> None:
    """Cases: a typo, another namespace, a workload's name for a pod, an unknown namespace."""
    for words in (("get",), ("describe",)):
        assert (
            running.run(*words, "pod", "clent", status=1).err
            == 'error: pods "clent" not found; did you mean client?\n'
        )
        expected = (
            'error: services "cart" not found in namespace default; there is one with -n shop\n'
        )
        assert running.run(*words, "svc", "cart", status=1).err == expected
    assert (
        'pods "web" not found; did you mean web-' in running.run("get", "pod", "web", status=1).err
    )
    for command in (
        ("scale", "deploy", "cart", "3"),
        ("rollout", "restart", "deploy", "cart"),
        ("rollout", "status", "deploy/cart"),
    ):
        assert "there is one with -n shop" in run(*command, "--lab", running.name, status=1).err
    nothing = running.run("get", "pods", "-n", "shp").out
    assert (
        nothing == "nothing found in namespace shp: this namespace does not exist; "
        "the lab has: default, kube-system, shop\n"
    )


def test_a_node_document_changes_an_existing_node(running: Lab, tmp_path: Path) -> None:
    """The Cluster document creates nodes; a Node document only adds labels."""
    file = tmp_path / "node.yaml"
    file.write_text(
        "{apiVersion: v1, kind: Node, metadata: {name: worker, labels: {disktype: ssd}}}"
    )
    assert running.run("apply", "-f", str(file)).out.startswith("Node worker configured\n")
    assert running.run("apply", "-f", str(file)).out.startswith("Node worker unchanged\n")
    assert (
        running.run("get", "node", "worker", "-o", "json").json["metadata"]["labels"]["disktype"]
        == "ssd"
    )
    output = running.run("delete", "-f", str(file)).out
    assert (
        output == "Node worker is still part of the Cluster document; "
        "only the settings of its own document are deleted\n"
    )
    assert (
        "disktype"
        not in running.run("get", "node", "worker", "-o", "json").json["metadata"]["labels"]
    )


def test_show_labels_adds_a_column(running: Lab) -> None:
    """It is the last column of every table."""
    pods = running.run("get", "pods", "--show-labels").out.splitlines()
    assert pods[0].endswith("   LABELS")
    assert [line.rsplit(maxsplit=1)[1] for line in pods[1:] if line.startswith("client ")] == [
        "<none>"
    ]
    assert all("app=web,pod-template-hash=" in line for line in pods[1:] if line.startswith("web-"))
    nodes = running.run("get", "nodes", "-o", "wide", "--show-labels").out
    assert "kubernetes.io/hostname=worker,kubernetes.io/os=linux" in nodes
    assert "LABELS" not in running.run("get", "pods").out
