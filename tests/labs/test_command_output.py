"""Output of commands: tables like kubectl's, data for programs, and hints for the next step."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kubenetlab.kernel.features.detection import has_sctp
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


def test_describe_shows_fields_conditions_endpoints_and_events(running: Lab) -> None:
    """The kinds are Pod, Service, Node and Deployment."""
    pod = running.run("describe", "pod", "client").out
    for part in (
        "Name: ",
        "Node: ",
        "Sandbox: ",
        "Listening on:  8080, 8081",
        "Readiness: ",
        "Successfully assigned default/client to",
    ):
        assert part in pod
    web = running.pods("web")
    service = running.run("describe", "svc/web").out
    assert all(entry["addresses"][0] in service for entry in web)
    node = running.run("describe", "node", "control-plane").out
    assert "node-role.kubernetes.io/control-plane:NoSchedule" in node
    assert "coredns-" in node
    deployment = running.run("describe", "deployment", "web").out
    for part in (
        "Replicas:          3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
        "25% max surge",
        "(3/3 replicas created)",
    ):
        assert part in deployment
    assert all(f"  {entry['name']} " in deployment for entry in web)


def test_inspect_has_the_documented_fields(running: Lab) -> None:
    """Other programs rely on the document.

    Each path in it refers to a different namespace.
    """
    inspected = running.inspected
    assert inspected["lab"] == running.name
    assert set(inspected) >= {
        "lab",
        "init_pid",
        "agent_pid",
        "nodes",
        "pods",
        "external",
        "services",
    }
    for pod in inspected["pods"]:
        assert set(pod) >= {
            "namespace",
            "name",
            "node",
            "pid",
            "netns",
            "addresses",
            "host_ifname",
            "phase",
            "ready",
            "containers",
        }
    for service in inspected["services"]:
        assert set(service) >= {
            "namespace",
            "name",
            "type",
            "cluster_ips",
            "load_balancer_ips",
            "external_ips",
            "ports",
            "endpoints",
        }
    places = [
        *inspected["nodes"],
        *(pod for pod in inspected["pods"] if not pod["host_network"]),
        *inspected["external"],
    ]
    assert len({os.stat(place["netns"]).st_ino for place in places}) == len(places)
    for place in places:
        assert place["addresses"][0] in running.inside(place, "ip", "-o", "-4", "addr")
    text = running.run("inspect", "client").out
    assert "veth eth0" in text
    assert "table ip kube-proxy" in running.run("inspect", "node:worker").out


SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: api.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: bodiless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: mistaken}
spec:
  type: LoadBalancer
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80, targetPort: htpp}]
"""


def test_describe_explains_each_type_of_service(running: Lab) -> None:
    """It shows the fields, the addresses, and the reason for missing endpoints."""
    running.apply(SERVICES)
    try:
        elsewhere = running.run("describe", "svc", "elsewhere").out
        assert "External Name:     api.example.com\n" in elsewhere
        assert "rejected" not in elsewhere
        mistaken = running.run("describe", "svc", "mistaken").out
        for part in (
            "IP Families:       IPv4 (SingleStack)",
            "Load balancer:     203.0.113.",
            "External policy:   Local",
            "Health check:      node port 3",
            "Affinity:          ClientIP, for 10800 s",
        ):
            assert part in mistaken
        assert (
            "<none>  connections are rejected: 3 pods match app=web, "
            "and no container has a TCP port of the name htpp" in mistaken
        )
        assert (
            "headless, DNS answers with the endpoints"
            in running.run("describe", "svc", "bodiless").out
        )
        for name, description in (("elsewhere", "of type ExternalName"), ("bodiless", "headless")):
            errors = running.run("ping", "client", f"svc:{name}", status=2).err
            assert (
                f"Service default/{name} is {description}, it has no address of its own; "
                f"use its name: kubenetlab ping SRC {name}.default" in errors
            )
        assert "--tcp 8080" in errors
        assert "answered" in running.run("ping", "client", "bodiless.default", "--tcp", "8080").out
    finally:
        running.run("delete", "svc", "elsewhere", "bodiless", "mistaken")


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
