"""Probes in labs with network policies: what the evaluator expects is what packets do."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.labs.lab import COMMAND, Lab, run
from tests.labs.test_output_schemas import assert_valid
from tests.unit.observe.policies.worlds import PODS, pod, policy

CLUSTER = """
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
networking: {ipFamily: dual}
---
"""
POLICIES = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: "
    "{app: client}}}], ports: [{port: http}]}, {from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]}",
    "web",
) + policy(
    "{podSelector: {matchLabels: {app: far}}, policyTypes: [Egress], egress: [{to: [{ipBlock: "
    "{cidr: 172.18.0.0/16}}]}]}",
    "quiet",
)
LONG_S = 120
"""Deadline of probes, in seconds, that no test reaches."""
CNI_OF = {"nftables": "bridge", "iptables": "bridge", "ebpf": "cilium"}


@pytest.mark.parametrize(
    ("cni", "proxy", "engine"),
    [
        ("bridge", "nftables", "nftables"),
        ("bridge", "iptables", "iptables"),
        ("bridge", "ebpf", "nftables"),
        ("ptp", "nftables", "iptables"),
        ("calico", "iptables", "nftables"),
        ("cilium", "none", "ebpf"),
        ("cilium", "nftables", "ebpf"),
    ],
)
def test_all_probes_are_as_the_evaluator_expects(
    lab: Lab, cni: str, proxy: str, engine: str
) -> None:
    """Pods, nodes and hosts outside; Services by cluster IPs and load balancers; both families."""
    lab.up(CLUSTER + PODS + POLICIES, "--cni", cni, "--proxy", proxy, "--policy", engine)
    result = lab.run("ping", "-o", "json", status=None).json
    cells = {(cell["from"], cell["to"]): cell for cell in result["cells"]}
    assert [cell for cell in result["cells"] if not cell["ok"]] == []
    denied = cells["node:worker2", "default/web"]
    assert denied["expected"] == "nothing"
    assert denied["policies"] == ["NetworkPolicy default/web isolates default/web for ingress"]
    allowed = cells["default/client", "svc:default/web:80/TCP"]
    assert (allowed["expected"], allowed["found"]) == ("answer", "answer")
    assert allowed["policies"] == ["NetworkPolicy default/web rule 0 allows ingress"]
    # The far pod reaches the other node, whose address the policy names in one family only.
    assert cells["default/far", "node:worker"]["expected"] == "any"


def test_a_probe_names_the_policy_that_denies_it(lab: Lab) -> None:
    """Ports of pods have no promise, but a denial is one."""
    lab.up(CLUSTER.replace("dual", "ipv4") + PODS + POLICIES)
    quiet = "NetworkPolicy default/quiet isolates default/far for egress"
    web = "NetworkPolicy default/web isolates default/web for ingress"
    port = lab.run("ping", "far", "default/client:8080", "-o", "json").json
    assert (port["expected"], port["found"], port["policies"]) == ("nothing", "silence", [quiet])
    node_port = ("nodeport:worker2/default/open", "nodeport:worker/default/open")
    away, near = (
        lab.run("ping", "ext:client", target, "-o", "json", status=None).json
        for target in node_port
    )
    assert (away["expected"], away["found"], away["policies"]) == ("nothing", "silence", [web])
    assert (near["expected"], near["found"]) == ("answer", "answer")
    text = lab.run("ping", "far", "svc:web").out
    assert f"no answer, as promised: {quiet}; {web}" in text
    assert f"{quiet}: " in lab.run("ping", status=None).out


@pytest.mark.parametrize("engine", ["nftables", "iptables", "ebpf"])
def test_an_explanation_shows_policies_places_and_the_rules_in_the_kernel(
    lab: Lab, tmp_path: Path, engine: str
) -> None:
    """The rule that allows a connection, or what leads to the rule that drops it."""
    manifest = tmp_path / "lab.yaml"
    manifest.write_text(CLUSTER + PODS + POLICIES)
    lines = manifest.read_text().splitlines()
    lab.run("up", "-f", str(manifest), "--policy", engine, "--cni", CNI_OF[engine])
    allowed = lab.run("explain-policy", "client", "svc:web", "-o", "json").json
    ingress = allowed["endpoints"][0]["paths"][0]["ingress"]
    assert (allowed["decision"], ingress["stage"]) == ("allowed", "NetworkPolicy")
    (rule,) = ingress["decided_by"]
    assert (rule["policy"], rule["index"]) == ("default/web", 0)
    file, _, line = rule["place"].rpartition(":")
    assert file == str(manifest)
    assert "app: client" in lines[int(line) - 1]
    (kernel_rule,) = ingress["kernel"]
    assert kernel_rule["node"] == "worker"
    assert '"default/web Ingress rule 0"' in kernel_rule["rule"]
    denied = lab.run("explain-policy", "agent", "default/web", "-4", "-o", "json").json
    lead, drop = denied["endpoints"][0]["paths"][0]["ingress"]["kernel"]
    assert denied["decision"] == "denied"
    assert lead["rule"].endswith("policies " + drop["rule"].split()[0]) or (
        "default/web" in lead["rule"] and engine != "ebpf"
    )
    assert ("denied" if engine == "ebpf" else "drop") in drop["rule"].lower()
    denied = lab.run("explain-policy", "far", "default/client", "-o", "json").json
    lead, drop = denied["endpoints"][0]["paths"][0]["egress"]["kernel"]
    ingress_names = ("ingress", "cali-to-", "cali-tw-")
    assert not any(name in f"{each}" for each in (lead, drop) for name in ingress_names)
    text = lab.run("explain-policy", "far", "default/client").out
    assert f"isolated by NetworkPolicy default/quiet ({manifest}:" in text
    assert "no rule allows default/client (10.244.1." in text
    assert lab.run("explain-policy", "far", "nope", status=2).err


@pytest.mark.parametrize(
    ("engine", "flush"),
    [
        ("nftables", "nft delete table ip network-policy"),
        ("iptables", "iptables -F; iptables -X"),
    ],
)
def test_rules_that_are_missing_in_the_kernel_are_reported(
    lab: Lab, engine: str, flush: str
) -> None:
    """At both ends; the next step is the command that lists the differences."""
    cluster = CLUSTER.replace("dual", "ipv4").replace("nodes:", "drift: keep\nnodes:", 1)
    lab.up(cluster + PODS + POLICIES, "--policy", engine)
    pairs = (("client", "default/web:8080"), ("agent", "default/web"), ("far", "default/client"))
    for pair in pairs:
        assert "not in the kernel" not in lab.run("explain-policy", *pair).out
    for node in ("worker", "worker2"):
        lab.run("exec", f"node:{node}", "--", "sh", "-c", flush)
    for pair in pairs:
        result = lab.run("explain-policy", *pair)
        assert "the rule is not in the kernel" in result.out
        assert "are not the desired ones, and may decide otherwise" in result.out
        assert result.err.startswith("next: kubenetlab diff")


def test_policies_without_an_engine_are_explained_as_not_enforced(lab: Lab) -> None:
    lab.up(CLUSTER + PODS + POLICIES, "--policy", "none")
    text = lab.run("explain-policy", "far", "default/web").out
    assert ": would be denied" in text.splitlines()[0]
    assert "no policy is enforced: the policy engine of this lab is none" in text
    assert (
        lab.run("ping", "far", "default/web", "-o", "json", status=1).json["expected"] == "answer"
    )


def test_a_description_lists_the_pods_selected_and_the_peers(lab: Lab) -> None:
    """Also by the short name of the kind; and whether the policy is enforced."""
    lab.up(CLUSTER.replace("dual", "ipv4") + PODS + POLICIES, "--policy", "nftables")
    lines = [line.strip() for line in lab.run("describe", "netpol", "web").out.splitlines()]
    assert "Enforced By:       nftables" in lines
    assert lines[lines.index("Selected Pods:") + 1].startswith("default/web (10.244.1.")
    assert lines[lines.index("PodSelector: app=client") + 1].startswith("default/client (10.244.1.")
    assert "To Port: http/TCP  8080" in lines
    assert "ext:client (198.51.100.10)" in lines
    lab.up(CLUSTER.replace("dual", "ipv4") + PODS + POLICIES, "--policy", "none")
    assert (
        "Enforced By:       nothing; the policy engine is none"
        in lab.run("describe", "networkpolicy/web").out
    )


@pytest.mark.parametrize("engine", ["nftables", "iptables", "ebpf"])
def test_dropped_packets_are_counted_and_shown_with_names(lab: Lab, engine: str) -> None:
    """One listener at a time reads the packets of a node; the counters of rules need none."""
    cluster = CLUSTER.replace("dual", "ipv4")
    lab.up(cluster + PODS + POLICIES, "--policy", engine, "--cni", CNI_OF[engine])
    reason = "Egress isolated by default/quiet"
    command = [*COMMAND, "policy", "log", "-w", "--lab", lab.name]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        assert "waiting for dropped packets" in watcher.stderr.readline()
        second = run("policy", "log", "--lab", lab.name, "-w", status=1).err
        assert "only one process at a time" in second
        lab.run("ping", "far", "default/client:8080")
        line = watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
    assert watcher.returncode == 130
    assert re.search(
        r" worker2  default/far \(10\.244\.2\.\d+:\d+\) → default/client \(10\.244\.1\.\d+:8080\) "
        rf"TCP: {reason}$",
        line.rstrip(),
    ), line
    output = run("policy", "log", "--lab", lab.name, "-o", "json").json
    assert_valid("policy-log", output)
    counts = output["counts"]
    (count,) = [count for count in counts if count["reason"] == reason]
    assert count["node"] == "worker2"
    assert count["packets"] >= 1
    assert reason in run("policy", "log", "--lab", lab.name, "--node", "worker2").out
    for option, name, suggestion in (
        ("--node", "workr", "did you mean worker?"),
        ("--pod", "farr", "did you mean "),
        ("--pod", "node:worker", "expected a pod"),
    ):
        refused = run("policy", "log", "--lab", lab.name, "-w", option, name, status=2)
        assert suggestion in refused.err
    assert (
        run("policy", "log", "--lab", lab.name, "--node", "worker").out
        == "no policy has dropped a packet\n"
    )


@pytest.mark.parametrize("engine", ["nftables", "iptables", "ebpf"])
def test_the_log_shows_whole_reasons(lab: Lab, engine: str) -> None:
    """Also if they begin alike: the kernel has a digest of each."""
    names = [f"no-pod-outside-of-this-namespace-may-connect-to-{app}" for app in ("far", "client")]
    policies = "".join(
        policy(f"{{podSelector: {{matchLabels: {{app: {name.rpartition('-')[2]}}}}}}}", name)
        for name in names
    )
    cluster = CLUSTER.replace("dual", "ipv4")
    lab.up(cluster + PODS + policies, "--policy", engine, "--cni", CNI_OF[engine])
    lab.run("ping", "web", "default/far:8080")
    lab.run("ping", "far", "default/client:8080")
    counts = run("policy", "log", "--lab", lab.name, "-o", "json").json["counts"]
    assert {count["reason"] for count in counts} == {
        f"Ingress isolated by default/{name}" for name in names
    }
    lab.run("delete", "netpol", names[0])
    assert names[1] in run("policy", "log", "--lab", lab.name).out


@pytest.mark.parametrize("engine", ["nftables", "iptables"])
def test_denied_probes_end_when_a_node_drops_them(lab: Lab, engine: str, tmp_path: Path) -> None:
    """Pods, Services and pings; both ends; probes that fail, too. None takes its long deadline."""
    lab.up(CLUSTER + PODS + POLICIES, "--policy", engine)
    table = tmp_path / "expect.yaml"
    table.write_text(
        "- {from: far, to: default/web, port: 8080, expect: deny}\n"
        "- {from: far, to: 'svc:default/web', port: 80, expect: deny}\n"
        "- {from: agent, to: default/web, port: 8080, expect: allow}\n"
        "- {from: agent, to: default/web, port: 8081, protocol: UDP, expect: allow}\n"
        "- {from: agent, to: default/web, expect: deny}\n"
        "- {from: 'node:worker2', to: default/web, port: 8080, expect: deny}\n"
        "- {from: client, to: default/web, port: 8080, expect: allow}\n"
    )
    started = time.monotonic()
    result = lab.run(
        "check", "-f", str(table), "--deadline", str(LONG_S), "-o", "json", status=1
    ).json
    assert time.monotonic() - started < LONG_S
    verdicts = [(row["found"], row["state"]) for row in result["checks"]]
    holds, fails = ("silence", "holds"), ("silence", "fails")
    assert verdicts == [holds, holds, fails, fails, holds, holds, ("answer", "holds")]


def test_a_lab_without_an_engine_has_no_log(lab: Lab) -> None:
    lab.up(CLUSTER, "--policy", "none")
    assert "it drops no packets" in run("policy", "log", "--lab", lab.name, status=2).err


def test_a_failed_row_names_the_policies_that_decided(lab: Lab, tmp_path: Path) -> None:
    """With file and line, in every output format; a row that reads a reply does so, too."""
    manifest, table = tmp_path / "lab.yaml", tmp_path / "expect.yaml"
    manifest.write_text(CLUSTER.replace("dual", "ipv4") + PODS + POLICIES)
    lab.run("up", "-f", str(manifest))
    rows = (
        "{from: far, to: default/client, port: 8080, expect: allow}",
        "{from: client, to: 'svc:web', expect: deny}",
        "{from: client, to: 'svc:web', expect: allow, source: 192.0.2.1}",
        "{from: client, to: 'svc:web', expect: allow}",
        "{from: client, to: default/far, expect: deny}",
    )
    table.write_text("".join(f"- {row}\n" for row in rows))
    report = tmp_path / "junit.xml"
    command = ("check", "-f", str(table), "--junit", str(report))
    denied, allowed, seen, held, free = lab.run(*command, "-o", "json", status=1).json["checks"]
    (quiet,) = denied["policies"]
    lines = manifest.read_text().splitlines()
    match = re.fullmatch(
        rf"NetworkPolicy default/quiet \({re.escape(str(manifest))}:(\d+)\) "
        "isolates default/far for egress",
        quiet,
    )
    assert match is not None
    assert any("name: quiet" in line for line in lines[int(match[1]) - 1 : int(match[1]) + 4])
    (rule,) = allowed["policies"]
    assert re.fullmatch(
        rf"NetworkPolicy default/web rule 0 \({re.escape(str(manifest))}:\d+\) allows ingress", rule
    )
    assert seen["policies"] == held["policies"] == [rule]
    assert free["policies"] == []
    text = lab.run("check", "-f", str(table), status=1).out
    assert text.count(f"\n    {rule}\n") == 2  # not below the row that holds
    assert f"\n    {quiet}\n" in text
    cases = ElementTree.parse(report).getroot().iter("testcase")
    failures = [failure.text or "" for case in cases for failure in case.iter("failure")]
    assert [failure.splitlines()[2:] for failure in failures[:4]] == [[quiet], [rule], [rule], []]
    page = lab.run("check", "-f", str(table), "-o", "html", status=1).out
    assert quiet in page
    assert rule in page


def test_a_name_that_a_policy_keeps_from_resolving_names_the_policy(
    lab: Lab, tmp_path: Path
) -> None:
    """An egress policy without a rule for DNS is a common mistake."""
    manifest, table = tmp_path / "lab.yaml", tmp_path / "expect.yaml"
    manifest.write_text(CLUSTER.replace("dual", "ipv4") + PODS + POLICIES)
    lab.run("up", "-f", str(manifest))
    table.write_text(
        "- {from: far, to: 'http://web.default/hostname', expect: allow}\n"
        "- {from: far, to: svc:web, resolves: true}\n"
        "- {from: client, to: 'http://nowhere/hostname', expect: allow}\n"
    )
    request, name, unknown = lab.run("check", str(table), "-o", "json", status=1).json["checks"]
    for row in (request, name):
        assert "i/o timeout" in row["found"]
        (reason,) = row["policies"]
        assert re.fullmatch(
            r"NetworkPolicy default/quiet \(.*:\d+\) isolates default/far for egress", reason
        )
    assert unknown["policies"] == []
    reason = "; NetworkPolicy default/quiet isolates default/far for egress\n"
    result = lab.run("ping", "far", "http://web.default", status=1)
    assert reason in result.out
    assert "next: kubenetlab explain-policy default/far svc:kube-system/kube-dns:53" in result.err
    assert reason in lab.run("ping", "far", "http://nowhere", status=2).err


PORTS = policy(
    "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: "
    "{app: client}}}], ports: [{port: 5432}, {port: 5432, protocol: UDP}, "
    "{port: 6000, endPort: 6005}]}]}",
    "ports",
) + policy(
    "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: "
    "[{podSelector: {}}]}, {to: [{ipBlock: {cidr: 198.51.100.0/24}}], ports: [{port: 443}]}]}",
    "internet",
)


@pytest.mark.parametrize(("engine", "cni"), CNI_OF.items())
def test_ports_on_which_nothing_listens_are_checked(
    lab: Lab, engine: str, cni: str, tmp_path: Path
) -> None:
    """Allowed connections are refused; hosts outside count with their ports, too."""
    cluster = CLUSTER.replace("dual", "ipv4").replace("nodes:", "drift: keep\nnodes:", 1)
    cluster = cluster.replace(
        "nodes:",
        "external: [{name: api, address: 198.51.100.20, ports: [443]}, "
        "{name: old, address: 198.51.100.30}]\nnodes:",
        1,
    )
    pods = pod("web") + pod("client") + pod("far", "worker2")
    lab.up(cluster + pods + PORTS, "--cni", cni, "--policy", engine)
    report = lab.run("check", "-o", "json").json
    results = {(each["source"], each["target"]): each for each in report["checks"]}
    found = {
        (source.removeprefix("default/"), target.removeprefix("default/")): each["found"]
        for (source, target), each in results.items()
    }
    for port in ("5432/TCP", "5432/UDP", "6000/TCP", "6005/TCP"):
        assert found["client", f"web:{port}"] == "refused"
        assert found["far", f"web:{port}"] == "silence"
    assert found["client", "web:6006/TCP"] == "silence"
    assert found["client", "ext:api:443/TCP"] == "answer"
    assert found["client", "ext:old:443/TCP"] == "refused"
    assert ("far", "ext:old:443/TCP") not in found
    table = tmp_path / "expect.yaml"
    lab.run("check", "--generate", str(table))
    rows = table.read_text().splitlines()
    assert "- {from: default/client, to: default/web, port: 5432, expect: reject}" in rows
    assert "- {from: default/far, to: default/web, port: 5432, expect: drop}" in rows
    everyone = '"each:Namespace/default"'
    assert f'- {{from: {everyone}, to: "ext:api", port: 443, expect: allow}}' in rows
    assert lab.run("check", str(table)).out.endswith("hold\n")
    if engine == "nftables":
        lab.run("exec", "node:worker", "--", "nft", "flush", "ruleset")
        fails = lab.run("check", status=1).out
        assert "default/web:5432/TCP: expected nothing, found refused" in fails
    lab.run("delete", "netpol", "ports", "internet")
    fails = lab.run("check", str(table), status=1).out
    assert "default/far → default/web:5432/TCP: expected drop, found refused" in fails
