"""What a green result means: what is not enforced, and what is misconfigured, is named beside it
and changes the exit status.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.clusters import ONE_NODE, deployment, pod, replaced, service
from tests.labs.lab import Lab, run

POLICY = """\
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
BUDGET = "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec: {minAvailable: 1}\n---\n"
OTHER = """\
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9999}]}
---
"""
WEB = ONE_NODE + pod("client") + deployment("web", 1) + service("web")


def table(place: Path, *rows: str) -> str:
    file = place / "expect.yaml"
    file.write_text("".join(f"- {{{row}}}\n" for row in rows))
    return str(file)


def test_policies_that_are_not_enforced_fail_a_check(lab: Lab, tmp_path: Path) -> None:
    """`up` says it in a line; check names them beside the rows they could affect, and ends with 1
    until they are accepted.
    """
    said = lab.up(WEB + POLICY + BUDGET).err
    assert (
        "not enforced: NetworkPolicy deny-web: in a cluster it changes which connections succeed"
        in said
    )
    assert "kept, without effect on the network: PodDisruptionBudget web" in said
    rows = table(
        tmp_path,
        "from: client, to: 'svc:web', port: 80, allowed: true",
        "from: 'deploy:web', to: client, allowed: true",
    )
    junit = tmp_path / "junit.xml"
    failed = lab.run("check", "-f", rows, "--junit", str(junit), status=1)
    (line,) = [line for line in failed.out.splitlines() if line.startswith("✗")]
    assert (
        "NetworkPolicy deny-web is not enforced by this lab; it could change 1 of 2 results: default/client → svc:default/web:80"
        in line
    )
    assert failed.out.splitlines()[-1].endswith("2 hold, 1 object not enforced")
    assert "next: kubenetlab check --allow-unmodelled NetworkPolicy" in failed.err
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

    found = lab.run("check", "-f", rows, "-o", "json", status=1).json
    assert not found["ok"]
    assert [check["unenforced"] for check in found["checks"]] == [["NetworkPolicy deny-web"], []]
    assert [(one["code"], one["accepted"], one["affects"]) for one in found["diagnostics"]] == [
        ("not-enforced", False, ["pod/client → svc/web:80/TCP"])
    ]
    for words in ("NetworkPolicy", "networkpolicies", "netpol"):
        assert (
            lab.run("check", "-f", rows, "--allow-unmodelled", words, status=0)
            .out.splitlines()[-1]
            .endswith("2 hold")
        )
    lab.run("check", "-f", rows, "--allow-unmodelled", "Ingress", status=1)


def test_the_matrix_and_a_single_ping_say_so_too(lab: Lab) -> None:
    """They end with 1 where an object that is not enforced could change what they show, and a ping
    that it does not concern with 0.
    """
    lab.up(WEB + POLICY)
    matrix = lab.run("ping", status=1)
    assert "all as Kubernetes promises, 1 object not enforced" in matrix.out
    assert "NetworkPolicy deny-web is not enforced by this lab; it could change" in matrix.out
    assert not lab.run("ping", "-o", "json", status=1).json["ok"]
    assert lab.run("ping", "--allow-unmodelled", "netpol", "-o", "json", status=0).json["ok"]
    asked = lab.run("ping", "client", "svc:web", status=1)
    assert "answered" in asked.out
    assert "not enforced by this lab, could change this result: NetworkPolicy deny-web" in asked.out
    assert lab.run("ping", "client", "svc:web", "-o", "json", status=1).json["unenforced"] == [
        "NetworkPolicy deny-web"
    ]
    lab.run("ping", "client", "svc:web", "--allow-unmodelled", "NetworkPolicy", status=0)
    lab.run("ping", "deploy:web", "client", status=0)


ROUNDABOUT = """\
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
HEADLESS = "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {clusterIP: None, selector: {app: db}}\n---\n"


def test_policies_are_named_whatever_leads_to_their_pods(lab: Lab, tmp_path: Path) -> None:
    """A pod's own name, an ExternalName, a node port: what counts is where the packets go, of a
    ping and of a row alike.
    """
    policy = replaced(POLICY, ("{app: web}", "{app: db}"), ("deny-web", "deny-db"))
    lab.up(WEB + DB + HEADLESS + replaced(ROUNDABOUT, ("web.default", "outer.default")) + policy)
    (node,) = [entry["name"] for entry in lab.seen["nodes"]]
    forms = (
        "db-0.db:8080",
        "alias:80",
        f"node:{node}:30080",
        f"{lab.seen['nodes'][0]['addresses'][0]}:30080",
        "db:8080",
    )
    for form in forms:
        for more in ((), ("--count", "2")):
            asked = lab.run("ping", "client", form, *more, status=1).out
            assert "NetworkPolicy deny-db" in asked, form
    lab.run("ping", "client", "web:80", status=0)
    lab.run("ping", "client", f"node:{node}", status=0)
    rows = table(tmp_path, *(f"from: client, to: '{form}', allowed: true" for form in forms))
    found = lab.run("check", "-f", rows, "-o", "json", status=1).json
    assert [check["unenforced"] for check in found["checks"]] == [["NetworkPolicy deny-db"]] * len(
        forms
    )


def test_an_http_error_is_no_answer_to_trust(lab: Lab, tmp_path: Path) -> None:
    """A single GET ends with 1, as a series of them and a row of a table do."""
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


def test_pods_that_do_not_run_are_not_passed_over(lab: Lab, tmp_path: Path) -> None:
    """each: is every pod of a workload, and fails while one waits for a node; the matrix names
    those that take no part.
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


def test_tables_and_reports_stand_anywhere(lab: Lab, tmp_path: Path) -> None:
    """A table by its name alone or from standard input; a report that cannot be written is refused
    before anything is sent.
    """
    lab.up(WEB)
    row = "- {from: client, to: 'svc:web', allowed: true}\n- {from: client, to: 'svc:web:81', allowed: true}\n"
    assert (
        "<stdin>:2  default/client → svc:default/web:81/TCP: expected allow"
        in lab.run("check", "-f", "-", given=row, status=1).out
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


def test_a_row_without_a_port_uses_the_first_of_a_service(lab: Lab, tmp_path: Path) -> None:
    """As ping does: a ping of a cluster IP would be refused, and would say nothing of the Service."""
    lab.up(WEB)
    rows = table(
        tmp_path,
        *(
            f"from: client, to: '{to}', allowed: {word}"
            for to in ("svc:web", "web.default")
            for word in ("true", "false")
        ),
    )
    found = lab.run("check", "-f", rows, "-o", "json", status=1).json["checks"]
    assert [
        (check["name"].rpartition(":")[2], check["found"], check["state"]) for check in found
    ] == [
        ("80/TCP", "answer", "holds"),
        ("80/TCP", "answer", "fails"),
    ] * 2
    udp = table(tmp_path, "from: client, to: 'svc:web', protocol: UDP, allowed: false")
    assert (
        "UDP needs a port, and svc:default/web is not a Service with one"
        in lab.run("check", "-f", udp, status=1).out
    )


def test_a_lab_without_pods_in_scope_is_not_trusted_either(lab: Lab) -> None:
    """An Ingress opens a way that the lab does not: no row is about it, and the check says so and
    ends with 1.
    """
    lab.up(WEB + INGRESS)
    said = lab.run("check", status=1).out
    assert "Ingress way-in is not enforced by this lab" in said
    lab.run("check", "--allow-unmodelled", "ing", status=0)


def test_misconfigurations_are_reported_where_people_look(lab: Lab, tmp_path: Path) -> None:
    """up, apply and check report them with file and line; check fails on them; --strict makes them
    errors before anything is made.
    """
    file = tmp_path / "shop.yaml"
    file.write_text(WEB + OTHER)
    line = (WEB + OTHER).splitlines().index(
        "spec: {selector: {app: web}, ports: [{port: 80, targetPort: 9999}]}"
    ) + 1
    place = f"{file}:{line}  Service default/other: spec.ports[0].targetPort: nothing listens on 9999/TCP in the pods of Deployment default/web"
    refused = lab.run("up", "-f", str(file), "--strict", status=2)
    assert place in refused.err
    assert not lab.directory.exists()
    assert f"warning: {place}" in lab.run("plan", "-f", str(file)).err
    assert f"warning: {place}" in lab.run("up", "-f", str(file)).err
    assert f"warning: {place}" in lab.run("apply", "-f", str(file)).err
    assert f"warning: {place}" in lab.run("apply", "-f", str(file), "--no-wait").err
    assert "warning" not in lab.run("apply", "-f", str(file), "--allow-undeclared").err
    assert place in lab.run("check", status=1).out
    assert lab.run("check", "-o", "json", status=1).json["diagnostics"][0]["line"] == line
    file.write_text("# more\n" + WEB + OTHER)  # the object is found where it stands by now
    assert lab.run("check", "-o", "json", status=1).json["diagnostics"][0]["line"] == line + 1
    file.write_text(WEB + OTHER)
    lab.run("check", "--allow-undeclared", status=0)

    allowed = "from: client, to: 'svc:web', port: 80, allowed: true"
    assert place in lab.run("check", "-f", table(tmp_path, allowed), status=1).out
    rejected = "from: client, to: 'svc:other', port: 80, expect: reject"
    assert (
        lab.run("check", "-f", table(tmp_path, allowed, rejected), status=0)
        .out.splitlines()[-1]
        .endswith("2 hold")
    )


def test_a_refusal_from_a_misconfigured_pod_does_not_accept_it(lab: Lab, tmp_path: Path) -> None:
    """Only a row to the misconfigured object does."""
    lab.up(WEB)
    lab.apply(pod("sick", container=", readinessProbe: {tcpSocket: {port: 9}}"), status=1)
    rows = table(tmp_path, "from: sick, to: 'client:81', expect: reject")
    found = lab.run("check", "-f", rows, status=1).out
    assert "readinessProbe.tcpSocket.port" in found
    assert "1 hold, 1 misconfiguration" in found
    lab.run("check", "-f", table(tmp_path, "from: client, to: 'sick:9', expect: reject"), status=0)


def test_a_port_that_is_served_by_another_protocol(lab: Lab) -> None:
    """Accepted by --allow-undeclared, it is refused as promised."""
    lab.up(
        WEB
        + replaced(
            OTHER, ("port: 80, targetPort: 9999", "port: 80, targetPort: 8080, protocol: UDP")
        )
    )
    assert "nothing listens on 8080/UDP" in lab.run("check", status=1).out
    lab.run("check", "--allow-undeclared", status=0)


def test_a_strict_apply_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """Whole documents are refused when one of them is misconfigured, or makes another object so;
    exit status 2.
    """
    lab.up(WEB)
    refused = lab.apply(OTHER + pod("late"), "--strict", status=2)
    assert (
        "<stdin>:4  Service default/other: spec.ports[0].targetPort: nothing listens on 9999/TCP"
        in refused.err
    )
    assert [entry["name"] for entry in lab.seen["pods"] if entry["name"] == "late"] == []
    assert lab.get("services")["items"] != []
    moved = replaced(service("web"), ("app: web", "app: wbe"))
    assert "did you mean app=web?" in lab.apply(moved, "--strict", status=2).err
    lab.apply(OTHER, "--strict", "--allow-undeclared", status=0)
    assert lab.apply(service("web"), "--strict", status=0).out.startswith(
        "Service default/web unchanged"
    )
    addresses = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: outside}\nsubsets: [{addresses: [{ip: 10.9.9.9}], ports: [{port: 80}]}]\n"
    outside = "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {ports: [{port: 80}]}\n---\n"
    lab.apply(outside + addresses, "--strict", status=0)


def test_the_listen_annotation_states_what_the_image_does(lab: Lab, tmp_path: Path) -> None:
    """With it the port answers, and nothing is doubtful any more."""
    listening = replaced(
        deployment("web", 1),
        (
            "labels: {app: web}}\n    spec",
            'labels: {app: web}, annotations: {kubenetlab.dev/listen: "8080/TCP,9999/TCP"}}\n    spec',
        ),
        ("image: agnhost\n        args: [netexec]", "image: example/shop"),
    )
    assert (
        "warning" not in lab.up(ONE_NODE + pod("client") + listening + service("web") + OTHER).err
    )
    rows = table(tmp_path, "from: client, to: 'svc:other', port: 80, allowed: true")
    assert lab.run("check", "-f", rows, status=0).out.splitlines()[-1].endswith("1 hold")


@pytest.mark.parametrize(
    "words", [("check", "-f", "none.yaml"), ("up", "-f", "none.yaml"), ("ping", "nobody", "client")]
)
def test_wrong_input_ends_with_2(lab: Lab, words: tuple[str, ...]) -> None:
    """What cannot be asked is neither good nor bad: exit status 2."""
    lab.up(ONE_NODE + pod("client"))
    assert run(*words, "--lab", lab.name, status=2).err
