"""Online Boutique as Google publishes it: who reaches whom follows the variables of its containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.labs.conftest import new_lab
from tests.labs.lab import Lab
from tests.labs.test_dns import look_up

BOUTIQUE = Path(__file__).parents[2] / "manifests" / "03-microservices-demo"


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
    """Each edge of the table: the client resolves the name by its own search path, connects, and is seen with its own address."""
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
        assert answer.seen == answer.source == (client["addresses"][0], answer.source[1])
