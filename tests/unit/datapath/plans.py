"""Helpers for tests of plans."""

from __future__ import annotations

from typing import Any

from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import plan
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.hoststate.rules.nftables import Element
from kubenetlab.hoststate.state import HostState
from kubenetlab.names import pod_netns
from tests.clusters import (
    ONLINK,
    pod_named,
)


def planned(
    cluster: Cluster, decisions: Decisions = ONLINK, memo: PlanCache | None = None
) -> HostState:
    """Return the plan of a cluster."""
    return plan(cluster, decisions, memo)


def objects_of(state: HostState, netns: str, type_: type[Any]) -> list[Any]:
    """Return the objects of a type in one namespace."""
    return [part for obj in state[netns].values() for part in obj.parts if isinstance(part, type_)]


def netns_of(cluster: Cluster, name: str) -> str:
    """Return the namespace of a pod of the namespace `default`."""
    found = pod_named(cluster, name)
    return pod_netns(found.namespace, found.name, found.uid)


def elements(state: HostState, node: str, collection: str) -> dict[str, str]:
    """Return key → value of a set or map on a node, in nft syntax."""
    return {
        " . ".join(element.item): str(element.verdict or " . ".join(element.data))
        for element in objects_of(state, f"node/{node}", Element)
        if element.collection == collection
    }
