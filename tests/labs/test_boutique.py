"""Online Boutique as published by Google: connectivity follows the variables of its containers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.test_dns import look_up

BOUTIQUE = Path(__file__).parents[2] / "manifests" / "11-microservices-demo"


@pytest.fixture(scope="module")
def boutique() -> Iterator[Lab]:
    for lab in new_lab():
        lab.run("up", "-f", str(BOUTIQUE))
        yield lab


def test_the_boutique_runs_unchanged(boutique: Lab) -> None:
    """Twelve Deployments of one pod, with grpc, tcp and http probes, become ready."""
    counts = yaml.safe_load((BOUTIQUE / "expect.yaml").read_text())["pods"]
    for name, count in counts.items():
        assert [pod["ready"] for pod in boutique.pods(name)] == [True] * count, name


def test_pods_reach_the_services_that_their_variables_name(boutique: Lab) -> None:
    """This holds for each edge of the table.

    The client resolves the name with its own search path, connects, and the server sees the
    client's own address.
    """
    table = yaml.safe_load((BOUTIQUE / "expect.yaml").read_text())["probes"]
    edges = [row for row in table if row["to"].startswith("svc:")]
    assert len(edges) == 17
    for row in edges:
        (client,) = boutique.pods(row["from"].rpartition("/")[2])
        name = row["to"].rpartition("/")[2]
        (addresses,) = look_up(boutique, client["name"], name)
        if row.get("resolves") is False:
            assert addresses == "none", row
            continue
        assert addresses == boutique.service(name)["cluster_ips"], row
        (answer,) = boutique.ask(client, (row["protocol"], addresses[0], row["port"]))
        assert answer.server.startswith(f"{name}-"), row
        assert answer.client[0] == answer.source[0] == client["addresses"][0]


def test_check_reports_tables_as_text_and_as_junit(boutique: Lab, tmp_path: Path) -> None:
    """A row for every node is one check per node."""
    junit = tmp_path / "out.xml"
    ways_in = tmp_path / "ways_in.yaml"
    ways_in.write_text(
        "- {from: ext:client, to: 'nodeport:*/default/frontend-external', "
        "port: 80, allowed: true}\n"
        "- {from: ext:client, to: 'nodeport:worker/default/frontend-external', "
        "port: 81, allowed: true}\n"
    )
    result = boutique.run(
        "check",
        "-f",
        str(BOUTIQUE / "expect.yaml"),
        "-f",
        str(ways_in),
        "--junit",
        str(junit),
        status=1,
    )
    nodes = len(boutique.inspected["nodes"])
    assert f"{19 + nodes} checks" in result.out
    assert f"{18 + nodes} hold, 1 fail" in result.out
    assert (
        "ways_in.yaml:2  ext:client → nodeport:worker/default/frontend-external: "
        "expected allow, found Service " in result.out
    )
    assert "has no node port for 81/TCP; it has 80:3" in result.out
    suites = ElementTree.parse(junit).getroot()
    assert (suites.get("tests"), suites.get("failures")) == (str(19 + nodes), "1")


TABLE = """\
- {from: "deploy:frontend", to: "svc:default/cartservice", port: 7070, allowed: true}
- {from: "deploy:frontend", to: cartservice.default, port: 7070, expect: allow, source: ADDRESS}
- {from: "each:Deployment/default/frontend", to: "svc:cartservice", port: 7071, expect: reject}
- {from: "ext:client", to: "deploy:frontend", port: 80, expect: deny}
- {from: "ext:client", to: "deploy:frontend", allowed: false}
- {from: "deploy:frontend", to: "ext:client", allowed: true}
- {from: "deploy:frontend", to: "svc:cartservice", resolves: true}
"""


def test_check_reports_each_row_that_does_not_hold(boutique: Lab, tmp_path: Path) -> None:
    """Each form of a row holds, and its opposite fails.

    The report names the line, the expected result and the found one.
    """
    file = tmp_path / "expect.yaml"
    address = boutique.pod("frontend")["addresses"][0]
    file.write_text(TABLE.replace("ADDRESS", address))
    assert "7 checks" in boutique.run("check", "-f", str(file)).out
    opposites = {
        "ADDRESS": "192.0.2.1",
        "expect: reject": "expect: drop",
        "expect: deny": "expect: allow",
        "resolves: true": "resolves: false",
    }
    opposites |= {"allowed: true": "expect: drop", "allowed: false": "expect: allow"}
    file.write_text(re.sub("|".join(opposites), lambda match: opposites[match[0]], TABLE))
    result = boutique.run("check", "-f", str(file), status=1)
    assert [line.split("  ")[0].rpartition(":")[2] for line in result.out.splitlines()[:-1]] == [
        str(number) for number in range(1, 8)
    ]
    assert f"expected allow, from 192.0.2.1, found answer, saw {address}" in result.out
    assert "next: kubenetlab ping" in result.err


def test_check_without_a_table_checks_the_matrix(boutique: Lab) -> None:
    """The rows are those that `ping` shows."""
    report = boutique.run("check", "-o", "json").json
    assert report["ok"]
    assert len(report["checks"]) > 300
