"""An external address belongs to one Service, which is decided before rules are computed.

Therefore nothing is lost when one of two Services with the same address is deleted.
"""

from __future__ import annotations

from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.datapath.services.view import service_views
from kubenetlab.hoststate.rules.nftables import Element
from kubenetlab.hoststate.rules.rulesets import members
from tests.clusters import ONLINK, deployment, running, service, store


def with_same_external_ip(*names: str) -> Cluster:
    """Return a cluster with Services that have the same external IP and port."""
    return running(
        store(
            deployment()
            + "".join(
                service(name, externalIPs=["192.0.2.50"]).replace(f"app: {name}", "app: web")
                for name in names
            )
        )
    )


def owners_of_external_ip(cluster: Cluster) -> list[str]:
    """Return the owner of the external IP by the rules of a node."""
    objects = members(plan(cluster, ONLINK)["node/worker"].values())
    return [
        obj.comment
        for obj in objects
        if isinstance(obj, Element) and obj.collection == "service-ips" and "192.0.2.50" in obj.item
    ]


def test_the_first_service_has_the_address() -> None:
    """Services are ordered by name. When the first one is deleted, the second gets the address."""
    (owner,) = owners_of_external_ip(with_same_external_ip("a", "b"))
    assert owner.startswith("default/a")
    (owner,) = owners_of_external_ip(with_same_external_ip("b"))
    assert owner.startswith("default/b")


def test_a_contested_port_belongs_to_the_first_service() -> None:
    taken = {
        view.service.name: view.taken
        for view in service_views(with_same_external_ip("a", "b"), PlanCache()).values()
    }
    assert taken["a"] == ()
    assert taken["b"] == (("192.0.2.50", "TCP", 80),)
