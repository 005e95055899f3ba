"""Identities of a lab, as its API shows them: the labels of each number, and the pods."""

from __future__ import annotations

from kubenetlab.api.lab import Decisions
from kubenetlab.api.store import Cluster
from kubenetlab.datapath import cluster_modes, modes
from kubenetlab.datapath.identities import cluster_pods, identities
from kubenetlab.datapath.plan_cache import PlanCache
from kubenetlab.hoststate.rules.cilium_entries import RESERVED_IDENTITIES
from kubenetlab.observe.inspection import IdentityTable


def identity_table(cluster: Cluster, decisions: Decisions) -> IdentityTable:
    """Return the identities of a lab; none in CNI modes whose programs do not know them."""
    name, _ = cluster.config.networking.cni_mode
    known = [mode for mode in modes.known("cni") if modes.load("cni", mode, {}).knows_all_pods]
    if not cluster_modes.decided_cni(cluster.config, decisions).knows_all_pods:
        return {"cni": name, "modes": known, "identities": {}, "pods": {}}
    pods = cluster_pods(cluster, PlanCache())
    numbers = identities(pod.labels for pod in pods.values())
    return {
        "cni": name,
        "modes": known,
        "identities": {
            **{str(number): [f"reserved:{word}"] for number, word in RESERVED_IDENTITIES.items()},
            **{str(number): list(labels) for labels, number in numbers.items()},
        },
        "pods": {pod.full_name: numbers[pod.labels] for pod in pods.values()},
    }
