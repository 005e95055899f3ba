"""An address outside is one Service's: who has it is decided before there are rules, so that nothing is lost when the other one goes."""

from __future__ import annotations

from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan
from kubenetlab.datapath.view import service_views
from kubenetlab.hoststate.rules.nftables import Element
from kubenetlab.hoststate.rules.rulesets import members
from tests.clusters import ONLINK, deployment, running, service, store


def claiming(*names: str) -> Cluster:
    """Services that all want the same external IP, and the same port of it."""
    return running(
        store(
            deployment()
            + "".join(
                service(name, externalIPs=["192.0.2.50"]).replace(f"app: {name}", "app: web")
                for name in names
            )
        )
    )


def outside(cluster: Cluster) -> list[str]:
    """Whose the external IP is, by the rules of a node."""
    objects = members(plan(cluster, ONLINK)["node/worker"].values())
    return [
        obj.comment
        for obj in objects
        if isinstance(obj, Element) and obj.collection == "service-ips" and "192.0.2.50" in obj.item
    ]


def test_the_first_has_it() -> None:
    """In the order of their names; the other one has its cluster IP. When the first goes, it is the other's."""
    (found,) = outside(claiming("a", "b"))
    assert found.startswith("default/a")
    (found,) = outside(claiming("b"))
    assert found.startswith("default/b")


def test_another_port_is_another_claim() -> None:
    taken = {view.service.name: view.taken for view in service_views(claiming("a", "b")).values()}
    assert taken["a"] == ()
    assert taken["b"] == (("192.0.2.50", "TCP", 80),)
