"""A success covers everything: unenforced and misconfigured objects change the exit status.

They are named beside the result.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.clusters import ONE_NODE, deployment, pod, replaced, service
from tests.labs.lab import Lab, run

DENY_WEB = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-web}
spec: {podSelector: {matchLabels: {app: web}}}
---
"""
INGRESS = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: way-in}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
---
"""
BUDGET = (
    "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\n"
    "spec: {minAvailable: 1}\n---\n"
)
MISCONFIGURED_SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9999}]}
---
"""
WEB = ONE_NODE + pod("client") + deployment("web", 1) + service("web")

REASON = "the policy engine is none; kubenetlab up --policy nftables enforces policies"


def table(directory: Path, *rows: str) -> str:
    file = directory / "expect.yaml"
    file.write_text("".join(f"- {{{row}}}\n" for row in rows))
    return str(file)


def test_policies_that_are_not_enforced_fail_a_check(lab: Lab, tmp_path: Path) -> None:
    """`up` reports them in a line.

    `check` names them beside the rows that they could affect, and ends with 1 unless their kind is
    accepted.
    """
    errors = lab.up(WEB + DENY_WEB + BUDGET, "--policy", "none").err
    assert (
        "not enforced: NetworkPolicy deny-web: in a cluster it changes which connections succeed"
        in errors
    )
    assert (
        "\n  the policy engine is none; kubenetlab up --policy nftables enforces policies" in errors
    )
    assert "kept, without effect on the network: PodDisruptionBudget web" in errors
    shown = lab.run("describe", "netpol", "deny-web")
    assert "Enforced By:       nothing; the policy engine is none; kubenetlab up" in shown.out
    rows = table(
        tmp_path,
        "from: client, to: 'svc:web', port: 80, allowed: true",
        "from: 'deploy:web', to: client, allowed: true",
    )
    junit = tmp_path / "junit.xml"
    failed = lab.run("check", "-f", rows, "--junit", str(junit), status=1)
    (line,) = [line for line in failed.out.splitlines() if line.startswith("✗")]
    assert (
        "NetworkPolicy deny-web is not enforced by this lab; it could change 1 of 2 results: "
        "default/client → svc:default/web:80" in line
    )
    assert failed.out.splitlines()[-1].endswith("2 hold, 1 object not enforced")
    assert f"\n    {REASON}\n" in failed.out
    advice = failed.err.replace(f" --lab {lab.name}", "")  # There with a second lab on the machine.
    assert (
        "next: kubenetlab up --policy nftables, or "
        "kubenetlab check --allow-unmodelled NetworkPolicy" in advice
    )
    cases = {case.get("name"): case for case in ElementTree.parse(junit).getroot().iter("testcase")}
    assert list(cases) == [
        "pod/client → svc/web:80/TCP",
        "deploy/web[0] → pod/client",
        "NetworkPolicy deny-web: not-enforced",
    ]
    assert (
        cases["deploy/web[0] → pod/client"].get("file"),
        cases["deploy/web[0] → pod/client"].get("line"),
    ) == (rows, "2")
    assert cases["NetworkPolicy deny-web: not-enforced"].find("failure") is not None

    report = lab.run("check", "-f", rows, "-o", "json", status=1).json
    assert not report["ok"]
    assert [check["unenforced"] for check in report["checks"]] == [["NetworkPolicy deny-web"], []]
    assert [
        (diagnostic["code"], diagnostic["accepted"], diagnostic["affects"])
        for diagnostic in report["diagnostics"]
    ] == [("not-enforced", False, ["pod/client → svc/web:80/TCP"])]
    for words in ("NetworkPolicy", "networkpolicies", "netpol"):
        assert (
            lab.run("check", "-f", rows, "--allow-unmodelled", words, status=0)
            .out.splitlines()[-1]
            .endswith("2 hold, 1 object not enforced, as accepted (NetworkPolicy)")
        )
    lab.run("check", "-f", rows, "--allow-unmodelled", "Ingress", status=1)


def test_policies_that_are_not_enforced_fail_a_ping(lab: Lab) -> None:
    """The matrix and single pings end with 1 if an unenforced object could affect them.

    Other pings end with 0.
    """
    lab.up(WEB + DENY_WEB, "--policy", "none")
    matrix = lab.run("ping", status=1)
    assert "all as Kubernetes promises, 1 object not enforced" in matrix.out
    assert "NetworkPolicy deny-web is not enforced by this lab; it could change" in matrix.out
    assert not lab.run("ping", "-o", "json", status=1).json["ok"]
    assert lab.run("ping", "--allow-unmodelled", "netpol", "-o", "json", status=0).json["ok"]
    result = lab.run("ping", "client", "svc:web", status=1)
    assert "answered" in result.out
    assert (
        "not enforced by this lab, could change this result: NetworkPolicy deny-web" in result.out
    )
    assert lab.run("ping", "client", "svc:web", "-o", "json", status=1).json["unenforced"] == [
        "NetworkPolicy deny-web"
    ]
    assert "next: kubenetlab up --policy nftables" in result.err
    assert "or kubenetlab ping default/client svc:default/web --allow-unmodelled" in result.err
    lab.run("ping", "client", "svc:web", "--allow-unmodelled", "NetworkPolicy", status=0)
    lab.run("ping", "deploy:web", "client", status=0)


INDIRECT_SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: outer}
spec: {type: NodePort, selector: {app: db}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
"""
DB = replaced(
    deployment("db", 1),
    ("kind: Deployment", "kind: StatefulSet"),
    ("  replicas:", "  serviceName: db\n  replicas:"),
)
HEADLESS = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: db}\n"
    "spec: {clusterIP: None, selector: {app: db}}\n---\n"
)


def test_policies_are_found_for_every_form_of_a_destination(lab: Lab, tmp_path: Path) -> None:
    """The pods that receive the packets count, for pings and for rows of a table."""
    policy = replaced(DENY_WEB, ("{app: web}", "{app: db}"), ("deny-web", "deny-db"))
    lab.up(
        WEB
        + DB
        + HEADLESS
        + replaced(INDIRECT_SERVICES, ("web.default", "outer.default"))
        + policy,
        "--policy",
        "none",
    )
    (node,) = [entry["name"] for entry in lab.inspected["nodes"]]
    forms = (
        "db-0.db:8080",
        "alias:80",
        f"node:{node}:30080",
        f"{lab.inspected['nodes'][0]['addresses'][0]}:30080",
        "db:8080",
    )
    for form in forms:
        for options in ((), ("--count", "2")):
            output = lab.run("ping", "client", form, *options, status=1).out
            assert "NetworkPolicy deny-db" in output, form
    lab.run("ping", "client", "web:80", status=0)
    lab.run("ping", "client", f"node:{node}", status=0)
    rows = table(tmp_path, *(f"from: client, to: '{form}', allowed: true" for form in forms))
    report = lab.run("check", "-f", rows, "-o", "json", status=1).json
    assert [check["unenforced"] for check in report["checks"]] == [["NetworkPolicy deny-db"]] * len(
        forms
    )


def test_an_http_error_is_a_failure(lab: Lab, tmp_path: Path) -> None:
    """A single GET, a series and a row of a table end with 1."""
    lab.up(WEB)
    assert "GET /dial: answered in" in (
        said := lab.run("ping", "client", "http://web/dial", status=1).out
    )
    assert ", HTTP 4" in said
    assert not lab.run("ping", "client", "http://web/dial", "-o", "json", status=1).json["ok"]
    lab.run("ping", "client", "http://web/dial", "--count", "2", status=1)
    lab.run(
        "check", table(tmp_path, "from: client, to: 'http://web/dial', allowed: true"), status=1
    )
    lab.run("ping", "client", "http://web/hostname", status=0)


def test_pods_that_do_not_run_are_reported(lab: Lab, tmp_path: Path) -> None:
    """`each:` is every pod of a workload, and fails if one of them does not run.

    The matrix names pods without a part in it.
    """
    text = replaced(
        WEB,
        ("replicas: 1", "replicas: 2"),
        ("containerPort: 8080}", "containerPort: 8080, hostPort: 8080}"),
    )
    lab.up(text, "--keep", status=1)
    rows = table(tmp_path, "from: 'each:deploy/web', to: client, allowed: true")
    assert (
        "1 of 2 pods of Deployment/web in namespace default do not run: web-"
        in lab.run("check", rows, status=1).out
    )
    for command in ("check", "ping"):
        assert "not checked: 1 pod does not run: default/web-" in lab.run(command, status=0).err


def test_tables_and_reports_can_be_at_any_path(lab: Lab, tmp_path: Path) -> None:
    """A table can be an argument or standard input.

    A report that cannot be written is rejected before any packet is sent.
    """
    lab.up(WEB)
    row = (
        "- {from: client, to: 'svc:web', allowed: true}\n"
        "- {from: client, to: 'svc:web:81', allowed: true}\n"
    )
    assert (
        "<stdin>:2  default/client → svc:default/web:81/TCP: expected allow"
        in lab.run("check", "-f", "-", stdin=row, status=1).out
    )
    rows = table(tmp_path, "from: client, to: 'svc:web', allowed: true")
    assert lab.run("check", rows).out.endswith("1 hold\n")
    missing = tmp_path / "reports" / "junit.xml"
    assert (
        f"directory {missing.parent} does not exist"
        in lab.run("check", rows, "--junit", str(missing), status=2).err
    )
    assert (
        "cannot write this file" in lab.run("check", rows, "--junit", str(tmp_path), status=2).err
    )
    assert (
        "cannot write this file: No space left on device"
        in lab.run("check", rows, "--junit", "/dev/full", status=1).err
    )


def test_a_row_without_a_port_uses_the_services_first_port(lab: Lab, tmp_path: Path) -> None:
    """Like ping, because an ICMP ping of a cluster IP says nothing about the Service."""
    lab.up(WEB)
    rows = table(
        tmp_path,
        *(
            f"from: client, to: '{to}', allowed: {word}"
            for to in ("svc:web", "web.default")
            for word in ("true", "false")
        ),
    )
    checks = lab.run("check", "-f", rows, "-o", "json", status=1).json["checks"]
    assert [
        (check["name"].rpartition(":")[2], check["found"], check["state"]) for check in checks
    ] == [
        ("80/TCP", "answer", "holds"),
        ("80/TCP", "answer", "fails"),
    ] * 2
    udp = table(tmp_path, "from: client, to: 'svc:web', protocol: UDP, allowed: false")
    assert (
        "UDP needs a port, and svc:default/web is not a Service with one"
        in lab.run("check", "-f", udp, status=1).out
    )


def test_an_unenforced_ingress_fails_a_check(lab: Lab) -> None:
    """No row is about it, but the lab does not provide what it promises."""
    lab.up(WEB + INGRESS)
    output = lab.run("check", status=1).out
    assert "Ingress way-in is not enforced by this lab" in output
    lab.run("check", "--allow-unmodelled", "ing", status=0)


def test_misconfigurations_are_reported_by_up_apply_plan_and_check(
    lab: Lab, tmp_path: Path
) -> None:
    """They have file and line. `check` fails; --strict makes them errors."""
    file = tmp_path / "shop.yaml"
    file.write_text(WEB + MISCONFIGURED_SERVICE)
    line = (WEB + MISCONFIGURED_SERVICE).splitlines().index(
        "spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9999}]}"
    ) + 1
    message = (
        f"{file}:{line}  Service default/other: spec.ports[0].targetPort: "
        "nothing listens on 9999/TCP in the pods of Deployment default/web"
    )
    refused = lab.run("up", "-f", str(file), "--strict", status=2)
    assert message in refused.err
    assert not lab.directory.exists()
    assert f"warning: {message}" in lab.run("plan", "-f", str(file)).err
    assert f"warning: {message}" in lab.run("up", "-f", str(file)).err
    assert f"warning: {message}" in lab.run("apply", "-f", str(file)).err
    assert f"warning: {message}" in lab.run("apply", "-f", str(file), "--no-wait").err
    assert "warning" not in lab.run("apply", "-f", str(file), "--allow-undeclared").err
    assert message in lab.run("check", status=1).out
    assert lab.run("check", "-o", "json", status=1).json["diagnostics"][0]["line"] == line
    file.write_text("# more\n" + WEB + MISCONFIGURED_SERVICE)  # the line is read again
    assert lab.run("check", "-o", "json", status=1).json["diagnostics"][0]["line"] == line + 1
    file.write_text(WEB + MISCONFIGURED_SERVICE)
    lab.run("check", "--allow-undeclared", status=0)

    allowed = "from: client, to: 'svc:web', port: 80, allowed: true"
    assert message in lab.run("check", "-f", table(tmp_path, allowed), status=1).out
    rejected = "from: client, to: 'svc:other', port: 80, expect: reject"
    assert (
        lab.run("check", "-f", table(tmp_path, allowed, rejected), status=0)
        .out.splitlines()[-1]
        .endswith("2 hold")
    )


def test_a_row_from_a_misconfigured_pod_does_not_accept_it(lab: Lab, tmp_path: Path) -> None:
    """Only a row to the misconfigured object accepts it."""
    lab.up(WEB)
    lab.apply(pod("sick", container=", readinessProbe: {tcpSocket: {port: 9}}"), status=1)
    rows = table(tmp_path, "from: sick, to: 'client:81', expect: reject")
    output = lab.run("check", "-f", rows, status=1).out
    assert "readinessProbe.tcpSocket.port" in output
    assert "1 hold, 1 misconfiguration" in output
    lab.run("check", "-f", table(tmp_path, "from: client, to: 'sick:9', expect: reject"), status=0)


def test_a_port_served_by_another_protocol_is_a_misconfiguration(lab: Lab) -> None:
    """With --allow-undeclared, the refusal is as promised."""
    lab.up(
        WEB
        + replaced(
            MISCONFIGURED_SERVICE,
            ("port: 80, targetPort: 9999", "port: 80, targetPort: 8080, protocol: UDP"),
        )
    )
    assert "nothing listens on 8080/UDP" in lab.run("check", status=1).out
    lab.run("check", "--allow-undeclared", status=0)


def test_a_strict_apply_rejects_misconfigurations(lab: Lab, tmp_path: Path) -> None:
    """All documents are rejected if one of them is misconfigured.

    The same holds if one makes another object misconfigured. The exit status is 2.
    """
    lab.up(WEB)
    refused = lab.apply(MISCONFIGURED_SERVICE + pod("late"), "--strict", status=2)
    assert (
        "<stdin>:4  Service default/other: spec.ports[0].targetPort: nothing listens on 9999/TCP"
        in refused.err
    )
    assert [entry["name"] for entry in lab.inspected["pods"] if entry["name"] == "late"] == []
    assert lab.get("services")["items"] != []
    moved = replaced(service("web"), ("app: web", "app: wbe"))
    assert "did you mean app=web?" in lab.apply(moved, "--strict", status=2).err
    lab.apply(MISCONFIGURED_SERVICE, "--strict", "--allow-undeclared", status=0)
    assert lab.apply(service("web"), "--strict", status=0).out.startswith(
        "Service default/web unchanged"
    )
    addresses = (
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: outside}\n"
        "subsets: [{addresses: [{ip: 10.9.9.9}], ports: [{port: 80}]}]\n"
    )
    outside = (
        "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\n"
        "spec: {ports: [{port: 80}]}\n---\n"
    )
    lab.apply(outside + addresses, "--strict", status=0)


def test_the_listen_annotation_declares_ports_of_an_image(lab: Lab, tmp_path: Path) -> None:
    """With it the port answers, and there is no misconfiguration."""
    listening = replaced(
        deployment("web", 1),
        (
            "labels: {app: web}}\n    spec",
            "labels: {app: web}, "
            'annotations: {kubenetlab.dev/listen: "8080/TCP,9999/TCP"}}\n    spec',
        ),
        ("image: agnhost\n        args: [netexec]", "image: example/shop"),
    )
    assert (
        "warning"
        not in lab.up(
            ONE_NODE + pod("client") + listening + service("web") + MISCONFIGURED_SERVICE
        ).err
    )
    rows = table(tmp_path, "from: client, to: 'svc:other', port: 80, allowed: true")
    assert lab.run("check", "-f", rows, status=0).out.splitlines()[-1].endswith("1 hold")


@pytest.mark.parametrize(
    "words", [("check", "-f", "none.yaml"), ("up", "-f", "none.yaml"), ("ping", "nobody", "client")]
)
def test_invalid_input_ends_with_2(lab: Lab, words: tuple[str, ...]) -> None:
    """Nothing was tested, so this is neither a success nor a failure."""
    lab.up(ONE_NODE + pod("client"))
    assert run(*words, "--lab", lab.name, status=2).err
