"""The command flows: what the programs of cilium do with packets, and events that are lost."""

from __future__ import annotations

import re
import signal
import subprocess
from typing import Any

import pytest

from tests.labs.lab import COMMAND, Lab, wait_for
from tests.labs.test_cilium import identities, inside, manifest
from tests.labs.test_output_schemas import assert_valid
from tests.libbpf import NEEDS_LIBBPF
from tests.patience import patiently

pytestmark = NEEDS_LIBBPF


def shown_flows(lab: Lab, *words: str) -> list[dict[str, Any]]:
    """Return the flows that the command prints; its output matches the schema."""
    output = lab.run("flows", "-o", "json", *words).json
    assert_valid("flows", output)
    return list(output["flows"])


def test_flows_name_pods_identities_and_services(lab: Lab) -> None:
    """Each event is shown once, with both ends, the place, the verdict and the Service."""
    lab.up(manifest("ipv4"))
    c, numbers = lab.pod("c"), identities(lab)
    (address,) = lab.place("services", "web")["cluster_ips"]
    shown_flows(lab)
    answer, *_ = lab.ask(c, ("TCP", address, 80))
    flows = [flow for flow in shown_flows(lab, "--pod", "c") if flow["service"]]
    assert {flow["service"] for flow in flows} == {"default/web:80"}
    assert {flow["service_address"] for flow in flows} == {f"{address}:80"}
    server = f"default/{answer.server}"
    first = flows[0]
    assert first["source"]["name"] == "default/c"
    assert first["source"]["port"] == answer.source[1]
    assert first["source"]["identity"] == numbers["c"]
    assert "k8s:app=db" in first["source"]["labels"]
    assert (first["destination"]["name"], first["destination"]["port"]) == (server, 8080)
    assert (first["node"], first["verdict"], first["state"]) == ("worker2", "forwarded", "new")
    assert first["tcp_flags"] == ["SYN"]
    assert {flow["node"] for flow in flows} == {"worker", "worker2"}
    assert any(flow["state"] == "reply" for flow in flows)
    assert [flow["at_s"] for flow in flows] == sorted(flow["at_s"] for flow in flows)
    assert not [flow for flow in shown_flows(lab) if flow["source"]["port"] == answer.source[1]]
    described = lab.run("describe", "pod", "a").out
    assert re.search(rf"Identity: +{numbers['a']}\n", described)
    assert f"\n{' ' * 19}app=web\n" in described
    assert lab.run("inspect", "a", "-o", "json").json["identities"] == {"default/a": numbers["a"]}
    assert re.search(rf"Identity: +{numbers['a']}\n", lab.run("inspect", "a").out)


def test_flows_show_what_policies_deny(lab: Lab) -> None:
    """The place says in which direction: at the pod itself, or before the other one."""
    isolated = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut}\n"
        "spec: {podSelector: {matchLabels: {app: db}}}\n---\n"
    )
    lab.up(manifest("ipv4") + "---\n" + isolated)
    a, c = lab.pod("a"), lab.pod("c")
    (answer,) = lab.ask(a, ("TCP", c["addresses"][0], 8080))
    assert answer.error
    denied = [flow for flow in shown_flows(lab) if flow["reason"] == "Policy denied"]
    assert denied
    for flow in denied:
        assert (flow["verdict"], flow["node"]) == ("dropped", c["node"])
        assert (flow["source"]["name"], flow["destination"]["name"]) == ("default/a", "default/c")
    answers = lab.ask(c, ("TCP", a["addresses"][0], 8080))
    assert not answers[0].error


def test_flows_show_drops_with_the_reason(lab: Lab) -> None:
    """As text: node, both ends, and the verdict; only those of the selected node and pod."""
    lab.up(manifest("ipv4"))
    a, c = lab.pod("a"), lab.pod("c")
    inside(lab, a, "ip address add 10.244.1.200/32 dev eth0")
    inside(lab, a, f"ping -c 1 -W 1 -I 10.244.1.200 {c['addresses'][0]}", status=1)
    assert not [flow for flow in shown_flows(lab, "--node", "worker2") if flow["reason"]]
    out = lab.run("flows", "--node", "worker", "--pod", "c").out
    (line,) = (line for line in out.splitlines() if "dropped" in line)
    assert " worker: 10.244.1.200 (" in line
    assert "→ default/c (" in line
    assert "from-endpoint  dropped  egress  ICMP  Invalid source ip" in line
    assert "no events since the last call" in lab.run("flows", "--pod", "c").err


def test_lost_events_are_counted(lab: Lab) -> None:
    """While there is no reader, the ring buffer keeps the first events and counts the others."""
    lab.up(manifest("ipv4", "{type: cilium, monitorAggregation: none}"))
    shown_flows(lab)
    target = ("ICMP", lab.pod("b")["addresses"][0], 0)
    inside(lab, lab.pod("a"), f"ping -q -f -c 4000 -w 60 {target[1]}")
    report = lab.run("flows", "-o", "json").json
    assert report["lost"]["worker"] > 1000
    kept = sum(flow["node"] == "worker" for flow in report["flows"])
    assert kept + report["lost"]["worker"] >= 4 * 4000
    inside(lab, lab.pod("a"), f"ping -q -f -c 4000 -w 60 {target[1]}")
    shown = lab.run("flows", "--node", "worker")
    assert re.search(r"lost: \d+ events of node worker: its ring buffer was full", shown.err)
    assert lab.run("flows", "-o", "json").json["lost"] == {}


@pytest.mark.parametrize("app", ["late", "web"], ids=["new-identity", "known-identity"])
def test_flows_are_watched_by_one_reader(lab: Lab, app: str) -> None:
    """New pods have their names; a second reader of the same node is refused."""
    lab.up(manifest("ipv4"))
    command = [*COMMAND, "flows", "-w", "--lab", lab.name, "--node", "worker2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        wait_for(
            lambda: lab.run("flows", "--node", "worker2", status=None).status == 1, "the reader"
        )
        refused = lab.run("flows", status=1).err
        assert "another `kubenetlab flows` reads its events" in refused
        lab.apply(
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: late, labels: {{app: {app}}}}}\n"
            "spec: {nodeName: worker2, containers: [{name: main, image: agnhost, args: [netexec], "
            "ports: [{containerPort: 8080}]}]}\n"
        )
        wait_for(lambda: lab.pod("late")["ready"], "the new pod")
        late = lab.pod("late")["addresses"][0]

        lines = iter(watch.stdout.readline, "")

        def line_of_a_new_connection() -> str:
            lab.ask(lab.pod("a"), ("TCP", late, 8080))
            ends = (f"→ {late}:8080", "→ default/late:8080")
            return next(
                str(line)
                for line in lines
                if "default/a:" in line and any(end in line for end in ends)
            )

        name = rf"→ default/late:8080 \(\d+ app={app}\)"
        wait_for(lambda: re.search(name, line_of_a_new_connection()), "the name of the new pod")
        watch.send_signal(signal.SIGINT)
        watch.stdout.read()
    assert watch.returncode == 130
    assert lab.run("flows", "--node", "worker2").status == 0


def test_a_watch_ends_with_the_nodes(lab: Lab) -> None:
    """A restarted node has another ring buffer; silence would look like an idle network."""
    lab.up(manifest("ipv4"))
    command = [*COMMAND, "flows", "-w", "--lab", lab.name, "--node", "worker2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as watch:
        wait_for(
            lambda: lab.run("flows", "--node", "worker2", status=None).status == 1, "the reader"
        )
        lab.run("down")
        try:
            _, errors = watch.communicate(timeout=patiently(20))
        finally:
            watch.kill()
    assert watch.returncode == 1
    assert "not read: node worker2 has ended or restarted" in errors
    assert f"no node of lab {lab.name} is left whose events are read" in errors


def test_other_modes_have_no_flows(lab: Lab) -> None:
    """The message names the modes that have them."""
    lab.up(manifest("ipv4", "bridge"))
    refused = lab.run("flows", status=2).err
    assert "the CNI mode bridge of lab" in refused
    assert "CNI modes with flows: cilium" in refused
    assert "Identity" not in lab.run("describe", "pod", "a").out


def test_an_unknown_node_or_pod_has_no_flows(lab: Lab) -> None:
    lab.up(manifest("ipv4"))
    assert "did you mean worker?" in lab.run("flows", "--node", "wroker", status=2).err
    assert "there is no" in lab.run("flows", "--pod", "nothing", status=2).err
