"""Calico's policies in the kernel: order, actions, selectors, network sets, and diagnostics."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from tests.clusters import pod
from tests.labs.lab import COMMAND, Lab, run, wait_for

ENGINES = pytest.mark.parametrize("engine", ["iptables", "nftables"])
CLUSTER = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
networking: {ipFamily: dual, cni: calico}
external:
- {name: client, address: 198.51.100.10}
- {name: partner, address: 198.51.100.20}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
"""
PODS = (
    pod("db", meta=", namespace: shop, labels: {app: db}")
    + pod("web", ", serviceAccountName: web", meta=", namespace: shop, labels: {app: web}")
    + pod("other", meta=", labels: {app: web}")
)
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80, targetPort: 8080}]}
---
"""


def policy(name: str, spec: str, namespace: str = "") -> str:
    """Return a policy; without a namespace it is a GlobalNetworkPolicy."""
    kind = "NetworkPolicy" if namespace else "GlobalNetworkPolicy"
    place = f", namespace: {namespace}" if namespace else ""
    return (
        f"apiVersion: projectcalico.org/v3\nkind: {kind}\n"
        f"metadata: {{name: {name}{place}}}\nspec: {spec}\n---\n"
    )


def reached(lab: Lab, source: str) -> list[bool]:
    """Return whether the addresses of `shop/db` answer a pod `namespace/name`."""
    namespace, _, name = source.partition("/")
    targets = [("TCP", address, 8080) for address in lab.pod("db", "shop")["addresses"]]
    return [not each.error for each in lab.ask(lab.pod(name, namespace), *targets)]


def expect(lab: Lab, what: str, **expected: bool) -> None:
    """Wait until `shop/web` and `default/other` reach `shop/db`, or do not."""
    versions = len(lab.pod("db", "shop")["addresses"])
    sources = {"web": "shop/web", "other": "default/other"}
    wait_for(
        lambda: (
            {name: reached(lab, sources[name]) for name in expected}
            == {name: [answer] * versions for name, answer in expected.items()}
        ),
        what,
    )


@ENGINES
def test_the_first_rule_in_order_decides(lab: Lab, engine: str) -> None:
    """Each change takes effect without a restart, in both families; in the end no rule is left."""
    lab.up(CLUSTER + PODS, "--policy", engine)
    expect(lab, "pods without policies", web=True, other=True)
    web = "{action: Allow, protocol: TCP, source: {selector: app == 'web'}}"
    lab.apply(policy("db", f"{{selector: app == 'db', ingress: [{web}]}}", "shop"))
    expect(lab, "a rule about pods of the own namespace", web=True, other=False)
    lab.apply(policy("open", "{order: 900, selector: all(), ingress: [{action: Allow}]}"))
    expect(lab, "a policy with an order before one without", web=True, other=True)
    knp = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: deny, namespace: shop}\nspec: {podSelector: {}}\n---\n"
    )
    lab.apply(knp)
    expect(lab, "an Allow before a NetworkPolicy of order 1000", web=True, other=True)
    deny = "{action: Deny, source: {notSelector: app == 'web' && pcns.team == 'shop'}}"
    lab.apply(policy("first", f"{{order: 1, selector: has(app), ingress: [{deny}]}}"))
    expect(lab, "a Deny before an Allow", web=True, other=False)
    lab.run("delete", "gnp", "open")
    expect(lab, "the last policy beside a NetworkPolicy", web=True, other=False)
    account = "{action: Pass, source: {serviceAccounts: {names: [web]}}}"
    lab.apply(policy("first", f"{{order: 1, selector: has(app), ingress: [{account}]}}"))
    lab.run("delete", "networkpolicies.projectcalico.org", "db", "-n", "shop")
    expect(lab, "a Pass, after which no tier isolates", web=True, other=False)
    lab.run("delete", "gnp", "first")
    lab.run("delete", "netpol", "deny", "-n", "shop")
    expect(lab, "pods without policies again", web=True, other=True)
    node = lab.pod("db", "shop")["node"]
    rules = lab.inside(lab.place("nodes", node), "nft", "list", "ruleset")
    assert "network-policy" not in rules
    assert "cali-po" not in rules


@ENGINES
def test_the_matrix_has_the_verdicts_of_all_policies(lab: Lab, engine: str) -> None:
    """Pods, nodes, hosts and Services, with a tier, a network set, named ports and a Service."""
    named = pod("db", meta=", namespace: shop, labels: {app: db}", container=PORTS)
    tier = (
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: security}\n"
        "spec: {order: 100, defaultAction: Pass}\n---\n"
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\n"
        "metadata: {name: partners, labels: {role: partner}}\nspec: {nets: [198.51.100.20/32]}\n"
        "---\n"
    )
    security = policy(
        "security.internet",
        "{tier: security, namespaceSelector: team == 'shop', egress: ["
        "{action: Pass, destination: {selector: role == 'partner'}}, "
        "{action: Deny, destination: {nets: [198.51.100.0/24]}}]}",
    )
    service = policy(
        "web",
        "{selector: app == 'web', egress: [{action: Allow, destination: {services: {name: db}}},"
        " {action: Allow, destination: {nets: [198.51.100.0/24]}}]}",
        "shop",
    )
    db = policy(
        "db",
        "{selector: app == 'db', ingress: [{action: Allow, protocol: TCP,"
        " destination: {ports: [sql]}}, {action: Allow, protocol: ICMP, icmp: {type: 8}}]}",
        "shop",
    )
    others = PODS.replace(pod("db", meta=", namespace: shop, labels: {app: db}"), named)
    manifest = CLUSTER + others + SERVICE + tier + security + service + db
    shown = lab.up(manifest, "--policy", engine)
    assert "not enforced" not in shown.err
    result = lab.run("ping", "-o", "json", status=None).json
    assert [cell for cell in result["cells"] if not cell["ok"]] == []
    cells = {(cell["from"], cell["to"]): cell for cell in result["cells"]}
    assert cells["shop/web", "ext:client"]["policies"] == [
        "GlobalNetworkPolicy security.internet rule 1 denies egress of shop/web"
    ]
    assert cells["shop/web", "ext:partner"]["found"] == "answer"
    assert cells["shop/web", "default/other"]["policies"] == [
        "CalicoNetworkPolicy shop/web isolates shop/web for egress"
    ]
    lab.run("check")
    explained = lab.run("explain-policy", "shop/web", "ext:client", "-o", "json").json
    egress = explained["endpoints"][0]["paths"][0]["egress"]
    assert (explained["decision"], egress["stage"]) == ("denied", "security")
    (rule,) = egress["decided_by"]
    assert (rule["kind"], rule["index"]) == ("GlobalNetworkPolicy", 1)
    assert all("security.internet Egress rule 1" in each["rule"] for each in egress["kernel"])
    assert egress["kernel"]
    described = lab.run("describe", "gnp", "security.internet").out
    assert re.search(r"Selected Pods:\s+shop/db \(.*\)\s+shop/web \(", described)
    assert re.search(r"Peers of Rules:\s+spec\.egress\[\d\]:", described)


PORTS = ", ports: [{name: sql, containerPort: 8080}]"


@ENGINES
def test_the_action_log_shows_packets_and_goes_on(lab: Lab, engine: str) -> None:
    """Logged packets are not dropped, and not counted as such."""
    rules = "[{action: Log, source: {selector: app == 'web'}}, {action: Allow}]"
    lab.up(
        CLUSTER.replace("dual", "ipv4")
        + PODS
        + policy("db", f"{{selector: app == 'db', ingress: {rules}}}", "shop"),
        "--policy",
        engine,
    )
    command = [*COMMAND, "policy", "log", "-w", "--lab", lab.name]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        assert "waiting for" in watcher.stderr.readline()
        lab.run("ping", "shop/web", "shop/db:8080", status=None)
        line = watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
    assert re.search(
        r" shop/web \(\S+\) → shop/db \(\S+:8080\) TCP: "
        r"logged by CalicoNetworkPolicy shop/db Ingress rule 0$",
        line.rstrip(),
    ), line
    assert run("policy", "log", "--lab", lab.name).out == "no policy has dropped a packet\n"


def test_parts_that_the_lab_lacks_are_reported(lab: Lab) -> None:
    """`up` says it, and `check` fails; all other rules are enforced."""
    manifest = (
        CLUSTER.replace("dual", "ipv4")
        + PODS
        + policy("forward", "{selector: has(none), applyOnForward: true}")
        + policy("host", "{applyOnForward: true, preDNAT: true, ingress: [{action: Deny}]}")
        + policy("late.web", "{tier: late, ingress: [{action: Deny}]}")
        + policy("http", "{selector: app == 'db', ingress: [{action: Allow, http: {}}]}", "shop")
    )
    shown = lab.up(manifest).err
    for text in (
        "spec.applyOnForward: not enforced by this lab",
        "spec.preDNAT: not enforced by this lab",
        'there is no tier "late"',
        "the lab leaves the rule out",
    ):
        assert text in shown
    expect(lab, "a policy without rules that are enforced", web=False, other=False)
    checked = lab.run("check", status=1)
    assert "not enforced" in checked.out + checked.err


def test_other_cni_modes_do_not_enforce_the_kinds(lab: Lab) -> None:
    """Nothing is dropped; `up`, `describe` and `check` say why."""
    deny = policy("db", "{selector: app == 'db', ingress: [{action: Deny}]}", "shop")
    shown = lab.up(CLUSTER.replace("dual, cni: calico", "ipv4") + PODS + deny).err
    assert "CalicoNetworkPolicy shop/db" in shown
    assert reached(lab, "default/other") == [True]
    described = lab.run("describe", "networkpolicy.projectcalico.org", "db", "-n", "shop").out
    assert re.search(r"Enforced By: +nothing; only calico knows", described)
    assert "not enforced" in lab.run("check", status=1).out
