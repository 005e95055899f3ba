"""`check` as a test bench: advice, the lab's promise, generated tables and reports."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.clusters import ONE_NODE, deployment, pod, replaced, service
from tests.labs.lab import Lab, run

WEB = ONE_NODE + pod("client") + deployment("web", 2) + service("web")
MISTAKE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector:
    matchLabels: {app: wbe}
---
"""
ALLOWED = ("--allow-unmodelled", "NetworkPolicy")


def test_advice_about_policies_changes_no_exit_status(lab: Lab, tmp_path: Path) -> None:
    """`plan`, `up` and `check` print it with file and line, and reports of tests leave it out."""
    file = tmp_path / "web.yaml"
    file.write_text(WEB + MISTAKE)
    line = 1 + (WEB + MISTAKE).splitlines().index("  podSelector:")
    advice = (
        f"{file}:{line}  NetworkPolicy default/web: spec.podSelector: no pod and no workload in "
        "namespace default has the labels app=wbe; did you mean app=web?"
    )
    assert f"advice: {advice}" in run("plan", "-f", str(file), "--lab", lab.name, "--strict").err
    assert f"advice: {advice}" in lab.run("up", "-f", str(file), "--strict").err
    junit = tmp_path / "junit.xml"
    assert f"advice: {advice}" in lab.run("check", *ALLOWED, "--junit", str(junit)).out
    assert "policy-selects-no-pod" not in junit.read_text()
    for command in ("check", "ping"):
        refused = lab.run(command, "--allow-unmodelled", "NetworkPolcy", status=2).err
        assert 'there is no kind "NetworkPolcy"; did you mean NetworkPolicy?' in refused
    report = lab.run("check", *ALLOWED, "-o", "json").json
    (item,) = [entry for entry in report["diagnostics"] if entry["code"] == "policy-selects-no-pod"]
    assert (item["accepted"], item["file"], item["line"]) == (True, str(file), line)
    assert "advice" not in lab.apply(pod("other")).err


SHOP = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
"""
ISOLATED = replaced(
    MISTAKE,
    ("{name: web}", "{name: web, namespace: shop}"),
    ("{app: wbe}", "{app: web}\n  ingress: [{from: [{podSelector: {}}]}]"),
)
IN_SHOP = replaced(deployment("web", 2), ("{name: web}", "{name: web, namespace: shop}"))
CALLER = replaced(pod("caller"), ("{name: caller", "{namespace: shop, name: caller"))


def test_a_generated_table_holds_and_fails_after_a_change(lab: Lab, tmp_path: Path) -> None:
    """Pods of workloads and of namespaces share rows, and equal labs have equal tables."""
    lab.up(SHOP + ONE_NODE + pod("client") + CALLER + IN_SHOP + ISOLATED)
    file = tmp_path / "expect.yaml"
    assert f"rows written to {file}\n" in lab.run("check", "--generate", str(file)).out
    table = file.read_text()
    assert f"rows in {file}, which are those" in lab.run("check", "--generate", str(file)).out
    file.write_text("# by hand\n[]\n")
    again = lab.run("check", "--generate", str(file)).out
    assert f"rows written to {file}, in place of its former 2 lines" in again
    assert file.read_text() == table
    rows = file.read_text().splitlines()
    web = 'to: "each:Deployment/shop/web", port: 8080, expect:'
    assert f"- {{from: default/client, {web} deny}}" in rows
    assert f'- {{from: "each:Namespace/shop", {web} allow}}' in rows
    assert lab.run("check", "--generate", "-").out == file.read_text()
    for words in ((str(file),), ()):  # the promise includes the policy
        assert lab.run("check", *words).out.endswith("hold\n")
    lab.run("delete", "netpol", "web", "-n", "shop")
    report = lab.run("check", str(file), "-o", "json", status=1).json
    assert {check["source"] for check in report["checks"] if check["state"] == "fails"} == {
        "default/client"
    }
    assert "--generate tests no table" in (
        lab.run("check", str(file), "--generate", "-", status=2).err
    )


@pytest.mark.parametrize(
    "opened",
    [
        "from: [{podSelector: {}}]",
        "from: [{podSelector: {}}], ports: [{port: 8080}, {port: 8080, protocol: UDP}]",
        "from: [{podSelector: {}}], ports: [{port: 8080, endPort: 8090}]",
        "from: [{podSelector: {}}], ports: [{port: 8080}]}, "
        "{from: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 22}]",
    ],
    ids=["all ports", "a port of UDP", "a range", "SSH for all"],
)
def test_a_generated_table_fails_when_policies_are_opened(
    lab: Lab, tmp_path: Path, opened: str
) -> None:
    """No program listens on the ports that are opened, so that connections are refused."""
    before = "from: [{podSelector: {}}]"
    policy = replaced(ISOLATED, (before, f"{before}, ports: [{{port: 8080}}]"))
    lab.up(SHOP + ONE_NODE + pod("client") + CALLER + IN_SHOP + policy)
    file = tmp_path / "expect.yaml"
    lab.run("check", "--generate", str(file))
    assert lab.run("check", str(file)).out.endswith("hold\n")
    lab.apply(replaced(ISOLATED, (before, opened)))
    assert "expected drop, found " in lab.run("check", str(file), status=1).out


def test_denials_that_are_not_the_work_of_a_policy_have_a_note(lab: Lab, tmp_path: Path) -> None:
    """They hold, and reports say what they do not prove."""
    lab.up(SHOP + ONE_NODE + pod("client") + CALLER + IN_SHOP + service("web") + ISOLATED)
    file = tmp_path / "expect.yaml"
    file.write_text(
        "- {from: client, to: each:Deployment/shop/web, port: 8080, expect: deny}\n"
        "- {from: client, to: each:Deployment/shop/web, port: 9, expect: drop}\n"
        "- {from: client, to: svc:web, port: 9999, expect: deny}\n"
        "- {from: client, to: 10.244.77.1, port: 80, expect: deny}\n"
        "- {from: client, to: svc:web, port: 80, expect: reject}\n"
    )
    note = "no network policy denies this connection"
    report = lab.run("check", str(file), "-o", "json").json
    assert report["ok"]
    assert [each["note"] for each in report["checks"]] == [*[""] * 4, note, note, ""]
    text = lab.run("check", str(file)).out
    assert "note: 2 rows hold, but no network policy denies the connection: " in text
    assert "default/client → svc:default/web:9999/TCP (" in text
    assert lab.run("check", str(file), "-o", "wide").out.count(note) == 2
    assert lab.run("check", str(file), "-o", "html").out.count(note) == 2
    lab.run("delete", "netpol", "web", "-n", "shop")
    file.write_text("- {from: client, to: svc:web, port: 9999, expect: deny}\n")
    assert "note" not in lab.run("check", str(file)).out  # a lab without policies


def test_undecided_connections_are_counted(lab: Lab) -> None:
    """A pod may see the address of one of its nodes in place of a host's. It is not known which."""
    from_outside = replaced(
        MISTAKE,
        (
            "{app: wbe}",
            "{app: web}\n  ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]",
        ),
    )
    balanced = replaced(service("web"), ("spec:", "spec:\n  type: LoadBalancer"))
    lab.up(replaced(WEB, (service("web"), balanced)) + from_outside)
    assert "of them whatever the outcome" in lab.run("check").out
    wide = lab.run("check", "-o", "wide").out
    assert "→ lb:default/web:80/TCP: expected any, found " in wide
    assert "\n    holds whatever the outcome\n" in wide
    table = lab.run("check", "--generate", "-").out
    assert "# left out: connections whose outcome depends on" in table
    assert " to lb:default/web\n" in table


def test_a_check_without_a_table_connects_to_ports_of_pods(lab: Lab, tmp_path: Path) -> None:
    """A matrix shows the rows and columns that differ, also on a page for a pull request."""
    lab.up(WEB)
    assert lab.run("check").out.endswith("hold\n")
    (web, other) = lab.pods("web")
    rule = "add table ip t; add chain ip t i { type filter hook input priority 0; }; "
    lab.inside(web, "nft", f"{rule} add rule ip t i tcp dport 8080 drop")
    failed = lab.run("check", status=1)
    assert f"1 default/{web['name']}:8080/TCP  {web['addresses'][0]}\n" in failed.out
    assert f"default/client → default/{web['name']}:8080/TCP: expected answer, found silence" in (
        failed.out
    )
    assert other["name"] not in failed.out.partition("answers  ×")[0].partition("\n1 ")[2]
    page = lab.run("check", "-o", "html", status=1).out
    root = ElementTree.fromstring(page.partition("\n")[2])
    assert root.findtext("head/title") == f"✗ kubenetlab check: {lab.name}"
    marks = {cell.get("title", ""): cell.text for cell in root.iter("td")}
    assert (
        marks[f"default/client → default/{web['name']}:8080/TCP: expected answer, found silence"]
        == "does not connect, but should"
    )
    assert {cell.text for cell in root.iter("td") if cell.get("class") == "y"} == {"connects"}
    assert "http:" not in page
    assert "src=" not in page


def test_a_change_of_manifests_is_shown_without_a_lab(tmp_path: Path) -> None:
    """As a table, as sentences for a review, and as JSON; the exit status is 0."""
    old, new = tmp_path / "old", tmp_path / "new"
    for directory, text in ((old, SHOP + CALLER + IN_SHOP), (new, SHOP + CALLER + IN_SHOP)):
        directory.mkdir()
        (directory / "pods.yaml").write_text(pod("client") + text)
    (new / "policy.yaml").write_text(ISOLATED)
    words = ("check", "--diff", str(old), str(new))
    table = run(*words).out
    assert "- closed  default/client" in " ".join(table.split(" "))[:2000].replace("   ", "  ")
    text = run(*words, "-o", "text", cwd=tmp_path).out
    assert text.startswith("The change closes ")
    assert (
        "can no longer connect to deploy:shop/web on all ports: "
        "NetworkPolicy shop/web (new/policy.yaml:1) isolates the destination." in text
    )
    changes = run(*words, "-o", "json").json["changes"]
    assert {(change["change"], change["after"]) for change in changes} == {("closed", "denied")}
    assert run("check", "--diff", str(old), str(old)).out == (
        "The change opens and closes no connection.\n"
    )
    (new / "pods.yaml").unlink()
    (old / "pods.yaml").write_text(ISOLATED)
    for output in ("table", "text", "json"):
        refused = run(*words, "-o", output, status=2)
        assert "has pods, so their policies select nothing" in refused.err + refused.out
        assert "opens and closes" not in refused.out
    for wrong in (("-o", "html"), ("--generate", "-")):
        assert "--diff" in run(*words, *wrong, status=2).err
    assert "-o text is for --diff" in run("check", "-o", "text", status=2).err


REQUESTS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {}
  ingress:
  - toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]
---
"""


def test_a_comparison_names_what_no_lab_enforces(tmp_path: Path) -> None:
    """Only of policies that change, and of whole kinds if a Cluster has another CNI mode."""
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        directory.mkdir()
        (directory / "pods.yaml").write_text(pod("client"))
    (new / "policy.yaml").write_text(REQUESTS)
    words = ("check", "--diff", str(old), str(new))
    (message,) = run(*words, "-o", "json", status=1).json["unenforced"]
    assert message.startswith(
        "CiliumNetworkPolicy default/web: spec.ingress[0].toPorts[0].rules.http: not enforced"
    )
    assert f"- Not reliable: {message}." in run(*words, "-o", "text", status=1).out
    assert run("check", "--diff", str(new), str(new), "-o", "json").json["unenforced"] == []
    cluster = "apiVersion: kubenetlab.dev/v1alpha1\nkind: Cluster\nnetworking: {cni: bridge}\n"
    (new / "cluster.yaml").write_text(cluster)
    (message,) = run(*words, "-o", "json", status=1).json["unenforced"]
    assert "it decides in a cluster which connections are allowed" in message


NAMED_HOST = """\
apiVersion: kubenetlab.dev/v1alpha1
kind: Cluster
external: [{{name: www.example.org, address: 198.51.100.30}}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{name: names}}
spec:
  tier: Admin
  priority: 1
  subject: {{namespaces: {{}}}}
  egress:
  - {{action: Accept, to: [{{domainNames: [{}]}}]}}
  - {{action: Deny, to: [{{networks: [0.0.0.0/0]}}]}}
---
"""


def test_a_comparison_names_hosts_that_the_manifests_do_not_declare(tmp_path: Path) -> None:
    """In a cluster, the names have addresses."""
    old, new = tmp_path / "old", tmp_path / "new"
    for directory, name in ((old, "www.example.org"), (new, "other.test")):
        directory.mkdir()
        (directory / "lab.yaml").write_text(NAMED_HOST.format(name) + pod("client"))
    document = run("check", "--diff", str(old), str(new), "-o", "json", status=1).json
    assert document["closed"] > 0
    (message,) = document["unenforced"]
    assert message == (
        "ClusterNetworkPolicy names: spec.egress[0].to[0].domainNames[0]: "
        "no external host of the lab has the name other.test"
    )


def test_a_comparison_names_policies_that_select_no_pod(tmp_path: Path) -> None:
    """The sentence that nothing changes says nothing about them."""
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        directory.mkdir()
        (directory / "pods.yaml").write_text(pod("client"))
    (old / "policy.yaml").write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: deny, namespace: shop}\nspec: {podSelector: {}}\n"
    )
    words = ("check", "--diff", str(old), str(new))
    document = run(*words, "-o", "json").json
    (message,) = document["without_effect"]
    assert message == (
        f"NetworkPolicy shop/deny ({old}/policy.yaml:1) is removed, and selects no pod of the "
        "compared manifests: the comparison says nothing about it"
    )
    assert (document["opened"], document["closed"], document["unenforced"]) == (0, 0, [])
    assert f"- Not compared: {message}." in run(*words, "-o", "text").out
    assert message in " ".join(run(*words).out.split())
    assert run("check", "--diff", str(old), str(old), "-o", "json").json["without_effect"] == []


def test_advice_about_a_range_names_its_line(tmp_path: Path) -> None:
    """Kubernetes accepts the range, and ignores the bits after its prefix."""
    file = tmp_path / "policy.yaml"
    file.write_text(
        pod("client")
        + "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: block}\nspec:\n"
        "  podSelector: {}\n  ingress:\n  - from:\n    - ipBlock:\n"
        "        cidr: 10.244.7.5/16\n"
    )
    line = 1 + file.read_text().splitlines().index("        cidr: 10.244.7.5/16")
    messages = " ".join(run("plan", "-f", str(file), "--strict").err.split())
    assert (
        f"advice: {file}:{line} NetworkPolicy default/block: spec.ingress[0].from[0].ipBlock.cidr: "
        "10.244.7.5/16 means 10.244.0.0/16: bits after the prefix are ignored "
        "write 10.244.0.0/16, or 10.244.7.5/32 for the address alone"
    ) in messages
