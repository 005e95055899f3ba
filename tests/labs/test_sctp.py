"""SCTP on a kernel without it: containers and probes report it.

tests/vm/test_sctp.py covers kernels with SCTP.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kubenetlab.kernel.features.feature_probes import PROBES
from kubenetlab.kernel.features.probing import run_probes
from tests.labs.lab import Lab
from tests.unit.observe.policies.worlds import policy

(FOUND,) = run_probes([trial for trial in PROBES if trial.name == "SCTP"])
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  nodeName: worker
  containers: [{name: main, image: agnhost, args: [netexec, --sctp-port=8082]}]
"""

SERVICE = """---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {selector: {app: none}, ports: [{port: 80, protocol: SCTP}]}
"""
pytestmark = pytest.mark.skipif(not FOUND.fault, reason="this kernel has SCTP")


def test_a_program_reports_that_sctp_is_not_available(lab: Lab) -> None:
    """Its container ends, as in a cluster, and the log names the missing feature."""
    lab.up(POD, status=1)
    output = lab.run("logs", "a").out
    assert (
        "listen sctp :8082: protocol not supported by this kernel; see SCTP in kubenetlab doctor"
        in output
    )


@pytest.mark.parametrize("has_policy", [False, True])
def test_a_check_never_holds_without_a_packet(lab: Lab, tmp_path: Path, has_policy: bool) -> None:
    """An expected denial does not hold either, also where a policy denies the connection."""
    pod = POD.replace(", args: [netexec, --sctp-port=8082]", "")
    deny = "---" + policy("{podSelector: {}, policyTypes: [Ingress, Egress]}") if has_policy else ""
    lab.up(pod + SERVICE + deny)
    table = tmp_path / "expect.yaml"
    table.write_text(
        "- {from: 'node:worker2', to: a, port: 8082, protocol: SCTP, expect: deny}\n"
        "- {from: 'node:worker2', to: a, port: 8082, protocol: SCTP, expect: allow}\n"
        "- {from: a, to: a, port: 8082, protocol: SCTP, expect: allow, source: 10.0.0.1}\n"
        "- {from: 'node:worker2', to: 'node:worker', expect: allow}\n"
    )
    report = tmp_path / "junit.xml"
    result = lab.run("check", str(table), "--junit", str(report), "-o", "json", status=1).json
    untested = ("untested", "not testable")
    assert [(row["state"], row["found"]) for row in result["checks"]] == [
        untested,
        untested,
        untested,
        ("holds", "answer"),
    ]
    suite = ElementTree.parse(report).getroot()
    assert suite.get("errors") == "3"
    assert [case.find("error") is not None for case in suite][:4] == [True, True, True, False]
    text = lab.run("check", str(table), status=1).out
    assert text.count("SCTP is not available; run sudo modprobe sctp") == 3
    assert "1 hold, 3 not testable" in text


def test_a_matrix_marks_what_it_cannot_test(lab: Lab) -> None:
    """No promise about SCTP is tested, and a generated table does not have it."""
    pod = POD.replace(", args: [netexec, --sctp-port=8082]", "")
    lab.up(pod + SERVICE)
    result = lab.run("ping", "-o", "json", status=1).json
    for cell in result["cells"]:
        is_sctp = "/SCTP" in cell["to"]
        assert (cell["found"] == "not testable") == is_sctp
        assert cell["ok"] == (not is_sctp)
    for command in ("ping", "check"):
        text = lab.run(command, status=1).out
        assert "? not testable: this kernel has no SCTP" in text
        assert re.search(r"\d not testable", text)
        assert "not as Kubernetes promises" not in text
    generated = lab.run("check", "--generate", "-")
    assert "SCTP" not in generated.out
    assert "connections are not testable, and not in the table: SCTP" in generated.err
    assert "SCTP is not available" in lab.run("ping", "a", "svc:s", status=None).err


def test_ports_of_policies_that_are_not_testable_count(lab: Lab, tmp_path: Path) -> None:
    """A check without a table fails on them, as a row of a table does, in every report."""
    pod = POD.replace(", args: [netexec, --sctp-port=8082]", "")
    rule = policy("{podSelector: {}, ingress: [{ports: [{port: 7777, protocol: SCTP}]}]}")
    lab.up(pod + "---" + rule)
    report = tmp_path / "junit.xml"
    data = lab.run("check", "-o", "json", "--junit", str(report), status=1).json
    untested = [each for each in data["checks"] if each["state"] != "holds"]
    assert not data["ok"]
    assert {(each["target"], each["found"]) for each in untested} == {
        ("default/a:7777/SCTP", "not testable")
    }
    assert ElementTree.parse(report).getroot().get("errors") == str(len(untested))
    text = lab.run("check", status=1).out
    assert f"{len(untested)} not testable\n" in text
    assert f"{len(untested)} of" in lab.run("check", "-o", "html", status=1).out
    generated = lab.run("check", "--generate", "-")
    assert "SCTP" not in generated.out
    assert f"{len(untested)} connections are not testable" in generated.err
