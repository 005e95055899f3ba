"""Online Boutique as Google publishes it: who reaches whom follows the variables of its containers."""

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


def test_the_boutique_is_up_as_it_is(boutique: Lab) -> None:
    """Twelve Deployments of one pod, with grpc, tcp and http probes, all ready."""
    counts = yaml.safe_load((BOUTIQUE / "expect.yaml").read_text())["pods"]
    for name, count in counts.items():
        assert [pod["ready"] for pod in boutique.pods(name)] == [True] * count, name


def test_the_boutiques_pods_reach_what_their_variables_name(boutique: Lab) -> None:
    """Each edge of the table: the client resolves the name by its own search path, connects, and is
    seen with its own address.
    """
    table = yaml.safe_load((BOUTIQUE / "expect.yaml").read_text())["probes"]
    edges = [row for row in table if row["to"].startswith("svc:")]
    assert len(edges) == 17
    for row in edges:
        (client,) = boutique.pods(row["from"].rpartition("/")[2])
        name = row["to"].rpartition("/")[2]
        (found,) = look_up(boutique, client["name"], name)
        if row.get("resolves") is False:
            assert found == "none", row
            continue
        assert found == boutique.service(name)["cluster_ips"], row
        (answer,) = boutique.ask(client, (row["protocol"], found[0], row["port"]))
        assert answer.who.startswith(f"{name}-"), row
        assert answer.seen[0] == answer.source[0] == client["addresses"][0]


def test_a_table_is_told_and_written_down(boutique: Lab, tmp_path: Path) -> None:
    """The manifests are applied first; a row for every node is as many checks; and the same as
    JUnit's XML.
    """
    junit = tmp_path / "out.xml"
    ways_in = tmp_path / "ways_in.yaml"
    ways_in.write_text(
        '- {from: ext:client, to: "nodeport:*/default/frontend-external", port: 80, allowed: true}\n'
        '- {from: ext:client, to: "nodeport:worker/default/frontend-external", port: 81, allowed: true}\n'
    )
    said = boutique.run(
        "check",
        "-f",
        str(BOUTIQUE / "expect.yaml"),
        "-f",
        str(ways_in),
        "--junit",
        str(junit),
        status=1,
    )
    nodes = len(boutique.seen["nodes"])
    assert f"{19 + nodes} checks" in said.out
    assert f"{18 + nodes} hold, 1 fail" in said.out
    assert (
        "ways_in.yaml:2  ext:client → nodeport:worker/default/frontend-external: expected allow, found Service "
        in said.out
    )
    assert "has no node port for 81/TCP; it has 80:3" in said.out
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


def test_tables_tell_what_does_not_hold(boutique: Lab, tmp_path: Path) -> None:
    """Each way of asking holds; turned round, each row is told with its line, what was wanted and
    what was found.
    """
    file = tmp_path / "expect.yaml"
    address = boutique.pod("frontend")["addresses"][0]
    file.write_text(TABLE.replace("ADDRESS", address))
    assert "7 checks" in boutique.run("check", "-f", str(file)).out
    turned = {
        "ADDRESS": "192.0.2.1",
        "expect: reject": "expect: drop",
        "expect: deny": "expect: allow",
        "resolves: true": "resolves: false",
    }
    turned |= {"allowed: true": "expect: drop", "allowed: false": "expect: allow"}
    file.write_text(re.sub("|".join(turned), lambda match: turned[match[0]], TABLE))
    said = boutique.run("check", "-f", str(file), status=1)
    assert [line.split("  ")[0].rpartition(":")[2] for line in said.out.splitlines()[:-1]] == [
        str(number) for number in range(1, 8)
    ]
    assert f"expected allow, from 192.0.2.1, found answer, saw {address}" in said.out
    assert "next: kubenetlab ping" in said.err


def test_the_labs_own_promise_can_be_checked(boutique: Lab) -> None:
    """Without a table: what `ping` shows, row by row for machines."""
    found = boutique.run("check", "-o", "json").json
    assert found["ok"]
    assert len(found["checks"]) > 300
